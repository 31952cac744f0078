"""The converted copies of models: made once, found by the hash of the file that they were made from.

They lie in a folder of their own, which belongs to the server: a copy is whole or not there, and goes when
no installed model has its hash any more.
"""

import asyncio
import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from server import ggml
from server.child import Child, ChildGone
from server.convert import Converted, Failed, FromConverter, Precision, Progress, Tell, size
from server.errors import ModelBroken, NoSpace
from server.partial import writing
from server.types import ModelInfo

log = logging.getLogger(__name__)

_PARTIAL = ".tmp"


class Conversions:
    """The copies in one folder. All methods but `remove`, `sweep` and `disk` belong to one event loop."""

    def __init__(self, folder: Path, empty: Path) -> None:
        """`empty`: the working directory of the processes that convert."""
        self._folder = folder
        self._empty = empty
        self._running: dict[Path, asyncio.Task[None]] = {}

    def find(self, sha256: str, precision: Precision) -> Path | None:
        """The copy, if it is there."""
        folder = self._path(sha256, precision)
        return folder if sha256 and folder.is_dir() else None

    async def make(self, model: ModelInfo, precision: Precision, tell: Tell = lambda share: None) -> Path:
        """The copy, made if it is not there; `model.sha256` must be known. One process makes it for all.

        `tell` is told how much is done, from 0 to 1, for whoever asked for it first. Raises ModelBroken where
        the file cannot be converted, and NoSpace.
        """
        folder = self._path(model.sha256, precision)
        if not folder.is_dir():
            task = self._running.get(folder)
            if task is None:
                task = self._running[folder] = asyncio.create_task(self._make(model, folder, precision, tell))
                task.add_done_callback(lambda task: self._ended(folder, task))
            await asyncio.shield(task)
        return folder

    async def stop(self) -> None:
        """End what is being made."""
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def remove(self, sha256: str) -> None:
        """Delete the copies of a file."""
        if sha256:
            for folder in self._folder.glob(f"{sha256}-*"):
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, wanted: Iterable[str]) -> None:
        """Delete what was broken off, and the copies of files with other hashes than these."""
        kept = set(wanted)
        for folder in self._folder.glob("*"):
            if folder.name.split("-")[0] not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def disk(self, sha256: str) -> int:
        """Bytes that the copies of a file take."""
        total = 0
        for file in self._folder.glob(f"{sha256}-*/*") if sha256 else ():
            with suppress(OSError):  # it may just go
                total += file.stat().st_size
        return total

    def _path(self, sha256: str, precision: Precision) -> Path:
        return self._folder / f"{sha256}-{precision}"

    async def _make(self, model: ModelInfo, folder: Path, precision: Precision, tell: Tell) -> None:
        await asyncio.to_thread(self._check_space, model, precision)
        log.info("converting %s", model.id)
        arguments = (str(model.path), str(folder), precision)
        child = await Child[FromConverter].spawn(
            "server.convert:main", FromConverter, self._empty, *arguments
        )
        try:
            while True:
                match await child.receive():
                    case Progress(share):
                        log.debug("converting %s: %.0f %%", model.id, 100 * share)
                        tell(share)
                    case Failed(message):
                        raise ModelBroken(f"the model {model.id} cannot be converted: {message}")
                    case Converted():
                        return
        except ChildGone as why:
            raise ModelBroken(f"the model {model.id} cannot be converted: {why}") from why
        finally:
            child.kill()
            await child.ended()
            await asyncio.to_thread(self._clean, folder)

    def _clean(self, folder: Path) -> None:
        """What a process that was killed has left."""
        for partial in folder.parent.glob(f".{folder.name}.*{_PARTIAL}"):
            shutil.rmtree(partial, ignore_errors=True)

    def _check_space(self, model: ModelInfo, precision: Precision) -> None:
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        need, free = size(ggml.read_header(model.path), precision), shutil.disk_usage(self._folder).free
        if free < need:
            raise NoSpace(
                f"converting {model.id} needs {need:,} bytes; the disk of {self._folder} has {free:,} left"
            )

    def _ended(self, folder: Path, task: asyncio.Task[None]) -> None:
        self._running.pop(folder, None)
        if not task.cancelled():
            task.exception()
