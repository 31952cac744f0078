"""The child process that writes sound into files, several at a time, and the server's side of it."""

import asyncio
import itertools
import logging
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Generic, TypeVar, cast

import msgspec

from server import errors
from server.child import Child, ChildGone, Parent
from server.types import Audio

log = logging.getLogger(__name__)


_FIRST_STEP = 0.3
"""Seconds of sound after which each format has something to give out."""

_LONGEST_STEP = 1.2


# What the two sides say -------------------------------------------------------------------------------


class Begin(msgspec.Struct, tag=True):
    """To the process: a stream in this format; `rate` Hz come, `wanted` Hz go."""

    stream: int
    format: Audio
    rate: int
    wanted: int


class Feed(msgspec.Struct, tag=True):
    """To the process: the stream's next sound, int16 little-endian mono; `last`: there is no more."""

    stream: int
    pcm: bytes
    last: bool


class Drop(msgspec.Struct, tag=True):
    """To the process: nobody wants the rest of that stream."""

    stream: int


class Ready(msgspec.Struct, tag=True):
    """From the process: it is warm."""


class Encoded(msgspec.Struct, tag=True):
    """From the process, once for each Feed: what of the file is ready."""

    stream: int
    data: bytes


class Refused(msgspec.Struct, tag=True):
    """From the process: that stream cannot be written. `kind` names a class of errors.py."""

    stream: int
    kind: str
    message: str


Opened = TypeVar("Opened")

ToEncoder = Begin | Feed | Drop
FromEncoder = Ready | Encoded | Refused


# The server's side ------------------------------------------------------------------------------------


class Encoder:
    """One process for all streams: what it does for a second of sound takes it milliseconds."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the process's empty working directory."""
        self._folder = folder
        self._numbers = itertools.count()
        self._starting = asyncio.Lock()
        self._process: _Process | None = None

    async def encode(
        self, sound: AsyncIterator[bytes], format: Audio, rate: int, wanted: int
    ) -> AsyncGenerator[bytes]:
        """The file, as the sound comes, which is int16 little-endian mono at `rate` Hz.

        Raises BadField where this format cannot be written here, WorkFailed where the process died.
        """
        process = await self._running()
        stream = next(self._numbers)
        answers = process.answers[stream] = asyncio.Queue()
        try:
            await process.child.send(Begin(stream, format, rate, wanted))
            async with aclosing(_in_steps(sound, rate)) as steps:
                async for pcm in steps:
                    await process.child.send(Feed(stream, pcm, last=False))
                    if data := await _answer(answers):
                        yield data
            await process.child.send(Feed(stream, b"", last=True))
            if data := await _answer(answers):
                yield data
        finally:
            del process.answers[stream]
            await process.child.send(Drop(stream))

    async def start(self) -> None:
        """Warm the process, so that no request pays its imports."""
        await self._running()

    async def stop(self) -> None:
        if self._process:
            await self._process.stop()

    async def _running(self) -> "_Process":
        async with self._starting:
            if self._process is None or not self._process.child.alive:
                self._process = _Process(await self._spawned())
            return self._process

    async def _spawned(self) -> Child[FromEncoder]:
        child = await Child[FromEncoder].spawn("server.encoder:main", FromEncoder, self._folder)
        try:
            await child.receive()
        except BaseException as error:
            child.kill()
            await child.ended()
            if isinstance(error, ChildGone):
                raise errors.WorkFailed("the process that writes sound cannot be started") from error
            raise
        return child


class _Process:
    """The process and the streams that wait for its answers."""

    def __init__(self, child: Child[FromEncoder]) -> None:
        self.child = child
        self.answers: dict[int, asyncio.Queue[Encoded | Refused | None]] = {}
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """Hand each answer to its stream, until the process has ended."""
        try:
            while True:
                message = await self.child.receive()
                if not isinstance(message, Ready) and message.stream in self.answers:
                    self.answers[message.stream].put_nowait(message)
        except ChildGone as why:
            log.warning("the process that writes sound is gone: %s", why)
            for answers in self.answers.values():
                answers.put_nowait(None)

    async def stop(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self.child.kill()
        await self.child.ended()


async def _in_steps(sound: AsyncIterator[bytes], rate: int) -> AsyncGenerator[bytes]:
    """The same sound, a little of it first, and never so much that other streams wait for it."""
    least, most = (2 * round(seconds * rate) for seconds in (_FIRST_STEP, _LONGEST_STEP))
    sent = 0
    async for pcm in sound:
        while pcm:
            size = min(max(sent, least), most)
            yield pcm[:size]
            sent += len(pcm[:size])
            pcm = pcm[size:]


async def _answer(answers: asyncio.Queue[Encoded | Refused | None]) -> bytes:
    match await answers.get():
        case Encoded(data=data):
            return data
        case Refused(kind=kind, message=message):
            raise cast(type[errors.SpeechError], getattr(errors, kind))(message)
    raise errors.WorkFailed("the process that writes sound died")


# The process's side -----------------------------------------------------------------------------------


def main() -> None:
    """An encoding process."""
    # Only here, in the child: the server's own process never loads FFmpeg.
    from server import encoding

    parent = Parent[ToEncoder](ToEncoder)
    spares = Spares(encoding.Encoder)
    spares.prepare(*_FIRST)
    messages: queue.SimpleQueue[ToEncoder] = queue.SimpleQueue()
    parent.hear(messages.put)
    parent.send(Ready())
    streams: dict[int, encoding.Encoder] = {}
    while True:
        if messages.empty():
            spares.refill()
        message = messages.get()
        try:
            match message:
                case Begin(stream, format, rate, wanted):
                    streams[stream] = spares.take(format, rate, wanted)
                case Feed(stream, pcm, last) if stream in streams:
                    made = streams[stream].feed(pcm)
                    parent.send(Encoded(stream, made + (streams.pop(stream).finish() if last else b"")))
                case Drop(stream):
                    streams.pop(stream, None)
        except errors.SpeechError as error:
            parent.send(Refused(message.stream, type(error).__name__, str(error)))


Kind = tuple[Audio, int, int]
"""A stream's format, the rate that comes and the rate that goes."""

_FIRST: Kind = ("mp3", 22_050, 24_000)
"""What is most likely asked for first."""

_SPARES = 8


class Spares(Generic[Opened]):
    """Streams opened ahead, one of each kind that was asked for lately: to open one takes some ms."""

    def __init__(self, open: Callable[[Audio, int, int], Opened]) -> None:
        self._open = open
        self._ready: dict[Kind, Opened] = {}
        self._missing: Kind | None = None

    def prepare(self, format: Audio, rate: int, wanted: int) -> None:
        with suppress(errors.SpeechError):
            self._ready[format, rate, wanted] = self._open(format, rate, wanted)
        if len(self._ready) > _SPARES:
            del self._ready[next(iter(self._ready))]

    def take(self, format: Audio, rate: int, wanted: int) -> Opened:
        """A stream of that kind. Raises what opening one does."""
        kind = self._missing = (format, rate, wanted)
        ready = self._ready.pop(kind, None)
        return self._open(*kind) if ready is None else ready

    def refill(self) -> None:
        """While there is nothing else to do: another of the kind that was taken last."""
        if self._missing:
            self.prepare(*self._missing)
            self._missing = None
