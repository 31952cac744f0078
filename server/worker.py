"""The child process that holds one loaded model and does one window at a time.

It is ended to unload the model: whisper.cpp, torch and CUDA give all memory back only then. `runners/` decide
where workers run; this is what runs there.
"""

import importlib
import queue
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from server import engines, words
from server.child import Parent
from server.engines import Stopped, Transcriber
from server.errors import SpeechError
from server.types import Decode, Heard


class Work(msgspec.Struct, tag=True):
    """To the worker: decode this window. `pcm` is int16 little-endian mono 16 kHz."""

    number: int
    pcm: bytes
    decode: Decode


class Stop(msgspec.Struct, tag=True):
    """To the worker: nobody waits for the result of that work any more."""

    number: int


class Loaded(msgspec.Struct, tag=True):
    """From the worker: the model is loaded. `engine` describes library and CPU features."""

    engine: str


class Result(msgspec.Struct, tag=True):
    number: int
    heard: Heard


class Gave(msgspec.Struct, tag=True):
    """From the worker: it gave the work up, as told."""

    number: int


class Failed(msgspec.Struct, tag=True):
    """From the worker: the model cannot be loaded, or the engine failed in an orderly way."""

    message: str


ToWorker = Work | Stop
FromWorker = Loaded | Result | Gave | Failed


def main() -> None:
    """A worker process: `engine` module name and model path are its arguments."""
    parent = Parent[ToWorker](ToWorker)
    engine_name, model = sys.argv[3], Path(sys.argv[4])
    try:
        engine: Transcriber = importlib.import_module(f"server.engines.{engine_name}").Engine(model)
    except SpeechError as error:
        parent.send(Failed(str(error)))
        return
    parent.send(Loaded(engine.describe()))
    works: queue.SimpleQueue[Work] = queue.SimpleQueue()
    stopped: set[int] = set()

    def handle(message: ToWorker) -> None:
        if isinstance(message, Stop):
            stopped.add(message.number)
        else:
            works.put(message)

    parent.hear(handle)
    while True:
        parent.send(_do(works.get(), engine, stopped))


def _do(work: Work, engine: Transcriber, stopped: set[int]) -> FromWorker:
    pcm = np.frombuffer(work.pcm, "<i2").astype(np.float32) / np.float32(32768)
    try:
        heard = hear(engine, pcm, work.decode, lambda: work.number in stopped)
    except Stopped:
        return Gave(work.number)
    except SpeechError as error:
        return Failed(str(error))
    finally:
        stopped.discard(work.number)
    return Result(work.number, heard)


def hear(engine: Transcriber, pcm: NDArray[np.float32], decode: Decode, stop: engines.Stop) -> Heard:
    """The engine's answer with true times, and with words where they are wanted."""
    heard = engine.transcribe(pcm, replace(decode, logprobs=decode.logprobs or decode.words), stop)
    return words.timed(heard, pcm, decode.words)
