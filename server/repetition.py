"""Text that repeats itself on end."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST_PHRASE = 16
"""Words, or letters where words have no spaces."""

_TIMES = 4
_WORDS = 8
"""What is said so many times on end, and makes so many words, is a loop; "no, no, no, no" isn't."""


@dataclass(frozen=True, slots=True)
class Run:
    """A phrase that is repeated on end, in places of a sequence."""

    start: int
    length: int
    """Of the phrase."""
    times: int

    @property
    def end(self) -> int:
        return self.start + self.length * self.times


def key(word: str) -> str:
    """What two words have in common that differ in case and punctuation."""
    return re.sub(r"\W", "", word).casefold() or word


def loop(words: Sequence[str]) -> Run | None:
    """The longest phrase on end that is long enough to be a loop; of equal ones the shortest phrase."""
    keys = [key(word) for word in words]
    runs = (
        _run(keys, start, length)
        for length in range(1, min(_LONGEST_PHRASE, len(keys) // _TIMES) + 1)
        for start in range(len(keys) - length * _TIMES + 1)
    )
    loops = [run for run in runs if run.times >= _TIMES and run.end - run.start >= _WORDS]
    return max(loops, key=lambda run: (run.end - run.start, -run.length), default=None)


def _run(keys: Sequence[str], start: int, length: int) -> Run:
    times = 1
    while keys[start + times * length : start + (times + 1) * length] == keys[start : start + length]:
        times += 1
    return Run(start, length, times)
