"""How near an answer is to the truth."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Any

import jiwer
import numpy as np

from bench.peers import Answer, Span
from bench.recordings import Recording, Sentence

_NEAR = 0.5
"""Seconds beyond a sentence in which its words may still lie."""

_SHORTEST = 10.0
"""Seconds from which a file's language counts."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one program on all files of a row; None where there is nothing to be measured."""

    word_errors: float | None = None
    """Share of the words said."""
    invented: float | None = None
    """Words a minute in which nobody speaks."""
    language: float | None = None
    """Share of the files, or of the segments of a mixed one, in the right language."""
    word_median: float | None = None
    """Milliseconds by which a word's start or end is off, in the middle."""
    word_p95: float | None = None
    segment_median: float | None = None
    """Milliseconds by which the start or end of a sentence is off that of the segment nearest to it."""


def scores(pairs: Sequence[tuple[Recording, Answer]]) -> Scores:
    words = np.array([error for recording, answer in pairs for error in _word_errors(recording, answer)])
    edges = [error for recording, answer in pairs for error in _edge_errors(recording, answer)]
    return Scores(
        word_errors=_wrong(pairs),
        invented=_invented(pairs),
        language=_languages(pairs),
        word_median=float(np.median(words)) * 1000 if len(words) else None,
        word_p95=float(np.percentile(words, 95)) * 1000 if len(words) else None,
        segment_median=median(edges) * 1000 if edges else None,
    )


def _wrong(pairs: Sequence[tuple[Recording, Answer]]) -> float | None:
    spoken = [(recording, answer) for recording, answer in pairs if recording.sentences]
    if not spoken:
        return None
    said, heard = zip(*(_normalised(recording, answer) for recording, answer in spoken), strict=True)
    return float(jiwer.wer(list(said), list(heard)))


def _normalised(recording: Recording, answer: Answer) -> tuple[str, str]:
    normalise = _normaliser(recording.language == "en")
    return normalise(" ".join(one.text for one in recording.sentences)), normalise(answer.text)


@lru_cache(maxsize=2)
def _normaliser(english: bool) -> Any:
    """Whisper's own, from its paper."""
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if english else BasicTextNormalizer()


def _invented(pairs: Sequence[tuple[Recording, Answer]]) -> float:
    minutes = sum(recording.silence for recording, _ in pairs) / 60
    return sum(len(_alone(recording, answer)) for recording, answer in pairs) / minutes


def _alone(recording: Recording, answer: Answer) -> list[Span]:
    """Words that lie where nobody speaks."""
    if not recording.sentences:
        return answer.words or [(word, 0, 0) for word in answer.text.split()]
    return [word for word in answer.words if _sentence(recording, (word[1] + word[2]) / 2, _NEAR) is None]


def _sentence(recording: Recording, at: float, near: float) -> Sentence | None:
    found = (one for one in recording.sentences if one.start - near <= at <= one.end + near)
    return next(found, None)


def _languages(pairs: Sequence[tuple[Recording, Answer]]) -> float | None:
    right: list[bool] = []
    for recording, answer in pairs:
        if recording.language and recording.seconds >= _SHORTEST:
            right.append(answer.language == recording.language)
        elif recording.sentences and answer.languages:
            right += _mixed(recording, answer)
    return sum(right) / len(right) if right else None


def _mixed(recording: Recording, answer: Answer) -> Iterator[bool]:
    for (_, start, end), language in zip(answer.segments, answer.languages, strict=True):
        sentence = _sentence(recording, (start + end) / 2, _NEAR)
        yield sentence is not None and sentence.language == language


def _word_errors(recording: Recording, answer: Answer) -> Iterator[float]:
    """Seconds by which starts and ends of the words are off that were heard right."""
    said = [(word.text, word.start, word.end) for one in recording.sentences for word in one.words]
    ours, theirs = (
        [re.sub(r"\W", "", text).casefold() for text, _, _ in spans] for spans in (said, answer.words)
    )
    for block in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks():
        for number in range(block.size):
            _, start, end = said[block.a + number]
            _, from_, to = answer.words[block.b + number]
            yield abs(from_ - start)
            yield abs(to - end)


def _edge_errors(recording: Recording, answer: Answer) -> Iterator[float]:
    if not answer.segments:
        return
    for one in recording.sentences:
        yield _nearest(one.start, (start for _, start, _ in answer.segments))
        yield _nearest(one.end, (end for _, _, end in answer.segments))


def _nearest(time: float, others: Iterable[float]) -> float:
    return min(abs(time - other) for other in others)
