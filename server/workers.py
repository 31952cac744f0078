"""Worker processes from the server's side: started, asked, told to stop, ended."""

import asyncio
import itertools
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

from server.child import Child, ChildGone
from server.errors import ModelBroken
from server.types import Decode, Loading
from server.worker import Answer, Batch, FromWorker, Loaded, Refused, Stop, Work

_GROWTH = 512 << 20
"""Bytes for each slot, above its size when loaded, at which a worker is replaced."""


class Worker:
    """A process with the model loaded, which works for `loading.slots` slots at a time."""

    def __init__(self, child: Child[FromWorker], loaded: Loaded, loading: Loading) -> None:
        self.engine = loaded.engine
        self.stops = loaded.stops
        self.loading = loading
        self.slots = 0
        """Slots that use it now."""
        self.units = 0
        """Windows that it has heard."""
        self.entered = 0
        """Batches that it works on, or is about to."""
        self.alone = False
        """Whether that is one window that must have nothing beside it."""
        self.retired = False
        """A slot has left it, because it is gone, old or grown: no other may enter."""
        self.left = asyncio.Event()
        """Set when the last slot has left it."""
        self._child = child
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._requests: dict[int, str] = {}
        """Whose work that is."""
        self._gone = False
        self._process = psutil.Process(child.pid)
        self._size: int = self._process.memory_info().rss
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, folder: Path, loading: Loading, name: str) -> "Worker":
        """A process with the model loaded; `folder`: its empty working directory. `name`: the model's, which
        lists of processes show.

        Raises ModelBroken where the engine refuses the model, and ChildGone where the process dies of it.
        """
        argument = msgspec.json.encode(loading, enc_hook=str).decode()
        child = await Child[FromWorker].spawn("server.worker:main", FromWorker, folder, argument, name)
        try:
            match await child.receive():
                case Loaded() as loaded:
                    return cls(child, loaded, loading)
                case Refused(message):
                    raise ModelBroken(message)
            raise ChildGone(f"process {child.pid} answers before it was asked")
        except BaseException as error:
            child.kill()
            await child.ended()
            if isinstance(error, psutil.NoSuchProcess):  # it died as soon as it had told of itself
                raise ChildGone(f"process {child.pid} has ended") from error
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return not self._gone and self._child.alive

    @property
    def fit(self) -> bool:
        """Whether another slot may use it."""
        return self.alive and not self.retired

    @property
    def asked(self) -> int:
        """Windows that it has been asked for and not answered."""
        return len(self._asked)

    def grown(self) -> bool:
        """Whether it has taken much more memory than when the model was loaded."""
        try:
            return bool(self._process.memory_info().rss > self._size + _GROWTH * self.loading.slots)
        except psutil.NoSuchProcess:
            return False

    async def ask(self, windows: Iterable[tuple[bytes, Decode, str]]) -> dict[int, asyncio.Future[Answer]]:
        """Hand a batch over: a number for each window, in order, and its answer to come.

        The text beside a window is the id of its request, for the log. An answer is ChildGone where the
        process ends before it.
        """
        numbered = [(next(self._numbers), *window) for window in windows]
        works = tuple(Work(number, pcm, decode) for number, pcm, decode, _ in numbered)
        self._requests |= {number: request for number, *_, request in numbered}
        self._tell_for_whom()
        answers = {work.number: asyncio.get_running_loop().create_future() for work in works}
        self._asked |= answers
        if self._gone:
            self._lost(ChildGone(f"process {self.pid} has ended"))
        else:
            await self._child.send(Batch(works))
        return answers

    async def stop(self, number: int) -> None:
        """Say that nobody waits for that answer any more."""
        if number in self._asked:
            await self._child.send(Stop(number))

    async def end(self) -> None:
        self._gone = True
        self._child.kill()
        self._listening.cancel()
        self._lost(ChildGone(f"process {self.pid} was ended"))
        await self._child.ended()

    def _tell_for_whom(self) -> None:
        self._child.serve(",".join(sorted({request for request in self._requests.values() if request})))

    async def _listen(self) -> None:
        try:
            while True:
                message = await self._child.receive()
                if isinstance(message, Answer):
                    answer = self._asked.pop(message.number, None)
                    self._requests.pop(message.number, None)
                    self._tell_for_whom()
                    if answer and not answer.done():
                        answer.set_result(message)
        except ChildGone as why:
            self._gone = True
            self._lost(why)

    def _lost(self, why: ChildGone) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(why)
                answer.exception()
        self._asked.clear()
        self._requests.clear()
