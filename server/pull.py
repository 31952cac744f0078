"""Downloads: a file of a source becomes an installed model, or nothing at all.

Each file is fetched once, however many ask for it, and goes on when they leave. What has come stays in a
partial file until the whole is there and right; only then does it get its name. See partial.py and sources/.
"""

import asyncio
import logging
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial as partial_of
from typing import TypeVar

from server import catalogue, ggml, partial
from server.digests import Note
from server.errors import (
    BadField,
    ChecksumMismatch,
    HubUnreachable,
    ModelBroken,
    NoSpace,
    NotAModel,
    PullFailed,
    Stopping,
)
from server.models import Models, file_name
from server.partial import Partial, Whole
from server.sources import Broken, Changed, Found, Source
from server.sources.huggingface import Hub
from server.trust import Trust
from server.types import ModelInfo

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_TRIES = 8
"""Times that a line may break without a byte in between: a minute and a half, all waiting together."""

_FIRST_TRIES = 3
"""Times that the hub is asked about a file: somebody waits for the answer."""

_CHANGES = 3
"""Times that the file may change at the source while it is fetched."""

_LOCK_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_MOST_WAITING = 1 << 22
"""Bytes that have come and are not yet written, at most."""

_HEADER = 64
"""Bytes that tell whether it is a GGML Whisper file at all."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pulling:
    """Progress of one download."""

    path: str
    """File name: "ggml-large-v3.bin"."""
    status: str
    """What is being done, for people."""
    total: int
    """Bytes of the whole file; 0 until the source has told."""
    completed: int
    """Bytes of it that are here."""
    speed: float
    """Bytes per second, over the last seconds."""
    remaining: float | None
    """Seconds; None while nothing comes."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    repo: str
    path: str
    """In the repository."""
    name: str
    """In the models' folder."""
    revision: str


class Pulls:
    """The downloads into one models' folder. Belongs to one event loop.

    `endpoint` and `token` are the hub's (HF_ENDPOINT and HF_TOKEN without them); `go_on`: whether a download
    goes on when nobody watches it any more; `trusted`: what is pinned, see trust.py. `stall`: seconds without
    a byte that count as a broken line; `pause`: seconds before the first of several tries; `tick`: seconds
    between two reports.
    """

    def __init__(
        self,
        models: Models,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        go_on: bool = True,
        trusted: Sequence[str] = (),
        stall: float = 30.0,
        pause: float = 1.0,
        tick: float = 0.5,
        source: Source | None = None,
        on_end: Callable[[bool], None] = lambda ok: None,
    ) -> None:
        self._on_end = on_end
        self._models = models
        self._source: Source = source or Hub(endpoint, token, stall=stall)
        self._go_on = go_on
        self._trust = Trust(trusted)
        self._pause = pause
        self._tick = tick
        self._running: dict[str, _Download] = {}
        self._tasks: set[asyncio.Task[ModelInfo]] = set()
        self._stopping = False
        partial.sweep(models.folder)

    def find(self, path: str, repo: str | None = None) -> ModelInfo | None:
        """The model that a pull of this would install, where it is installed already, whole and loadable.

        Raises BadField for what cannot be pulled, or where another repository's file has that name.
        """
        wanted = self._wanted(path, repo)
        # Who names a repository does not mean the bundled model of that name.
        here = self._models.present(wanted.name, bundled=not repo)
        origin = self._models.origin(here) if here and repo else None
        if origin and origin.repo not in ("", wanted.repo):
            raise BadField(
                f"{wanted.name} is installed from {origin.repo}; delete it to have that of {wanted.repo}",
                "repo",
            )
        return here

    async def pull(self, path: str, repo: str | None = None) -> AsyncGenerator[Pulling | ModelInfo]:
        """Progress, at least once a second, and at last the installed model; at once if it is there.

        `path` is a model of the catalogue by any of its names, or a file of a repository. Raises BadField,
        NoSpace, NotWritable, Stopping, or one of PullFailed's branches.
        """
        wanted = self._wanted(path, repo)
        here = await asyncio.to_thread(self._restored, path, repo, wanted.name)
        if here:
            yield here
            return
        async with aclosing(self._watch(self._joined(wanted))) as reports:
            async for report in reports:
                yield report

    def running(self) -> tuple[Pulling, ...]:
        """The downloads under way."""
        return tuple(download.progress() for download in self._running.values())

    async def stop(self) -> None:
        """End all downloads; what has come stays for the next start."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _restored(self, path: str, repo: str | None, name: str) -> ModelInfo | None:
        # Without a repository a bundled model's name means that model, hidden or not.
        return self.find(path, repo) or (None if repo else self._models.restore(name))

    def _wanted(self, path: str, repo: str | None) -> _Wanted:
        if not repo:
            entry = catalogue.find(path)
            path, repo = (entry.path, entry.repo) if entry else (self._models.bundled(path) or path, None)
        repo = repo or catalogue.HOME
        if not _REPO.fullmatch(repo):
            raise BadField(f"{repo[:100]!a} is not a repository's name: it is owner/name", "repo")
        name = self._checked(path, repo)
        return _Wanted(repo, path, name, self._trust.revision(repo))

    def _checked(self, path: str, repo: str) -> str:
        """The name that a file of a repository gets here. Raises BadField for what is no path of a model
        file."""
        name = file_name(path.rpartition("/")[2], "path")
        parts = path.split("/")
        if len(path) > 500 or not path.isprintable() or "\\" in path or {"", ".", ".."} & set(parts):
            raise BadField("path: a file of a repository, such as ggml-base.bin or folder/model.bin", "path")
        if not path.endswith(".bin"):
            near = catalogue.near(path[:80])
            if near:
                raise BadField(
                    f"{path[:80]!a} is neither a model of the catalogue nor a GGML file (.bin); near it in "
                    f"the catalogue: {', '.join(near)}",
                    "path",
                )
            self._trust.check_code(path, repo)
            raise BadField(f"{path[:80]!a} is no GGML file (.bin), and nothing here runs other kinds", "path")
        return name

    def _joined(self, wanted: _Wanted) -> "_Download":
        if self._stopping:
            raise Stopping
        download = self._running.get(wanted.name)
        if download is None:
            download = _Download(wanted, self._models, self._source, self._trust, self._pause, self._others)
            self._running[wanted.name] = download
            self._tasks.add(download.task)
            download.task.add_done_callback(lambda _: self._ended(download))
        elif download.wanted != wanted:
            raise BadField(f"{wanted.name} is just being pulled from {download.wanted.repo}", "repo")
        return download

    def _ended(self, download: "_Download") -> None:
        self._tasks.discard(download.task)
        if self._running.get(download.wanted.name) is download:
            del self._running[download.wanted.name]
        if download.task.cancelled():
            return
        error = download.task.exception()
        self._on_end(error is None)
        if error and not download.watchers:
            log.warning("pulling %s failed: %s", download.wanted.name, error)

    async def _watch(self, download: "_Download") -> AsyncGenerator[Pulling | ModelInfo]:
        download.watchers += 1
        try:
            while not download.task.done():
                yield download.progress()
                await asyncio.wait({download.task}, timeout=self._tick)
            if download.task.cancelled():
                raise Stopping
            info = download.task.result()
            yield download.progress()
            yield info
        finally:
            download.watchers -= 1
            if not download.watchers and not self._go_on and not download.task.done():
                # Out of the way at once: who asks again meanwhile starts it anew.
                self._running.pop(download.wanted.name, None)
                download.task.cancel()

    def _others(self, download: "_Download") -> int:
        return sum(other.rest for other in self._running.values() if other is not download)


class _Download:
    """One file on its way, with a task of its own that outlives those who watch it."""

    def __init__(
        self,
        wanted: _Wanted,
        models: Models,
        source: Source,
        trust: Trust,
        pause: float,
        others: Callable[["_Download"], int],
    ) -> None:
        self.wanted = wanted
        self.watchers = 0
        self._models = models
        self._source = source
        self._trust = trust
        self._pause = pause
        self._others = others
        self._status = f"asking for {wanted.name}"
        self._total = 0
        self._completed = 0
        self._speed = _Speed()
        self._part = Partial(models.folder / wanted.name)
        # One thread, so that nothing overtakes: what came is written before the file is closed.
        self._thread = ThreadPoolExecutor(1, "pull")
        self.task = asyncio.create_task(self._run(), name=f"pull {wanted.name}")

    @property
    def rest(self) -> int:
        """Bytes still to come."""
        return max(0, self._total - self._completed)

    def progress(self) -> Pulling:
        speed = self._speed.now(self._completed)
        known = self._total and (speed or not self.rest)
        remaining = self.rest / (speed or 1.0) if known else None
        return Pulling(self.wanted.name, self._status, self._total, self._completed, speed, remaining)

    async def _run(self) -> ModelInfo:
        try:
            found = await self._found()
            self._total = found.size
            if other := await self._locked():
                return other
            for _ in range(_CHANGES):
                try:
                    return await self._fetched(found)
                except Changed:
                    log.info("%s has changed at its source; it is fetched anew", self.wanted.name)
                    found = await self._found()
            raise PullFailed(f"{found.path} of {found.repo} is another file each time that it is asked for")
        except OSError as error:
            raise PullFailed(f"pulling {self.wanted.name} failed: {error.strerror or error}") from error
        finally:
            await self._do(self._part.close)
            self._thread.shutdown(wait=False)

    async def _found(self) -> Found:
        wanted = self.wanted
        for failures in range(1, _FIRST_TRIES + 1):
            try:
                found = await _abandonable(
                    lambda: self._source.describe(wanted.path, wanted.repo, wanted.revision)
                )
                self._trust.check(wanted.path, wanted.repo, found.revision, found.sha256)
                return found
            except Broken as error:
                if failures == _FIRST_TRIES:
                    raise HubUnreachable(f"the hub cannot be asked for {wanted.name}: {error}") from error
                await self._rest_after(failures, error)
        raise AssertionError

    async def _locked(self) -> ModelInfo | None:
        """Make the part ours. Another process may have it: when that has installed the model, that is it."""
        while not await self._do(self._part.lock):
            self._status = f"waiting for another process that pulls {self.wanted.name}"
            with suppress(OSError):
                self._completed = self._part.path.stat().st_size
            await asyncio.sleep(_LOCK_PAUSE)
        return await self._do(lambda: self._models.present(self.wanted.name, bundled=False))

    async def _fetched(self, found: Found) -> ModelInfo:
        self._total = found.size
        await self._do(lambda: self._part.begin(Whole(found.size, found.sha256)))
        self._completed = self._part.size
        await self._do(self._check_space)
        self._status = f"checking {self.wanted.name}"
        while await self._do(self._part.hash_on):
            pass
        self._speed = _Speed()
        self._speed.now(self._completed)
        await self._fill(found)
        self._status = f"checking {self.wanted.name}"
        return await self._do(lambda: self._installed(found))

    def _check_space(self) -> None:
        """Whether the rest fits, beside what other downloads still have to come. Raises NoSpace."""
        free = shutil.disk_usage(self._models.folder).free
        others = self._others(self)
        if free < self.rest + others:
            reserved = f" and {_size(others)} for other downloads" if others else ""
            raise NoSpace(
                f"{self.wanted.name} still needs {_size(self.rest)}{reserved}; the disk of "
                f"{self._models.folder} has {_size(free)} left"
            )

    async def _fill(self, found: Found) -> None:
        failures, most = 0, self._part.size
        while self._part.size < found.size:
            broken = await self._read_some(found)
            if self._part.size < found.size:
                failures = 0 if self._part.size > most else failures + 1
                most = max(most, self._part.size)
                if failures >= _TRIES:
                    raise self._broken_off(found, broken) from broken
                await self._rest_after(failures, broken)

    async def _read_some(self, found: Found) -> Broken:
        """One answer, and why it was not all that was left. Raises Changed once the source says so itself."""
        try:
            await self._read(found)
        except Broken as error:
            return error
        except Changed:
            if await self._found() != found:
                raise
            return Broken("what comes is not what the hub tells of")
        return Broken("the answer ended early")

    def _broken_off(self, found: Found, broken: Broken) -> HubUnreachable:
        return HubUnreachable(
            f"pulling {self.wanted.name} broke off at {_size(self._part.size)} of {_size(found.size)}: "
            f"{broken}; what has come is kept for the next try"
        )

    async def _rest_after(self, failures: int, error: Broken) -> None:
        """Wait before the next try, the longer the more have failed."""
        log.info("pulling %s: %s", self.wanted.name, error)
        self._status = f"waiting for the hub: {error}"
        await asyncio.sleep(max(min(self._pause * 2**failures, _LONGEST_PAUSE), error.after))

    async def _read(self, found: Found) -> None:
        """One answer of the source, as much of it as comes."""
        async with self._source.read(found, self._part.size) as stream:
            if stream.start != self._part.size:
                await self._do(self._part.restart)
                self._completed = 0
            self._status = f"downloading {self.wanted.name}"
            await self._do(self._check_header)
            writer = _Writer(lambda chunks: self._start(self._written(chunks)))
            try:
                async for chunk in stream.chunks:
                    # Whether the rest of a longer answer matters is for the hash to say.
                    piece = chunk[: found.size - self._completed]
                    self._completed += len(piece)
                    await writer.put(piece)
                    if self._completed == found.size:
                        break
            finally:
                # What has come is kept, however this ends.
                await writer.flush()
                self._completed = self._part.size

    def _written(self, chunks: list[bytes]) -> Callable[[], None]:
        def write() -> None:
            before = self._part.size
            self._part.write(chunks)
            if before < _HEADER:
                self._check_header()

        return write

    def _check_header(self) -> None:
        """Gigabytes of something else need not come at all. Raises NotAModel."""
        if self._part.size >= _HEADER:
            try:
                ggml.read_header(self._part.path)
            except ModelBroken as error:
                raise self._not_a_model(error) from error

    def _installed(self, found: Found) -> ModelInfo:
        part, name = self._part, self.wanted.name
        if part.sha256 != found.sha256:
            part.discard()
            raise ChecksumMismatch(
                f"{found.path} of {found.repo} came with the SHA-256 {part.sha256}, where the hub promised "
                f"{found.sha256}; it has been removed"
            )
        part.sync()
        try:
            ggml.check(part.path)
        except ModelBroken as error:
            raise self._not_a_model(error) from error
        info = self._models.adopt(part.path, name, Note(found.sha256, found.repo, found.path))
        self._status = f"installed {name}"
        return info

    def _not_a_model(self, error: ModelBroken) -> NotAModel:
        self._part.discard()
        return NotAModel(
            f"{self.wanted.path} of {self.wanted.repo} is not a whole GGML Whisper model: {error}; it has "
            "been removed"
        )

    async def _do(self, work: Callable[[], Result]) -> Result:
        return await asyncio.shield(self._start(work))

    def _start(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Work that is done, and in its turn, even when we are cancelled meanwhile."""
        return asyncio.wrap_future(self._thread.submit(work))


async def _abandonable(work: Callable[[], Result]) -> Result:
    """Work in a thread that nobody waits for once we are cancelled, not even the end of the process: the hub
    may take its time to answer."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not done.cancelled():
            outcome()

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            outcome = partial_of(done.set_exception, error)
        else:
            outcome = partial_of(done.set_result, result)
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="asking the hub", daemon=True).start()
    return await done


class _Writer:
    """Hands what comes to the thread that writes: at once, and in one batch what comes while it is busy."""

    def __init__(self, write: Callable[[list[bytes]], asyncio.Future[None]]) -> None:
        self._write = write
        self._batch: list[bytes] = []
        self._waiting = 0
        self._busy: asyncio.Future[None] | None = None
        self._failed: BaseException | None = None

    async def put(self, chunk: bytes) -> None:
        """Have it written. Raises what an earlier write raised; waits when too much is waiting."""
        self._batch.append(chunk)
        self._waiting += len(chunk)
        if self._busy is None:
            self._next()
        if self._waiting > _MOST_WAITING:
            await self.flush()
        self._check()

    async def flush(self) -> None:
        """Wait until all is written. Raises what a write raised."""
        try:
            while self._busy:
                await asyncio.wait({self._busy})
        except asyncio.CancelledError:
            self._batch.clear()
            raise
        self._check()

    def _check(self) -> None:
        if self._failed:
            raise self._failed

    def _next(self, done: asyncio.Future[None] | None = None) -> None:
        self._busy = None
        self._failed = self._failed or (done.exception() if done else None)
        if self._batch and not self._failed:
            batch, self._batch, self._waiting = self._batch, [], 0
            self._busy = self._write(batch)
            self._busy.add_done_callback(self._next)


class _Speed:
    """How fast bytes come, over the last seconds."""

    _OVER = 5.0

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def now(self, completed: int, at: float | None = None) -> float:
        """Bytes per second, `completed` of which are here by now."""
        at = time.monotonic() if at is None else at
        if self._seen and completed < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((at, completed))
        while len(self._seen) > 2 and self._seen[1][0] <= at - self._OVER:
            self._seen.popleft()
        since, before = self._seen[0]
        return (completed - before) / (at - since) if at > since else 0.0


def _size(count: float) -> str:
    for unit in "bytes", "kB", "MB":
        if count < 1000:
            return f"{count:.3g} {unit}" if count % 1 else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
