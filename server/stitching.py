"""Windows put one after the other: segments on the media's axis, in order, no word twice or lost.

Where speech without a pause was cut, both windows have what is around the cut. The words that both heard tell
where the second goes on from the first; where they heard none in common, the time does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from server import segments
from server.repetition import key
from server.types import Segment, Window, Word

_APART = 0.5
"""Seconds by which two windows may differ on when a word begins."""

_EDGE = 0.4
"""Seconds around an overlap in which words are compared too."""


class Stitcher:
    """The segments of one media, or of one of its channels, window by window."""

    def __init__(self) -> None:
        self._floor = 0.0
        self._held: list[Segment] = []
        """Those that the next window may know better, on the media's axis."""

    def add(self, heard: Sequence[Segment], window: Window) -> Iterator[Segment]:
        """The next window's segments, whose times count from its start; those that are certain now."""
        new = [_shifted(segment, window) for segment in heard]
        if window.overlap and self._held:
            self._held, new = stitched(self._held, new, window.start, window.start + window.overlap)
        yield from self._placed(self._held)
        self._held = []
        until = window.end - window.overlapped - _EDGE if window.overlapped else float("inf")
        certain = next((place for place, segment in enumerate(new) if segment.end > until), len(new))
        yield from self._placed(new[:certain])
        self._held = new[certain:]

    def finish(self) -> Iterator[Segment]:
        """Those that were waiting for another window."""
        yield from self._placed(self._held)
        self._held = []

    def _placed(self, found: Sequence[Segment]) -> Iterator[Segment]:
        for segment in found:
            placed = _after(segment, self._floor)
            self._floor = placed.end
            yield placed


def stitched(
    before: Sequence[Segment], after: Sequence[Segment], low: float, high: float
) -> tuple[list[Segment], list[Segment]]:
    """Both windows' segments without what both have between `low` and `high`, in seconds of the media."""
    ours, theirs = _places(before), _places(after)
    around = (low - _EDGE, high + _EDGE)
    left = [number for number, word in enumerate(ours) if word.end > around[0]]
    right = [number for number, word in enumerate(theirs) if word.start < around[1]]
    common = _common([ours[number] for number in left], [theirs[number] for number in right])
    if common.length:
        until, since = left[common.ours] + common.length, right[common.theirs] + common.length
    else:
        seam = (low + high) / 2
        until = sum((word.start + word.end) / 2 < seam for word in ours)
        since = sum((word.start + word.end) / 2 < seam for word in theirs)
    return _part(before, 0, until), _part(after, since, len(theirs))


@dataclass(frozen=True, slots=True)
class _Common:
    """Words that two sequences share on end, and where in each."""

    ours: int = 0
    theirs: int = 0
    length: int = 0


def _common(ours: Sequence[Word], theirs: Sequence[Word]) -> _Common:
    """The longest such; of equal ones the one whose times agree best."""
    found = [
        _Common(left, right, length)
        for left in range(len(ours))
        for right in range(len(theirs))
        if (length := _alike(ours[left:], theirs[right:]))
    ]

    def apart(common: _Common) -> float:
        return abs(ours[common.ours].start - theirs[common.theirs].start)

    return max(found, key=lambda common: (common.length, -apart(common)), default=_Common())


def _alike(ours: Sequence[Word], theirs: Sequence[Word]) -> int:
    """How many words from the start are the same at about the same time."""
    for count, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if key(one.text) != key(other.text) or abs(one.start - other.start) > _APART:
            return count
    return min(len(ours), len(theirs))


def _places(found: Sequence[Segment]) -> list[Word]:
    return [word for segment in found for word in segment.words]


def _part(found: Sequence[Segment], first: int, stop: int) -> list[Segment]:
    """The words from `first` up to `stop`, counted through all segments."""
    left: list[Segment] = []
    at = 0
    for segment in found:
        count = len(segment.words)
        begin, end = max(first - at, 0), min(stop - at, count)
        if not count or (begin == 0 and end == count):
            left.append(segment)
        elif begin < end:
            left.append(segments.part(segment, begin, end))
        at += count
    return left


def _shifted(segment: Segment, window: Window) -> Segment:
    """From the window's axis to the media's, inside the window."""

    def at(time: float) -> float:
        return round(min(max(window.start + time, window.start), window.end), 3)

    words = tuple(replace(word, start=at(word.start), end=at(word.end)) for word in segment.words)
    return replace(
        segment,
        start=at(segment.start),
        end=at(segment.end),
        words=words,
        seek=round(window.start, 3),
        channel=window.channel,
    )


def _after(segment: Segment, floor: float) -> Segment:
    """The same, neither before `floor` nor with words out of order."""
    start = max(segment.start, floor)
    words: list[Word] = []
    at = start
    for word in segment.words:
        begin = max(word.start, at)
        at = max(word.end, begin)
        words.append(replace(word, start=begin, end=at))
    return replace(segment, start=start, end=max(segment.end, at), words=tuple(words))
