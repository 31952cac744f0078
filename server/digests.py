"""What is known of a model file beyond its bytes: its SHA-256 and where it came from, remembered beside it.

A dot-file in the models' folder says it, and counts as long as path, size and time of the file are the same.
Everything here blocks; only `compute` takes long.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

_SLICE = 1 << 22


@dataclass(frozen=True, slots=True)
class Note:
    """What is remembered of a file."""

    sha256: str
    """In hex."""
    repo: str = ""
    """Where it was pulled from ("owner/name"); "" for a file that was copied here."""
    path: str = ""
    """What it was called there."""


@dataclass(frozen=True, slots=True)
class _Stored:
    file: str
    size: int
    mtime_ns: int
    note: Note


class Digests:
    """Notes on the files of several folders, all kept in one of them; in memory where that is read-only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._here: dict[Path, _Stored] = {}

    def recall(self, path: Path, status: os.stat_result) -> Note | None:
        """What is known of the file as `status` describes it."""
        stored = self._here.get(path) or self._read(path.name)
        same = stored and stored == _stored(path, status, stored.note)
        return stored.note if stored and same else None

    def remember(self, path: Path, status: os.stat_result, note: Note) -> None:
        """Keep a note, until the file changes."""
        stored = self._here[path] = _stored(path, status, note)
        with contextlib.suppress(OSError):
            write(self._beside(path.name), msgspec.json.encode(stored))

    def forget(self, path: Path) -> None:
        """The file is gone."""
        self._here.pop(path, None)
        with contextlib.suppress(OSError):
            self._beside(path.name).unlink(missing_ok=True)

    def _beside(self, name: str) -> Path:
        return self._folder / f".{name}.json"

    def _read(self, name: str) -> _Stored | None:
        try:
            return msgspec.json.decode(self._beside(name).read_bytes(), type=_Stored)
        except (OSError, msgspec.MsgspecError):
            return None


def _stored(path: Path, status: os.stat_result, note: Note) -> _Stored:
    file = os.fsencode(path).decode("utf-8", "replace")
    return _Stored(file, status.st_size, status.st_mtime_ns, note)


def compute(path: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """The SHA-256 of a file in hex; "" if `stopped()` became true on the way. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_SLICE):
            if stopped():
                return ""
            digest.update(data)
    return digest.hexdigest()


def blob(path: Path) -> str:
    """The SHA-1 that git has of a file, in hex. Raises OSError."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def write(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all. Raises OSError, and leaves nothing behind then."""
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody else has; it tells which process uses it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
