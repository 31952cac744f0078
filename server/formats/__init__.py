"""How a transcript is written: one file a format, found by its name, which is the `response_format`."""

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from server.types import Segment, Transcript

Piece = str | dict[str, Any]
"""A segment by itself: text for formats of text, an object for formats of JSON."""


class Format(Protocol):
    """What a module of this folder offers."""

    MEDIA_TYPE: str

    def write(self, transcript: Transcript, words: bool) -> Iterator[str]:
        """The whole document in chunks, so that ten hours need no more memory than one segment.

        `words`: whether times of words were asked for.
        """

    def piece(self, segment: Segment) -> Piece:
        """One segment in a stream. The text pieces of a transcript, joined, are its document."""


@cache
def names() -> tuple[str, ...]:
    """All formats that there are."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Format:
    """The format of that name; KeyError where there is none. Only files of this folder are ever imported."""
    if name not in names():
        raise KeyError(name)
    return cast(Format, import_module(f"{__name__}.{name}"))
