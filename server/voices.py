"""Which voices there are, and which one a client means."""

import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

from server import engines
from server.errors import CannotClone, VoiceNotFound
from server.types import Voice

PREFERRED = ("piper", "kokoro", "pocket", "espeak")
"""Engines from the one that speaks first, where a client names no voice and a language has several."""

OPENAI = {
    "alloy": "default",
    "ash": "m3",
    "ballad": "m7",
    "cedar": "m5",
    "coral": "f2",
    "echo": "m1",
    "fable": "m2",
    "marin": "f1",
    "nova": "f3",
    "onyx": "m6",
    "sage": "f4",
    "shimmer": "f5",
    "verse": "m4",
}
"""OpenAI's voices, each with espeak-ng's timbre that stands for it where a language has no other voice."""

MAGPIE = {
    "aria": "f2",
    "diego": "m3",
    "isabela": "f3",
    "jason": "m1",
    "leo": "m4",
    "louise": "f4",
    "mia": "f1",
    "pascal": "m5",
    "ray": "m6",
    "sofia": "f5",
}
"""The same for the speakers of NVIDIA's Magpie models."""

_MAGPIE = re.compile(
    rf"magpie-[a-z]+\.([a-z]{{2}}-[a-z]{{2}})\.({'|'.join(MAGPIE)})"
    r"(?:\.(?:neutral|calm|angry|happy|sad|fearful|disgust|pleasantsurprised))?"
)
"""A Magpie voice's name in small letters; the emotion it may end in is spoken in the voice's usual way."""

_PART = re.compile(r"(?P<name>[^()]+?)\s*(?:\((?P<weight>\d{1,3}(?:\.\d{1,3})?)\))?")
"""One of a mixture's voices and its weight: af_heart(2)."""

_MOST_PARTS = 8

_FALLBACK = "en-US"

_NO_CLONER = (
    "no model is installed that can speak in the voice of a sample: it takes Pocket TTS "
    "(scripts/serve --with pocket) and those of its weights that clone, whose terms are to be accepted at "
    "https://huggingface.co/kyutai/pocket-tts"
)

_REGIONS = {"en": "us", "hi": "in", "ja": "jp", "ko": "kr", "pt": "br", "vi": "vn", "zh": "cn"}
"""Where a language is meant to be from if nobody says, and its own code is no country's."""

_KIN = {"es-us": ("es-419", "es-mx"), "es-mx": ("es-419",), "nb-no": ("nb", "no")}
"""Locales that stand for one which no voice has, before others of its language."""


class Voices:
    """The voices of all engines that are installed; their folder is looked at anew each time."""

    def __init__(self, folder: Path, *, default: str = "", aliases: Mapping[str, str] | None = None) -> None:
        """`aliases`: other names that clients may use, each for the name of a voice here."""
        self.folder = folder
        self._default = default
        self.aliases = dict(aliases or {})
        self._meant = {name.lower(): voice for name, voice in self.aliases.items()}

    def installed(self) -> tuple[Voice, ...]:
        """All voices, those of preferred engines first; each engine's own in its order, the best first."""
        found = [voice for voices in _offered("voices") for voice in voices(self.folder)]
        return tuple(sorted(found, key=lambda voice: (_rank(voice), voice.locale)))

    def find(self, name: str = "", language: str = "", engine: str = "") -> Voice:
        """The voice that is meant. Raises VoiceNotFound."""
        fitting = [voice for voice in self.installed() if engine in ("", voice.engine)]
        if not fitting:
            raise VoiceNotFound(
                f"no voice of {engine} is installed" if engine else "no speech engine is installed", "voice"
            )
        wanted = self._meant.get(name.lower(), name).lower()
        if wanted in ("", "default") and self._default and not language:
            wanted = self._default.lower()
        magpie = _MAGPIE.fullmatch(wanted)
        if magpie and _alike(magpie[1], language or magpie[1]):
            return _timbre(_best(fitting, magpie[1]), MAGPIE, magpie[2])
        if wanted in ("", "default", *OPENAI):
            return _timbre(_best(fitting, language or _FALLBACK), OPENAI, wanted)
        found = next(_named(fitting, wanted), None) or _mixed(fitting, wanted)
        if found is None or (language and not _alike(found.locale, language)):
            where = f" for language {language[:40]}" if language else ""
            raise VoiceNotFound(f"there is no voice {name[:80]!a}{where}", "voice")
        return found

    def cloner(self, name: str = "", language: str = "", engine: str = "") -> Voice:
        """The best model that can speak in the voice of a sample, as a voice that has none yet.

        `name`: a voice whose model it is to be; names that stand for none leave the choice to the language.
        Raises CannotClone and VoiceNotFound.
        """
        every = [voice for cloners in _offered("cloners") for voice in cloners(self.folder)]
        fitting = [voice for voice in every if engine in ("", voice.engine)]
        if not fitting:
            raise CannotClone(_NO_CLONER)
        wanted = self._meant.get(name.lower(), name).lower()
        if wanted in ("", "default", *OPENAI) or wanted.startswith("magpie-"):
            near = _nearest(fitting, (language or _FALLBACK).lower().replace("_", "-"))
            if not near:
                spoken = ", ".join(dict.fromkeys(voice.locale for voice in fitting))
                raise CannotClone(f"samples can be spoken like in {spoken} here, not in {language[:40]!a}")
            voice = near[0]
        else:
            named = self.find(name, language, engine)
            clones = [voice for voice in fitting if voice.model == named.model]
            if not clones:
                raise CannotClone(f"the model of the voice {named.id} cannot speak in the voice of a sample")
            voice = clones[0]
        return voice


def files(voice: Voice) -> tuple[Path, ...]:
    """What the voice and all others of its model consist of; nothing where they come with the engine."""
    engine = import_module(f"{engines.__name__}.{voice.engine}")
    return tuple(engine.files(voice.model)) if hasattr(engine, "files") else ()


@cache
def engines_here() -> tuple[str, ...]:
    """The names of the engines that speak, installed or not."""
    names = (module.name for module in pkgutil.iter_modules(engines.__path__))
    return tuple(name for name in names if hasattr(import_module(f"{engines.__name__}.{name}"), "voices"))


def _offered(function: str) -> Iterator[Callable[[Path], Sequence[Voice]]]:
    """The functions of that name of all engines that speak, where they have one."""
    for name in engines_here():
        offered = getattr(import_module(f"{engines.__name__}.{name}"), function, None)
        if offered:
            yield offered


def _rank(voice: Voice) -> int:
    return PREFERRED.index(voice.engine) if voice.engine in PREFERRED else len(PREFERRED)


def _best(fitting: list[Voice], language: str) -> list[Voice]:
    """The voices of the engine that speaks this language best. Raises VoiceNotFound."""
    near = _nearest(fitting, language.lower().replace("_", "-"))
    if not near:
        raise VoiceNotFound(f"there is no voice for language {language[:40]}", "voice")
    return [voice for voice in near if voice.engine == near[0].engine]


def _nearest(fitting: list[Voice], language: str) -> list[Voice]:
    """The voices of that very locale, else of its kin, else of its usual country, else of the language."""
    plain = language.split("-")[0]
    for locale in (language, *_KIN.get(language, ()), f"{plain}-{_REGIONS.get(plain, plain)}", plain):
        if near := [voice for voice in fitting if voice.locale.lower() == locale]:
            return near
    return [voice for voice in fitting if _alike(voice.locale, language)]


def _alike(one: str, other: str) -> bool:
    """Whether two locales are of one language."""
    return re.split("[-_]", one.lower())[0] == re.split("[-_]", other.lower())[0]


def _timbre(best: list[Voice], timbres: Mapping[str, str], name: str) -> Voice:
    """The voice for a name that stands for none: one called so, else another voice each, else a timbre."""
    if same := [voice for voice in best if voice.id.lower().endswith(f".{name}")]:
        return same[0]
    place = list(timbres).index(name) if name in timbres else 0
    voice = best[place % len(best)]
    timbre = timbres.get(name, "default")
    return _variant(voice, timbre) if len(best) == 1 and timbre in voice.variants else voice


def _variant(voice: Voice, variant: str) -> Voice:
    stem = voice.id.rpartition(".")[0]
    return replace(voice, id=f"{stem}.{variant}", speaker=f"{voice.speaker}+{variant}")


def _named(fitting: list[Voice], wanted: str) -> Iterator[Voice]:
    for voice in fitting:
        if wanted in (voice.id.lower(), *(name.lower() for name in voice.names)):
            yield voice
    stem, _, last = wanted.rpartition(".")
    for voice in fitting:
        if voice.id.lower().rpartition(".")[0] == stem:
            yield from (_variant(voice, variant) for variant in voice.variants if variant.lower() == last)


def _mixed(fitting: list[Voice], wanted: str) -> Voice | None:
    """The mixture that a name such as "af_heart(2)+af_bella" means; names may be the last parts of ids."""
    parts = [_PART.fullmatch(part.strip()) for part in wanted.split("+")]
    if not 1 < len(parts) <= _MOST_PARTS:
        return None
    mixed: list[tuple[Voice, str]] = []
    for part in parts:
        stem = mixed[0][0].id.rpartition(".")[0] if mixed else ""
        name = part["name"] if part else ""
        names = (name, f"{stem}.{name}".lower())
        voice = next((voice for name in names for voice in _named(fitting, name)), None)
        if not part or not voice or not voice.mixes or (mixed and voice.model != mixed[0][0].model):
            return None
        mixed.append((voice, part["weight"] or "1"))
    if not all(float(weight) for _, weight in mixed):
        return None
    weighed = [(voice, "" if weight == "1" else f"({weight})") for voice, weight in mixed]
    named = "+".join(voice.id.rpartition(".")[2] + weight for voice, weight in weighed)
    return replace(
        mixed[0][0],
        id=f"{mixed[0][0].id.rpartition('.')[0]}.{named}",
        title=" and ".join(voice.title for voice, _ in mixed),
        speaker="+".join(f"{voice.speaker}*{weight}" for voice, weight in mixed),
        names=(),
        variants=(),
    )
