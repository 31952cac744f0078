"""verbose_json: segments with times and scores, words when asked for, warnings.

What an engine does not tell is null, never made up. Source: OpenAI's audio API,
CreateTranscriptionResponseVerboseJson; `warnings` and `model` are ours.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NotRequired

import msgspec
from typing_extensions import TypedDict

from server import languages
from server.formats import Each, Pieces
from server.openapi import closed
from server.types import Guard, Segment, Style, Task, Transcript, Word

MEDIA_TYPE = "application/json"

_LEAST_TOLD = 0.001
"""Probability from which a language is listed."""

_SEEK_PER_SECOND = 100
"""Whisper counts `seek` in frames of 10 ms."""


@closed
class Usage(TypedDict):
    """How much sound it was."""

    type: Literal["duration"]
    seconds: int
    """Rounded up."""


@closed
class SpokenWord(TypedDict):
    """A word with its times in seconds."""

    word: str
    start: float
    end: float
    probability: float | None
    """0 to 1; null where the engine gives none."""


@closed
class LogProb(TypedDict):
    """A token of the text and its probability."""

    token: str
    """Of half a character only the bytes are true."""
    logprob: float
    bytes: list[int]


@closed
class BriefSegment(TypedDict):
    """A phrase with its times in seconds."""

    id: int
    start: float
    end: float
    text: str


@closed
class FullSegment(BriefSegment):
    """A phrase with its scores; null where the engine does not tell."""

    seek: int
    """Start of the window it was heard in, in hundredths of a second."""
    tokens: Sequence[int]
    temperature: float | None
    avg_logprob: float | None
    compression_ratio: float | None
    no_speech_prob: float | None
    language: str | None
    """ISO-639-1 code of what is spoken; null where nobody told or detected it."""
    channel: NotRequired[int]
    """Of the media, from 0, where each was heard by itself."""
    words: NotRequired[list[SpokenWord]]
    """In streams, where times of words were asked for."""
    logprobs: NotRequired[list[LogProb]]
    """In streams, where they were asked for."""


@closed
class VerboseJson(TypedDict):
    """A transcript with all that is known of it."""

    task: Task
    language: str
    """English name of the text's language; empty where nobody spoke."""
    duration: float
    """Seconds of the media."""
    text: str
    segments: list[FullSegment]
    words: NotRequired[list[SpokenWord]]
    logprobs: NotRequired[list[LogProb]]
    usage: Usage
    model: str
    warnings: Sequence[str]
    """What you should know: that the file broke off, that the demo model heard it."""
    guards: Sequence[Guard]
    """What the model wrote and this transcript does not have, and why."""
    languages: dict[str, float]
    """Probabilities of detected languages, by ISO-639-1 code, greatest first."""


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    head = {
        "task": transcript.task,
        "language": languages.name(transcript.language),
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
    }
    yield _json(head)[:-1]
    yield from _array("segments", (full(segment) for segment in transcript.segments))
    if style.words:
        yield from _array("words", (word_fields(word) for word in transcript.words))
    if style.logprobs:
        yield from _array("logprobs", (one for segment in transcript.segments for one in logprobs(segment)))
    tail = {
        "usage": usage(transcript),
        "model": transcript.model,
        "warnings": transcript.warnings,
        "guards": transcript.guards,
        "languages": likely(transcript.languages),
    }
    yield "," + _json(tail)[1:]


def likely(languages: dict[str, float]) -> dict[str, float]:
    """The probabilities that are worth telling, greatest first."""
    told = sorted(languages.items(), key=lambda item: -item[1])
    return {code: round(probability, 4) for code, probability in told if probability >= _LEAST_TOLD}


def pieces(style: Style) -> Pieces:
    return Each(partial(piece, style=style))


def piece(segment: Segment, style: Style) -> FullSegment:
    """A segment by itself, with what was asked for."""
    told = full(segment)
    if style.words:
        told["words"] = [word_fields(word) for word in segment.words]
    if style.logprobs:
        told["logprobs"] = list(logprobs(segment))
    return told


def usage(transcript: Transcript) -> Usage:
    """As TranscriptTextUsageDuration; whole seconds."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def logprobs(segment: Segment) -> Iterator[LogProb]:
    """A segment's tokens as OpenAI's LogProbProperties; of half a character only the bytes are true."""
    for token in segment.logprobs:
        text = token.text.decode("utf-8", "replace")
        yield {"token": text, "logprob": token.logprob, "bytes": list(token.text)}


def brief(segment: Segment) -> BriefSegment:
    """A segment as go-whisper streams it."""
    return {"id": segment.id, "start": segment.start, "end": segment.end, "text": segment.text}


def full(segment: Segment) -> FullSegment:
    """A segment with all that OpenAI's document lists, its language, and its channel where it has one."""
    told: FullSegment = {
        "id": segment.id,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "seek": round(segment.seek * _SEEK_PER_SECOND),
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        "language": segment.language,
    }
    if segment.channel is not None:
        told["channel"] = segment.channel
    return told


def word_fields(word: Word) -> SpokenWord:
    """A word as OpenAI's TranscriptionWord, with its probability beside."""
    return {"word": word.text, "start": word.start, "end": word.end, "probability": word.probability}


def _array(name: str, items: Iterable[Mapping[str, object]]) -> Iterator[str]:
    yield f',"{name}":['
    for index, item in enumerate(items):
        yield "," * (index > 0) + _json(item)
    yield "]"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
