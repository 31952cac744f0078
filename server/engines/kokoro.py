"""Kokoro: one neural model of 82 million weights, some fifty voices of nine languages, which can be mixed.

A model is an ONNX file anywhere in the voices' folder. Its voices lie beside it in one file, `voices*.bin` or
`voices*.npz` as kokoro-onnx publishes them, or one a file in a folder `voices` beside it or above it, as
onnx-community/Kokoro-82M-v1.0-ONNX has them on the hub.
"""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engines import Emit, Stop, visible
from server.errors import ModelBroken
from server.loudness import int16, levelled
from server.onnx import Session, Terminated
from server.phonemes import phonemes
from server.types import Piece, Voice

RATE = 24_000

_LANGUAGES = {
    "a": ("en-US", "en-us"),
    "b": ("en-GB", "en-gb"),
    "e": ("es-ES", "es"),
    "f": ("fr-FR", "fr-fr"),
    "h": ("hi-IN", "hi"),
    "i": ("it-IT", "it"),
    "j": ("ja-JP", "ja"),
    "p": ("pt-BR", "pt-br"),
    "z": ("zh-CN", "cmn"),
}
"""By the first letter of a voice's name: its locale, and espeak-ng's name of the language."""

_BEST = ("af_heart", "bf_emma")
"""Those that their makers grade highest come first; the others by name."""

_NAME = re.compile(r"([a-z])([fm])_(\w+)", re.ASCII)
"""Language, sex and name: af_heart."""

_PAUSE = 0.2
"""Seconds of silence behind a sentence; the model's own is cut off."""

_KEPT = 100
"""Styles kept in memory, half a megabyte each."""

_STYLE = 256
"""Numbers of a style; a voice has one for each number of phonemes."""


def voices(folder: Path) -> tuple[Voice, ...]:
    """The voices of the models in the folder."""
    models = visible(folder, "*.onnx")
    if not models or util.find_spec("kokoro_onnx") is None:
        return ()
    found: dict[str, Voice] = {}
    for model in models:
        try:
            size, names = model.stat().st_size, tuple(_styles(model))
        except OSError:
            continue  # gone in this moment
        for voice in _voices_of(model, size, names):
            if voice.id in found:  # the first model's voices have the plain names
                voice = replace(voice, id=f"{voice.id}.{model.stem.replace('.', '_')}", names=())
            found[voice.id] = voice
    return tuple(found.values())


@lru_cache(maxsize=64)
def _voices_of(model: Path, size: int, names: tuple[str, ...]) -> tuple[Voice, ...]:
    ordered = sorted(names, key=lambda name: (name not in _BEST, name))
    named = [found for name in ordered if (found := _NAME.fullmatch(name)) and found[1] in _LANGUAGES]
    return tuple(
        Voice(
            id=f"Kokoro.{(locale := _LANGUAGES[name[1]][0]).upper()}.{name[3].capitalize()}",
            engine="kokoro",
            locale=locale,
            title=f"Kokoro, {name[3].capitalize()}, {'a woman' if name[2] == 'f' else 'a man'}",
            model=model,
            speaker=name[0],
            sample_rate=RATE,
            names=(name[0], f"Kokoro.{locale.upper()}.{name[0]}"),
            size=size,
            ipa=True,
            mixes=True,
        )
        for name in named
    )


def _styles(model: Path) -> Mapping[str, Path]:
    """The file that each voice lies in, by the voices' names; none where it is no model of Kokoro's."""
    if model.with_name(model.name + ".json").exists():
        return {}  # Piper's
    packed = sorted(file for kind in ("bin", "npz") for file in model.parent.glob(f"voices*.{kind}"))
    if packed:
        return dict.fromkeys(_packed(packed[0], packed[0].stat().st_mtime_ns), packed[0])
    for folder in (model.parent / "voices", model.parent.parent / "voices"):
        if files := {file.stem: file for file in folder.glob("*.bin")}:
            return files
    return {}


@lru_cache(maxsize=16)
def _packed(file: Path, changed: int) -> tuple[str, ...]:
    """The voices in one file; `changed` is when, so that it is read again after that."""
    try:
        with zipfile.ZipFile(file) as packed:
            return tuple(name.removesuffix(".npy") for name in packed.namelist())
    except (OSError, zipfile.BadZipFile):
        return ()


def files(model: Path) -> tuple[Path, ...]:
    """The model with all its voices; these stay where another model speaks in them too."""
    styles = {*_styles(model).values()}
    near = {*model.parent.glob("*.onnx"), *model.parent.parent.glob("*/*.onnx")} - {model}
    return model, *sorted(styles - {file for other in near for file in _styles(other).values()})


class Speaker:
    """One model of Kokoro's in this process."""

    speeds = (0.5, 2.0)

    def __init__(self, model: Path, threads: int) -> None:
        from kokoro_onnx import Kokoro

        self._files = _styles(model)
        if not self._files:
            raise ModelBroken(f"{model.name}: there are no voices beside it that Kokoro could speak in")
        try:
            self._session = Session(model, threads)
            # It wants a file of voices; which one does not matter, for each call is given its style.
            with NamedTemporaryFile(suffix=".npz") as empty:
                np.savez(empty)
                empty.flush()
                self._kokoro: Any = Kokoro.from_session(self._session, empty.name)
        except Exception as error:  # onnxruntime's own errors have no class in common
            raise ModelBroken(f"{model.name} is no model that Kokoro can load: {error}") from error
        self._model = model
        self._threads = threads
        self._spoken: dict[str, NDArray[np.float32]] = {}
        self._readers: dict[str, Any] = {}

    def say(self, piece: Piece, speaker: str, emit: Emit, stop: Stop) -> None:
        style, language = self._style(speaker), _language(piece.language, speaker)
        self._session.stop = stop
        for sounds in phonemes(piece.text, piece.pronounced, lambda text: self._phonemized(text, language)):
            if stop():
                return
            if not any(sound.isalpha() for sound in self._kokoro.tokenizer.known("".join(sounds))):
                continue
            try:
                sound, _ = self._kokoro.create("".join(sounds), style, piece.speed, is_phonemes=True)
            except Terminated:
                return
            emit(int16(levelled(np.asarray(sound, np.float32))))
            if not piece.text[-1:].isalnum():
                emit(bytes(round(_PAUSE / piece.speed * RATE) * 2))

    def _phonemized(self, text: str, language: str) -> list[str]:
        """espeak-ng's phonemes. Its reader of a language takes a while to make, so it is kept."""
        from phonemizer.backend import EspeakBackend

        if language not in self._readers:
            # Marks of another language's words would be read aloud.
            self._readers[language] = EspeakBackend(
                language, preserve_punctuation=True, with_stress=True, language_switch="remove-flags"
            )
        found: list[str] = self._readers[language].phonemize([" ".join(text.split())])
        return found

    def _style(self, speaker: str) -> NDArray[np.float32]:
        """A voice's style, or that of several mixed: "af_heart*2+af_bella*1"."""
        if speaker not in self._spoken:
            parts = [part.partition("*") for part in speaker.split("+")]
            mixed = [(self._read(name), float(weight or 1)) for name, _, weight in parts]
            rows = min(len(style) for style, _ in mixed)
            whole = sum(weight for _, weight in mixed)
            self._spoken[speaker] = np.sum(
                [style[:rows] * np.float32(weight / whole) for style, weight in mixed], axis=0
            )
            if len(self._spoken) > _KEPT:
                self._spoken.pop(next(iter(self._spoken)))
        return self._spoken[speaker]

    def _read(self, name: str) -> NDArray[np.float32]:
        """[phonemes, 1, 256]. Raises ModelBroken."""
        try:
            file = self._files[name]
            found = np.fromfile(file, "<f4") if file.stem == name else np.load(file)[name]
            return np.asarray(found, np.float32).reshape(-1, 1, _STYLE)
        except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise ModelBroken(
                f"{self._model.name} has no voice {name!r} that can be read: {error}"
            ) from error

    def describe(self) -> str:
        return f"kokoro-onnx {metadata.version('kokoro-onnx')}, {self._threads} threads"


def _language(asked: str, speaker: str) -> str:
    """espeak-ng's name of the language: the one asked for, if Kokoro knows it, else the voice's own."""
    locale, own = _LANGUAGES[speaker[0]]
    near = [code for known, code in _LANGUAGES.values() if known.lower() == asked.lower()]
    alike = [code for known, code in _LANGUAGES.values() if known[:2] == asked[:2].lower()]
    return near[0] if near else own if locale[:2] == asked[:2].lower() or not alike else alike[0]
