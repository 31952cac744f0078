"""lrc: lyrics, a line with its start for each segment; a highlighted line has its words' starts too (A2).

An empty line clears the display before a pause. What a player would take for a time inside a text is parted.
Source: https://en.wikipedia.org/wiki/LRC_(file_format), core format and A2 extension.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from server import formats
from server.formats import Pieces
from server.subtitles import Atom, Cue, Cues, joined
from server.types import Segment, Style, Transcript

MEDIA_TYPE = "text/plain; charset=utf-8"

_HEAD = "[re:whisperd]\n"

_PAUSE = 4.0
"""Seconds of silence after which a line no longer stands."""

_SHORTEST = 1.0
"""Seconds that a line stands before the display is cleared: with some models a segment has no length."""

_PARTED = re.compile(r"([\[<])(?=\d)")


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    return formats.joined(pieces(style), transcript.segments)


def pieces(style: Style) -> Pieces:
    """Lyrics have cues of one line."""
    is_broken = bool(style.max_line_width or style.max_line_count)
    cues = Cues(replace(style, max_line_count=1 if is_broken else None))
    return formats.Headed(_HEAD, _Lines(cues, _timed if style.highlight_words else _parted))


class _Lines:
    """Lines, and empty ones where nothing is to stand for a while."""

    def __init__(self, cues: Cues, mark: Callable[[Atom], str]) -> None:
        self._cues = cues
        self._mark = mark
        self._until: float | None = None

    def add(self, segment: Segment) -> Iterable[str]:
        for cue in self._cues.add(segment):
            yield self._line(cue)

    def end(self) -> Iterable[str]:
        for cue in self._cues.end():
            yield self._line(cue)
        if self._until is not None:
            yield f"[{_at(self._until)}]\n"

    def _line(self, cue: Cue) -> str:
        has_pause = self._until is not None and cue.start - self._until >= _PAUSE
        cleared = f"[{_at(self._until or 0.0)}]\n" if has_pause else ""
        self._until = max(cue.end, cue.start + _SHORTEST)
        return f"{cleared}[{_at(cue.start)}]{joined(cue.atoms, self._mark)}\n"


def _timed(atom: Atom) -> str:
    return f"<{_at(atom.start)}>{_parted(atom)}" if atom.is_timed else _parted(atom)


def _parted(atom: Atom) -> str:
    return _PARTED.sub(r"\1 ", atom.text)


def _at(seconds: float) -> str:
    """Seconds as 01:02.34; minutes go on beyond 59."""
    minutes, hundredths = divmod(round(seconds * 100), 6000)
    return f"{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}"
