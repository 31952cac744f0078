"""Downloads: a file of a source, or several, becomes an installed model, or nothing at all.

Each model is fetched once, however many ask for it, and goes on when they leave. What has come stays in
partial files until the whole is there and right; only then does it get its name. A model of several files
(folders.py, kinds.py) is a folder of a repository, or all of it: `Pulls.pull("owner/name")`, the name of such
an entry of the catalogue, or `pull("folder/", "owner/name")`; progress, space and checks are of all files
together, and each goes on where it broke off. See partial.py and sources/.
"""

import asyncio
import logging
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial as partial_of
from pathlib import Path
from typing import Protocol, TypeVar

from server import catalogue, digests, folders, ggml, kinds, partial, voice_catalogue
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
from server.folders import Kind, Origin
from server.kinds import Homes
from server.models import Models, file_name
from server.partial import Coming, Partial, Whole, writing
from server.sources import Broken, Changed, Found, Source
from server.sources.huggingface import Hub
from server.trust import Trust
from server.types import ModelInfo

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Prepare = Callable[[ModelInfo, Callable[[int, int], None]], Awaitable[None]]
"""What is done with a model that has just come; it is given who wants to hear of bytes done, and of all."""

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

_WHOLE = (".", "./")
"""What means all of a repository."""

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
    """In the repository; of a model of several files its folder, "" or with a slash at its end."""
    name: str
    """In the models' folder."""
    revision: str
    several: bool = False
    """Whether it is a model of several files."""
    only: str = ""
    """The file among others in that folder that means the model."""
    known: str = ""
    """The revision that the catalogue has it pinned to."""
    parts: tuple[tuple[str, str], ...] = ()
    """Folders of the model whose files lie in other repositories, each with its repository."""

    @property
    def what(self) -> str:
        """For people."""
        return f"{self.path}{self.only} of {self.repo}" if self.path or self.only else self.repo


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
        voices: Path | None = None,
        source: Source | None = None,
        prepare: Prepare | None = None,
        on_end: Callable[[bool], None] = lambda ok: None,
    ) -> None:
        """`voices`: the folder of voices; `prepare`: what is done with a model once it is installed."""
        self._on_end = on_end
        self._prepare = prepare
        self._models = models
        self._homes: Homes = {"models": models.folder, "voices": voices or models.folder}
        self._source: Source = source or Hub(endpoint, token, stall=stall)
        self._go_on = go_on
        self._trust = Trust(trusted)
        self._pause = pause
        self._tick = tick
        self._running: dict[str, _Download] = {}
        self._tasks: set[asyncio.Task[ModelInfo]] = set()
        self._stopping = False
        for home in set(self._homes.values()):
            partial.sweep(home)

    def find(self, path: str, repo: str | None = None) -> ModelInfo | None:
        """The model that a pull of this would install, where it is installed already, whole and loadable.

        Raises BadField for what cannot be pulled, or where another repository's file has that name.
        """
        wanted = self._wanted(path, repo)
        here, origin = self._folder(wanted) if wanted.several else self._file(wanted, repo)
        if origin not in ("", wanted.repo):
            raise BadField(
                f"{wanted.name} is installed from {origin}; delete it to have that of {wanted.repo}",
                "repo",
            )
        return here

    def _file(self, wanted: _Wanted, repo: str | None) -> tuple[ModelInfo | None, str]:
        """What is here of that name, and the repository that it came from, if that counts."""
        # Who names a repository does not mean the bundled model of that name.
        here = self._models.present(wanted.name, bundled=not repo)
        origin = self._models.origin(here) if here and repo else None
        return here, origin.repo if origin else ""

    def _folder(self, wanted: _Wanted) -> tuple[ModelInfo | None, str]:
        for home in dict.fromkeys(self._homes.values()):
            found = kinds.read(home / wanted.name)
            if found and not found[1].broken:
                origin = folders.origin(found[1].path)
                return found[1], origin.repo if origin else ""
        return None, ""

    async def pull(self, path: str, repo: str | None = None) -> AsyncGenerator[Pulling | ModelInfo]:
        """Progress, at least once a second, and at last the installed model; at once if it is there.

        `path` is a model of the catalogue by any of its names, a file of a repository, or for a model of
        several files its folder there ("folder/", "." for all) or, without `repo`, the repository itself.
        Raises BadField, NoSpace, NotWritable, Stopping, or one of PullFailed's branches.
        """
        wanted = self._wanted(path, repo)
        here = await asyncio.to_thread(self._restored, path, repo, wanted)
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

    def _restored(self, path: str, repo: str | None, wanted: _Wanted) -> ModelInfo | None:
        # Without a repository a bundled model's name means that model, hidden or not.
        bundled = not repo and not wanted.several
        return self.find(path, repo) or (self._models.restore(wanted.name) if bundled else None)

    def _wanted(self, path: str, repo: str | None) -> _Wanted:
        if not repo:
            entry = catalogue.find(path)
            if entry and entry.kind:
                wanted = self._several(entry.path, entry.repo, entry.id, entry.revision)
                return replace(wanted, parts=entry.parts)
            if entry is None and (voice := voice_catalogue.find(path)):
                return self._several(voice.path, voice.repo, voice.id)
            if entry is None and _REPO.fullmatch(path) and not path.endswith(".bin"):
                return self._several("", path)
            path, repo = (entry.path, entry.repo) if entry else (self._models.bundled(path) or path, None)
        elif not _REPO.fullmatch(repo):
            raise BadField(f"{repo[:100]!a} is not a repository's name: it is owner/name", "repo")
        elif path in _WHOLE or path.endswith(("/", *kinds.suffixes())):
            return self._several("" if path in _WHOLE else path, repo)
        repo = repo or catalogue.HOME
        name = self._checked(path, repo)
        return _Wanted(repo, path, name, self._trust.revision(repo))

    def _several(self, path: str, repo: str, name: str = "", revision: str = "") -> _Wanted:
        """A model of several files, by its folder in a repository or by one of them."""
        if path:
            _check_path(path.removesuffix("/") or path)
        folder, slash, only = path.rpartition("/")
        name = name or only.rpartition(".")[0] or folder.rpartition("/")[2] or repo.rpartition("/")[2]
        file_name(name, "path")
        return _Wanted(
            repo, folder + slash, name, self._trust.revision(repo, revision), True, only, known=revision
        )

    def _checked(self, path: str, repo: str) -> str:
        """The name that a file of a repository gets here. Raises BadField for what is no path of a model
        file."""
        name = file_name(path.rpartition("/")[2], "path")
        _check_path(path)
        if not path.endswith(".bin"):
            offered = [entry.id for entry in catalogue.entries()]
            offered += [entry.id for entry in voice_catalogue.entries()]
            near = catalogue.nearest(path[:80], offered)
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
            goal = self._goal(wanted)
            download = _Download(
                wanted, goal, self._source, self._trust, self._pause, self._others, self._prepare
            )
            self._running[wanted.name] = download
            self._tasks.add(download.task)
            download.task.add_done_callback(lambda _: self._ended(download))
        elif download.wanted != wanted:
            raise BadField(f"{wanted.name} is just being pulled from {download.wanted.repo}", "repo")
        return download

    def _goal(self, wanted: _Wanted) -> "_Goal":
        if wanted.several:
            return _Folder(wanted, self._homes, self._trust)
        return _OneFile(wanted, self._models)

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


def _check_path(path: str) -> None:
    """Raises BadField for what is no path in a repository."""
    parts = path.split("/")
    if len(path) > 500 or not path.isprintable() or "\\" in path or {"", ".", ".."} & set(parts):
        raise BadField("path: a file of a repository, such as ggml-base.bin or folder/model.bin", "path")


class _Goal(Protocol):
    """What a download becomes. All methods block."""

    home: Path
    """The folder that it goes to."""

    def ask(self, source: Source) -> tuple[Found, ...]:
        """The files at the source, as they are now. Raises as Source does, and NotAModel."""

    def lock(self) -> bool:
        """Make what has come ours; False while another process has it."""

    def size(self) -> int:
        """Bytes that another process has fetched."""

    def present(self) -> ModelInfo | None:
        """The model, if another process has installed it."""

    def parts(self, files: Sequence[Found]) -> Sequence[Partial]:
        """Where the bytes of each file come to."""

    def look(self, part: Partial) -> None:
        """Look at the first bytes. Raises ModelBroken: the rest need not come."""

    def install(self, files: Sequence[Found]) -> ModelInfo:
        """Give all its name; the files are whole and right. Raises ModelBroken, and has removed it then."""

    def close(self) -> None:
        """Let go of it."""


class _OneFile:
    """A GGML file."""

    def __init__(self, wanted: _Wanted, models: Models) -> None:
        self.home = models.folder
        self._wanted = wanted
        self._models = models
        self._part = Partial(models.folder / wanted.name)

    def ask(self, source: Source) -> tuple[Found, ...]:
        return (source.describe(self._wanted.path, self._wanted.repo, self._wanted.revision),)

    def lock(self) -> bool:
        return self._part.lock()

    def size(self) -> int:
        return self._part.path.stat().st_size

    def present(self) -> ModelInfo | None:
        return self._models.present(self._wanted.name, bundled=False)

    def parts(self, files: Sequence[Found]) -> Sequence[Partial]:
        return (self._part,)

    def look(self, part: Partial) -> None:
        try:
            ggml.read_header(part.path)
        except ModelBroken:
            part.discard()
            raise

    def install(self, files: Sequence[Found]) -> ModelInfo:
        self._part.sync()
        try:
            ggml.check(self._part.path)
        except ModelBroken:
            self._part.discard()
            raise
        note = Note(files[0].sha256, files[0].repo, files[0].path)
        return self._models.adopt(self._part.path, self._wanted.name, note)

    def close(self) -> None:
        self._part.close()


class _Folder:
    """A model of several files."""

    def __init__(self, wanted: _Wanted, homes: Homes, trust: Trust) -> None:
        self.home = homes["models"]
        self._homes = homes
        self._wanted = wanted
        self._trust = trust
        self._kind: Kind | None = None
        self._coming = Coming.of(self.home / wanted.name)
        self._paths: dict[Found, str] = {}
        """Where each file lies in the model."""

    def ask(self, source: Source) -> tuple[Found, ...]:
        wanted = self._wanted
        there = self._there(source)
        known = kinds.of(there)
        if known is None:
            raise NotAModel(f"{wanted.what} is no model that can be run here: {_told(there)}")
        kind, taken = known
        if not folders.safe(taken):
            raise NotAModel(f"{wanted.what} has files whose names cannot be used here")
        if kind.code:
            self._trust.check_code(wanted.what, wanted.repo, wanted.known)
            for _, repo in wanted.parts:
                self._trust.check_code(repo, repo)
        if self._kind is None:
            self._kind, self.home = kind, self._homes[kind.home]
            self._coming = Coming.of(self.home / wanted.name)
        self._paths = {there[path]: path for path in taken}
        return tuple(there[path] for path in sorted(taken))

    def _there(self, source: Source) -> dict[str, Found]:
        """The files at the source, by their paths in the model."""
        wanted = self._wanted
        there = {
            found.path.removeprefix(wanted.path): found
            for found in source.files(wanted.repo, wanted.revision)
            if found.path.startswith(wanted.path + wanted.only) or found.path == wanted.path + kinds.CARD
        }
        for part, repo in wanted.parts:
            files = source.files(repo, self._trust.revision(repo))
            there |= {f"{part}/{found.path}": found for found in files}
        return there

    def lock(self) -> bool:
        return self._coming.lock()

    def size(self) -> int:
        return self._coming.size()

    def present(self) -> ModelInfo | None:
        target = self.home / self._wanted.name
        info = self._info(target)
        if info is None and target.exists():
            raise BadField(f"{target} is there already and is no model: take it away first", "path")
        return None if info is None or info.broken else info

    def parts(self, files: Sequence[Found]) -> Sequence[Partial]:
        paths = [self._paths[file] for file in files]
        self._coming.only(paths)
        return [self._coming.part(path) for path in paths]

    def look(self, part: Partial) -> None:
        """Its kind was known by the files' names; the rest is looked at when all have come."""

    def install(self, files: Sequence[Found]) -> ModelInfo:
        wanted, coming = self._wanted, self._coming
        coming.finish()
        info = self._info(coming.folder)
        if info is None or info.broken:
            coming.discard()
            raise ModelBroken(info.broken if info else "its files are not what their names say")
        target = self.home / wanted.name
        with writing(self.home):
            folders.note_origin(
                coming.folder, Origin(wanted.repo, wanted.path + wanted.only, files[0].revision)
            )
        folders.put(coming.folder, target)
        installed = self.present()
        assert installed
        return installed

    def close(self) -> None:
        self._coming.close()

    def _info(self, folder: Path) -> ModelInfo | None:
        return self._kind.info(folder) if self._kind else None


def _told(there: Collection[str]) -> str:
    """What lies at a source, for people."""
    some = sorted(there)[:5]
    return (
        f"it has {', '.join(some)}{', ...' if len(there) > len(some) else ''}" if some else "there is nothing"
    )


class _File:
    """One file of a download, and what has come of it."""

    def __init__(self, found: Found, part: Partial) -> None:
        self.found = found
        self.part = part
        self.completed = 0

    def begin(self) -> None:
        """Go on with what is there. Blocks."""
        self.part.begin(Whole(self.found.size, self.found.sha256 or self.found.blob))
        self.completed = self.part.size

    def right(self) -> bool:
        """Whether it has come as it was promised. Blocks."""
        if self.found.sha256:
            return self.part.sha256 == self.found.sha256
        return digests.blob(self.part.path) == self.found.blob


class _Download:
    """One model on its way, with a task of its own that outlives those who watch it."""

    def __init__(
        self,
        wanted: _Wanted,
        goal: _Goal,
        source: Source,
        trust: Trust,
        pause: float,
        others: Callable[["_Download"], int],
        prepare: Prepare | None,
    ) -> None:
        self.wanted = wanted
        self._prepare = prepare
        self._prepared: tuple[int, int] | None = None
        self.watchers = 0
        self._goal = goal
        self._source = source
        self._trust = trust
        self._pause = pause
        self._others = others
        self._status = f"asking for {wanted.name}"
        self._total = 0
        self._files: list[_File] = []
        self._elsewhere = 0
        self._speed = _Speed()
        # One thread, so that nothing overtakes: what came is written before the file is closed.
        self._thread = ThreadPoolExecutor(1, "pull")
        self.task = asyncio.create_task(self._run(), name=f"pull {wanted.name}")

    @property
    def rest(self) -> int:
        """Bytes still to come."""
        return max(0, self._total - self._completed)

    @property
    def _completed(self) -> int:
        return sum(file.completed for file in self._files) if self._files else self._elsewhere

    def progress(self) -> Pulling:
        if self._prepared:
            done, size = self._prepared
            speed = self._speed.now(done)
            remaining = (size - done) / speed if speed else None
            return Pulling(self.wanted.name, self._status, size, done, speed, remaining)
        speed = self._speed.now(self._completed)
        known = self._total and (speed or not self.rest)
        remaining = self.rest / (speed or 1.0) if known else None
        return Pulling(self.wanted.name, self._status, self._total, self._completed, speed, remaining)

    async def _run(self) -> ModelInfo:
        try:
            found = await self._found()
            self._total = sum(file.size for file in found)
            if other := await self._locked():
                return other
            for _ in range(_CHANGES):
                try:
                    info = await self._fetched(found)
                except Changed:
                    log.info("%s has changed at its source; it is fetched anew", self.wanted.name)
                    found = await self._found()
                else:
                    await self._made_ready(info)
                    return info
            raise PullFailed(f"{self.wanted.what} is another file each time that it is asked for")
        except OSError as error:
            raise PullFailed(f"pulling {self.wanted.name} failed: {error.strerror or error}") from error
        finally:
            await self._do(self._goal.close)
            self._thread.shutdown(wait=False)

    async def _made_ready(self, info: ModelInfo) -> None:
        """What is done with it once it is installed: a phase of its own, with sizes of its own."""
        if self._prepare is None:
            return
        await self._do(self._goal.close)
        installed = self._status

        def tell(done: int, size: int) -> None:
            if self._prepared is None:
                self._speed = _Speed()
                self._status = f"converting {self.wanted.name}"
            self._prepared = done, size

        await self._prepare(info, tell)
        self._prepared, self._status = None, installed

    async def _found(self) -> tuple[Found, ...]:
        wanted = self.wanted
        for failures in range(1, _FIRST_TRIES + 1):
            try:
                found = await _abandonable(lambda: self._goal.ask(self._source))
                for file in found:
                    self._check_pin(file, file.sha256)
                return found
            except Broken as error:
                if failures == _FIRST_TRIES:
                    raise HubUnreachable(f"the hub cannot be asked for {wanted.name}: {error}") from error
                await self._rest_after(failures, error)
        raise AssertionError

    async def _locked(self) -> ModelInfo | None:
        """Make the parts ours. Another process may have them: once that has the model, that is it."""
        while not await self._do(self._goal.lock):
            self._status = f"waiting for another process that pulls {self.wanted.name}"
            with suppress(OSError):
                self._elsewhere = self._goal.size()
            await asyncio.sleep(_LOCK_PAUSE)
        return await self._do(self._goal.present)

    async def _fetched(self, found: tuple[Found, ...]) -> ModelInfo:
        self._total = sum(file.size for file in found)
        await self._do(lambda: self._begin(found))
        await self._do(self._check_space)
        self._status = f"checking {self.wanted.name}"
        for file in self._files:
            while await self._do(file.part.hash_on):
                pass
        self._speed = _Speed()
        self._speed.now(self._completed)
        for file in self._files:
            await self._fill(file)
            self._status = f"checking {self.wanted.name}"
            await self._do(partial_of(self._check, file))
        return await self._do(lambda: self._installed(found))

    def _begin(self, found: tuple[Found, ...]) -> None:
        parts = self._goal.parts(found)
        files = [_File(file, part) for file, part in zip(found, parts, strict=True)]
        for file in files:
            file.begin()
        self._files = files

    def _check_space(self) -> None:
        """Whether the rest fits, beside what other downloads still have to come. Raises NoSpace."""
        free = shutil.disk_usage(self._goal.home).free
        others = self._others(self)
        if free < self.rest + others:
            reserved = f" and {_size(others)} for other downloads" if others else ""
            raise NoSpace(
                f"{self.wanted.name} still needs {_size(self.rest)}{reserved}; the disk of "
                f"{self._goal.home} has {_size(free)} left"
            )

    async def _fill(self, file: _File) -> None:
        failures, most = 0, file.part.size
        while file.part.size < file.found.size:
            broken = await self._read_some(file)
            if file.part.size < file.found.size:
                failures = 0 if file.part.size > most else failures + 1
                most = max(most, file.part.size)
                if failures >= _TRIES:
                    raise self._broken_off(broken) from broken
                await self._rest_after(failures, broken)

    async def _read_some(self, file: _File) -> Broken:
        """One answer, and why it was not all that was left. Raises Changed once the source says so itself."""
        try:
            await self._read(file)
        except Broken as error:
            return error
        except Changed:
            if file.found not in await self._found():
                raise
            return Broken("what comes is not what the hub tells of")
        return Broken("the answer ended early")

    def _broken_off(self, broken: Broken) -> HubUnreachable:
        return HubUnreachable(
            f"pulling {self.wanted.name} broke off at {_size(self._completed)} of {_size(self._total)}: "
            f"{broken}; what has come is kept for the next try"
        )

    async def _rest_after(self, failures: int, error: Broken) -> None:
        """Wait before the next try, the longer the more have failed."""
        log.info("pulling %s: %s", self.wanted.name, error)
        self._status = f"waiting for the hub: {error}"
        await asyncio.sleep(max(min(self._pause * 2**failures, _LONGEST_PAUSE), error.after))

    async def _read(self, file: _File) -> None:
        """One answer of the source, as much of it as comes."""
        part, found = file.part, file.found
        async with self._source.read(found, part.size) as stream:
            if stream.start != part.size:
                await self._do(part.restart)
                file.completed = 0
            self._status = f"downloading {self.wanted.name}"
            await self._do(lambda: self._look(file))
            writer = _Writer(lambda chunks: self._start(self._written(file, chunks)))
            try:
                async for chunk in stream.chunks:
                    # Whether the rest of a longer answer matters is for the hash to say.
                    piece = chunk[: found.size - file.completed]
                    file.completed += len(piece)
                    await writer.put(piece)
                    if file.completed == found.size:
                        break
            finally:
                # What has come is kept, however this ends.
                await writer.flush()
                file.completed = part.size

    def _written(self, file: _File, chunks: list[bytes]) -> Callable[[], None]:
        def write() -> None:
            before = file.part.size
            file.part.write(chunks)
            if before < _HEADER:
                self._look(file)

        return write

    def _look(self, file: _File) -> None:
        """Gigabytes of something else need not come at all. Raises NotAModel."""
        if file.part.size >= _HEADER:
            try:
                self._goal.look(file.part)
            except ModelBroken as error:
                raise self._not_a_model(error) from error

    def _check(self, file: _File) -> None:
        """Raises ChecksumMismatch where a file is not what was promised."""
        found, part = file.found, file.part
        if not file.right():
            promised = f"the SHA-256 {part.sha256}, where" if found.sha256 else "other contents than"
            part.discard()
            raise ChecksumMismatch(
                f"{found.path} of {found.repo} came with {promised} the hub promised"
                f"{f' {found.sha256}' if found.sha256 else ''}; it has been removed"
            )
        try:
            self._check_pin(found, part.sha256)
        except ChecksumMismatch:
            part.discard()
            raise

    def _check_pin(self, file: Found, sha256: str) -> None:
        known = self.wanted.revision if file.repo == self.wanted.repo else ""
        self._trust.check(file.path, file.repo, file.revision, sha256, known)

    def _installed(self, found: tuple[Found, ...]) -> ModelInfo:
        try:
            info = self._goal.install(found)
        except ModelBroken as error:
            raise self._not_a_model(error) from error
        self._status = f"installed {self.wanted.name}"
        return info

    def _not_a_model(self, error: ModelBroken) -> NotAModel:
        what = "model that can be run here" if self.wanted.several else "whole GGML Whisper model"
        article = "no" if self.wanted.several else "not a"
        return NotAModel(f"{self.wanted.what} is {article} {what}: {error}; it has been removed")

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
