"""The warm child processes that turn a body into windows, and the server's side of them.

Nothing else opens a stranger's bytes: a decoder that crashes, swells or hangs ends one stream. A reader does
one stream at a time. It blocks while we do not take its windows, so a film needs no more memory than a clip.
"""

import asyncio
import dataclasses
import errno
import io
import itertools
import logging
import math
import os
import queue
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
from msgspec.structs import replace

from server import errors, logs
from server.child import Child, ChildGone, Parent
from server.spool import Spool
from server.types import MediaEnd, MediaInfo, RawSound, Window, WindowShape

log = logging.getLogger(__name__)

_DEATHS = 2
"""A stream that killed this many readers is refused."""

_STREAMS = 200
"""A reader is replaced by a fresh one after this many."""

_READY = 60.0
"""Seconds that a reader may take to start."""

_TELL = 10.0
"""Seconds of sound between two positions."""

_PACE = 0.3
"""Weight of the newest media in the mean of seconds that one takes."""

_LONGEST_WAIT = 600
"""Seconds after which a refused client is told to come back, at most."""

_STARTS = max(1, len(os.sched_getaffinity(0)) // 4)
"""Readers that are started at a time in a rush: each costs a core the better part of a second, which those
that are there need to get through it."""

_SPARE = 60.0
"""Seconds a reader above the warm number is kept after a rush."""


# What the two sides say -------------------------------------------------------------------------------


class Open(msgspec.Struct, tag=True):
    """To the reader: read this file."""

    path: str
    size: int
    complete: bool
    shape: WindowShape
    longest: float
    audio_track: str | None
    raw: RawSound | None
    resume_at: float
    until: float | None
    next_index: int
    overlapped: float = 0.0
    by_channel: bool = False
    channels: dict[int, tuple[float, float]] = {}
    """`resume_at` and `overlapped` of those channels that have had windows."""
    record: str | None = None
    rate: int = 0
    """Hz of what goes into that file as int16, without any windows; 0: beside the windows, as float32."""


class Grown(msgspec.Struct, tag=True):
    """To the reader: the file has this many bytes now."""

    size: int
    complete: bool


class Ready(msgspec.Struct, tag=True):
    """From the reader: it is warm."""


class Opened(msgspec.Struct, tag=True):
    info: MediaInfo


class Cut(msgspec.Struct, tag=True):
    window: Window


class Reached(msgspec.Struct, tag=True):
    """From the reader: all sound before `at` has been read."""

    at: float


class Recorded(msgspec.Struct, tag=True):
    """From the reader: the media's whole sound is in its file."""


class Ended(msgspec.Struct, tag=True):
    end: MediaEnd


class Refused(msgspec.Struct, tag=True):
    """From the reader: the media is no good. `kind` names a class of errors.py."""

    kind: str
    message: str


ToReader = Open | Grown
FromReader = Ready | Opened | Cut | Reached | Recorded | Ended | Refused


@dataclass(frozen=True, slots=True)
class Position:
    """All sound before this second has been read."""

    at: float


@dataclass(frozen=True, slots=True)
class Recording:
    """A file into which a media's sound goes as float32 samples while it is being read."""

    path: Path
    """An empty file."""
    rate: int = 0
    """Hz, where the sound is wanted as int16 in that rate, and no windows of it; 0: beside the windows."""
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as soon as all of it is there, mostly long before all windows have been taken."""


Reading = MediaInfo | Window | Position | MediaEnd
"""What a reading yields: the media's info first, then windows and positions in order, its end last."""


# The server's side ------------------------------------------------------------------------------------


class Readers:
    """A pool of reader processes. At most `streams` media are read at once; `queue` more may wait."""

    def __init__(
        self,
        folder: Path,
        *,
        warm: int,
        streams: int,
        queue: int,
        memory: int,
        longest: float,
        stall: float = 60.0,
        on_death: Callable[[str], None] = lambda process: None,
    ) -> None:
        """`memory` in bytes a reader, `longest` in seconds of sound; `on_death` is told of each that died.

        `stall`: seconds without a sign of life, while the whole body is there, after which a reader is given
        up as if it had died.
        """
        self._folder = folder
        self._warm = warm
        self._queue = queue
        self._memory = memory
        self._longest = longest
        self._stall = stall
        self._on_death = on_death
        self._streams_at_once = streams
        self._places = asyncio.Semaphore(streams)
        self._idle: list[Child[FromReader]] = []
        self._all: set[Child[FromReader]] = set()
        self._streams: dict[Child[FromReader], int] = {}
        self._waiters: deque[asyncio.Future[Child[FromReader]]] = deque()
        """Media that have a place, but no reader yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        """Readers that are being started."""
        self._ending: set[asyncio.Task[None]] = set()
        """Those that were killed, until they are gone."""
        self.waiting = 0
        """Requests in line for a reader."""
        self._begun: list[float] = []
        """When the media that are being read now were begun."""
        self._took = 0.0
        """Mean seconds that a media takes."""
        self._promised = 0.0
        """When the last of those who were refused was told to come again."""

    async def start(self) -> None:
        """Warm the pool; returns when its readers are ready."""
        await asyncio.gather(*(self._warm_up() for _ in range(self._warm)))

    async def stop(self) -> None:
        starting = tuple(self._tasks)
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        while waiter := self._longest_waiting():
            waiter.set_exception(ChildGone("the readers were stopped"))
        for child in tuple(self._all):
            self._end(child)
        await asyncio.gather(*self._ending)

    @property
    def processes(self) -> tuple[int, ...]:
        """Process ids of all readers."""
        return tuple(child.pid for child in self._all)

    async def read(
        self,
        spool: Spool,
        shape: WindowShape,
        audio_track: str | None = None,
        raw: RawSound | None = None,
        *,
        start: float = 0.0,
        end: float | None = None,
        by_channel: bool = False,
        recording: Recording | None = None,
    ) -> AsyncGenerator[Reading]:
        """The windows of a media, while its body may still be arriving; `raw`: of samples without a header.

        `start`, `end`: seconds of the media between which it is heard. `by_channel`: each channel has its own
        windows; those of different channels come as they are decided. `recording`: where the sound up to
        `end`, of all channels mixed, is to go as well.

        Raises BadMedia, TooLarge (more sound than allowed) or Busy (the line is full). A reader that dies
        is replaced once and goes on after the last window; closing the iterator early ends the work.
        """
        order = Open(
            str(spool.path), 0, False, shape, self._longest, audio_track, raw, start, end, 0, 0.0, by_channel
        )
        if recording:
            order.record, order.rate = str(recording.path), recording.rate
        async with self._place():
            deaths, introduced = 0, False
            while True:
                try:
                    async with aclosing(self._read_once(spool, order, fresh=deaths > 0)) as reading:
                        async for item in reading:
                            if isinstance(item, Recorded):
                                if recording:
                                    recording.whole.set()
                                continue
                            if isinstance(item, Window):
                                order = _after(order, item)
                            if isinstance(item, MediaInfo):
                                if introduced:
                                    continue
                                introduced = True
                            yield item
                    return
                except ChildGone as error:
                    deaths += 1
                    self._on_death("reader")
                    at = order.resume_at
                    log.warning("reader died at %.1f s of its media: %s", at, error)
                    if deaths == _DEATHS:
                        raise errors.Undecodable(f"the media could not be decoded at {clock(at)}") from error

    def refuse_if_full(self) -> None:
        """Raises Busy where another media could not even wait in line."""
        if self._places.locked() and self.waiting >= self._queue:
            wait = self._wait()
            raise errors.Busy(f"the server is busy and its line is full; try again in {wait} s", wait)

    def _wait(self) -> int:
        """Seconds until a place in line is likely to be free for who is refused now.

        By how long media took of late, and by how long those that are read now have taken already. Who is
        refused is told to come after the one before him, but not later than after a whole line.
        """
        usual = max(self._took, *(time.monotonic() - began for began in self._begun), 1.0)
        each = usual / self._streams_at_once
        now = time.monotonic()
        whole_line = each * max(1, self._queue)
        self._promised = min(max(self._promised, now) + each, now + whole_line)
        return min(_LONGEST_WAIT, math.ceil(self._promised - now))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        self.refuse_if_full()
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        began = time.monotonic()
        self._begun.append(began)
        try:
            yield
        finally:
            self._begun.remove(began)
            self._took += _PACE * (time.monotonic() - began - self._took)
            self._places.release()

    async def _read_once(self, spool: Spool, order: Open, fresh: bool) -> AsyncGenerator[Reading | Recorded]:
        # After a death a new process, for whatever killed the last one may have killed idle ones too.
        child = await (self._add() if fresh else self._take())
        finished = False
        try:
            child.serve(logs.REQUEST.get())
            await child.send(replace(order, size=spool.size, complete=spool.complete))
            async with _telling(child, spool):
                async for item in _items(child, spool, self._stall):
                    finished = isinstance(item, MediaEnd)
                    yield item
        except errors.SpeechError:
            finished = True
            raise
        finally:
            self._give_back(child, finished)

    async def _take(self) -> Child[FromReader]:
        """An idle one; or whichever comes first, one that is given back or a new one.

        So a rush of clips goes through the few that are warm, and does not wait until each has its own.
        """
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                self._refill()
                return child
            self._end(child)
        waiter: asyncio.Future[Child[FromReader]] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._refill()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self._offer(waiter.result())
            raise

    def _offer(self, child: Child[FromReader]) -> None:
        """To who has waited longest, or it is idle."""
        if waiter := self._longest_waiting():
            waiter.set_result(child)
        else:
            self._idle.append(child)

    def _longest_waiting(self) -> "asyncio.Future[Child[FromReader]] | None":
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def _refill(self) -> None:
        """Spawn those that are waited for, a few at a time; and one ahead while none is left, so that the
        next request need not wait for imports."""
        if self._idle:
            return
        waited_for = sum(not waiter.done() for waiter in self._waiters)
        most = max(self._warm, self._streams_at_once)
        at_once = min(max(1, waited_for), _STARTS)
        while len(self._tasks) < at_once and len(self._all) + len(self._tasks) < most:
            task = asyncio.create_task(self._spawn())
            self._tasks.add(task)
            task.add_done_callback(self._spawned)

    async def _spawn(self) -> None:
        try:
            self._offer(await self._add())
        except Exception as error:
            if waiter := self._longest_waiting():
                waiter.set_exception(error)
            else:
                log.warning("a reader does not start: %s", error)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._waiters and not task.cancelled():
            self._refill()

    async def _warm_up(self) -> None:
        self._idle.append(await self._add())

    async def _add(self) -> Child[FromReader]:
        child = await Child[FromReader].spawn(
            "server.reader:main", FromReader, self._folder, str(self._memory)
        )
        self._all.add(child)
        self._streams[child] = 0
        try:
            async with asyncio.timeout(_READY):
                await child.receive()
        except TimeoutError as error:
            self._end(child)
            raise ChildGone(f"process {child.pid} did not start") from error
        except BaseException:
            self._end(child)
            raise
        return child

    def _give_back(self, child: Child[FromReader], finished: bool) -> None:
        child.serve("")
        self._streams[child] += 1
        if not finished or self._streams[child] >= _STREAMS or not child.alive:
            self._end(child)
            self._refill()
            return
        self._offer(child)
        if len(self._all) > self._warm:
            asyncio.get_running_loop().call_later(_SPARE, self._trim)

    def _trim(self) -> None:
        if self._idle and len(self._all) > self._warm:
            self._end(self._idle.pop(0))

    def _end(self, child: Child[FromReader]) -> None:
        child.kill()
        self._forget(child)
        ending = asyncio.create_task(child.ended())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _forget(self, child: Child[FromReader]) -> None:
        self._all.discard(child)
        self._streams.pop(child, None)
        if child in self._idle:
            self._idle.remove(child)


async def _items(child: Child[FromReader], spool: Spool, stall: float) -> AsyncIterator[Reading | Recorded]:
    while True:
        match await _next(child, spool, stall):
            case Opened(info):
                yield info
            case Cut(window):
                yield window
            case Reached(at):
                yield Position(at)
            case Recorded() as recorded:
                yield recorded
            case Ended(end):
                yield end
                return
            case Refused(kind, message):
                raise cast(type[errors.SpeechError], getattr(errors, kind))(message)


async def _next(child: Child[FromReader], spool: Spool, stall: float) -> FromReader:
    """The reader's next message. Raises ChildGone where it hangs; it may wait for a body that still grows."""
    message = asyncio.create_task(child.receive())
    try:
        while not (await asyncio.wait({message}, timeout=stall))[0]:
            if spool.complete:
                raise ChildGone(f"process {child.pid} hangs")
        return message.result()
    finally:
        message.cancel()


@asynccontextmanager
async def _telling(child: Child[FromReader], spool: Spool) -> AsyncIterator[None]:
    """Tell the reader of the file's growth for as long as it grows."""

    async def tell() -> None:
        async for size, complete in spool.growth():
            await child.send(Grown(size, complete))

    if spool.complete:
        yield
        return
    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling


def _after(order: Open, window: Window) -> Open:
    """What another reader is told that goes on after a window."""
    done = window.end, window.overlapped
    if window.channel is not None:
        channels = {**order.channels, window.channel: done}
        return replace(order, next_index=window.index + 1, channels=channels)
    return replace(order, resume_at=done[0], overlapped=done[1], next_index=window.index + 1)


def clock(at: float) -> str:
    """A position for people: 12:31, 1:02:03."""
    minutes, seconds = divmod(int(at), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# The reader's side ------------------------------------------------------------------------------------


class Growing(io.RawIOBase):
    """A file that may still be growing: reading waits for bytes that have yet to come."""

    def __init__(self, path: str, size: int, complete: bool) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        self._size, self._complete = size, complete
        self._grown = threading.Condition()

    def grow(self, size: int, complete: bool) -> None:
        """From another thread: so much is there now."""
        with self._grown:
            self._size, self._complete = size, complete
            self._grown.notify_all()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        position = self._file.tell()
        with self._grown:
            self._grown.wait_for(lambda: self._complete or self._size > position)
            room = max(0, self._size - position)
        return self._file.read(room if size < 0 else min(size, room))

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END:
            with self._grown:
                if not self._complete:
                    raise OSError("the end of the file is not known yet")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def main() -> None:
    """A reader process: warm up, then read one stream after the other."""
    # Only here, in the child: the server's own process never loads a decoder.
    from server import media, windows
    from server.recording import Recorder, write

    def take(order: Open, file: Growing) -> Iterator[FromReader]:
        sound = cast(BinaryIO, file)
        with media.open_media(sound, order.audio_track, order.longest, rate=order.rate) as opened:
            yield Opened(opened.info)
            write(opened.blocks(order.until), Path(order.record or ""))
            yield Recorded()
            yield Ended(opened.end)

    def read(order: Open, file: Growing) -> Iterator[FromReader]:
        cutters: dict[int | None, windows.Cutter] = {}
        numbers = itertools.count(order.next_index)
        sound = cast(BinaryIO, file)
        with media.open_media(
            sound, order.audio_track, order.longest, order.raw, by_channel=order.by_channel
        ) as opened:
            yield Opened(opened.info)
            blocks = opened.blocks(order.until)
            recorder = Recorder(blocks, Path(order.record)) if order.record else None
            told, recorded = 0.0, recorder is None
            for block in recorder.blocks() if recorder else blocks:
                channel = block.channel
                if channel not in cutters:
                    activity = windows.VoiceActivity() if channel else voice
                    cutters[channel] = windows.Cutter(order.shape, resume(order, channel), activity)
                for window in cutters[channel].feed(block):
                    yield Cut(dataclasses.replace(window, index=next(numbers), channel=channel))
                if recorder and not recorded and recorder.complete:
                    recorded = True
                    yield Recorded()
                position = min(cutter.position for cutter in cutters.values())
                if position >= told + _TELL:
                    told = position
                    yield Reached(told)
            if not recorded:
                yield Recorded()
            for channel, cutter in cutters.items():
                for window in cutter.finish():
                    yield Cut(dataclasses.replace(window, index=next(numbers), channel=channel))
            yield Ended(opened.end)

    def resume(order: Open, channel: int | None) -> windows.Resume:
        at, overlapped = order.resume_at, order.overlapped
        if channel in order.channels:
            at, overlapped = order.channels[channel]
        return windows.Resume(at, order.next_index, overlapped)

    voice = windows.VoiceActivity()
    parent = Parent[ToReader](ToReader)
    _limit_memory(int(sys.argv[3]))
    parent.send(Ready())
    desk = _Desk()
    parent.hear(desk.handle)
    while True:
        order, file = desk.next()
        with file:
            for message in _orderly(take(order, file) if order.rate else read(order, file)):
                parent.send(message)


def _orderly(messages: Iterator[FromReader]) -> Iterator[FromReader]:
    """The messages, an error as the last of them."""
    try:
        yield from messages
    except errors.SpeechError as error:
        yield Refused(type(error).__name__, str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        yield Refused("NoSpace", "the disk of this server is full; nothing was kept")
    except MemoryError:
        yield Refused("Undecodable", "decoding this media needs more memory than this server allows")


class _Desk:
    """Where orders lie until the reader takes them; news of a file reach it while it is being read."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Open, Growing]] = queue.SimpleQueue()
        self._file: Growing | None = None

    def handle(self, message: ToReader) -> None:
        if isinstance(message, Grown):
            if self._file:
                self._file.grow(message.size, message.complete)
            return
        self._file = Growing(message.path, message.size, message.complete)
        self._orders.put((message, self._file))

    def next(self) -> tuple[Open, Growing]:
        return self._orders.get()


def _limit_memory(limit: int) -> None:
    """Let the process grow by `limit` bytes from here; beyond, allocations fail."""
    used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[5])
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
