"""tsv: a row for each segment, times in whole milliseconds, as OpenAI's whisper writes it.

Speakers have a column of their own, the last one."""

from collections.abc import Iterator

from server import formats
from server.formats import Pieces
from server.subtitles import plain
from server.types import Segment, Style, Transcript

MEDIA_TYPE = "text/tab-separated-values; charset=utf-8"

_HEAD = "start\tend\ttext\n"


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    return formats.joined(pieces(style), transcript.segments)


def pieces(style: Style) -> Pieces:
    if style.speakers:
        return formats.Headed(_HEAD[:-1] + "\tspeaker\n", formats.Each(_row_of_speaker))
    return formats.Headed(_HEAD, formats.Each(_row))


def _row(segment: Segment) -> str:
    return f"{round(segment.start * 1000)}\t{round(segment.end * 1000)}\t{plain(segment.text)}\n"


def _row_of_speaker(segment: Segment) -> str:
    return f"{_row(segment)[:-1]}\t{plain(segment.speaker or '')}\n"
