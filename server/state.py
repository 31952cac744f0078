"""The data folder: of one server at a time, in a form that it knows."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VERSION = 1
"""Of what lies in the folder, the store of jobs included: it rises with any part of it. A server that knows
only older ones must not touch it."""


class StateError(Exception):
    """The data folder cannot be this server's; `str()` says why."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, and ours until the end. Raises StateError.

    The kernel holds the lock, and lets go of it however its holder ends: a file left behind locks nobody out.
    """
    _prepare(folder)
    lock = _locked(folder)
    try:
        _check_version(folder)
        yield
    finally:
        os.close(lock)


def _prepare(folder: Path) -> None:
    """The folder is there and can be written. Raises StateError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # models can be used all the same, and what must be written is refused when it comes
        raise StateError(
            f"the data folder {folder} cannot be written by user {os.geteuid()}: {error.strerror}; nothing "
            "else need be writable, but this must be (--data names another)"
        ) from error


def _locked(folder: Path) -> int:
    """A handle that holds the lock. Raises StateError."""
    path = folder / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StateError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(handle, 200).decode("utf-8", "replace").strip()
        os.close(handle)
        raise StateError(
            f"the data folder {folder} is in use by another whisperd ({holder or 'which is just starting'}); "
            "end that one, or give this one a folder of its own with --data"
        ) from error
    except OSError as error:
        os.close(handle)
        raise StateError(f"{path} cannot be locked: {error.strerror}") from error
    with suppress(OSError):  # a full disk takes no name, but the lock holds
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return handle


def _check_version(folder: Path) -> None:
    """Raises StateError where the folder is of a newer version; a folder without one becomes ours."""
    path = folder / "version"
    try:
        found = int(path.read_text("ascii"))
    except FileNotFoundError:
        found = 0
    except (OSError, ValueError) as error:
        raise StateError(f"{path} does not tell the version of the data folder: {error}") from error
    if found > VERSION:
        raise StateError(
            f"the data folder {folder} was written by a newer whisperd (it is of version {found}, this one "
            f"knows {VERSION}); start the newer one, or give this one a folder of its own with --data"
        )
    if found < VERSION:
        part = path.with_suffix(".part")
        with suppress(OSError):  # as above
            part.write_text(f"{VERSION}\n", "ascii")
            part.replace(path)
