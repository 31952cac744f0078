"""verbose_json: segments with times and scores, words when asked for, warnings.

What an engine does not tell is null, never made up. Source: OpenAI's audio API,
CreateTranscriptionResponseVerboseJson; `warnings` and `model` are ours.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NotRequired, cast

import msgspec
from typing_extensions import TypedDict

from server import languages
from server.formats import Each, Pieces
from server.openapi import closed
from server.types import Diarized, Guard, Segment, Style, Task, Transcript, Word

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
    speaker: NotRequired[str | None]
    """Where speakers were told apart."""


@closed
class Speaker(TypedDict):
    """Somebody who is heard, in the order of first words."""

    id: str
    """As on segments and words."""
    seconds: float
    """For how long in all."""
    score: NotRequired[float]
    """How like the known voice of that name, -1 to 1."""
    embedding: NotRequired[Sequence[float]]
    """Where `include[]=embeddings` asked for it and enough was heard."""


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
    speaker: NotRequired[str | None]
    """Where speakers were told apart, as the next three. Null where nobody knows."""
    speaker_certain: NotRequired[bool]
    """False where no turn of a speaker is heard within a second."""
    overlap: NotRequired[bool]
    """Whether somebody else is heard for over half of it."""
    speaker_turn: NotRequired[bool]
    """Whether somebody else begins to speak with it."""


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
    speakers: NotRequired[list[Speaker]]
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
    yield encoded(head)[:-1]
    yield from array("segments", (full(segment) for segment in transcript.segments))
    if style.words:
        yield from array("words", (word_fields(word) for word in transcript.words))
    if style.logprobs:
        yield from array("logprobs", (one for segment in transcript.segments for one in logprobs(segment)))
    if transcript.diarized:
        yield from array("speakers", speakers(transcript.diarized))
    tail = {
        "usage": usage(transcript),
        "model": transcript.model,
        "warnings": transcript.warnings,
        "guards": transcript.guards,
        "languages": likely(transcript.languages),
    }
    yield "," + encoded(tail)[1:]


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
    told: BriefSegment = {
        "id": segment.id,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
    }
    if segment.turn is not None:
        told["speaker"] = segment.speaker
        told["speaker_certain"] = segment.speaker_certain
        told["overlap"] = segment.overlap
        told["speaker_turn"] = segment.turn
    return told


def full(segment: Segment) -> FullSegment:
    """A segment with all that OpenAI's document lists."""
    scores: dict[str, object] = {
        "seek": round(segment.seek * _SEEK_PER_SECOND),
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        "language": segment.language,
    }
    if segment.channel is not None:
        scores["channel"] = segment.channel
    return cast(FullSegment, {**brief(segment), **scores})


def word_fields(word: Word) -> SpokenWord:
    """A word as OpenAI's TranscriptionWord, with its probability beside."""
    told: SpokenWord = {
        "word": word.text,
        "start": word.start,
        "end": word.end,
        "probability": word.probability,
    }
    if word.speaker is not None:
        told["speaker"] = word.speaker
    return told


def speakers(diarized: Diarized) -> Iterator[Speaker]:
    """Everybody who is heard."""
    for name in diarized.speakers:
        seconds = sum(turn.end - turn.start for turn in diarized.turns if turn.speaker == name)
        told: Speaker = {"id": name, "seconds": round(seconds, 3)}
        if name in diarized.scores:
            told["score"] = round(diarized.scores[name], 3)
        if name in diarized.embeddings:
            told["embedding"] = diarized.embeddings[name]
        yield told


def array(name: str, items: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """A key with a list, item by item, to stand behind other keys."""
    yield f',"{name}":['
    for index, item in enumerate(items):
        yield "," * (index > 0) + encoded(item)
    yield "]"


def encoded(value: object) -> str:
    """As JSON."""
    return msgspec.json.encode(value).decode()
