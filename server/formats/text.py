"""text: the words alone."""

from collections.abc import Iterator

from server.formats import Each, Pieces
from server.types import Segment, Style, Transcript

MEDIA_TYPE = "text/plain; charset=utf-8"
TIMES = False


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    yield transcript.text + "\n"


def pieces(style: Style) -> Pieces:
    return Each(_piece)


def _piece(segment: Segment) -> str:
    return segment.text.lstrip() if segment.id == 0 else segment.text
