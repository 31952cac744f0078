"""What does the work: one file an engine, found by its name. Blocking code that runs in a worker process.

An engine knows nothing of HTTP, files of the client, or other windows. It imports `types`, `errors` and,
when it is made, its own library.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.types import Decode, Heard, Piece

Stop = Callable[[], bool]
"""Asked by an engine during its work: True says that nobody waits for the result any more."""


class Stopped(Exception):
    """The engine gave up because it was told to stop; there is no result."""


class Transcriber(Protocol):
    """Speech to text. A module of this folder has one as `Engine`."""

    def __init__(self, path: Path) -> None:
        """Load the model file at `path`. Raises ModelBroken where the library refuses it."""

    def transcribe(self, pcm: NDArray[np.float32], decode: Decode, stop: Stop) -> Heard:
        """Words of one window: `pcm` float32 mono 16 kHz, at most 30 s. Raises Stopped when `stop()` is."""

    def describe(self) -> str:
        """One line for people: library version, CPU features and devices it uses."""


Emit = Callable[[bytes], None]
"""Takes the next sound: int16 little-endian mono at the voice's sample rate."""


class Speaker(Protocol):
    """Text to speech. A module of this folder has one as `Speaker`, and beside it

    `voices(folder)`: the voices that can be had, by reading files only; none where its library is missing.
    """

    speeds: tuple[float, float]
    """The slowest and the fastest that it speaks by itself, as factors."""

    def __init__(self, model: Path, threads: int) -> None:
        """Load the model at `path`. Raises ModelBroken where the library refuses it."""

    def say(self, piece: Piece, speaker: str, emit: Emit, stop: Stop) -> None:
        """Speak a piece, handing its sound over as it is made. Returns early when `stop()` is."""

    def describe(self) -> str:
        """One line for people: library and version."""
