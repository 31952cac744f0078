"""The child process that holds one loaded model and hears windows, alone or several together.

It is ended to unload the model: whisper.cpp, torch and CUDA give all memory back only then. `runners/` decide
where workers run; this is what runs there.
"""

import importlib
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from server import words
from server.child import Parent
from server.engines import Asked, Transcriber
from server.engines import Stop as StopAsked
from server.errors import SpeechError
from server.types import Decode, Heard, Loading


class Work(msgspec.Struct):
    """Decode this window. `pcm` is int16 little-endian mono 16 kHz."""

    number: int
    pcm: bytes
    decode: Decode


class Batch(msgspec.Struct, tag=True):
    """To the worker: decode these windows, together where the engine can. Each is answered by its number."""

    works: tuple[Work, ...]


class Stop(msgspec.Struct, tag=True):
    """To the worker: nobody waits for the result of that work any more."""

    number: int


class Loaded(msgspec.Struct, tag=True):
    """From the worker: the model is loaded. `engine` describes library and CPU features."""

    engine: str
    stops: bool
    """Whether the engine can stop in the middle of a window."""


class Result(msgspec.Struct, tag=True):
    number: int
    heard: Heard


class Gave(msgspec.Struct, tag=True):
    """From the worker: it gave the work up, as told."""

    number: int


class Failed(msgspec.Struct, tag=True):
    """From the worker: the engine failed in an orderly way."""

    number: int
    message: str


class Refused(msgspec.Struct, tag=True):
    """From the worker: the model cannot be loaded."""

    message: str


class Devices(msgspec.Struct, tag=True):
    """From a process that only looks: the kinds of cards that whisper.cpp can use here ("CUDA")."""

    names: tuple[str, ...]


ToWorker = Batch | Stop
Answer = Result | Gave | Failed
FromWorker = Loaded | Refused | Answer


def main() -> None:
    """A worker process: how the model is to be run, as JSON, is its argument."""
    parent = Parent[ToWorker](ToWorker)
    loading = msgspec.json.decode(sys.argv[3], type=Loading, dec_hook=lambda kind, value: kind(value))
    try:
        module = importlib.import_module(f"server.engines.{loading.engine}")
        engine: Transcriber = module.Engine(loading.path, loading)
    except SpeechError as error:
        parent.send(Refused(str(error)))
        return
    parent.send(Loaded(engine.describe(), engine.stops))
    _Working(parent, engine).run(loading.slots + loading.spare)


def devices() -> None:
    """A process that looks for what whisper.cpp was built for."""
    import _pywhispercpp as cpp

    parent = Parent[Devices](Devices)
    # "WHISPER : COREML = 0 | CPU : AVX2 = 1 | CUDA : ARCHS = 900 |"
    words = cpp.whisper_print_system_info().split()
    backends = (word for word, colon in pairwise(words) if colon == ":")
    parent.send(Devices(tuple(name for name in backends if name not in ("WHISPER", "CPU", "BLAS"))))


class _Working:
    """What a worker does between its start and its end."""

    def __init__(self, parent: Parent[ToWorker], engine: Transcriber) -> None:
        self._parent = parent
        self._engine = engine
        self._batches: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self._stopped: set[int] = set()
        self._sending = threading.Lock()

    def run(self, slots: int) -> None:
        """Never returns; the main thread is one of the slots."""
        self._parent.hear(self._handle)
        for number in range(1, slots):
            threading.Thread(target=self._slot, name=f"slot {number}", daemon=True).start()
        self._slot()

    def _handle(self, message: ToWorker) -> None:
        if isinstance(message, Stop):
            self._stopped.add(message.number)
        else:
            self._batches.put(message)

    def _slot(self) -> None:
        try:
            while True:
                for answer in self._answers(self._batches.get()):
                    with self._sending:
                        self._parent.send(answer)
        except BaseException:
            traceback.print_exc()
            # What is lost of a thread would be waited for: better gone, which the parent notices.
            os._exit(1)

    def _answers(self, batch: Batch) -> Iterator[Answer]:
        numbers = [work.number for work in batch.works]
        asked = [self._asked(work) for work in batch.works]
        try:
            found = self._engine.together(asked)
        except SpeechError as error:
            yield from (Failed(number, str(error)) for number in numbers)
        else:
            for number, one, heard in zip(numbers, asked, found, strict=True):
                yield Gave(number) if heard is None else Result(number, _timed(heard, one))
        finally:
            self._stopped.difference_update(numbers)

    def _asked(self, work: Work) -> Asked:
        pcm = np.frombuffer(work.pcm, "<i2").astype(np.float32) / np.float32(32768)
        return Asked(pcm, work.decode, lambda: work.number in self._stopped)


def hear(engine: Transcriber, pcm: NDArray[np.float32], decode: Decode, stop: StopAsked) -> Heard:
    """The engine's answer with true times, and with words where they are wanted."""
    return _timed(engine.transcribe(pcm, decode, stop), Asked(pcm, decode, stop))


def _timed(heard: Heard, asked: Asked) -> Heard:
    return words.timed(heard, asked.pcm, asked.decode.words)
