"""What does the work: one file an engine, found by its name. Blocking code that runs in a worker process.

An engine knows nothing of HTTP, files of the client, or other windows. It imports `types`, `errors` and,
when it is made, its own library. Beside `Engine` it has `READS`: "ggml" for model files, "ctranslate2" for
folders of that kind.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.types import LONGEST_WINDOW, Decode, Diarized, Heard, Loading, Piece, Sample, SpeakerCount

Stop = Callable[[], bool]
"""Asked by an engine during its work: True says that nobody waits for the result any more."""

_FRAMES_PER_SECOND = 50
"""Encoder frames; 1500 are Whisper's 30 s."""

_MARGIN = 1.3
"""Seconds of context after the speech; with less than 64 frames the words suffer (measured)."""

REPEATS, UNSURE = 2.4, -1.0
"""Compression ratio and mean log probability at which a text is doubted (openai/whisper, transcribe.py)."""

LATE = 1.0
"""Seconds after the end of the sound at which a time is doubted, where the context was cut."""

_LONGEST_PROMPT = 1000
"""Characters; more than 224 tokens in any language."""

_LONGEST_RUN = 250
"""Characters without a space, in languages that have none."""


class Stopped(Exception):
    """The engine gave up because it was told to stop; there is no result."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A window to be heard together with others."""

    pcm: NDArray[np.float32]
    """Mono 16 kHz, at most 30 s."""
    decode: Decode
    stop: Stop


class Transcriber(Protocol):
    """Speech to text. A module of this folder has one as `Engine`."""

    stops: bool
    """Whether it can stop in the middle of a window."""
    hears_turns: bool
    """Whether it can tell where somebody else begins to speak, with a model that was trained for it."""

    def __init__(self, path: Path, loading: Loading) -> None:
        """Load the model at `path`. Raises ModelBroken where the library refuses it."""

    def transcribe(self, pcm: NDArray[np.float32], decode: Decode, stop: Stop) -> Heard:
        """Words of one window: `pcm` float32 mono 16 kHz, at most 30 s. Raises Stopped when `stop()` is."""

    def together(self, asked: Sequence[Asked]) -> list[Heard | None]:
        """Words of several windows, in one go where the library can; None for those that were stopped."""

    def describe(self) -> str:
        """One line for people: library version, CPU features and devices it uses."""


def visible(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder, at any depth, without those that are hidden: some are still being fetched."""
    return [
        file
        for file in sorted(folder.rglob(pattern))
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


Emit = Callable[[bytes], None]
"""Takes the next sound: int16 little-endian mono at the voice's sample rate."""


class Speaker(Protocol):
    """Text to speech. A module of this folder has one as `Speaker`, and beside it

    `voices(folder)`: the voices that can be had, by reading files only; none where its library is missing;
    `files(model)`, where voices have some: what is deleted with the voices of that model.
    """

    speeds: tuple[float, float]
    """The slowest and the fastest that it speaks by itself, as factors."""

    def __init__(self, model: Path, threads: int) -> None:
        """Load the model at `path`. Raises ModelBroken where the library refuses it."""

    def say(self, piece: Piece, speaker: str, emit: Emit, stop: Stop) -> None:
        """Speak a piece, handing its sound over as it is made. Returns early when `stop()` is."""

    def describe(self) -> str:
        """One line for people: library and version."""


class Cloner(Speaker, Protocol):
    """A Speaker that can take on the voice of a sample. Its module has, beside `voices(folder)`,

    `cloners(folder)`: the models that can, each as a voice that has no speaker yet.
    """

    def clone(self, sample: Sample, stop: Stop) -> str:
        """Make ready to speak like the sample; what `say` then calls that speaker. Raises Stopped."""


Report = Callable[[float], None]
"""Is told the share of the work that is done, 0 to 1."""


class Diarizer(Protocol):
    """Who spoke when. A module of this folder has one as `Diarizer`; diarizers.py runs it."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the folder at `path`. Raises ModelBroken where the library refuses it."""

    def diarize(
        self, pcm: NDArray[np.float32], speakers: SpeakerCount, report: Report, stop: Stop
    ) -> Diarized:
        """The turns in `pcm`, float32 mono 16 kHz of any length. Raises Stopped soon after `stop()` is."""

    def voice(self, pcm: NDArray[np.float32], stop: Stop) -> tuple[float, ...]:
        """The embedding of the one voice in `pcm`. Raises TooShort, also where several speak."""

    def describe(self) -> str:
        """One line for people: library and version."""


def context_frames(seconds: float) -> int:
    """Encoder frames that a window of this length needs, where the model takes fewer than 1500."""
    return min(int((seconds + _MARGIN) * _FRAMES_PER_SECOND) + 1, int(LONGEST_WINDOW * _FRAMES_PER_SECOND))


def compression_ratio(text: str) -> float:
    """Bytes of the text over its zlib-compressed bytes, as OpenAI's Whisper measures repetition."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def usable(prompt: str) -> str:
    """What Whisper can use of a prompt: it keeps the last 224 tokens.

    Tokenizers take the square of an unbroken run's length, and whisper.cpp's crashes on very long ones.
    """
    unrun = re.sub(
        rf"\S{{{_LONGEST_RUN},}}", lambda run: run[0][-_LONGEST_RUN:], prompt[-_LONGEST_PROMPT * 10 :]
    )
    return unrun[-_LONGEST_PROMPT:]
