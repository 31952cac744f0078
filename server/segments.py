"""Segments cut and joined at words, their text, tokens, words and times kept consistent; phrases for people.

A model writes segments as its timestamps fall: several sentences in one, half a sentence in another. People
want sentences, and a pause between two of them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from server.engines import compression_ratio
from server.types import Segment, Token

_PAUSE = 1.0
"""Seconds between two words that end a phrase wherever it is."""

_BREATH = 0.5
_SECONDS = 8.0
_CHARACTERS = 84
"""Parts of a sentence are joined where less than a breath lies between them, up to so much in all."""

_END = re.compile(r"[.!?…。！？]+[\"'”’»)\]」』]*\s*$")
_ABBREVIATION = re.compile(
    r"(?:^|\s)(?:\w|\w\.\w|Mr|Mrs|Ms|Dr|St|Prof|Nr|Sr|Sra|bzw|ca|vs|Mme)\.$", re.IGNORECASE
)


def part(segment: Segment, first: int, stop: int) -> Segment:
    """The words from `first` up to `stop` (not included) of a segment, which must have words."""
    starts = _starts(segment)
    begin, end = starts[first], starts[stop]
    words = segment.words[first:stop]
    kept = [begin <= place < end for place in _token_places(segment)]
    tokens = tuple(token for token, keep in zip(segment.tokens, kept, strict=False) if keep)
    logprobs = tuple(token for token, keep in zip(segment.logprobs, kept, strict=False) if keep)
    text = segment.text[begin:end]
    return replace(
        segment,
        start=words[0].start,
        end=words[-1].end,
        text=text,
        words=words,
        tokens=tokens,
        logprobs=logprobs,
        avg_logprob=_mean(logprobs) if logprobs else segment.avg_logprob,
        compression_ratio=compression_ratio(text),
    )


def joined(segments: Sequence[Segment]) -> Segment:
    """Segments that follow each other, as one."""
    if len(segments) == 1:
        return segments[0]
    text = "".join(segment.text for segment in segments)
    logprobs = tuple(token for segment in segments for token in segment.logprobs)
    return replace(
        segments[0],
        end=segments[-1].end,
        text=text,
        words=tuple(word for segment in segments for word in segment.words),
        tokens=tuple(token for segment in segments for token in segment.tokens),
        logprobs=logprobs,
        avg_logprob=_mean(logprobs) if logprobs else segments[0].avg_logprob,
        compression_ratio=compression_ratio(text),
    )


def within(segment: Segment, low: float, high: float) -> Segment:
    """The segment and its words at times from `low` to `high`."""

    def at(time: float) -> float:
        return min(max(time, low), high)

    if low <= segment.start and segment.end <= high:
        return segment
    words = tuple(replace(word, start=at(word.start), end=at(word.end)) for word in segment.words)
    return replace(segment, start=at(segment.start), end=at(segment.end), words=words)


def phrases(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The same text as sentences: cut at their ends and at pauses, joined where one was cut in the middle."""
    waiting: list[Segment] = []
    for piece in (piece for segment in segments for piece in _pieces(segment)):
        if waiting and not _continues(waiting, piece):
            yield joined(waiting)
            waiting = []
        waiting.append(piece)
    if waiting:
        yield joined(waiting)


def _pieces(segment: Segment) -> Iterator[Segment]:
    """A segment cut after its sentences, in its pauses, and where somebody else goes on."""
    starts = _starts(segment)
    texts = [segment.text[begin:end] for begin, end in pairwise(starts)]
    cuts = [
        number
        for number, (before, after) in enumerate(pairwise(segment.words), 1)
        if before.ends_turn or after.start - before.end >= _PAUSE or _ends(texts[number - 1], texts[number])
    ]
    if not cuts:
        yield segment
        return
    for first, stop in pairwise([0, *cuts, len(segment.words)]):
        yield part(segment, first, stop)


def _ends(text: str, after: str) -> bool:
    """Whether a sentence ends with `text`, which `after` follows."""
    bare = after.lstrip(" \"'“«¿¡([「『")
    if not _END.search(text) or (bare[:1].islower() or bare[:1].isdigit()):
        return False
    return not _ABBREVIATION.search(text.rstrip())


def _continues(waiting: Sequence[Segment], piece: Segment) -> bool:
    """Whether a sentence goes on with `piece`: only where its first letter tells."""
    before = waiting[-1]
    return (
        not _END.search(before.text)
        and not any(word.ends_turn for word in before.words[-1:])
        and piece.text.strip()[:1].islower()
        and piece.start - before.end < _BREATH
        and piece.end - waiting[0].start <= _SECONDS
        and sum(len(one.text) for one in waiting) + len(piece.text) <= _CHARACTERS
    )


def _starts(segment: Segment) -> list[int]:
    """Where in the text each word begins with the space before it, and the end of the text."""
    starts, at = [], 0
    for word in segment.words:
        found = segment.text.find(word.text, at)
        if found < 0:  # a character that was broken in its tokens
            found = at
        starts.append(at if not segment.text[at:found].strip() else found)
        at = found + len(word.text)
    return [0, *starts[1:], len(segment.text)]


def _token_places(segment: Segment) -> Iterator[int]:
    """The place in the text of each token's first character."""
    data = segment.text.encode()
    offsets = accumulate((len(token.text) for token in segment.logprobs), initial=0)
    for offset, _ in zip(offsets, segment.logprobs, strict=False):
        yield len(data[:offset].decode("utf-8", "ignore"))


def _mean(logprobs: Sequence[Token]) -> float:
    scores = [token.logprob for token in logprobs]
    return float(sum(scores) / len(scores))
