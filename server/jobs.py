"""Work that outlives its request: what was acknowledged is done, and its webhook sent, over any crash.

The records (records.py) are the line and the memory, durable.py the engine that takes each job to its end.
Nothing of it is made, opened or imported before the first job.
"""

import asyncio
import errno
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import msgspec

from server import errors, files, folders, garbage, logs, urls, webhooks
from server.config import Config
from server.spool import Spool, on_disk, spooled
from server.types import (
    Delivery,
    Done,
    Event,
    Job,
    JobError,
    JobLog,
    JobRequest,
    JobState,
    Listen,
    Priority,
    Progress,
    Segment,
    Sound,
    Speak,
    Started,
    TellingApart,
    Transcript,
    Waiting,
    WebhookOutcome,
)

if TYPE_CHECKING:
    from server.durable import Durable
    from server.records import Records, StoredFile

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Hear = Callable[[Listen, Spool], AsyncGenerator[Event]]

Say = Callable[[Path, Speak, Callable[[float], None]], Coroutine[Any, Any, Sound]]
"""Speaks a text into a file, telling of the seconds that are there."""

Outcome = Transcript | Sound
"""What a job is done for."""

Payload = Callable[[Job, Outcome | None], dict[str, object]]
"""A webhook's body for a job; its result where there is one."""

_ATTEMPTS = 20
"""A job that so many servers died of, or under, has failed."""

_AHEAD = 2
"""Jobs whose media is being read while others' windows take all slots."""

_MOST_LOGS = 200

_BUSY_TRIES = 40
_BUSY_WAIT = 5.0
"""How long, in all about three minutes, a job waits for memory that others use."""

_SWEEP = 60.0
"""Seconds between two looks for what has had its time."""

_REST = 10.0
"""Seconds without a job after which the engine is ended. Being ready costs it 1 % of a core, as it asks its
database each second; being started again costs 50 ms of one."""

_LOOK = 2.0
"""Seconds after which somebody who waits in line is told anew where he stands."""

_WEBHOOK_TIMEOUT = 15.0

_GONE = 410
"""A receiver's status that ends all tries."""

_OURS = re.compile(r"^https?://[^/?#]+/files/b/(w[0-9a-f]{32})/[^/?#]*$")
"""An address of a stored file. Nobody guesses its id, so any name of this server will do."""


@dataclass(eq=False, slots=True)
class _Live:
    """A job of this process that has not ended."""

    events: list[Started | Segment] = field(default_factory=list)
    progress: Progress | None = None
    waiting: str = ""
    logs: list[JobLog] = field(default_factory=list)
    work: asyncio.Task[Outcome] | None = None
    is_cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake all who follow."""
        self.changed.set()
        self.changed = asyncio.Event()

    def say(self, message: str, level: str = "INFO") -> None:
        if len(self.logs) < _MOST_LOGS:
            self.logs.append(JobLog(time.time(), message, cast(Any, level)))


@dataclass(frozen=True, slots=True)
class _Result:
    """What is kept of a job that succeeded."""

    transcript: Transcript | None = None
    duration: float | None = None
    """Seconds as `Started` told them, which the whole media may correct."""
    sound: Sound | None = None


Numbered = tuple[int | None, Event | Sound]
"""An event of a job, and its number, from which a broken stream goes on; None for what is of the moment.

What was spoken is the last event of a job that speaks."""


class Jobs:
    """All jobs of a data folder. Ids of owners: "" for nobody's, None for everybody's."""

    def __init__(
        self,
        config: Config,
        slots: int,
        on_end: Callable[[JobState], None] = lambda state: None,
        on_webhook: Callable[[WebhookOutcome], None] = lambda outcome: None,
    ) -> None:
        """`slots`: how many windows run at a time, which is how many jobs do.

        `on_end` is told how each job ends, `on_webhook` of each try to send a webhook.
        """
        self._config = config
        self._on_end = on_end
        self._on_webhook = on_webhook
        self._folder = config.data / "jobs"
        self._at_once = config.jobs_at_once or max(1, min(slots + _AHEAD, config.streams // 2))
        self._path = self._folder / "jobs.sqlite"
        self._key = webhooks.Key(self._folder / "webhook.key")
        self.signer = files.Signer(self._folder / "signing.key")
        self.blobs = files.Blobs(self._folder / "blobs")
        self.uploads = files.Uploads(self._folder / "uploads")
        self._database = ThreadPoolExecutor(1, "jobs")
        self._opening = asyncio.Lock()
        self._blobs_change = asyncio.Lock()
        """Held from a look at who needs a blob until what follows from it is done."""
        self._records: Records | None = None
        self._durable: Durable | None = None
        self._live: dict[str, _Live] = {}
        self._active: set[str] = set()
        self._claimed: set[str] = set()
        self._wake = asyncio.Event()
        self._dispatcher: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hear: Hear | None = None
        self._say: Say | None = None
        self._payload: Payload | None = None
        self.rules = urls.Rules(
            private=config.allow_private_urls,
            hosts=frozenset(host.lower() for host in config.allowed_url_hosts),
            grace=config.upload_grace,
            rate=config.upload_rate,
            longest=config.url_timeout,
        )

    # Life ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(
        self, hear: Hear, say: Say, payload: Payload, warm: asyncio.Event
    ) -> AsyncIterator[None]:
        """Do jobs, as soon as the server is warm: those that earlier servers left, and those that come."""
        self._hear, self._say, self._payload = hear, say, payload
        self._begin(self._resume(warm))
        try:
            yield
        finally:
            await self._stop()

    async def _resume(self, warm: asyncio.Event) -> None:
        await warm.wait()
        if records := await self._known():
            waiting = await self._call(records.count, "queued")
            if waiting or len(await self._call(records.undone)):
                await self._engine()

    async def _known(self) -> "Records | None":
        """The records, where there are any."""
        return await self._open() if self._records or self._path.exists() else None

    async def _stop(self) -> None:
        for id in tuple(self._active):
            if self._records:
                await self._call(self._records.again, id, -1)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._durable:
            await self._durable.stop()
            self._durable = None
        for live in self._live.values():
            if live.work:
                live.work.cancel()
        if self._records:
            await self._call(self._records.close)
        self._database.shutdown(wait=False)

    async def _open(self) -> "Records":
        """The records, made with the first job."""
        async with self._opening:
            if self._records is None:
                self._records = await self._call(self._opened)
                self._begin(self._sweeping())
        return self._records

    def _opened(self) -> "Records":
        # Only here, with the first job: SQLAlchemy takes a quarter of a second to import.
        garbage.load("server.records")
        from server.records import Records

        self._folder.mkdir(parents=True, exist_ok=True)
        records = Records(self._path)
        _remove_orphans(self._folder / "results", records.ids())
        return records

    def _of(self) -> "Records":
        assert self._records, "opened"
        return self._records

    async def _engine(self) -> "Durable":
        """The engine, started with the first job."""
        async with self._opening:
            if self._durable is None:
                from server.durable import Durable

                durable = Durable(self._folder / "durable.sqlite", self._work, self._tell)
                undone = await self._call(self._of().undone)
                self._active |= {job.id for job in undone if job.state == "running"}
                underway = await durable.start()
                for job in undone:
                    if job.id not in underway:
                        await durable.begin(job.id, job.attempts + len(job.deliveries) + 1)
                self._durable = durable
                self._dispatcher = self._begin(self._dispatching(durable))
        return self._durable

    async def _rest(self) -> None:
        """Without work, end the engine. The next job starts it again."""
        async with self._opening:
            records = self._of()
            waiting = await self._call(records.count, "queued")
            undone = len(await self._call(records.undone))
            if self._durable and self._dispatcher and not (waiting or undone or self._active):
                await self._durable.tidy()
                self._dispatcher.cancel()
                durable, self._durable = self._durable, None
                await durable.stop()

    async def _call(self, what: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """A call of the records, which block, on their thread. Raises NoSpace and Busy."""
        return await asyncio.get_running_loop().run_in_executor(
            self._database, lambda: _told(what, *arguments, **named)
        )

    async def _surely(self, what: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """The same for what must be kept, as nobody would ask again: it waits for room, and for the lock."""
        while True:
            try:
                return await self._call(what, *arguments, **named)
            except (errors.Busy, errors.NoSpace) as error:
                log.warning("jobs have to wait: %s", error)
                await asyncio.sleep(_BUSY_WAIT)

    def _begin(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error and not isinstance(error, errors.SpeechError):
            log.error("jobs: %s", error, exc_info=error)

    async def _sweeping(self) -> None:
        while True:
            try:
                await self._sweep()
            except Exception:
                log.exception("what has had its time could not be removed")
            await asyncio.sleep(_SWEEP)

    async def _sweep(self) -> None:
        """Remove what has had its time, or is more than there may be."""
        records = self._of()
        now = time.time()
        limits = self._config
        old, unclaimed = now - limits.jobs_keep, now - limits.private_keep
        for id in await self._call(records.expired, old, limits.jobs_size, private=unclaimed):
            await self._forget(id)
        await self._call(records.remove_files, now)
        await self._call(records.wipe)
        async with self._blobs_change:
            used = await self._call(records.in_use)
            await asyncio.to_thread(self.blobs.sweep, used)
        await asyncio.to_thread(self.uploads.sweep, now - files.UPLOAD_TIME)
        if self._durable:
            await self._durable.tidy()

    # What clients do ----------------------------------------------------------------------------------

    async def submit(
        self,
        request: JobRequest,
        *,
        spool: Spool | None = None,
        owner: str = "",
        key: str = "",
        priority: Priority = "normal",
        webhook: str = "",
    ) -> Job:
        """Keep a job, which then is done; with a key that the owner has used before, the job of that key.

        `spool`: its media, complete. Raises BadUrl, KeyReused, StorageFull, NoSpace and Busy.
        """
        if request.url and (stored := await self.stored(request.url)):
            request = replace(request, url="", file=stored.sha256)
        elif request.url:
            urls.check(request.url, "url", self.rules)
        if webhook:
            urls.check(webhook, "webhook", self.rules)
        await self._open()
        if spool:
            request = replace(request, file=await asyncio.to_thread(files.digest, spool.path))
        job = Job(
            id=_new_id(),
            request=request,
            owner=owner,
            key=key,
            priority=priority,
            private=self._config.is_private(owner),
            webhook=webhook,
            created=time.time(),
        )
        mark = hashlib.sha256(msgspec.json.encode(request)).hexdigest()
        # A client that leaves now must not take along what begins the job that was just kept.
        return await asyncio.shield(self._begin(self._kept(job, mark, spool)))

    async def _kept(self, job: Job, mark: str, spool: Spool | None) -> Job:
        """The job, in line from now on; or that of its key."""
        records = self._of()
        size = spool.size if spool else 0
        async with self._blobs_change:
            if not await self._is_known(job):
                await self._refuse_if_full(size, job.owner)
            if spool:
                await asyncio.to_thread(self.blobs.keep, spool.path, job.request.file)
            known = await self._call(records.add, job, mark, size)
        if known:
            await self._drop(job.request.file)
            if await self._call(records.fingerprint, known.id) != mark:
                raise errors.KeyReused("this Idempotency-Key came before, with another request")
            return known
        log.info("job %s is in line", job.id)
        self._live[job.id] = _Live()
        await self._engine()
        self._wake.set()
        return job

    async def _is_known(self, job: Job) -> bool:
        """Whether there is a job of its key."""
        return bool(job.key) and await self._call(self._of().find_key, job.owner, job.key) is not None

    async def _refuse_if_full(self, size: int, owner: str) -> None:
        limits = self._config
        if await self._call(self._of().count, "queued") >= limits.jobs_queue:
            raise errors.Busy("the line of jobs is full; try again in 30 s", 30)
        if size:
            await self.refuse_if_stored(size, owner)

    async def refuse_if_stored(self, size: int, owner: str, instead: str = "") -> None:
        """Raises StorageFull where so many more bytes do not fit into what this server keeps.

        `instead`: the id of an upload whose parts they replace.
        """
        taken, mine = await self._call((await self._open()).sizes, owner)
        taken += await asyncio.to_thread(self.uploads.size, instead)
        files.refuse_if_full(size, taken, self._config.storage, "all clients'")
        files.refuse_if_full(size, mine, self._config.storage_of_key or self._config.storage, "your")

    async def find(self, id: str, owner: str | None = None) -> Job:
        """Raises JobNotFound, also for a job of somebody else."""
        if records := await self._known():
            job = await self._call(records.find, id)
            if job and owner in (None, job.owner):
                live = self._live.get(id)
                return replace(job, logs=tuple(live.logs)) if live and not job.is_finished else job
        raise errors.JobNotFound(f"there is no job {id[:80]!a}; a result is kept for a while only")

    async def select(
        self,
        owner: str | None = None,
        *,
        states: Sequence[JobState] = (),
        model: str = "",
        key: str = "",
        before: str = "",
        limit: int = 20,
    ) -> list[Job]:
        """Jobs, newest first; `before`: an id that all of them are older than."""
        if not (records := await self._known()):
            return []
        return await self._call(
            records.select, owner=owner, states=states, model=model, key=key, before=before, limit=limit
        )

    async def position(self, job: Job) -> int | None:
        """How many jobs are before it in line; None where it is not in line."""
        return await self._call(self._of().position, job.id) if job.state == "queued" else None

    def expires(self, job: Job) -> float | None:
        """When an ended job is forgotten, at the latest; None before its end."""
        keep = self._keep(job.private, self._config.jobs_keep)
        return job.finished + keep if job.finished else None

    def _keep(self, is_private: bool, usual: float) -> float:
        """Seconds for which something waits for its client."""
        return min(self._config.private_keep, usual) if is_private else usual

    def progress(self, job: Job) -> Progress | None:
        """How far a running job is; None before it is known, and afterwards."""
        live = self._live.get(job.id)
        return live.progress if live and not job.is_finished else None

    async def count(self, state: JobState) -> int:
        records = await self._known()
        return await self._call(records.count, state) if records else 0

    async def cancel(self, id: str, owner: str | None = None) -> Job:
        """The job, which is not done any more; one that has ended stays as it is. Raises JobNotFound."""
        job = await self.find(id, owner)
        logs = [*job.logs, JobLog(time.time(), "cancelled")]
        if await self._finish(id, "cancelled", logs=logs):
            if live := self._live.get(id):
                live.is_cancelled = True
                if live.work:
                    live.work.cancel()
            await self._left(job)
        return await self.find(id)

    async def remove(self, id: str, owner: str | None = None) -> None:
        """Forget a job that has ended, with its result. Raises JobNotFound."""
        await self.find(id, owner)
        await self._forget(id)
        await self._call(self._of().wipe)

    async def result(self, id: str, owner: str | None = None) -> Outcome:
        """What a job that succeeded heard, or spoke.

        Raises the error of one that failed, JobCancelled, JobNotFound.
        """
        return _outcome(await self._result(id, owner))

    async def _result(self, id: str, owner: str | None = None) -> _Result:
        job = await self.find(id, owner)
        if job.state == "cancelled":
            raise errors.JobCancelled("the job was cancelled")
        if job.error:
            raise _raised(job.error)
        try:
            data = await asyncio.to_thread(self._result_path(id).read_bytes)
        except FileNotFoundError as error:
            raise errors.JobNotFound(f"the result of job {id} is no longer kept") from error
        result = msgspec.json.decode(data, type=_Result)
        if result.sound:
            # The data folder may have moved.
            return replace(result, sound=replace(result.sound, path=str(self._sound_path(id))))
        return result

    async def told(self, job: Job) -> None:
        """The result has been given to its client: nothing of a private job is kept any longer."""
        if job.private and job.is_finished and (not job.webhook or job.delivered):
            await self._forget(job.id)
            await self._call(self._of().wipe)

    async def follow(self, id: str, owner: str | None = None, after: int = 0) -> AsyncGenerator[Numbered]:
        """The job's events with numbers above `after`, those that were and those that come, to its end.

        Raises as `result` does.
        """
        said = ""
        while True:
            job = await self.find(id, owner)
            if job.is_finished:
                self._let_go(id)
                break
            live = self._live.setdefault(id, _Live())
            changed = live.changed
            while after < len(live.events):
                after += 1
                yield after, live.events[after - 1]
            if live.progress:
                yield None, live.progress
            if (waiting := await self._waiting(job, live)) != said:
                said = waiting
                if said:
                    yield None, Waiting(said)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await changed.wait()
        result = await self._result(id)
        events: list[Event | Sound] = [result.sound] if result.sound else []
        if transcript := result.transcript:
            begun = Started(transcript.task, transcript.language, result.duration)
            events = [begun, *transcript.segments, Done(transcript)]
        for number, event in enumerate(events[after:], after + 1):
            yield number, event

    async def _waiting(self, job: Job, live: _Live) -> str:
        if job.state == "queued":
            before = await self.position(job) or 0
            return f"in line, {before} job{'s' * (before != 1)} before"
        return live.waiting

    # Files --------------------------------------------------------------------------------------------

    async def keep_file(self, spool: Spool, name: str, media_type: str, owner: str, id: str) -> "StoredFile":
        """Store a complete body under its id, in the place of what was there. Raises StorageFull."""
        from server.records import StoredFile

        records = await self._open()
        sha256 = await asyncio.to_thread(files.digest, spool.path)
        now = time.time()
        until = now + self._keep(self._config.is_private(owner), self._config.files_keep)
        file = StoredFile(id, name, media_type, sha256, spool.size, now, until, owner)
        async with self._blobs_change:
            await self.refuse_if_stored(spool.size, owner, instead=id)
            await asyncio.to_thread(self.blobs.keep, spool.path, sha256)
            replaced = await self._call(records.add_file, file)
        await self._drop(replaced)
        return file

    async def file(self, id: str) -> "StoredFile":
        """Raises FileNotFound."""
        if (records := await self._known()) and (found := await self._call(records.file, id)):
            return found
        raise errors.FileNotFound("there is no such file; files are kept for a while only")

    async def stored(self, url: str) -> "StoredFile | None":
        """The file behind an address of ours; None for another address. Raises FileNotFound."""
        found = _OURS.search(url)
        return await self.file(found[1]) if found else None

    async def used(self, owner: str, sha256: str) -> None:
        """What was made of these bytes is done: where the owner's files are private, they go."""
        if self._config.is_private(owner):
            await self._surely(self._of().remove_files_of, owner, sha256)
            await self._drop(sha256)

    def jwks(self) -> dict[str, object]:
        """The keys that webhooks are signed with."""
        return self._key.jwks()

    # How they are done --------------------------------------------------------------------------------

    async def _dispatching(self, durable: "Durable") -> None:
        while True:
            self._wake.clear()
            while len(self._active) < self._at_once and (job := await self._surely(self._of().claim)):
                self._active.add(job.id)
                self._claimed.add(job.id)
                self._live.setdefault(job.id, _Live()).tell()
                await self._begun(durable, job)
            try:
                await asyncio.wait_for(self._wake.wait(), _REST)
            except TimeoutError:
                if not self._active:
                    self._begin(self._rest())

    async def _begun(self, durable: "Durable", job: Job) -> None:
        """What is claimed is begun, however long its engine's database cannot be written."""
        while True:
            try:
                return await durable.begin(job.id, job.attempts)
            except Exception as error:
                log.warning("job %s cannot be begun yet: %s", job.id, error)
                await asyncio.sleep(_BUSY_WAIT)

    async def _work(self, id: str) -> None:
        """A job's first step; at its end the records say how it ended."""
        logs.REQUEST.set(id)
        records = self._of()
        live = self._live.setdefault(id, _Live())
        try:
            job = await self._surely(records.find, id)
            if job is None or job.is_finished:
                self._let_go(id)
            else:
                await self._worked(job, live)
        finally:
            self._active.discard(id)
            self._claimed.discard(id)
            self._wake.set()

    async def _worked(self, job: Job, live: _Live) -> None:
        records = self._of()
        if job.id not in self._claimed and await self._surely(records.again, job.id) > _ATTEMPTS:
            await self._failed(
                job, live, errors.WorkFailed(f"{_ATTEMPTS} servers ended while they did this job")
            )
            return
        live.say("started" if job.id in self._claimed else "taken up again after a restart of the server")
        if live.is_cancelled:
            return
        live.work = asyncio.create_task(self._done(job, live))
        await asyncio.wait({live.work})
        if live.work.cancelled():
            left = await self._surely(records.find, job.id)
            if left and not left.is_finished:
                raise asyncio.CancelledError
            self._remove_result(job.id)
            return
        error = live.work.exception()
        if error is None:
            await self._succeeded(job, live, live.work.result())
        elif isinstance(error, errors.SpeechError):
            await self._failed(job, live, error)
        else:
            log.error("job %s failed", job.id, exc_info=error)
            await self._failed(job, live, errors.WorkFailed("the server failed; its log says why"))

    async def _done(self, job: Job, live: _Live) -> Outcome:
        for _ in range(_BUSY_TRIES):
            try:
                return await self._done_once(job, live)
            except errors.Stopping:
                raise
            except (errors.Busy, errors.NoMemory) as error:
                live.waiting = str(error)
                live.say(f"waiting: {error}", "WARNING")
                live.tell()
                await asyncio.sleep(_BUSY_WAIT)
        return await self._done_once(job, live)

    async def _done_once(self, job: Job, live: _Live) -> Outcome:
        if job.request.listen:
            return await self._heard(job, job.request.listen, live)
        assert job.request.speak, "what hears nothing speaks"
        return await self._spoken(job, job.request.speak, live)

    async def _spoken(self, job: Job, speak: Speak, live: _Live) -> Sound:
        assert self._say

        def tell(seconds: float) -> None:
            live.progress = Progress(seconds, None)
            live.tell()

        path = self._sound_path(job.id)
        part = path.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            sound = await self._say(part, speak, tell)
            await asyncio.to_thread(part.replace, path)
        finally:
            part.unlink(missing_ok=True)
        live.say(f"spoke {sound.seconds:.1f} s")
        return sound

    async def _heard(self, job: Job, listen: Listen, live: _Live) -> Transcript:
        transcript: Transcript | None = None
        begun = len(live.events)
        seen = 0
        async with AsyncExitStack() as stack:
            events = await stack.enter_async_context(aclosing(self._media(job, listen)))
            async for event in events:
                match event:
                    case Segment() if listen.diarize:
                        # Events have numbers, and with their speakers segments are other ones.
                        self._note(live, event)
                    case Started() | Segment():
                        seen += 1
                        if seen > begun:  # else it was told before, by a try that had to wait
                            live.events.append(event)
                        self._note(live, event)
                    case Progress():
                        live.progress = event
                    case Waiting(reason):
                        live.waiting = reason
                        live.say(reason)
                    case TellingApart(share):
                        live.waiting = f"telling speakers apart: {share:.0%}"
                    case Done():
                        transcript = event.transcript
                        if listen.diarize:
                            live.events += transcript.segments
                live.tell()
        assert transcript, "events end with Done"
        return transcript

    def _note(self, live: _Live, event: Started | Segment) -> None:
        live.waiting = ""
        if isinstance(event, Started):
            length = f"{event.duration:.1f} s of sound" if event.duration else "sound of unknown length"
            live.say(f"hearing {length}" + (f", language {event.language}" if event.language else ""))
        elif live.progress and live.progress.total:
            live.say(f"heard {event.end:.1f} of {live.progress.total:.1f} s")
        else:
            live.say(f"heard {event.end:.1f} s")

    async def _media(self, job: Job, listen: Listen) -> AsyncGenerator[Event]:
        """The events of the job's media, be it here or elsewhere."""
        if job.request.url:
            source = from_url(
                job.request.url, self._config, self.rules, lambda spool: self._heard_by(listen, spool)
            )
        else:
            source = self._heard_by(listen, on_disk(self.blobs.path(job.request.file)))
        async with aclosing(source) as events:
            async for event in events:
                yield event

    def _heard_by(self, listen: Listen, spool: Spool) -> AsyncGenerator[Event]:
        assert self._hear
        return self._hear(listen, spool)

    async def _succeeded(self, job: Job, live: _Live, outcome: Outcome) -> None:
        if isinstance(outcome, Sound):
            result, beside = _Result(sound=outcome), outcome.size
        else:
            begun = next((event for event in live.events if isinstance(event, Started)), None)
            result, beside = _Result(outcome, begun.duration if begun else outcome.duration), 0
            for warning in outcome.warnings:
                live.say(warning, "WARNING")
        size = await self._surely(_write, self._result_path(job.id), result)
        live.say("succeeded")
        if not await self._finish(job.id, "succeeded", size=size + beside, logs=live.logs):
            self._remove_result(job.id)  # cancelled in its last moment
        await self._left(job)

    async def _failed(self, job: Job, live: _Live, error: errors.SpeechError) -> None:
        log.warning("job %s failed: %s", job.id, error)
        live.say(f"failed: {error}", "ERROR")
        kept = JobError(type(error).__name__, str(error), getattr(error, "field", None))
        await self._finish(job.id, "failed", error=kept, logs=live.logs)
        await self._left(job)

    async def _finish(
        self,
        id: str,
        state: JobState,
        *,
        size: int = 0,
        error: JobError | None = None,
        logs: Iterable[JobLog] = (),
    ) -> bool:
        """False where the job had come to its end before."""
        if ended := await self._surely(self._of().finish, id, state, size=size, error=error, logs=logs):
            self._on_end(state)
        return ended

    async def _left(self, job: Job) -> None:
        """The job has ended: its followers are told, and its media goes."""
        self._let_go(job.id)
        await self.used(job.owner, job.request.file)
        await self._drop(job.request.file)

    async def _drop(self, sha256: str) -> None:
        """Remove a blob, unless somebody still needs it. What cannot be told now, the sweep finds."""
        with suppress(errors.Busy, errors.NoSpace):
            async with self._blobs_change:
                if sha256 and not await self._call(self._of().uses, sha256):
                    await asyncio.to_thread(self.blobs.remove, sha256)

    def _let_go(self, id: str) -> None:
        if live := self._live.pop(id, None):
            live.tell()

    async def _forget(self, id: str) -> None:
        await asyncio.to_thread(self._remove_result, id)
        await self._call(self._of().remove, id)

    def _remove_result(self, id: str) -> None:
        self._result_path(id).unlink(missing_ok=True)
        self._sound_path(id).unlink(missing_ok=True)

    def _result_path(self, id: str) -> Path:
        return self._folder / "results" / f"{id}.json"

    def _sound_path(self, id: str) -> Path:
        return self._result_path(id).with_suffix(".sound")

    # How their clients are told -----------------------------------------------------------------------

    async def _tell(self, id: str, tries: int) -> float | None:
        """A job's second step: one try to send its webhook; seconds until the next one."""
        logs.REQUEST.set(id)
        job = await self._surely(self._of().find, id)
        if job is None or not job.webhook or job.delivered or job.state not in ("succeeded", "failed"):
            return None
        began = time.time()
        status, problem = await self._posted(job)
        wait = None
        taken = status is not None and 200 <= status < 300
        if not taken and status != _GONE:
            elapsed = time.time() - (job.finished or began)
            wait = webhooks.wait(tries, self._config.webhook_wait, elapsed, self._config.webhook_patience)
        delivery = Delivery(began, status, problem, round(time.time() - began, 3))
        await self._surely(self._of().deliver, id, delivery, over=wait is None)
        self._on_webhook("taken" if taken else "given_up" if wait is None else "refused")
        if taken and not job.request.speak:  # sound does not travel with a webhook
            with suppress(errors.SpeechError):  # it may be forgotten by now
                await self.told(await self.find(id))
        return wait

    async def _posted(self, job: Job) -> tuple[int | None, str]:
        """The receiver's status, or why there is none."""
        assert self._payload
        try:
            outcome = None if job.error else await self.result(job.id)
            body = await asyncio.to_thread(msgspec.json.encode, self._payload(job, outcome))
            signed = self._key.headers(job.id, job.owner or "whisperd", body)
            sent = {"Content-Type": "application/json", **signed}
            return await urls.post(job.webhook, body, sent, self.rules, _WEBHOOK_TIMEOUT), ""
        except errors.SpeechError as error:
            return None, str(error)
        except Exception:
            log.exception("the webhook of job %s failed", job.id)
            return None, "the server failed; its log says why"


async def from_url(
    url: str, config: Config, rules: urls.Rules, hear: Callable[[Spool], AsyncGenerator[Event]]
) -> AsyncGenerator[Event]:
    """The events of a media that is fetched and heard at the same time, as an upload is."""
    async with spooled(config.spool_folder, config.max_upload) as spool:
        fetching = asyncio.create_task(urls.fetch(url, spool, rules))
        try:
            async with aclosing(hear(spool)) as events:
                while True:
                    following = asyncio.ensure_future(anext(events, None))
                    try:
                        await _first_of(following, fetching)
                    finally:
                        if not following.done():
                            following.cancel()
                            await asyncio.wait({following})
                    if fetching.done():
                        fetching.result()
                    if (event := following.result()) is None:
                        return
                    yield event
        finally:
            fetching.cancel()
            await asyncio.wait({fetching})


async def _first_of(following: asyncio.Future[Any], fetching: asyncio.Task[None]) -> None:
    """Until the next event is there, or there will be none, as its media cannot be fetched."""
    while not following.done():
        pending = {following, *({fetching} if not fetching.done() else ())}
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if fetching.done() and not fetching.cancelled() and fetching.exception():
            return


def _told(what: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
    """What cannot be written for want of room, or as somebody else keeps it, in our words."""
    try:
        return what(*arguments, **named)
    except Exception as error:
        reason = getattr(getattr(error, "orig", error), "sqlite_errorname", "")
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or reason == "SQLITE_FULL" or reason.startswith("SQLITE_IOERR"):
            raise errors.NoSpace("the disk of this server is full; the job was not kept") from error
        if reason in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            raise errors.Busy(
                "the store of jobs is in use by another program; try again in 10 s", 10
            ) from error
        raise


def _new_id() -> str:
    """A UUID of version 7: ids sort by the time of their making. Source: RFC 9562, section 5.7."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    bits = milliseconds << 80 | secrets.randbits(80)
    # Twelve bits of the time's fraction, so that also ids of one millisecond sort.
    bits = bits & ~(0xFFFF << 64) | 0x7000 << 64 | (rest * 4096 // 1_000_000) << 64
    return str(UUID(int=bits & ~(0xC000 << 48) | 0x8000 << 48))


def _outcome(result: _Result) -> Outcome:
    found = result.transcript or result.sound
    assert found, "a result is one of them"
    return found


def _write(path: Path, result: _Result) -> int:
    """Whole or not at all; bytes written."""
    data = msgspec.json.encode(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folders.sync(path.parent)
    return len(data)


def _remove_orphans(folder: Path, known: set[str]) -> None:
    """What a server left that was killed while it wrote a result, or forgot a job."""
    for left in folder.glob("*"):
        if left.stem not in known:
            left.unlink()


def _raised(stored: JobError) -> errors.SpeechError:
    """The error again that a job failed of."""
    kind = getattr(errors, stored.kind, errors.WorkFailed)
    if issubclass(kind, errors.BadRequest):
        return kind(stored.message, stored.field)
    if not issubclass(kind, errors.SpeechError) or issubclass(kind, errors.Busy):
        kind = errors.WorkFailed
    return kind(stored.message)
