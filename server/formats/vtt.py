"""vtt: WebVTT. Source: W3C WebVTT, section 4 (syntax): cue text escapes &, < and >."""

import html
from collections.abc import Iterator

from server.formats import Piece
from server.formats.srt import timestamp
from server.types import Segment, Transcript

MEDIA_TYPE = "text/vtt; charset=utf-8"

_HEAD = "WEBVTT\n\n"


def write(transcript: Transcript, words: bool) -> Iterator[str]:
    yield _HEAD
    for segment in transcript.segments:
        yield _cue(segment)


def piece(segment: Segment) -> Piece:
    return (_HEAD if segment.id == 0 else "") + _cue(segment)


def _cue(segment: Segment) -> str:
    text = html.escape(" ".join(segment.text.split()), quote=False)
    return f"{timestamp(segment.start, '.')} --> {timestamp(segment.end, '.')}\n{text}\n\n"
