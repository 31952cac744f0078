"""espeak-ng: a formant synthesiser of a hundred languages that speaks at once, by its C library.

espeakng-loader carries the library and its data. The library has one state for the whole process, which is
why a worker process speaks one piece at a time.
"""

import ctypes
import re
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path

from server.engines import Emit, Stop
from server.errors import ModelBroken
from server.types import Piece, Voice

RATE = 22_050

_BUFFER = 60
"""Milliseconds of sound handed over at a time."""

_WORDS_PER_MINUTE = 175
_SLOWEST, _FASTEST = 80, 450

# speak_lib.h
_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8, _PHONEMES, _ENDPAUSE = 0x1, 0x100, 0x1000
_RATE, _PITCH = 1, 3
_NORMAL_PITCH = 50
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

_MNEMONICS = {
    **{letter: letter for letter in "bdefhijklmnopstuvwyz"},
    "a": "a",
    "ɑ": "A",
    "ɑː": "A:",
    "æ": "a",
    "ɐ": "a#",
    "ɒ": "0",
    "ʌ": "V",
    "ə": "@",
    "ɚ": "3",
    "ɛ": "E",
    "ɜ": "3:",
    "ɜː": "3:",
    "ɝ": "3:",
    "ɪ": "I",
    "iː": "i:",
    "ɔ": "O",
    "ɔː": "O:",
    "ʊ": "U",
    "uː": "u:",
    "ø": "Y",
    "øː": "Y:",
    "œ": "W",
    "yː": "y:",
    "ʏ": "y",
    "aɪ": "aI",
    "aʊ": "aU",
    "eɪ": "eI",
    "oʊ": "oU",
    "əʊ": "oU",
    "ɔɪ": "OI",
    "ɔʏ": "OY",
    "ɪə": "i@",
    "eə": "e@",
    "ʊə": "U@",
    "ɑ̃": "A~",
    "ɛ̃": "E~",
    "ɔ̃": "O~",
    "œ̃": "W~",
    "ɡ": "g",
    "g": "g",
    "r": "r",
    "ɹ": "r",
    "ɾ": "*",
    "ʁ": "r",
    "θ": "T",
    "ð": "D",
    "ʃ": "S",
    "ʒ": "Z",
    "tʃ": "tS",
    "dʒ": "dZ",
    "ŋ": "N",
    "ɲ": "n^",
    "ʎ": "l^",
    "x": "x",
    "χ": "x",
    "ç": "C",
    "β": "B",
    "ɣ": "Q",
    "ɫ": "l",
    "ʔ": "?",
    "ˈ": "'",
    "'": "'",
    "ˌ": ",",
    "ː": ":",
    " ": "||",
}
"""espeak-ng's names of what IPA writes; the names are ASCII-IPA (Kirshenbaum) with changes of its own."""

_LOCALES = {
    "cmn": "zh-CN",
    "de": "de-DE",
    "es": "es-ES",
    "hi": "hi-IN",
    "it": "it-IT",
    "ja": "ja-JP",
    "ko": "ko-KR",
    "nl": "nl-NL",
    "pl": "pl-PL",
    "pt": "pt-PT",
    "ru": "ru-RU",
    "vi": "vi-VN",
}
"""Where espeak's tag of a language says less than people ask for."""


def _folder() -> Path | None:
    found = util.find_spec("espeakng_loader")
    places = found.submodule_search_locations if found else None
    return Path(places[0]) if places else None


@lru_cache(maxsize=1)
def _data_voices(package: Path) -> tuple[Voice, ...]:
    data = package / "espeak-ng-data"
    variants = tuple(sorted(file.name for file in (data / "voices" / "!v").iterdir() if file.name.isalnum()))
    found = (_voice(file, data, variants) for file in sorted((data / "lang").rglob("*")) if file.is_file())
    return tuple({voice.id: voice for voice in found if voice}.values())


def _voice(file: Path, data: Path, variants: tuple[str, ...]) -> Voice | None:
    text = file.read_text("utf-8", "replace")
    title, tag = (
        re.search(rf"^{key}\s+(.+?)(\s+\d+)?\s*$", text, re.MULTILINE) for key in ("name", "language")
    )
    if not title or not tag:
        return None
    # Cantonese is there twice, once for each script, under one tag; the file's name tells them apart.
    locale = _LOCALES.get(tag[1]) or _locale(tag[1] if tag[1].count("-") else file.name)
    return Voice(
        id=f"Espeak.{locale.upper()}.default",
        engine="espeak",
        locale=locale,
        title=f"espeak-ng, {title[1]}",
        model=data.parent,
        speaker=str(file.relative_to(data / "lang")),
        sample_rate=RATE,
        names=(f"espeak-{tag[1]}",),
        variants=variants,
        ipa=True,
    )


def _locale(tag: str) -> str:
    """ "en-us" as BCP 47 writes it: en-US."""
    language, *rest = tag.split("-")
    return "-".join((language, *(part.upper() if len(part) == 2 else part for part in rest)))


def voices(folder: Path) -> tuple[Voice, ...]:
    """One voice for each of espeak's languages, each in some hundred variants."""
    package = _folder()
    return _data_voices(package) if package else ()


def _marked(piece: Piece) -> str:
    """The text with espeak's own marks around what is given in IPA."""
    text, at = "", 0
    for sound in piece.pronounced:
        text += piece.text[at : sound.start].replace("[[", " ") + f"[[{mnemonics(sound.ipa)}]]"
        at = sound.end
    return text + piece.text[at:].replace("[[", " ")


def mnemonics(ipa: str) -> str:
    """IPA in espeak-ng's names of phonemes; what it has no name for is left out."""
    found = re.findall("|".join(sorted(map(re.escape, _MNEMONICS), key=len, reverse=True)), ipa)
    return "".join(_MNEMONICS[sound] for sound in found)


class Speaker:
    """espeak-ng in this process."""

    speeds = (_SLOWEST / _WORDS_PER_MINUTE, _FASTEST / _WORDS_PER_MINUTE)

    def __init__(self, model: Path, threads: int) -> None:
        try:
            self._library = ctypes.CDLL(str(model / "libespeak-ng.so"))
        except OSError as error:
            raise ModelBroken(f"espeak-ng cannot be loaded: {error}") from error
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, _BUFFER, str(model).encode(), _DONT_EXIT)
        if rate != RATE:
            raise ModelBroken(f"espeak-ng's data in {model} cannot be used")
        self._handle = _CALLBACK(self._made)
        self._library.espeak_SetSynthCallback(self._handle)
        self._emit: Emit
        self._stop: Stop

    def say(self, piece: Piece, speaker: str, emit: Emit, stop: Stop) -> None:
        self._emit, self._stop = emit, stop
        library = self._library
        if library.espeak_SetVoiceByName(speaker.encode()):
            raise ModelBroken(f"espeak-ng has no voice {speaker!r}")
        speed = min(max(round(_WORDS_PER_MINUTE * piece.speed), _SLOWEST), _FASTEST)
        library.espeak_SetParameter(_RATE, speed, 0)
        library.espeak_SetParameter(_PITCH, min(99, round(_NORMAL_PITCH * piece.pitch)), 0)
        text = _marked(piece).encode() + b"\0"
        # Its pause at an end is a sentence's: not what is due where a long sentence was cut.
        flags = _UTF8 | (_ENDPAUSE if not piece.text[-1:].isalnum() else 0)
        flags |= _PHONEMES if piece.pronounced else 0
        library.espeak_Synth(text, len(text), 0, 1, 0, flags, None, None)

    def _made(self, samples: int | None, count: int, events: int | None) -> int:
        """espeak's callback: whether to stop."""
        if samples and count:
            self._emit(ctypes.string_at(samples, count * 2))
        return int(self._stop())

    def describe(self) -> str:
        self._library.espeak_Info.restype = ctypes.c_char_p
        version = (self._library.espeak_Info(None) or b"").decode().split(" ")[0]
        return f"espeak-ng {version} (espeakng-loader {metadata.version('espeakng-loader')})"
