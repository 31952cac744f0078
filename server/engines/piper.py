"""Piper: neural voices (VITS in ONNX), one file a voice, on a CPU several times faster than they speak.

A voice is a pair of files anywhere in the voices' folder: NAME.onnx and NAME.onnx.json, as the project's own
downloads are named (`en_US-lessac-medium.onnx`).
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engines import Emit, Stop
from server.errors import ModelBroken
from server.types import Piece, Pronounced, Voice

_LOUDNESS = 0.1
"""Root mean square that a sentence is brought to, so that none is louder than its neighbours (-20 dBFS)."""
_GAINS = (0.25, 4.0)
_AUDIBLE = 0.01
"""Samples below are pauses."""

_PAUSE = 0.2
"""Seconds of silence behind a sentence."""

_NAME = re.compile(r"([a-z]{2,3})_([A-Z]{2})-(.+)")

_STAND_IN = "fanofi"
"""A word of no language, whose sounds are replaced by those that a word is to have."""

_STRESS = "ˈˌ"


def voices(folder: Path) -> tuple[Voice, ...]:
    """The voices in the folder; each of several speakers is one."""
    if util.find_spec("piper") is None or not folder.is_dir():
        return ()
    found: list[Voice] = []
    for file in sorted(folder.rglob("*.onnx")):
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
    several = speakers if len(speakers) > 1 else {"": 0}
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
        )
        for place, (speaker, number) in enumerate(several.items())
    )


class Speaker:
    """One voice file in this process."""

    speeds = (0.25, 4.0)

    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime
        from piper import PiperVoice
        from piper.config import PiperConfig

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait make everything beside them slower.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            config = PiperConfig.from_dict(json.loads(model.with_name(model.name + ".json").read_bytes()))
            session = onnxruntime.InferenceSession(
                str(model), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own errors have no class in common
            raise ModelBroken(f"{model.name} is no voice that Piper can load: {error}") from error
        self._voice = PiperVoice(session=session, config=config, download_dir=model.parent)
        self._threads = threads

    def say(self, piece: Piece, speaker: str, emit: Emit, stop: Stop) -> None:
        from piper.config import SynthesisConfig

        voice = self._voice
        wanted = SynthesisConfig(
            speaker_id=int(speaker) if voice.config.num_speakers > 1 else None,
            length_scale=voice.config.length_scale / piece.speed,
            normalize_audio=False,
        )
        for phonemes in self._phonemes(piece):
            if stop():
                return
            if not any(phoneme.isalpha() for phoneme in phonemes):
                continue
            sound: Any = voice.phoneme_ids_to_audio(voice.phonemes_to_ids(phonemes), wanted)
            emit(_int16(_levelled(np.asarray(sound, np.float32).reshape(-1))))
            if not piece.text[-1:].isalnum():
                emit(bytes(round(_PAUSE / piece.speed * voice.config.sample_rate) * 2))

    def _phonemes(self, piece: Piece) -> Sequence[list[str]]:
        """By sentences; words with sounds of their own in these."""
        if not piece.pronounced:
            return self._voice.phonemize(piece.text)
        found = self._voice.phonemize(_stood_in(piece.text, piece.pronounced))
        stand_in = [
            p for part in self._voice.phonemize(_STAND_IN) for p in part if p not in _STRESS and p.isalpha()
        ]
        sounds = iter([list(sound.ipa) for sound in piece.pronounced])
        return [_replaced(sentence, stand_in, sounds) for sentence in found]

    def describe(self) -> str:
        return f"piper-tts {metadata.version('piper-tts')}, {self._threads} threads"


def _stood_in(text: str, pronounced: Sequence[Pronounced]) -> str:
    said, at = "", 0
    for sound in pronounced:
        said += text[at : sound.start] + _STAND_IN
        at = sound.end
    return said + text[at:]


def _replaced(sentence: list[str], stand_in: list[str], sounds: Any) -> list[str]:
    """The phonemes, those of the stand-in replaced by the next sounds, wherever the stress lies."""
    said: list[str] = []
    at = 0
    while at < len(sentence):
        end, matched = at, 0
        while end < len(sentence) and matched < len(stand_in):
            if sentence[end] == stand_in[matched]:
                matched += 1
            elif sentence[end] not in _STRESS:
                break
            end += 1
        if matched == len(stand_in) and (sound := next(sounds, None)) is not None:
            said += sound
            at = end
        else:
            said.append(sentence[at])
            at += 1
    return said


def _levelled(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sound at one loudness, and no peak cut off."""
    loud = sound[np.abs(sound) > _AUDIBLE]
    if not loud.size:
        return sound
    gain = float(np.clip(_LOUDNESS / np.sqrt(np.mean(np.square(loud))), *_GAINS))
    peak = float(np.abs(sound).max())
    return sound * np.float32(min(gain, 0.99 / peak))


def _int16(sound: NDArray[np.float32]) -> bytes:
    return bytes(np.clip(sound * 32767, -32768, 32767).astype("<i2"))
