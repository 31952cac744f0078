"""The processes that tell speakers apart: one for each loaded pipeline, which does one media at a time.

A pipeline takes seconds to load and half a gigabyte, and gives its memory back only when its process ends.
It hears a whole media at once, so the sound comes as a file of float32 samples that is mapped, not sent.
"""

import asyncio
import itertools
import logging
import queue
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from server import errors, logs
from server.child import Child, ChildGone, Parent
from server.engines import Report, Stopped
from server.errors import ModelBroken, SpeechError, WorkFailed
from server.lanes import Lanes
from server.runners import Residence
from server.types import Diarized, ModelInfo, SpeakerCount

if TYPE_CHECKING:
    from server.engines.pyannote import Diarizer, Pcm

log = logging.getLogger(__name__)

_DEATHS = 2
"""A media that killed this many processes is an error."""

_TELL = 0.25
"""Seconds between two reports of progress."""

_GRACE = 5.0
"""Seconds a process has to give up its work when told to; then it is killed."""

# What the two sides say -------------------------------------------------------------------------------


class Diarize(msgspec.Struct, tag=True):
    """To the process: who speaks when in this sound?"""

    number: int
    sound: str
    """A file of float32 samples, mono 16 kHz."""
    speakers: SpeakerCount


class Embed(msgspec.Struct, tag=True):
    """To the process: what does the one voice in this sound sound like?"""

    number: int
    sound: str


class Stop(msgspec.Struct, tag=True):
    """To the process: nobody waits for the result of that work any more."""

    number: int


class Loaded(msgspec.Struct, tag=True):
    engine: str


class Reached(msgspec.Struct, tag=True):
    number: int
    share: float


class Found(msgspec.Struct, tag=True):
    number: int
    diarized: Diarized


class Voice(msgspec.Struct, tag=True):
    number: int
    embedding: tuple[float, ...]


class Gave(msgspec.Struct, tag=True):
    """From the process: it gave the work up, as told."""

    number: int


class Failed(msgspec.Struct, tag=True):
    """From the process: it cannot. `kind` names a class of errors.py."""

    kind: str
    message: str


Work = Diarize | Embed
ToProcess = Diarize | Embed | Stop
FromProcess = Loaded | Reached | Found | Voice | Gave | Failed


# The server's side ------------------------------------------------------------------------------------


class Diarizers(Lanes["_Desk"]):
    """The pipelines that are loaded. All methods belong to one event loop."""

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        """`folder`: the processes' empty working directory; `threads` of each, 0: one for each core."""
        super().__init__(lambda model: _Desk(model, folder, threads))

    slots = 1
    """Media that a pipeline works on at a time."""

    async def load(self, model: ModelInfo, slots: int | None = None) -> None:
        """Load the pipeline, if it is not. Raises ModelBroken."""
        await self.lane(model).load()

    async def diarize(
        self, model: ModelInfo, sound: Path, speakers: SpeakerCount, report: Report
    ) -> Diarized:
        """Who speaks when in a file of float32 samples. Cancelling ends the work.

        Raises ModelBroken where the pipeline cannot be loaded, and WorkFailed where its processes died of it.
        """
        found = await self.lane(model).ask(lambda number: Diarize(number, str(sound), speakers), report)
        assert isinstance(found, Found)
        return found.diarized

    async def embed(self, model: ModelInfo, sound: Path) -> tuple[float, ...]:
        """The embedding of one voice. Raises as `diarize`, and TooShort where the sample will not do."""
        voice = await self.lane(model).ask(lambda number: Embed(number, str(sound)), lambda _: None)
        assert isinstance(voice, Voice)
        return voice.embedding


class _Desk:
    """One pipeline's process, and who waits for it."""

    def __init__(self, model: ModelInfo, folder: Path, threads: int) -> None:
        self._model = model
        self._folder = folder
        self._threads = threads
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._numbers = itertools.count()
        self._child: Child[FromProcess] | None = None
        self._engine = ""

    async def load(self) -> None:
        async with self._turn:
            await self._started()

    async def stop(self) -> None:
        if self._child:
            await self._end(self._child)

    def residence(self) -> Residence:
        alive = self._child is not None and self._child.alive
        return Residence(
            model=self._model.id,
            engine=self._engine,
            processes=(self._child.pid,) if self._child and alive else (),
            busy=int(self._turn.locked()),
            queued=max(0, self._waiting - 1),
        )

    async def ask(self, work: Callable[[int], Work], report: Report) -> FromProcess:
        """The answer to one piece of work, done again once if the process dies of it."""
        self._waiting += 1
        try:
            async with self._turn:
                for _ in range(_DEATHS):
                    child = await self._started()
                    try:
                        return await self._asked(child, work(next(self._numbers)), report)
                    except ChildGone as why:
                        log.warning("the process of %s died at work: %s", self._model.id, why)
                        await self._end(child)
        finally:
            self._waiting -= 1
        raise WorkFailed(
            "the speakers could not be told apart: the process died each time, most likely for want of memory"
        )

    async def _started(self) -> Child[FromProcess]:
        if self._child and self._child.alive:
            return self._child
        arguments = (str(self._model.path), str(self._threads))
        child = await Child[FromProcess].spawn("server.diarizers:main", FromProcess, self._folder, *arguments)
        try:
            match await child.receive():
                case Loaded(engine):
                    self._engine, self._child = engine, child
                    return child
                case Failed(message=message):
                    raise ModelBroken(message)
            raise ModelBroken(f"{self._model.id} answered nonsense")
        except ChildGone as why:
            raise ModelBroken(f"{self._model.id} cannot be loaded: its process died ({why})") from why
        finally:
            if self._child is not child:
                await self._end(child)

    async def _end(self, child: Child[FromProcess]) -> None:
        if self._child is child:
            self._child = None
        child.kill()
        await child.ended()

    async def _asked(self, child: Child[FromProcess], work: Work, report: Report) -> FromProcess:
        """Its answer. Raises ChildGone, or the error that it tells."""
        child.serve(logs.REQUEST.get())
        await child.send(work)
        answering = asyncio.create_task(_answer(child, report))
        try:
            return await asyncio.shield(answering)
        except asyncio.CancelledError:
            await child.send(Stop(work.number))
            await asyncio.wait({answering}, timeout=_GRACE)
            if not answering.done():
                await self._end(child)
            raise
        finally:
            answering.cancel()
            with suppress(asyncio.CancelledError, ChildGone, SpeechError):
                await answering


async def _answer(child: Child[FromProcess], report: Report) -> FromProcess:
    while True:
        match message := await child.receive():
            case Reached(share=share):
                report(share)
            case Failed(kind, text):
                raise cast(type[SpeechError], getattr(errors, kind))(text)
            case _:
                return message


# The process's side -----------------------------------------------------------------------------------


def main() -> None:
    """A process with one pipeline: its folder and the number of threads are its arguments."""
    from server.engines.pyannote import Diarizer

    parent = Parent[ToProcess](ToProcess)
    try:
        engine = Diarizer(Path(sys.argv[3]), int(sys.argv[4]))
    except SpeechError as error:
        parent.send(Failed(type(error).__name__, str(error)))
        return
    parent.send(Loaded(engine.describe()))
    works: queue.SimpleQueue[Work] = queue.SimpleQueue()
    stopped: set[int] = set()

    def handle(message: ToProcess) -> None:
        if isinstance(message, Stop):
            stopped.add(message.number)
        else:
            works.put(message)

    parent.hear(handle)
    while True:
        parent.send(_do(works.get(), engine, parent, stopped))


def _do(work: Work, engine: "Diarizer", parent: Parent[ToProcess], stopped: set[int]) -> FromProcess:
    def stop() -> bool:
        return work.number in stopped

    try:
        sound = _mapped(Path(work.sound))
        if isinstance(work, Embed):
            return Voice(work.number, engine.voice(sound, stop))
        return Found(work.number, engine.diarize(sound, work.speakers, _paced(parent, work.number), stop))
    except Stopped:
        return Gave(work.number)
    except SpeechError as error:
        return Failed(type(error).__name__, str(error))
    except MemoryError:
        return Failed("WorkFailed", "telling the speakers apart needs more memory than there is")
    finally:
        stopped.discard(work.number)


def _mapped(file: Path) -> "Pcm":
    """Its samples, which the kernel may take out of memory and read again."""
    # Here, for the server's own process has no use for it.
    import numpy as np

    if not file.stat().st_size:  # which cannot be mapped
        return np.zeros(0, np.float32)
    return np.memmap(file, np.float32, "c")


def _paced(parent: Parent[ToProcess], number: int) -> Report:
    """Tells how far the work is, at most four times a second."""
    told = 0.0

    def report(share: float) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL:
            told = time.monotonic()
            parent.send(Reached(number, share))

    return report
