"""How a transcript is written: one file a format, found by its name, which is the `response_format`."""

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from server.subtitles import Cue, Cues
from server.types import Segment, Style, Transcript

Piece = str | Mapping[str, Any]
"""A segment by itself: text for formats of text, an object for formats of JSON."""


class Pieces(Protocol):
    """A transcript being written while its segments come."""

    def add(self, segment: Segment) -> Iterable[Piece]:
        """What the segment adds: often one piece, sometimes none yet."""

    def end(self) -> Iterable[Piece]:
        """What was held back until it was certain that nothing more comes."""


class Format(Protocol):
    """What a module of this folder offers. One that cannot be written without speakers says so by a
    constant `NEEDS_SPEAKERS = True`, and one without times by `TIMES = False`."""

    MEDIA_TYPE: str

    def write(self, transcript: Transcript, style: Style) -> Iterator[str]:
        """The whole document in chunks, so that ten hours need no more memory than one segment."""

    def pieces(self, style: Style) -> Pieces:
        """The same for a stream. The text pieces of a transcript, joined, are its document."""


class Each:
    """Pieces of a format in which a segment stands by itself."""

    def __init__(self, write: Callable[[Segment], Piece]) -> None:
        self._write = write

    def add(self, segment: Segment) -> Iterable[Piece]:
        return (self._write(segment),)

    def end(self) -> Iterable[Piece]:
        return ()


class OfCues:
    """Pieces of subtitles: a piece for every cue."""

    def __init__(self, cues: Cues, write: Callable[[Cue], str]) -> None:
        self._cues = cues
        self._write = write

    def add(self, segment: Segment) -> Iterable[Piece]:
        return map(self._write, self._cues.add(segment))

    def end(self) -> Iterable[Piece]:
        return map(self._write, self._cues.end())


class Headed:
    """Text pieces of another, the first of them below a head. Also an empty document has it."""

    def __init__(self, head: str, pieces: Pieces) -> None:
        self._head = head
        self._pieces = pieces

    def add(self, segment: Segment) -> Iterable[Piece]:
        return self._headed(self._pieces.add(segment))

    def end(self) -> Iterable[Piece]:
        yield from self._headed(self._pieces.end())
        if self._head:
            yield self._head

    def _headed(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            head, self._head = self._head, ""
            yield f"{head}{piece}"


def joined(pieces: Pieces, segments: Iterable[Segment]) -> Iterator[str]:
    """The document of a format of text, from its pieces."""
    for segment in segments:
        yield from cast(Iterable[str], pieces.add(segment))
    yield from cast(Iterable[str], pieces.end())


@cache
def names() -> tuple[str, ...]:
    """All formats that there are."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Format:
    """The format of that name; KeyError where there is none. Only files of this folder are ever imported."""
    if name not in names():
        raise KeyError(name)
    return cast(Format, import_module(f"{__name__}.{name}"))


def has_times(name: str) -> bool:
    """Whether that format tells when something is said."""
    return getattr(find(name), "TIMES", True)


def needs_speakers(name: str) -> bool:
    """Whether that format tells who speaks, and nothing else."""
    return getattr(find(name), "NEEDS_SPEAKERS", False)
