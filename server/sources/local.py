"""Models that are on this machine already, on a stick or in a folder: copied, never linked."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

MAGIC = b"lmgg"


def candidates(folder: Path) -> Iterator[Path]:
    """Files of a folder and of those in it that mean to be GGML models: by their first bytes, or their names
    ("ggml-*.bin"), which also finds those that were cut to nothing. Raises OSError."""
    for path in sorted(folder.rglob("*")):
        named = path.name.startswith("ggml-") and path.suffix == ".bin"
        if path.is_file() and (named or _magic(path) == MAGIC):
            yield path


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except OSError:
        return b""


def copy(source: Path, target: Path) -> None:
    """Copy to a new file, on the disk itself at the end; file systems that can share the blocks. Raises
    OSError."""
    with source.open("rb") as read, target.open("xb") as write:
        if not _shared(read.fileno(), write.fileno()):
            read.seek(0)
            write.truncate(0)
            write.seek(0)
            shutil.copyfileobj(read, write, 1 << 22)
        write.flush()
        os.fsync(write.fileno())


def _shared(read: int, write: int) -> bool:
    """Copy inside the kernel; False where these two files cannot be."""
    try:
        while os.copy_file_range(read, write, 1 << 30):
            pass
    except OSError:
        return False
    return os.fstat(read).st_size == os.fstat(write).st_size
