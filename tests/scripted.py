"""An engine that says what a script says, and a runner that runs it: for what the demo model never does."""

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server import worker
from server.engines import Asked, Stop, Stopped
from server.runners import Residence, Unit
from server.types import Decode, Heard, ModelInfo, Segment, Token

Say = Callable[[NDArray[np.float32], Decode], Heard]
"""What is heard in a window."""


def segment(
    text: str, start: float, end: float, *, logprob: float = -0.1, no_speech: float | None = None
) -> Segment:
    """A segment as engines write them, its tokens cut at spaces and before punctuation."""
    pieces = re.findall(r" ?\w+| ?[^\w ]", f" {text}")
    return Segment(
        id=0,
        start=start,
        end=end,
        text=f" {text}",
        tokens=tuple(range(100, 100 + len(pieces))),
        logprobs=tuple(Token(piece.encode(), logprob) for piece in pieces),
        avg_logprob=logprob,
        no_speech_prob=no_speech,
    )


class Engine:
    """The Transcriber of a script."""

    stops = True
    hears_turns = False

    def __init__(self, say: Say) -> None:
        self._say = say
        self.asked: list[Decode] = []

    def transcribe(self, pcm: NDArray[np.float32], decode: Decode, stop: Stop) -> Heard:
        if stop():
            raise Stopped
        self.asked.append(decode)
        return self._say(pcm, decode)

    def together(self, asked: Sequence[Asked]) -> list[Heard | None]:
        return [self.transcribe(one.pcm, one.decode, one.stop) for one in asked]

    def describe(self) -> str:
        return "an engine that plays a script"


@dataclass
class Runner:
    """The Runner of such an engine: in threads of this process, by the worker's own code."""

    engine: Engine
    slots: int = 2
    ahead: int = 2
    _residences: dict[str, Residence] = field(default_factory=dict)
    _free: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.slots)

    async def run(self, unit: Unit) -> Heard:
        pcm = np.frombuffer(unit.window.pcm, "<i2").astype(np.float32) / np.float32(32768)
        async with self._free:
            return await asyncio.to_thread(worker.hear, self.engine, pcm, unit.decode, lambda: False)

    async def load(self, model: ModelInfo, slots: int | None = None) -> None:
        self._residences[model.id] = Residence(model.id, self.engine.describe(), (os.getpid(),), 0, 0)

    async def unload(self, model: str) -> None:
        self._residences.pop(model, None)

    def loaded(self) -> tuple[Residence, ...]:
        return tuple(self._residences.values())

    async def stop(self) -> None:
        pass


def texts(segments: Sequence[Segment]) -> list[str]:
    return [segment.text.strip() for segment in segments]
