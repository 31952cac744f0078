"""A body on its way to disk: a dialect writes it as it arrives, a reader may follow it at once."""

import asyncio
import errno
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from server.errors import NoSpace, TooLarge

_FLUSH = 1 << 20

_PREFIX = "body-"

_FILES = ThreadPoolExecutor(2, "spool")
"""Threads of their own, so that no upload waits for long work of others."""


class Spool:
    """A file that grows. `size` bytes of it can be read; once `complete` there will be no more."""

    def __init__(self, path: Path, largest: int | None = None) -> None:
        self.path = path
        self.size = 0
        self.complete = False
        self._largest = largest
        self._pending: list[bytes] = []
        self._waiting = 0
        self._grown = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Append. Raises TooLarge beyond the limit and NoSpace when the disk is full."""
        self._pending.append(data)
        self._waiting += len(data)
        if self._largest is not None and self.size + self._waiting > self._largest:
            raise TooLarge(f"the body is larger than {self._largest:,} bytes, the most this server takes")
        if self._waiting >= _FLUSH:
            await self.flush()

    async def finish(self) -> None:
        """There is no more to come."""
        await self.flush()
        self.complete = True
        self._grown.set()

    async def flush(self) -> None:
        """What has been written can be read. Raises NoSpace when the disk is full."""
        data, self._pending, self._waiting = b"".join(self._pending), [], 0
        try:
            await asyncio.to_thread(_append, self.path, data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace("the disk of this server is full; nothing was kept") from error
            raise
        self.size += len(data)
        self._grown.set()

    async def growth(self) -> AsyncIterator[tuple[int, bool]]:
        """Size and completeness, now and each time they change, until complete."""
        while True:
            self._grown.clear()
            size, complete = self.size, self.complete
            yield size, complete
            if complete:
                return
            if (self.size, self.complete) == (size, complete):
                await self._grown.wait()


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def on_disk(path: Path) -> Spool:
    """A file that is already whole, as a spool. It is never written and never removed."""
    # Readers have a working directory of their own.
    spool = Spool(path.absolute())
    spool.size, spool.complete = path.stat().st_size, True
    return spool


@asynccontextmanager
async def spooled(folder: Path, largest: int | None = None) -> AsyncIterator[Spool]:
    """An empty spool in `folder`; its file is removed at the end, however the end comes."""
    # In threads: making and removing a file waits for the disk where another program has much to write.
    loop = asyncio.get_running_loop()
    making = loop.run_in_executor(_FILES, _make, folder)
    try:
        handle, path = await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_unmake)
        raise
    try:
        yield Spool(path, largest)
    finally:
        await asyncio.shield(loop.run_in_executor(_FILES, _remove, handle, path))


def _make(folder: Path) -> tuple[int, Path]:
    handle, name = tempfile.mkstemp(dir=folder, prefix=_PREFIX)
    # Held as long as we live, so that others can tell a living server's body from what a dead one left.
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle, Path(name)


def _unmake(making: "asyncio.Future[tuple[int, Path]]") -> None:
    """Nobody waits any more for what is being made."""
    if not making.cancelled() and making.exception() is None:
        asyncio.get_running_loop().run_in_executor(_FILES, _remove, *making.result())


def _remove(handle: int, path: Path) -> None:
    os.close(handle)
    path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Make the folder, and remove what killed servers left in it; a living neighbour's bodies stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
