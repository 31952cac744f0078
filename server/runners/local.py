"""Work in child processes of this server: per model up to `slots` workers, each with the model loaded.

Units take turns between requests, so a short clip never waits behind a film. A unit whose worker died runs
again elsewhere; one that killed two is an error. A worker is replaced after `recycle` units or a timeout.
"""

import asyncio
import itertools
import logging
import os
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import psutil

from server.child import Child, ChildGone
from server.errors import ModelBroken, SpeechError, WindowFailed, WorkFailed
from server.runners import Residence, Unit
from server.types import Heard, ModelInfo
from server.worker import Failed, FromWorker, Loaded, Result, Stop, Work

log = logging.getLogger(__name__)

_DEATHS = 2
"""A unit that killed this many workers is an error."""

_LOADS = 3
"""A model is broken when so many processes have died of loading it."""

_GRACE = 5.0
"""Seconds a worker has to give a unit up when told to; then it is killed."""

_SHARE = 5
"""Of so many units, one is of the background while both classes have some."""

_BACK_OFF = 0.2
_SLOWEST_RESTART = 10.0
"""Seconds before a worker is started again: none after the first death, then doubling up to this."""

_GROWTH = 512 << 20
"""Bytes above its size when loaded at which a worker is replaced."""


@dataclass(eq=False, slots=True)
class _Job:
    """A unit and the one who waits for it."""

    unit: Unit
    done: asyncio.Future[Heard]
    deaths: int = 0


@dataclass(eq=False, slots=True)
class _Turns:
    """Pending jobs: first of each request, request after request."""

    lines: dict[str, deque[_Job]] = field(default_factory=dict)

    def put(self, job: _Job) -> None:
        self.lines.setdefault(job.unit.request, deque()).append(job)

    def put_back(self, job: _Job) -> None:
        """First in line again, its request before all others."""
        line = self.lines.pop(job.unit.request, deque())
        line.appendleft(job)
        self.lines = {job.unit.request: line, **self.lines}

    def take(self) -> _Job | None:
        while self.lines:
            request, line = next(iter(self.lines.items()))
            del self.lines[request]
            job = line.popleft()
            if line:
                self.lines[request] = line
            if not job.done.done():
                return job
        return None

    def __len__(self) -> int:
        return sum(not job.done.done() for line in self.lines.values() for job in line)


class _Line:
    """Pending jobs of both classes: those that somebody waits for come first, but for one in `_SHARE`."""

    def __init__(self) -> None:
        self._foreground = _Turns()
        self._background = _Turns()
        self._passed = 0
        """Foreground units since the last one of the background, while one was pending."""

    def put(self, job: _Job) -> None:
        self._class(job).put(job)

    def put_back(self, job: _Job) -> None:
        """First of its class again."""
        self._class(job).put_back(job)

    def take(self) -> _Job | None:
        if self._passed < _SHARE - 1 and (job := self._foreground.take()):
            self._passed = self._passed + 1 if len(self._background) else 0
            return job
        self._passed = 0
        return self._background.take() or self._foreground.take()

    def __len__(self) -> int:
        return len(self._foreground) + len(self._background)

    def _class(self, job: _Job) -> _Turns:
        return self._background if job.unit.background else self._foreground


class Runner:
    """The Runner of child processes."""

    def __init__(
        self, folder: Path, *, slots: int = 0, threads: int = 0, timeout: float = 600.0, recycle: int = 5000
    ) -> None:
        """`folder`: the workers' empty working directory. `slots` and `threads`: 0 goes by the cores."""
        self._cores = len(os.sched_getaffinity(0))
        self.slots = slots or self._cores
        self.folder = folder
        self._threads = threads
        self.timeout = timeout
        self.recycle = recycle
        self._lanes: dict[str, _Lane] = {}

    async def run(self, unit: Unit) -> Heard:
        job = _Job(unit, asyncio.get_running_loop().create_future())
        self._lane(unit.model).add(job)
        return await job.done

    async def load(self, model: ModelInfo, slots: int | None = None) -> None:
        lane = self._lane(model)
        lane.slots = min(slots or self.slots, self.slots)
        await lane.load()

    async def unload(self, model: str) -> None:
        lane = self._lanes.pop(model, None)
        if lane:
            await lane.stop()

    def loaded(self) -> tuple[Residence, ...]:
        residences = (lane.residence() for lane in self._lanes.values())
        return tuple(residence for residence in residences if residence.processes)

    async def stop(self) -> None:
        for model in tuple(self._lanes):
            await self.unload(model)

    def _lane(self, model: ModelInfo) -> "_Lane":
        lane = self._lanes.get(model.id)
        if lane is None:
            lane = self._lanes[model.id] = _Lane(self, model)
        return lane

    def threads_for(self, wanted: int) -> int:
        """Threads of one of `wanted` units at a time: all cores for a lone one."""
        return self._threads or max(1, self._cores // max(1, min(wanted, self.slots)))


class _Worker:
    """A process with the model loaded."""

    def __init__(self, child: Child[FromWorker], engine: str) -> None:
        self.child = child
        self.engine = engine
        self.units = 0
        self._process = psutil.Process(child.pid)
        self._size: int = self._process.memory_info().rss

    def grown(self) -> bool:
        """Whether it has taken much more memory than when the model was loaded."""
        return bool(self._process.memory_info().rss > self._size + _GROWTH)


class _Lane:
    """One model: its pending jobs, and a task for each of its workers."""

    def __init__(self, runner: Runner, model: ModelInfo) -> None:
        self.slots = runner.slots
        self._runner = runner
        self._model = model
        self._turns = _Line()
        self._pending = asyncio.Semaphore(0)
        self._numbers = itertools.count()
        self._slots: set[asyncio.Task[None]] = set()
        self._coming = 0
        self._deaths = 0
        self._workers: set[_Worker] = set()
        self._busy: dict[_Worker, _Job] = {}
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, job: _Job) -> None:
        self._turns.put(job)
        self._pending.release()
        if len(self._turns) > self._coming and len(self._slots) < self.slots:
            self._grow()

    async def load(self) -> None:
        if not self._slots:
            self._grow()
        await asyncio.shield(self._loaded)

    async def stop(self) -> None:
        for task in self._slots:
            task.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        self._fail(WorkFailed(f"the model {self._model.id} was unloaded"))

    def residence(self) -> Residence:
        return Residence(
            model=self._model.id,
            engine=next((worker.engine for worker in self._workers), ""),
            processes=tuple(worker.child.pid for worker in self._workers),
            busy=len(self._busy),
            queued=len(self._turns),
        )

    def _grow(self) -> None:
        task = asyncio.create_task(self._slot())
        self._slots.add(task)
        task.add_done_callback(self._slots.discard)

    async def _slot(self) -> None:
        """A worker's whole life, and that of its successors."""
        worker: _Worker | None = None
        try:
            while True:
                worker = worker or await self._start()
                job = await self._next()
                if not worker.child.alive:
                    self._again(job)  # it died while idle, which is not the job's fault
                elif await self._do(worker, job):
                    continue
                await self._end(worker)
                worker = None
        except SpeechError as error:
            # Gone before anyone hears of it, so that who asks again gets a new one.
            self._slots.discard(cast(asyncio.Task[None], asyncio.current_task()))
            # Another slot may be at work, or just starting: then the jobs are its own.
            if not self._slots:
                self._fail(error)
        finally:
            if worker:
                await self._end(worker)

    async def _next(self) -> _Job:
        self._coming += 1
        try:
            while True:
                await self._pending.acquire()
                if job := self._turns.take():
                    return job
        finally:
            self._coming -= 1

    async def _start(self) -> _Worker:
        """A process with the model loaded. Raises ModelBroken when it refuses, or always dies of it."""
        self._coming += 1
        try:
            for _ in range(_LOADS):
                if self._deaths > 1:
                    await asyncio.sleep(min(_BACK_OFF * 2**self._deaths, _SLOWEST_RESTART))
                if worker := await self._spawn():
                    return worker
        finally:
            self._coming -= 1
        raise ModelBroken(f"the model {self._model.id} cannot be loaded: its process died each time")

    async def _spawn(self) -> _Worker | None:
        child = await Child[FromWorker].spawn(
            "server.worker:main", FromWorker, self._runner.folder, self._model.engine, str(self._model.path)
        )
        try:
            match await child.receive():
                case Loaded(engine):
                    worker = _Worker(child, engine)
                    self._workers.add(worker)
                    if not self._loaded.done():
                        self._loaded.set_result(None)
                    return worker
                case Failed(message):
                    child.kill()
                    raise ModelBroken(message)
        except ChildGone as why:
            self._deaths += 1
            log.warning("a worker died while it loaded %s: %s", self._model.id, why)
        except BaseException:
            child.kill()
            await child.ended()
            raise
        return None

    async def _end(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        worker.child.kill()
        await worker.child.ended()

    async def _do(self, worker: _Worker, job: _Job) -> bool:
        """Run the job; whether the worker is fit for another one."""
        self._busy[worker] = job
        try:
            message = await self._exchange(worker, job)
        except ChildGone as why:
            self._lost(job, why)
            return False
        finally:
            del self._busy[worker]
        self._deaths = 0
        if not job.done.done():
            match message:
                case Result(heard=heard):
                    job.done.set_result(heard)
                case Failed(message=sentence):
                    job.done.set_exception(WorkFailed(sentence))
        worker.units += 1
        return worker.units < self._runner.recycle and not worker.grown()

    async def _exchange(self, worker: _Worker, job: _Job) -> FromWorker:
        """The worker's answer. Raises ChildGone where it died, hung, or would not stop when told to."""
        number = next(self._numbers)
        threads = self._runner.threads_for(min(len(self._busy) + len(self._turns), self.slots))
        work = Work(number, job.unit.window.pcm, replace(job.unit.decode, threads=threads))
        answer = asyncio.create_task(_asked(worker.child, work))
        try:
            waiting: set[asyncio.Future[Any]] = {answer, job.done}
            await asyncio.wait(waiting, timeout=self._runner.timeout, return_when=asyncio.FIRST_COMPLETED)
            if job.done.cancelled() and not answer.done():
                stopping = asyncio.create_task(worker.child.send(Stop(number)))
                await asyncio.wait({answer}, timeout=_GRACE)
                stopping.cancel()
            if not answer.done():
                raise ChildGone(f"process {worker.child.pid} does not answer")
            return answer.result()
        finally:
            answer.cancel()

    def _lost(self, job: _Job, why: ChildGone) -> None:
        """The worker died of, or during, this job: run it again, once."""
        self._deaths += 1
        job.deaths += 1
        log.warning("a worker of %s died in window %d: %s", self._model.id, job.unit.window.index, why)
        if job.done.done():
            return
        if job.deaths < _DEATHS:
            self._again(job)
            return
        job.done.set_exception(WindowFailed(f"window {job.unit.window.index} could not be decoded"))

    def _again(self, job: _Job) -> None:
        self._turns.put_back(job)
        self._pending.release()

    def _fail(self, error: SpeechError) -> None:
        """Nobody is left to do the work."""
        jobs = list(self._busy.values())
        while job := self._turns.take():
            jobs.append(job)
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(error)
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()
        self._loaded = asyncio.get_running_loop().create_future()


async def _asked(child: Child[FromWorker], work: Work) -> FromWorker:
    await child.send(work)
    return await child.receive()
