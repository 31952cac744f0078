"""diarized_json: who said what, a segment for each stretch of one speaker.

Source: OpenAI's audio API, CreateTranscriptionResponseDiarizedJson: speakers without a known name are A, B, C
…; what else stands in it is ours, as in verbose_json.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from server.formats import Each, Pieces, verbose_json
from server.formats.verbose_json import Speaker, SpokenWord, Usage, array, encoded
from server.openapi import closed
from server.types import Diarized, Segment, Style, Task, Transcript, Word

MEDIA_TYPE = "application/json"
NEEDS_SPEAKERS = True

_NUMBERED = re.compile(r"SPEAKER_(\d+)")


@closed
class DiarizedSegment(TypedDict):
    """What one speaker says in one go."""

    type: Literal["transcript.text.segment"]
    id: str
    start: float
    end: float
    text: str
    speaker: str
    """A known name, or A, B, C …; empty where nobody is heard."""
    speaker_certain: bool
    overlap: bool
    speaker_turn: bool
    words: NotRequired[list[SpokenWord]]


@closed
class DiarizedJson(TypedDict):
    """A transcript with its speakers."""

    task: Task
    language: str
    """ISO-639-1 code of the text; empty where nobody spoke."""
    duration: float
    text: str
    segments: list[DiarizedSegment]
    speakers: list[Speaker]
    usage: Usage
    model: str
    warnings: Sequence[str]


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    head = {
        "task": transcript.task,
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
    }
    yield encoded(head)[:-1]
    yield from array("segments", (piece(segment, style) for segment in transcript.segments))
    yield from array("speakers", speakers(transcript.diarized) if transcript.diarized else ())
    tail = {
        "usage": verbose_json.usage(transcript),
        "model": transcript.model,
        "warnings": transcript.warnings,
    }
    yield "," + encoded(tail)[1:]


def pieces(style: Style) -> Pieces:
    return Each(partial(piece, style=style))


def piece(segment: Segment, style: Style) -> DiarizedSegment:
    """A segment as OpenAI's TranscriptionDiarizedSegment."""
    told: DiarizedSegment = {
        "type": "transcript.text.segment",
        "id": f"seg_{segment.id}",
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "speaker": letter(segment.speaker or ""),
        "speaker_certain": segment.speaker_certain,
        "overlap": segment.overlap,
        "speaker_turn": bool(segment.turn),
    }
    if style.words:
        told["words"] = [_word(word) for word in segment.words]
    return told


def _word(word: Word) -> SpokenWord:
    told = verbose_json.word_fields(word)
    told["speaker"] = letter(word.speaker or "")
    return told


def speakers(diarized: Diarized) -> Iterator[Speaker]:
    """Everybody who is heard, called as on segments."""
    for told in verbose_json.speakers(diarized):
        told["id"] = letter(told["id"])
        yield told


def letter(speaker: str) -> str:
    """A numbered speaker as OpenAI calls it: A to Z, then AA, AB …; a known name stays."""
    numbered = _NUMBERED.fullmatch(speaker)
    if not numbered:
        return speaker
    number, letters = int(numbered[1]), ""
    while number >= 0:
        letters = chr(ord("A") + number % 26) + letters
        number = number // 26 - 1
    return letters
