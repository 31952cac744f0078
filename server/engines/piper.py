"""Piper: neural voices (VITS in ONNX), one file a voice, on a CPU several times faster than they speak.

A voice is a pair of files anywhere in the voices' folder: NAME.onnx and NAME.onnx.json, as the project's own
downloads are named (`en_US-lessac-medium.onnx`).
"""

import json
import re
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from server.engines import Emit, Stop, visible
from server.errors import ModelBroken
from server.loudness import int16, levelled
from server.onnx import Session, Terminated
from server.phonemes import phonemes
from server.types import Piece, Voice

_PAUSE = 0.2
"""Seconds of silence behind a sentence."""

_NAME = re.compile(r"([a-z]{2,3})_([A-Z]{2})-(.+)")

_CARD = "MODEL_CARD"
_LICENCE = re.compile(r"^\W*licen[cs]e\s*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)


def voices(folder: Path) -> tuple[Voice, ...]:
    """The voices in the folder; each of several speakers is one."""
    files = visible(folder, "*.onnx")
    if not files or util.find_spec("piper") is None:
        return ()
    found: list[Voice] = []
    for file in files:
        described = file.with_name(file.name + ".json")
        try:
            stats = file.stat(), described.stat()
        except OSError:
            continue  # half of a pair, or gone in this moment
        found += _read(file, stats[0].st_size, described, stats[1].st_mtime_ns)
    return tuple(found)


@lru_cache(maxsize=1024)
def _read(file: Path, size: int, described: Path, changed: int) -> tuple[Voice, ...]:
    """The voices of one pair of files; `changed` is when, so that it is read again after that."""
    try:
        config = json.loads(described.read_bytes())
        rate, speakers = int(config["audio"]["sample_rate"]), dict(config.get("speaker_id_map") or {})
        code = str(config.get("language", {}).get("code") or config["espeak"]["voice"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    named = _NAME.fullmatch(file.stem)
    locale = f"{named[1]}-{named[2]}" if named else code.replace("_", "-")
    name = (named[3] if named else file.stem).replace(".", "_")
    base = f"Piper.{locale.upper()}.{name}"
    several = sorted(speakers.items(), key=lambda named: named[1]) if len(speakers) > 1 else [("", 0)]
    return tuple(
        Voice(
            id=f"{base}.{speaker}" if speaker else base,
            engine="piper",
            locale=locale,
            title=f"Piper, {name}" + (f", {speaker}" if speaker else ""),
            model=file,
            speaker=str(number),
            sample_rate=rate,
            names=(file.stem, base) if place == 0 else (),
            size=size,
            ipa=True,
            licence=_licence(file.with_name(_CARD)),
        )
        for place, (speaker, number) in enumerate(several)
    )


def _licence(card: Path) -> str:
    """What the card beside a voice says of it; "" where it says nothing."""
    try:
        found = _LICENCE.search(card.read_text("utf-8", "replace"))
    except OSError:
        return ""
    return found[1].strip() if found else ""


def files(model: Path) -> tuple[Path, ...]:
    """What a voice consists of."""
    return model, model.with_name(model.name + ".json")


class Speaker:
    """One voice file in this process."""

    speeds = (0.25, 4.0)

    def __init__(self, model: Path, threads: int) -> None:
        from piper import PiperVoice
        from piper.config import PiperConfig

        try:
            config = PiperConfig.from_dict(json.loads(model.with_name(model.name + ".json").read_bytes()))
            self._session = Session(model, threads)
        except Exception as error:  # onnxruntime's own errors have no class in common
            raise ModelBroken(f"{model.name} is no voice that Piper can load: {error}") from error
        self._voice: Any = PiperVoice(session=self._session, config=config, download_dir=model.parent)
        self._threads = threads

    def say(self, piece: Piece, speaker: str, emit: Emit, stop: Stop) -> None:
        from piper.config import SynthesisConfig

        voice = self._voice
        wanted = SynthesisConfig(
            speaker_id=int(speaker) if voice.config.num_speakers > 1 else None,
            length_scale=voice.config.length_scale / piece.speed,
            normalize_audio=False,
        )
        self._session.stop = stop
        for sentence in phonemes(piece.text, piece.pronounced, voice.phonemize):
            if stop():
                return
            if not any(phoneme.isalpha() for phoneme in sentence):
                continue
            try:
                sound = voice.phoneme_ids_to_audio(voice.phonemes_to_ids(sentence), wanted)
            except Terminated:
                return
            emit(int16(levelled(np.asarray(sound, np.float32).reshape(-1))))
            if not piece.text[-1:].isalnum():
                emit(bytes(round(_PAUSE / piece.speed * voice.config.sample_rate) * 2))

    def describe(self) -> str:
        return f"piper-tts {metadata.version('piper-tts')}, {self._threads} threads"
