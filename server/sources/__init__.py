"""WHERE models come from: one file a place.

A source says what a file is before it is fetched, and gives its bytes from any place on. How bytes become an
installed model is pull.py's business; copying a file that is on this machine already is local.py's.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Found:
    """A file at a source, as it is now."""

    repo: str
    path: str
    revision: str
    """The state of the repository that the rest holds for."""
    size: int
    etag: str
    """Differs when the file has changed; "" where only its hash tells."""
    sha256: str
    """In hex; "" for small files of repositories, which `blob` is told of."""
    blob: str = ""
    """Git's SHA-1 of the file, in hex."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Bytes of a file, as they come."""

    start: int
    """Where they begin: 0 where the source would not start elsewhere."""
    chunks: AsyncIterator[bytes]


class Broken(Exception):
    """The line broke, or the source is busy: another try may help. `str()` is the reason."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after
        """Seconds that the source asks us to wait."""


class Changed(Exception):
    """The file at the source is no longer the one that was found."""


class Source(Protocol):
    """A place that models are fetched from."""

    def describe(self, path: str, repo: str, revision: str) -> Found:
        """What lies there. Blocks. Raises Broken, or PullFailed where another try does not help."""
        ...

    def files(self, repo: str, revision: str) -> tuple[Found, ...]:
        """All files of a repository, each with a hash. Blocks. Raises as `describe` does."""
        ...

    def read(self, found: Found, start: int) -> AbstractAsyncContextManager[Stream]:
        """Its bytes from `start` on. Raises Broken, also while they are read, Changed, or PullFailed."""
        ...
