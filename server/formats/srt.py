"""srt: SubRip subtitles; cues are counted from 1, times have a comma."""

from collections.abc import Iterator

from server.formats import Piece
from server.types import Segment, Transcript

MEDIA_TYPE = "text/plain; charset=utf-8"


def write(transcript: Transcript, words: bool) -> Iterator[str]:
    for segment in transcript.segments:
        yield _cue(segment)


def piece(segment: Segment) -> Piece:
    return _cue(segment)


def _cue(segment: Segment) -> str:
    # Nothing in a text may look like the line that starts a cue.
    text = " ".join(segment.text.split()).replace("-->", "->")
    times = f"{timestamp(segment.start, ',')} --> {timestamp(segment.end, ',')}"
    return f"{segment.id + 1}\n{times}\n{text}\n\n"


def timestamp(at: float, point: str) -> str:
    """Seconds as 01:02:03,456."""
    milliseconds = round(at * 1000)
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"
