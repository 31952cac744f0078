"""Sound that goes into a file while it is being cut into windows.

Who tells speakers apart needs a media's whole sound, and windows are taken only as fast as they are
transcribed. So the media is decoded once, as fast as that goes, and windows are cut from the file.
"""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from server.media import Block
from server.types import SAMPLE_RATE

_SAMPLE = 4
"""Bytes."""


class Recorder:
    """Blocks on their way through a file of float32 samples, mono 16 kHz, gaps between them as silence."""

    def __init__(self, blocks: Iterator[Block], path: Path) -> None:
        """The file at `path` is there already; it is written anew."""
        self._blocks = blocks
        self._path = path
        self._written: queue.SimpleQueue[tuple[float, int] | BaseException | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self.complete = False
        """Whether all sound is in the file."""

    def blocks(self) -> Iterator[Block]:
        """The same blocks. What the media raises is raised once the blocks before it have been taken."""
        thread = threading.Thread(target=self._record, name="recording")
        thread.start()
        try:
            with self._path.open("rb") as file:
                while isinstance(block := self._written.get(), tuple):
                    start, length = block
                    file.seek(_place(start))
                    yield Block(start, np.frombuffer(file.read(_SAMPLE * length), np.float32))
        finally:
            self._stopped.set()
            thread.join()
        if block:
            raise block

    def _record(self) -> None:
        try:
            with self._path.open("r+b") as file:
                file.truncate()
                for block in self._blocks:
                    file.seek(_place(block.start))
                    file.write(block.pcm.astype("<f4").tobytes())
                    file.flush()
                    self._written.put((block.start, len(block.pcm)))
                    if self._stopped.is_set():
                        return
            self.complete = True
            self._written.put(None)
        except BaseException as error:
            self._written.put(error)


def write(blocks: Iterator[Block], path: Path) -> None:
    """Blocks of any one rate into a file of int16 samples, gaps between them as silence."""
    with path.open("r+b") as file:
        file.truncate()
        for block in blocks:
            file.seek(2 * max(0, round(block.start * block.rate)))
            file.write(np.clip(block.pcm * 32768, -32768, 32767).astype("<i2").tobytes())


def _place(start: float) -> int:
    """Byte of the file at which a second's first sample lies."""
    return _SAMPLE * max(0, round(start * SAMPLE_RATE))
