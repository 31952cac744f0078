"""Work in child processes of this server: per model up to `slots` windows, or batches of them, at a time.

Units take turns between requests, so a short clip never waits behind a film; where all slots are at work on
films, its first window is heard beside them. Where the engine hears several windows at once, those that wait
at the same moment go together; none waits for others to come. A unit whose
worker died runs again; where several were at work in it, each runs again with no other beside it, and only a
death then counts against a unit. A worker is replaced after `recycle` units or a timeout.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from server import logs
from server.child import ChildGone
from server.errors import ModelBroken, SpeechError, WindowFailed, WorkFailed
from server.lanes import Lanes
from server.runners import Residence, Unit
from server.types import Decode, Heard, Loading, ModelInfo
from server.worker import Answer, Failed, Result
from server.workers import Worker

log = logging.getLogger(__name__)

Prepare = Callable[[ModelInfo, int], Awaitable[Loading]]
"""How a model is to be run with at most so many slots; what is needed for that is made first."""

BATCH = 8
"""Windows that go through a model together, at most, where the owner says nothing."""

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

LONGEST_BATCH = 2.0
"""Seconds that a batch may take, or a clip that comes just after its start would wait for it too long."""

_PACE = 0.3
"""Weight of the newest measurement in the mean of seconds a window."""


async def as_it_is(model: ModelInfo, slots: int) -> Loading:
    """The model's own file, run by whisper.cpp in a process for each slot."""
    return Loading(path=model.path)


@dataclass(eq=False, slots=True)
class _Job:
    """A unit and the one who waits for it."""

    unit: Unit
    done: asyncio.Future[Heard]
    request: str = field(default_factory=logs.REQUEST.get)
    """As the log names what this is for."""
    deaths: int = 0
    added: float = field(default_factory=time.monotonic)
    alone: bool = False
    """It was at work with others when their worker died: now it must have one to itself."""


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

    def take_all(self, most: int) -> list[_Job]:
        """At most so many jobs that may go together, by turns."""
        jobs: list[_Job] = []
        while len(jobs) < most and (job := self.take()):
            if job.alone and jobs:
                self.put_back(job)
                break
            jobs.append(job)
            if job.alone:
                break
        return jobs

    def __len__(self) -> int:
        return len(self._foreground) + len(self._background)

    def _class(self, job: _Job) -> _Turns:
        return self._background if job.unit.background else self._foreground


class Runner(Lanes["_Lane"]):
    """The Runner of child processes."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 0,
        threads: int = 0,
        batch: int = BATCH,
        timeout: float = 600.0,
        recycle: int = 5000,
        prepare: Prepare = as_it_is,
        on_window: Callable[[str, float, float], None] = lambda model, waited, took: None,
        on_death: Callable[[str], None] = lambda process: None,
    ) -> None:
        """`folder`: the workers' empty working directory. `slots` and `threads`: 0 goes by the cores.

        `on_window` is told of each window its model, the seconds it waited and those it took, or its batch;
        `on_death` of each worker that died.
        """
        super().__init__(lambda model: _Lane(self, model))
        self._cores = len(os.sched_getaffinity(0))
        self.slots = slots or self._cores
        self.batch = batch
        self.folder = folder
        self._threads = threads
        self.timeout = timeout
        self.recycle = recycle
        self.prepare = prepare
        self.on_window = on_window
        self.on_death = on_death

    @property
    def ahead(self) -> int:
        return self.slots * self.batch

    async def run(self, unit: Unit) -> Heard:
        job = _Job(unit, asyncio.get_running_loop().create_future())
        self.lane(unit.model).add(job)
        return await job.done

    async def load(self, model: ModelInfo, slots: int | None = None) -> None:
        lane = self.lane(model)
        lane.slots = min(slots or self.slots, self.slots)
        await lane.load()

    def threads_for(self, wanted: int) -> int:
        """Threads of one of `wanted` units at a time: all cores for a lone one."""
        return self._threads or max(1, self._cores // max(1, min(wanted, self.slots)))


class _Lane:
    """One model: its pending jobs, its workers, and a task for each slot."""

    def __init__(self, runner: Runner, model: ModelInfo) -> None:
        self.slots = runner.slots
        self._runner = runner
        self._model = model
        self._turns = _Line()
        self._pending = asyncio.Semaphore(0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._idle = 0
        """Slots that wait for jobs, or will once their worker is there."""
        self._deaths = 0
        self._pace = 0.0
        """Mean seconds of a window in a batch; 0 until one has been heard."""
        self._workers: list[Worker] = []
        self._loading: Loading | None = None
        self._deciding = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._busy: dict[asyncio.Task[None], list[_Job]] = {}
        self._entering = asyncio.Condition()
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, job: _Job) -> None:
        if worker := self._spare(job):
            task = asyncio.create_task(self._pass(worker, job))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)
            return
        self._turns.put(job)
        self._pending.release()
        if len(self._turns) > self._idle and len(self._tasks) < self.slots:
            self._grow()

    async def load(self) -> None:
        if not self._tasks:
            self._grow()
        await asyncio.shield(self._loaded)

    async def stop(self) -> None:
        at_work = [job for jobs in self._busy.values() for job in jobs]
        tasks = self._tasks | self._passing
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail(WorkFailed(f"the model {self._model.id} was unloaded"), at_work)

    def residence(self) -> Residence:
        return Residence(
            model=self._model.id,
            engine=next((worker.engine for worker in self._workers), ""),
            processes=tuple(worker.pid for worker in self._workers),
            most=-(-self.slots // max((worker.loading.slots for worker in self._workers), default=1)),
            windows=self.slots * max((worker.loading.batch for worker in self._workers), default=1),
            busy=sum(len(jobs) for jobs in self._busy.values()),
            queued=len(self._turns),
        )

    # Slots --------------------------------------------------------------------------------------------

    def _grow(self) -> None:
        task = asyncio.create_task(self._slot())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _slot(self) -> None:
        """A slot's whole life, with one worker after the other."""
        worker: Worker | None = None
        try:
            while True:
                worker = worker or await self._place()
                jobs = await self._next(worker)
                if not worker.alive:
                    self._again(jobs)  # it died while idle, which is not the jobs' fault
                elif await self._do(worker, jobs):
                    continue
                await self._leave(worker)
                worker = None
        except Exception as error:
            if not isinstance(error, SpeechError):
                log.exception("a slot of %s failed", self._model.id)
                error = WorkFailed(f"the model {self._model.id} cannot be run")
            # Gone before anyone hears of it, so that who asks again gets a new one.
            self._tasks.discard(_this_task())
            # Another slot may be at work, or just starting: then the jobs are its own.
            if not self._tasks:
                self._fail(error)
        finally:
            if worker:
                await self._leave(worker)

    async def _next(self, worker: Worker) -> list[_Job]:
        """What to do now: a batch, if more than one job waits and no other slot is free for it."""
        self._idle += 1
        try:
            while True:
                await self._pending.acquire()
                if jobs := self._turns.take_all(self._most(worker)):
                    return jobs
        finally:
            self._idle -= 1

    def _spare(self, job: _Job) -> Worker | None:
        """Who has room for a first window that would wait for batches of films."""
        waits = not job.unit.background and job.unit.window.index == 0
        at_work = [each.unit for jobs in self._busy.values() for each in jobs]
        behind = [unit.background or unit.window.index > 0 for unit in at_work]
        if not waits or self._idle or not behind or not all(behind):
            return None
        able = (worker for worker in self._workers if worker.fit and not worker.alone)
        return next((worker for worker in able if len(self._passing) < worker.loading.spare), None)

    async def _pass(self, worker: Worker, job: _Job) -> None:
        """One window beside those of the slots."""
        self._enter(worker)
        try:
            await self._do(worker, [job])
        except Exception:
            log.exception("a window beside the slots of %s failed", self._model.id)
        finally:
            await self._left(worker)
        if not (job.done.done() or self._tasks):
            self._grow()  # it has to be done again, and nobody else is there

    def _most(self, worker: Worker) -> int:
        """Jobs that this slot may take at once."""
        share = -(-len(self._turns) // max(1, self._idle))
        in_time = int(LONGEST_BATCH / self._pace) if self._pace else 1
        return max(1, min(worker.loading.batch, share, in_time))

    async def _do(self, worker: Worker, jobs: list[_Job]) -> bool:
        """Run the jobs; whether the worker is fit for others."""
        self._busy[_this_task()] = jobs
        try:
            async with self._beside_others(worker, jobs):
                await self._exchange(worker, jobs)
        except Exception:
            _tell_all(jobs, WorkFailed(f"the model {self._model.id} cannot be run"))  # no other slot has them
            raise
        finally:
            del self._busy[_this_task()]
        worker.units += len(jobs)
        return worker.fit and worker.units < self._runner.recycle and not worker.grown()

    async def _exchange(self, worker: Worker, jobs: list[_Job]) -> None:
        """Have the jobs done, or put back where the worker died of them or of others beside them."""
        began = time.monotonic()
        answers = await worker.ask((job.unit.window.pcm, self._decode(job), job.request) for job in jobs)
        others = worker.asked > len(jobs)
        watching = [
            asyncio.create_task(self._watch(worker, job, number, answer))
            for job, (number, answer) in zip(jobs, answers.items(), strict=True)
        ]
        try:
            await asyncio.wait(watching)
        finally:
            for task in watching:
                task.cancel()
        ended = time.monotonic()
        for job, task in zip(jobs, watching, strict=True):
            if task.result():
                self._runner.on_window(self._model.id, began - job.added, ended - began)
        lost = [job for job, task in zip(jobs, watching, strict=True) if not task.result()]
        if lost:
            self._lost(lost, others or len(jobs) > 1)
        else:
            self._deaths = 0
            took = (ended - began) / len(jobs)
            self._pace += _PACE * (took - self._pace) if self._pace else took

    async def _watch(self, worker: Worker, job: _Job, number: int, answer: asyncio.Future[Answer]) -> bool:
        """Hand the answer to who waits for it; False where the worker is gone without one."""
        waiting: set[asyncio.Future[object]] = {answer, job.done}  # type: ignore[arg-type]
        await asyncio.wait(waiting, timeout=self._runner.timeout, return_when=asyncio.FIRST_COMPLETED)
        if job.done.cancelled() and not answer.done():
            await worker.stop(number)
            # An engine that cannot stop inside a window ends it; what it heard is thrown away.
            patience = _GRACE if worker.stops else self._runner.timeout
            await asyncio.wait({answer}, timeout=patience)
        if not answer.done():
            log.warning("worker %d does not answer", worker.pid, extra=logs.of(job.request))
            await worker.end()
        if error := answer.exception():
            index = job.unit.window.index
            log.warning(
                "a worker of %s died in window %d: %s",
                self._model.id,
                index,
                error,
                extra=logs.of(job.request),
            )
            return False
        if not job.done.done():
            match answer.result():
                case Result(heard=heard):
                    job.done.set_result(replace(heard, engine=worker.loading.engine))
                case Failed(message=sentence):
                    job.done.set_exception(WorkFailed(sentence))
        return True

    def _decode(self, job: _Job) -> Decode:
        at_work = min(len(self._busy) + len(self._turns), self.slots)
        own = self._loading.threads if self._loading else 0
        return replace(job.unit.decode, threads=own or self._runner.threads_for(at_work))

    @asynccontextmanager
    async def _beside_others(self, worker: Worker, jobs: list[_Job]) -> AsyncIterator[None]:
        """Until a job that must be alone in its worker is, and until such a job has ended."""
        alone = jobs[0].alone
        async with self._entering:
            await self._entering.wait_for(lambda: not worker.alone and not (alone and worker.entered))
            worker.alone, worker.entered = alone, worker.entered + 1
        try:
            yield
        finally:
            async with self._entering:
                worker.alone, worker.entered = False, worker.entered - 1
                self._entering.notify_all()

    def _lost(self, jobs: list[_Job], in_company: bool) -> None:
        """The worker died of, or during, these jobs: run them again, but none more than once by itself."""
        self._deaths += 1
        for job in jobs:
            job.alone = job.alone or in_company
            job.deaths += not in_company
            if job.done.done():
                continue
            if job.deaths < _DEATHS:
                self._again([job])
            else:
                job.done.set_exception(WindowFailed(f"window {job.unit.window.index} could not be decoded"))

    async def _how(self) -> Loading:
        """How the model is run, as long as it is loaded: decided once."""
        async with self._deciding:
            if self._loading is None:
                self._loading = await self._runner.prepare(self._model, self.slots)
                self.slots = self._loading.most or self.slots
            return self._loading

    def _again(self, jobs: list[_Job]) -> None:
        for job in reversed(jobs):
            self._turns.put_back(job)
            self._pending.release()

    # Workers ------------------------------------------------------------------------------------------

    async def _place(self) -> Worker:
        """A worker with room for one more slot. Raises ModelBroken when it refuses, or always dies of it."""
        self._idle += 1
        try:
            loading = await self._how()
            if loading.slots > 1:
                # The first slot starts the process that all of them share.
                async with self._starting:
                    return await self._shared(loading)
            return self._enter(await self._start(replace(loading, devices=(self._device(loading),))))
        finally:
            self._idle -= 1

    def _device(self, loading: Loading) -> int:
        """The card with the fewest workers: each has the whole model."""
        used = [device for worker in self._workers for device in worker.loading.devices]
        return min(loading.devices, key=used.count)

    async def _shared(self, loading: Loading) -> Worker:
        for worker in tuple(self._workers):
            if not worker.fit:
                # Two at a time would take the memory twice.
                await worker.left.wait()
            elif worker.slots < worker.loading.slots:
                return self._enter(worker)
        return self._enter(await self._start(loading))

    def _enter(self, worker: Worker) -> Worker:
        worker.slots += 1
        return worker

    async def _start(self, loading: Loading) -> Worker:
        for _ in range(_LOADS):
            if self._deaths > 1:
                await asyncio.sleep(min(_BACK_OFF * 2**self._deaths, _SLOWEST_RESTART))
            try:
                worker = await Worker.start(self._runner.folder, loading, self._model.id)
            except ChildGone as why:
                self._deaths += 1
                self._runner.on_death("worker")
                log.warning("a worker died while it loaded %s: %s", self._model.id, why)
                continue
            self._workers.append(worker)
            if not self._loaded.done():
                self._loaded.set_result(None)
            return worker
        raise ModelBroken(f"the model {self._model.id} cannot be loaded: its process died each time")

    async def _leave(self, worker: Worker) -> None:
        """The last slot that leaves a worker ends it; nobody enters it meanwhile."""
        worker.retired = True
        await self._left(worker)

    async def _left(self, worker: Worker) -> None:
        """Whoever was at work in it is not any more; it ends with the last one."""
        worker.slots -= 1
        if worker.slots:
            return
        self._workers.remove(worker)
        if not worker.alive:
            self._runner.on_death("worker")
        await worker.end()
        worker.left.set()

    def _fail(self, error: SpeechError, at_work: Iterable[_Job] = ()) -> None:
        """Nobody is left to do the work."""
        jobs = list(at_work)
        while job := self._turns.take():
            jobs.append(job)
        _tell_all(jobs, error)
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()
        self._loaded = asyncio.get_running_loop().create_future()


def _tell_all(jobs: Iterable[_Job], error: SpeechError) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)


def _this_task() -> asyncio.Task[None]:
    return cast(asyncio.Task[None], asyncio.current_task())
