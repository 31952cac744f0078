"""Segments of several channels, each heard by itself, in order of time."""

from collections.abc import Iterable, Iterator
from operator import attrgetter

from server.types import Segment


class Merging:
    """Holds segments until no channel can have an earlier one."""

    def __init__(self, reach: float) -> None:
        """`reach`: seconds of sound after which a channel's windows have been given at the latest."""
        self._reach = reach
        self._held: list[Segment] = []

    def add(self, found: Iterable[Segment]) -> None:
        """Segments of a channel."""
        self._held += found

    def before(self, position: float) -> Iterator[Segment]:
        """Those that are certain once all channels have been read up to `position`, in seconds."""
        until = position - self._reach
        self._held.sort(key=attrgetter("start"))
        while self._held and self._held[0].start < until:
            yield self._held.pop(0)

    def finish(self) -> Iterator[Segment]:
        """All others."""
        yield from self.before(float("inf"))
