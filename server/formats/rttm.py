"""rttm: who spoke when, a line for each turn. It needs speakers; words are not in it.

Source: NIST, Rich Transcription 2009 evaluation plan, appendix A: SPEAKER objects of ten fields.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from server import formats
from server.formats import Pieces
from server.types import Segment, Style, Transcript

MEDIA_TYPE = "text/plain; charset=utf-8"
NEEDS_SPEAKERS = True

_PAUSE = 0.3
"""Seconds of silence that do not end a turn: the evaluation plan's."""


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    if not transcript.diarized:
        return formats.joined(pieces(style), transcript.segments)
    name = _word(style.name)
    return (_line(name, turn.start, turn.end, turn.speaker) for turn in transcript.diarized.turns)


def pieces(style: Style) -> Pieces:
    return _Turns(_word(style.name))


@dataclass(slots=True)
class _Turns:
    """Turns of one media: segments of a speaker that follow each other closely."""

    name: str
    speaker: str | None = None
    start: float = 0.0
    until: float = 0.0

    def add(self, segment: Segment) -> Iterable[str]:
        if segment.speaker != self.speaker or segment.start - self.until > _PAUSE:
            yield from self.end()
            self.speaker, self.start = segment.speaker, segment.start
        self.until = segment.end

    def end(self) -> Iterable[str]:
        if self.speaker is not None:
            yield _line(self.name, self.start, self.until, self.speaker)
        self.speaker = None


def _line(name: str, start: float, end: float, speaker: str) -> str:
    return f"SPEAKER {name} 1 {start:.3f} {end - start:.3f} <NA> <NA> {_word(speaker)} <NA> <NA>\n"


def _word(name: str) -> str:
    """A name as one field."""
    return re.sub(r"\s+", "_", name.strip()) or "<NA>"
