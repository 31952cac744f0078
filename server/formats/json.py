"""json: the text, and how much it took; token probabilities, languages and speakers, when asked for.

No fractional number stands at its top: go-whisper's client cannot read one there.
Source: OpenAI's audio API, CreateTranscriptionResponseJson; `warnings` is ours.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NotRequired

import msgspec
from typing_extensions import TypedDict

from server.formats import Each, Pieces, verbose_json
from server.formats.verbose_json import BriefSegment, LogProb, Speaker, Usage
from server.openapi import closed
from server.types import Style, Transcript

MEDIA_TYPE = "application/json"
TIMES = False

_POSITIONS_PER_SECOND = 50
"""Of Whisper's encoder: what it makes of sound, as its tokens are what it makes of text."""


@closed
class AudioTokens(TypedDict):
    """What the input consists of."""

    audio_tokens: int


@closed
class TokenUsage(TypedDict):
    """Positions of the encoder in, tokens of the text out."""

    type: Literal["tokens"]
    input_tokens: int
    input_token_details: AudioTokens
    output_tokens: int
    total_tokens: int


@closed
class Language(TypedDict):
    """A language that was heard."""

    code: str
    """ISO-639-1."""


@closed
class Json(TypedDict):
    """The text, and what else was asked for."""

    text: str
    languages: NotRequired[list[Language]]
    logprobs: NotRequired[list[LogProb]]
    segments: NotRequired[list[BriefSegment]]
    """Where speakers were told apart, as the next."""
    speakers: NotRequired[list[Speaker]]
    usage: Usage | TokenUsage
    warnings: NotRequired[Sequence[str]]
    """What is wrong with the media."""


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    usage = tokens(transcript) if style.count_tokens else verbose_json.usage(transcript)
    document: Json = {"text": transcript.text, "usage": usage}
    if style.languages:
        document["languages"] = languages(transcript)
    if style.logprobs:
        document["logprobs"] = [
            score for segment in transcript.segments for score in verbose_json.logprobs(segment)
        ]
    if transcript.diarized:
        document["segments"] = [verbose_json.brief(segment) for segment in transcript.segments]
        document["speakers"] = list(verbose_json.speakers(transcript.diarized))
    if transcript.warnings:
        document["warnings"] = transcript.warnings
    yield msgspec.json.encode(document).decode()


def pieces(style: Style) -> Pieces:
    return Each(verbose_json.brief)


def languages(transcript: Transcript) -> list[Language]:
    """Empty where nothing was said."""
    return [{"code": transcript.language}] if transcript.language else []


def tokens(transcript: Transcript) -> TokenUsage:
    """Usage as TranscriptTextUsageTokens: positions of the encoder in, tokens of the text out.

    The prompt's tokens are known to nobody but the engine, and are not counted.
    """
    heard = math.ceil(transcript.duration * _POSITIONS_PER_SECOND)
    written = sum(len(segment.tokens) for segment in transcript.segments)
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"audio_tokens": heard},
        "output_tokens": written,
        "total_tokens": heard + written,
    }
