"""A file that is being fetched: what has come of it so far, what it is to become, and nobody else writing it;
and folders of such files.

It lies beside its target as `NAME.part`, with a note `NAME.part.json` of what the whole is, and outlives its
process: the next one goes on where this one stopped. Everything here blocks.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from server import digests
from server.errors import NoSpace, NotWritable

_SLICE = 1 << 24
"""Bytes that are hashed at a time."""

_HAND_ON = 1 << 23
"""Bytes after which the kernel is told to write."""

_LEFT = re.compile(r"^\..+\.(\d+)-[0-9a-f]{8}\.tmp$")
_COMING = re.compile(r"^\..+\.pulling$")

ABANDONED = 7 * 86400.0
"""Seconds after which a part that nobody went on with is removed."""


@dataclass(frozen=True, slots=True)
class Whole:
    """What the file is to become."""

    size: int
    sha256: str
    """In hex."""


class Partial:
    """The part of one target. `size` bytes of it have come. One thread at a time."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self.size = 0
        self._note = target.with_name(target.name + ".part.json")
        self._open: int | None = None
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._handed_on = 0

    def lock(self) -> bool:
        """Make it ours until `close`; False while another download, here or in another process, has it."""
        with writing(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open = _locked(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        return self._open is not None

    def begin(self, whole: Whole) -> None:
        """Go on with what is there, if it is a part of this whole; else start anew."""
        self._hash, self._hashed = hashlib.sha256(), 0
        with writing(self.path.parent):
            self.size = os.fstat(self._file).st_size
            # Of what is there in full, the hash says whether it is that.
            known = self._whole() or (whole if self.size == whole.size else None)
            if self.size and (known != whole or self.size > whole.size):
                self.restart()
            self._handed_on = self.size
            digests.write(self._note, msgspec.json.encode(whole))

    def hash_on(self) -> bool:
        """Hash the next stretch of what was there before us; False when all is hashed."""
        if self._hashed < self.size:
            data = os.pread(self._file, min(_SLICE, self.size - self._hashed), self._hashed)
            self._hash.update(data)
            self._hashed += len(data)
            if not data:
                self.restart()
        return self._hashed < self.size

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append what came; all that was there must have been hashed. Raises NoSpace."""
        with writing(self.path.parent):
            for chunk in chunks:
                left = memoryview(chunk)
                while left:
                    written = os.write(self._file, left)
                    self._hash.update(left[:written])
                    self.size = self._hashed = self.size + written
                    left = left[written:]
        if self.size - self._handed_on >= _HAND_ON:
            # Starts writing to the disk, and does not wait for it: the end is not one long wait then.
            os.posix_fadvise(self._file, self._handed_on, self.size - self._handed_on, os.POSIX_FADV_DONTNEED)
            self._handed_on = self.size

    def restart(self) -> None:
        """Forget what came."""
        os.truncate(self._file, 0)
        self._hash = hashlib.sha256()
        self._hashed = self._handed_on = self.size = 0

    @property
    def sha256(self) -> str:
        """Of what has come, in hex."""
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Have it on the disk itself."""
        with writing(self.path.parent):
            os.fsync(self._file)

    def discard(self) -> None:
        """Remove it."""
        for path in self._note, self.path:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it. It stays for the next time, unless nothing has come or it has its own name by now."""
        if self._open is not None:
            if not self.path.exists() or not self.size:
                self.discard()
            os.close(self._open)
            self._open = None

    @property
    def _file(self) -> int:
        assert self._open is not None, "lock it first"
        return self._open

    def _whole(self) -> Whole | None:
        try:
            return msgspec.json.decode(self._note.read_bytes(), type=Whole)
        except (OSError, msgspec.MsgspecError):
            return None


class Coming:
    """A folder that is being fetched: hidden beside its target, and nobody else writing in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: int | None = None
        self._parts: dict[str, Partial] = {}

    @staticmethod
    def of(target: Path) -> "Coming":
        """That of a target."""
        return Coming(target.with_name(f".{target.name}.pulling"))

    def lock(self) -> bool:
        """Make it ours until `close`; False while another download, here or in another process, has it."""
        with writing(self.folder.parent):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open = _locked(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        return self._open is not None

    def size(self) -> int:
        """Bytes that have come."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def part(self, path: str) -> Partial:
        """That of one of its files, locked."""
        if path not in self._parts:
            file = self.folder / path
            part = Partial(file)
            with writing(self.folder.parent):
                # A process that was killed while it gave the files their names.
                if file.is_file() and not part.path.exists():
                    file.rename(part.path)
            assert part.lock()
            self._parts[path] = part
        return self._parts[path]

    def only(self, paths: Collection[str]) -> None:
        """Remove what is of none of these files: of another revision."""
        for gone in self._parts.keys() - set(paths):
            part = self._parts.pop(gone)
            part.discard()
            part.close()
        kept = {self.folder / f"{path}{end}" for path in paths for end in ("", ".part", ".part.json")}
        with writing(self.folder.parent):
            for file in self.folder.rglob("*"):
                if file not in kept and not file.is_dir():
                    file.unlink()

    def finish(self) -> None:
        """Give the files their names."""
        with writing(self.folder.parent):
            for part in self._parts.values():
                part.sync()
                part.path.rename(part.path.with_name(part.path.name.removesuffix(".part")))
        for part in self._parts.values():
            part.close()
        self._parts.clear()

    def discard(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of it. It stays for the next time, unless nothing has come or it has its own name by now."""
        if self._open is None:
            return
        for part in self._parts.values():
            part.close()
        self._parts.clear()
        if self.folder.exists() and not any(path.is_file() for path in self.folder.rglob("*")):
            self.discard()
        os.close(self._open)
        self._open = None


def _locked(path: Path, flags: int) -> int | None:
    """A handle that holds the lock of what is there by that name; None while another one has it."""
    handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had it before may have renamed or removed it in between.
        mine = os.path.samestat(os.fstat(handle), path.stat())
    except (BlockingIOError, FileNotFoundError):
        mine = False
    if mine:
        return handle
    os.close(handle)
    return None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says in our words why the folder cannot be written: NoSpace, or NotWritable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk of {folder} is full") from error
        raise NotWritable(f"the models' folder {folder} cannot be written: {error.strerror}") from error


def sweep(folder: Path, now: float | None = None) -> None:
    """Remove what killed processes left in the folder, and parts that nobody went on with for a week."""
    oldest = (time.time() if now is None else now) - ABANDONED
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            if found := _LEFT.match(name):
                if not psutil.pid_exists(int(found[1])):
                    _remove(folder / name)
            elif _COMING.match(name):
                _sweep_coming(folder / name, oldest)
            elif name.endswith(".bin.part"):
                _sweep_part(folder / name.removesuffix(".part"), oldest)
            elif name.endswith(".bin.part.json") and not (folder / name.removesuffix(".json")).exists():
                (folder / name).unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sweep_coming(folder: Path, oldest: float) -> None:
    newest = max((path.stat().st_mtime for path in folder.rglob("*")), default=0.0)
    coming = Coming(folder)
    if newest < oldest and coming.lock():
        shutil.rmtree(folder)
        coming.close()


def _sweep_part(target: Path, oldest: float) -> None:
    part = Partial(target)
    if part.path.stat().st_mtime < oldest and part.lock():
        part.discard()
        part.close()
