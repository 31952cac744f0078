"""verbose_json: segments with times and scores, words when asked for, warnings.

What an engine does not tell is null, never made up. Source: OpenAI's audio API,
CreateTranscriptionResponseVerboseJson; `warnings` and `model` are ours.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from server import languages
from server.formats import Each, Pieces
from server.types import Segment, Style, Transcript, Word

MEDIA_TYPE = "application/json"

_LEAST_TOLD = 0.001
"""Probability from which a language is listed."""

_SEEK_PER_SECOND = 100
"""Whisper counts `seek` in frames of 10 ms."""


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


def piece(segment: Segment, style: Style) -> dict[str, Any]:
    """A segment by itself, with what was asked for."""
    words = {"words": [word_fields(word) for word in segment.words]} if style.words else {}
    return full(segment) | words | ({"logprobs": list(logprobs(segment))} if style.logprobs else {})


def usage(transcript: Transcript) -> dict[str, Any]:
    """As TranscriptTextUsageDuration; whole seconds."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def logprobs(segment: Segment) -> Iterator[dict[str, Any]]:
    """A segment's tokens as OpenAI's LogProbProperties; of half a character only the bytes are true."""
    for token in segment.logprobs:
        text = token.text.decode("utf-8", "replace")
        yield {"token": text, "logprob": token.logprob, "bytes": list(token.text)}


def brief(segment: Segment) -> dict[str, Any]:
    """A segment as go-whisper streams it."""
    return {"id": segment.id, "start": segment.start, "end": segment.end, "text": segment.text}


def full(segment: Segment) -> dict[str, Any]:
    """A segment with all that OpenAI's document lists."""
    return brief(segment) | {
        "seek": round(segment.seek * _SEEK_PER_SECOND),
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        "language": segment.language,
    }


def word_fields(word: Word) -> dict[str, Any]:
    """A word as OpenAI's TranscriptionWord, with its probability beside."""
    return {"word": word.text, "start": word.start, "end": word.end, "probability": word.probability}


def _array(name: str, items: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield f',"{name}":['
    for index, item in enumerate(items):
        yield "," * (index > 0) + _json(item)
    yield "]"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
