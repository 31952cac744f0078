"""Phrases that were spoken before, kept on the disk: what is asked for often is spoken but once.

A phrase is a sentence's sound in a file named after what it was made from; the times of the files tell which
was used last. Of no use to anybody else, so there is one for one process; others' files count from its start.
"""

import os
import threading
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

from server.digests import temporary_name

_CHECK = 4
"""Bytes at a file's end that tell whether it is whole: the CRC-32 of the others."""


class Phrases:
    """Sounds by the names of what they were made from, the least recently used gone first. Blocks."""

    def __init__(self, folder: Path, size: int) -> None:
        """`size`: bytes that all files may have; 0: nothing is kept."""
        self.size = size
        self._folder = folder
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._held = 0

    def open(self) -> None:
        """See what is there; where nothing is to be kept, delete it."""
        with self._lock:
            if not self.size:
                rmtree(self._folder, ignore_errors=True)
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = [(file.stat(), file) for file in self._folder.iterdir() if file.is_file()]
            for status, file in sorted(found, key=lambda each: each[0].st_mtime_ns):
                if file.suffix:
                    file.unlink(missing_ok=True)  # what was being written when the process died
                else:
                    self._count(file.name, status.st_size)
            self._shrink()

    def get(self, name: str) -> bytes | None:
        """The sound, or None where it is not here or has been damaged."""
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        file = self._folder / name
        try:
            data = file.read_bytes()
            os.utime(file)
        except OSError:
            data = b""
        if zlib.crc32(data[:-_CHECK]).to_bytes(_CHECK, "big") == data[-_CHECK:]:
            return data[:-_CHECK]
        self._forget(name)
        return None

    def put(self, name: str, sound: bytes) -> None:
        """Keep it. A disk that is full or gone is no error: it is spoken anew next time."""
        if len(sound) + _CHECK > self.size:
            return
        file = self._folder / name
        temporary = temporary_name(file)
        try:
            temporary.write_bytes(sound + zlib.crc32(sound).to_bytes(_CHECK, "big"))
            with self._lock:
                temporary.replace(file)
                self._count(name, len(sound) + _CHECK)
                self._shrink()
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _count(self, name: str, size: int) -> None:
        self._held += size - self._sizes.pop(name, 0)
        self._sizes[name] = size

    def _forget(self, name: str) -> None:
        with self._lock:
            self._held -= self._sizes.pop(name, 0)
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)

    def _shrink(self) -> None:
        while self._held > self.size:
            name, size = self._sizes.popitem(last=False)
            self._held -= size
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)
