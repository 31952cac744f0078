"""json: the text, and how much it took; probabilities of its tokens and the languages heard, when asked for.

No fractional number stands at its top: go-whisper's client cannot read one there.
Source: OpenAI's audio API, CreateTranscriptionResponseJson; `warnings` is ours.
"""

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from server.formats import Each, Pieces, verbose_json
from server.types import Style, Transcript

MEDIA_TYPE = "application/json"

_POSITIONS_PER_SECOND = 50
"""Of Whisper's encoder: what it makes of sound, as its tokens are what it makes of text."""


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    document: dict[str, Any] = {"text": transcript.text}
    if style.languages:
        document["languages"] = languages(transcript)
    if style.logprobs:
        document["logprobs"] = [
            score for segment in transcript.segments for score in verbose_json.logprobs(segment)
        ]
    document["usage"] = tokens(transcript) if style.count_tokens else verbose_json.usage(transcript)
    if transcript.warnings:
        document["warnings"] = transcript.warnings
    yield msgspec.json.encode(document).decode()


def pieces(style: Style) -> Pieces:
    return Each(verbose_json.brief)


def languages(transcript: Transcript) -> list[dict[str, str]]:
    """Empty where nothing was said."""
    return [{"code": transcript.language}] if transcript.language else []


def tokens(transcript: Transcript) -> dict[str, Any]:
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
