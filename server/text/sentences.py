"""Text into pieces: sentences, long ones cut, the very first one short, so that sound begins soon."""

import re
from collections.abc import Iterator

LONGEST = 250
"""Characters of a piece: neural voices take memory and time with the length of one."""

FIRST = 80
"""Characters of the first piece, if it can be cut at a comma there."""

_SENTENCE_END = re.compile(r"""(?:[.!?…]+["')\]]*(?=\s)|[。！？｡।]+["'」』）]*|\n)\s*""")

_CUTS = (re.compile(r"[;:](?=\s)|[；：]"), re.compile(r"[,)](?=\s)| [-–—](?=\s)|[，、]"), re.compile(r"\s"))
"""Where a long sentence may be cut, from the best place to the worst."""

_WORD = re.compile(r"\w")

Place = tuple[int, int]
"""Where a piece begins and ends in the text."""


def split(text: str) -> list[str]:
    """The pieces of a text that is written out."""
    return [text[start:end] for start, end in places(text)]


def places(text: str, first: bool = True) -> Iterator[Place]:
    """Where the pieces lie: in order, none in another, every word in one. `first`: none was before."""
    for sentence in _sentences(text):
        for start, end in _cut(text, sentence, LONGEST):
            if first and end - start > FIRST:
                yield from _words_in(text, _begun(text, (start, end)))
            else:
                yield from _words_in(text, [(start, end)])
            first = False


def _words_in(text: str, found: list[Place]) -> Iterator[Place]:
    yield from (place for place in found if _WORD.search(text, *place))


def _sentences(text: str) -> Iterator[Place]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield _stripped(text, start, end.end())
        start = end.end()
    yield _stripped(text, start, len(text))


def _stripped(text: str, start: int, end: int) -> Place:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _cut(text: str, sentence: Place, longest: int) -> Iterator[Place]:
    """Parts of at most `longest` characters, cut where a reader would pause."""
    start, end = sentence
    while end - start > longest:
        place = _place(text, start, longest)
        yield _stripped(text, start, place)
        start = _stripped(text, place, end)[0]
    if end > start:
        yield start, end


def _place(text: str, start: int, longest: int) -> int:
    """The last good place to cut in the later two thirds of what is allowed."""
    for cut in _CUTS:
        if places := [found.end() for found in cut.finditer(text, start + longest // 3, start + longest)]:
            return places[-1]
    return start + longest


def _begun(text: str, piece: Place) -> list[Place]:
    """The first piece, cut at a comma if it has one early enough."""
    start, end = piece
    found = [at.end() for cut in _CUTS[:2] for at in cut.finditer(text, start + FIRST // 4, start + FIRST)]
    if not found:
        return [piece]
    return [(start, max(found)), _stripped(text, max(found), end)]
