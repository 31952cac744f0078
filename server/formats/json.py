"""json: the text, and how much sound it came from.

No fractional number stands at its top: go-whisper's client cannot read one there.
Source: OpenAI's audio API, CreateTranscriptionResponseJson.
"""

import math
from collections.abc import Iterator

import msgspec

from server.formats import Each, Pieces, verbose_json
from server.types import Style, Transcript

MEDIA_TYPE = "application/json"


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    usage = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    yield msgspec.json.encode({"text": transcript.text, "usage": usage}).decode()


def pieces(style: Style) -> Pieces:
    return Each(verbose_json.brief)
