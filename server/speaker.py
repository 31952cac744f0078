"""The child processes that speak: one model each, one piece at a time; and the server's side of them.

Requests take turns piece by piece, so a short sentence never waits behind a book. A piece whose process died
is spoken again by another, from where its sound broke off; one that kills two is an error. Ending the
processes is unloading.
"""

import asyncio
import importlib
import itertools
import logging
import os
import queue
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Protocol, cast

import msgspec
import psutil

from server import engines, errors, logs
from server.child import Child, ChildGone, Parent
from server.lanes import Lanes
from server.runners import Residence
from server.types import CLONING_RATE, ModelInfo, Piece, Sample

log = logging.getLogger(__name__)

_DEATHS = 2
"""A piece that killed this many processes is refused."""

_LOADS = 3
"""A model is broken when so many processes have died of loading it."""

_GRACE = 3.0
"""Seconds that a process has to stop when told to; then it is killed."""

_AHEAD = 1 << 20
"""Bytes of sound that are made before a slow client has taken them; a piece is always finished."""

_BACK_SOON = 5
"""Seconds after which a refused client may find room."""

_GROWTH = 512 << 20
"""Bytes above its size when loaded at which a process is replaced."""


# What the two sides say -------------------------------------------------------------------------------


class Say(msgspec.Struct, tag=True):
    """To the process: speak this piece."""

    number: int
    piece: Piece
    speaker: str
    sample_rate: int
    sample: Sample | None = None
    """Whose voice it is to be, instead of the speaker's."""


class Stop(msgspec.Struct, tag=True):
    """To the process: nobody hears that piece any more."""

    number: int


class Loaded(msgspec.Struct, tag=True):
    """From the process: the model is loaded; `engine` describes the library."""

    engine: str


class Sound(msgspec.Struct, tag=True):
    """From the process: the next sound, int16 little-endian mono."""

    pcm: bytes


class Said(msgspec.Struct, tag=True):
    """From the process: that was all of the piece, or it was told to stop."""


class Refused(msgspec.Struct, tag=True):
    """From the process: it cannot be spoken. `kind` names a class of errors.py."""

    kind: str
    message: str


ToSpeaker = Say | Stop
FromSpeaker = Loaded | Sound | Said | Refused


# The server's side ------------------------------------------------------------------------------------


class Keep(Protocol):
    """Where a voice's pieces are kept that were spoken before."""

    async def get(self, piece: Piece) -> bytes | None:
        """Its sound; None where it has to be made."""

    async def put(self, piece: Piece, pcm: bytes) -> None:
        """Keep all of its sound."""


class Speakers(Lanes["_Lane"]):
    """The speaking processes of all models."""

    def __init__(
        self, folder: Path, *, slots: int = 0, threads: int = 0, queue: int = 64, timeout: float = 600.0
    ) -> None:
        """`folder`: their empty working directory. `slots` processes of a model, 0: one for two cores.

        `queue`: requests that may wait for a model; `timeout`: seconds without a sound after which a process
        is given up.
        """
        super().__init__(lambda model: _Lane(self, model))
        cores = len(os.sched_getaffinity(0))
        self.slots = slots or max(1, cores // 2)
        self.threads = threads or max(1, cores // self.slots)
        self.folder = folder
        self.queue = queue
        self.timeout = timeout
        self._ending: set[asyncio.Task[None]] = set()

    async def say(
        self,
        model: ModelInfo,
        speaker: str,
        sample_rate: int,
        pieces: Iterable[Piece],
        sample: Sample | None = None,
        keep: "Keep | None" = None,
    ) -> AsyncGenerator[bytes]:
        """The sound of the pieces, one after the other: int16 little-endian mono at `sample_rate`.

        `sample`: whose voice it is to be, instead of the speaker's, where the model clones. `keep`: where
        pieces that were spoken before are, and these go.

        Raises Busy where too many wait for this model, ModelBroken, and WorkFailed. Closing the iterator
        early stops the work.
        """
        lane = self.lane(model)
        sounds = _Backlog()
        making = asyncio.create_task(lane.make(speaker, sample_rate, pieces, sample, keep, sounds))
        try:
            async for pcm in sounds.taken(making):
                yield pcm
        finally:
            making.cancel()
            # Not by `await`, through which a second cancellation would reach it while it frees its process.
            self._ending.add(making)
            making.add_done_callback(self._ended)
            await asyncio.wait({making})

    async def clone(self, model: ModelInfo, sample: Sample) -> None:
        """Have the model take on a voice, without a word. Raises as `say`."""
        async with aclosing(self.say(model, "", CLONING_RATE, (Piece(""),), sample)) as nothing:
            async for _ in nothing:
                pass

    def _ended(self, making: asyncio.Task[None]) -> None:
        self._ending.discard(making)
        if not making.cancelled():
            making.exception()  # whoever was to hear of it has left

    async def load(self, model: ModelInfo, slots: int | None = None) -> None:
        """Load the model, if it is not. Raises ModelBroken."""
        async with self.lane(model).worker():
            pass


class _Backlog:
    """Sound that is made and not yet taken."""

    def __init__(self) -> None:
        self._sounds: asyncio.Queue[bytes] = asyncio.Queue()
        self._size = 0
        self._taken = asyncio.Event()

    def put(self, pcm: bytes) -> None:
        self._size += len(pcm)
        self._sounds.put_nowait(pcm)

    async def room(self) -> None:
        """Until the client has taken enough for more to be made."""
        while self._size > _AHEAD:
            self._taken.clear()
            await self._taken.wait()

    async def taken(self, making: asyncio.Task[None]) -> AsyncIterator[bytes]:
        """The sound, until `making` it has ended; its error comes after all sound before it."""
        making.add_done_callback(lambda _: self._sounds.put_nowait(b""))
        ended = False
        while not ended and (pcm := await self._sounds.get()):
            # All that is there at once: each step after this takes a message of its own.
            while not ended and not self._sounds.empty():
                more = self._sounds.get_nowait()
                pcm, ended = pcm + more, not more
            self._size -= len(pcm)
            self._taken.set()
            yield pcm
        await making


class _Worker:
    """A process with the model loaded."""

    def __init__(self, child: Child[FromSpeaker], engine: str) -> None:
        self.child = child
        self.engine = engine
        self._process = psutil.Process(child.pid)
        self._size: int = self._process.memory_info().rss

    def fit(self) -> bool:
        """Whether it lives and has not taken much more memory than when the model was loaded."""
        try:
            return self.child.alive and bool(self._process.memory_info().rss < self._size + _GROWTH)
        except psutil.NoSuchProcess:
            return False


class _Lane:
    """One model: its processes, and those who wait for one."""

    def __init__(self, speakers: Speakers, model: ModelInfo) -> None:
        self._speakers = speakers
        self._model = model
        self._places = asyncio.Semaphore(speakers.slots)  # first come, first served
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._busy = 0
        self._waiting = 0
        self._numbers = itertools.count()
        self._engine = ""

    async def make(
        self,
        speaker: str,
        sample_rate: int,
        pieces: Iterable[Piece],
        sample: Sample | None,
        keep: Keep | None,
        sounds: _Backlog,
    ) -> None:
        for piece in pieces:
            await sounds.room()
            if keep and (kept := await keep.get(piece)):
                sounds.put(kept)
                continue
            say = Say(next(self._numbers), piece, speaker, sample_rate, sample)
            made: list[bytes] = []
            async with aclosing(self._said(say)) as said:
                async for pcm in said:
                    sounds.put(pcm)
                    if keep:
                        made.append(pcm)
            if keep:
                await keep.put(piece, b"".join(made))

    async def _said(self, say: Say) -> AsyncGenerator[bytes]:
        sent = 0
        for _ in range(_DEATHS):
            skipped = 0  # what the process that died of this piece had already sounded
            try:
                async with self.worker() as worker:
                    async for pcm in _exchange(worker.child, say, self._speakers.timeout):
                        skip = min(sent - skipped, len(pcm))
                        skipped += len(pcm)
                        if len(pcm) > skip:
                            sent += len(pcm) - skip
                            yield pcm[skip:]
                return
            except ChildGone as why:
                log.warning("a process of %s died while it spoke: %s", self._model.id, why)
        raise errors.WorkFailed(f"the voice's process died {_DEATHS} times of the same sentence")

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[_Worker]:
        """A process of one's own for a moment. Raises Busy where too many wait."""
        if self._places.locked() and self._waiting >= self._speakers.queue:
            raise errors.Busy(
                f"the voice is busy and its line is full; try again in {_BACK_SOON} s", _BACK_SOON
            )
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        self._busy += 1
        worker = None
        try:
            worker = await self._take()
            yield worker
        except ChildGone:
            if worker:
                worker.child.kill()
            raise
        finally:
            try:
                if worker:
                    await self._give_back(worker)
            finally:
                self._busy -= 1
                self._places.release()

    async def _take(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.child.alive:
                return worker
            await self._end(worker)
        return await self._start()

    async def _give_back(self, worker: _Worker) -> None:
        if worker in self._all and worker.fit():
            self._idle.append(worker)
        else:
            await self._end(worker)

    async def _start(self) -> _Worker:
        """A process with the model loaded. Raises ModelBroken when it refuses, or always dies of it."""
        for _ in range(_LOADS):
            if worker := await self._spawn():
                return worker
        raise errors.ModelBroken(f"the voice {self._model.id} cannot be loaded: its process died each time")

    async def _spawn(self) -> _Worker | None:
        speakers, model = self._speakers, self._model
        child = await Child[FromSpeaker].spawn(
            "server.speaker:main",
            FromSpeaker,
            speakers.folder,
            model.engine,
            str(model.path),
            str(speakers.threads),
        )
        try:
            match await child.receive():
                case Loaded(engine):
                    worker = _Worker(child, engine)
                    self._all.add(worker)
                    self._engine = engine
                    return worker
                case Refused(kind, message):
                    raise cast(type[errors.SpeechError], getattr(errors, kind))(message)
        except ChildGone as why:
            log.warning("a process died while it loaded %s: %s", model.id, why)
        except BaseException:
            child.kill()
            await child.ended()
            raise
        return None

    async def _end(self, worker: _Worker) -> None:
        self._all.discard(worker)
        worker.child.kill()
        await worker.child.ended()

    async def stop(self) -> None:
        self._idle.clear()
        for worker in tuple(self._all):
            await self._end(worker)

    def residence(self) -> Residence:
        return Residence(
            model=self._model.id,
            engine=self._engine,
            processes=tuple(worker.child.pid for worker in self._all),
            busy=self._busy,
            queued=self._waiting,
        )


async def _exchange(child: Child[FromSpeaker], say: Say, timeout: float) -> AsyncIterator[bytes]:
    """The sound of one piece. Raises ChildGone where the process died, hung, or would not stop."""
    child.serve(logs.REQUEST.get())
    await child.send(say)
    answer = asyncio.ensure_future(child.receive())
    finished = False
    try:
        while not finished:
            if not (await asyncio.wait({answer}, timeout=timeout))[0]:
                child.kill()
                raise ChildGone(f"process {child.pid} does not answer")
            match answer.result():
                case Sound(pcm):
                    answer = asyncio.ensure_future(child.receive())
                    yield pcm
                case Said():
                    finished = True
                case Refused(kind, message):
                    finished = True
                    raise cast(type[errors.SpeechError], getattr(errors, kind))(message)
    finally:
        if not finished:
            await _stopped(child, say.number, answer)


async def _stopped(child: Child[FromSpeaker], number: int, answer: asyncio.Future[FromSpeaker]) -> None:
    """Tell the process that nobody hears it any more, and wait until it is free again; else it is killed."""
    try:
        async with asyncio.timeout(_GRACE):
            await child.send(Stop(number))
            while not isinstance(await answer, Said | Refused):
                answer = asyncio.ensure_future(child.receive())
    except (TimeoutError, ChildGone, asyncio.CancelledError):
        child.kill()


# The process's side -----------------------------------------------------------------------------------


def main() -> None:
    """A speaking process: engine module's name, model's path and threads are its arguments."""
    parent = Parent[ToSpeaker](ToSpeaker)
    engine, model, threads = sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])
    try:
        speaker: engines.Speaker = importlib.import_module(f"server.engines.{engine}").Speaker(model, threads)
    except errors.SpeechError as error:
        parent.send(Refused(type(error).__name__, str(error)))
        return
    parent.send(Loaded(speaker.describe()))
    says: queue.SimpleQueue[Say] = queue.SimpleQueue()
    stopped: set[int] = set()

    def handle(message: ToSpeaker) -> None:
        if isinstance(message, Stop):
            stopped.add(message.number)
        else:
            says.put(message)

    parent.hear(handle)
    while True:
        say = says.get()
        parent.send(_do(say, speaker, parent, stopped))
        stopped.clear()


def _do(say: Say, speaker: engines.Speaker, parent: Parent[ToSpeaker], stopped: set[int]) -> FromSpeaker:
    from server.encoding import Shaper

    shaper = Shaper(say.piece, say.sample_rate, speaker.speeds)

    def emit(pcm: bytes) -> None:
        if pcm := shaper.shaped(pcm):
            parent.send(Sound(pcm))

    def stop() -> bool:
        return say.number in stopped

    name = say.speaker
    try:
        if say.sample:
            name = cast(engines.Cloner, speaker).clone(say.sample, stop)
        if shaper.piece.text:
            speaker.say(shaper.piece, name, emit, stop)
        if last := shaper.last():
            parent.send(Sound(last))
    except engines.Stopped:
        return Said()
    except errors.SpeechError as error:
        return Refused(type(error).__name__, str(error))
    return Said()
