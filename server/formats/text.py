"""text: the words alone."""

from collections.abc import Iterator

from server.formats import Piece
from server.types import Segment, Transcript

MEDIA_TYPE = "text/plain; charset=utf-8"


def write(transcript: Transcript, words: bool) -> Iterator[str]:
    yield transcript.text + "\n"


def piece(segment: Segment) -> Piece:
    return segment.text.lstrip() if segment.id == 0 else segment.text
