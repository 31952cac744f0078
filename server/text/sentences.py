"""Text into pieces: sentences, long ones cut, the very first one short, so that sound begins soon."""

import re
from collections.abc import Iterator

LONGEST = 250
"""Characters of a piece: neural voices take memory and time with the length of one."""

FIRST = 80
"""Characters of the first piece, if it can be cut at a comma there."""

_SENTENCE_END = re.compile(r"""(?:[.!?]+["')\]]*(?=\s)|[。！？｡]+["'」』）]*|\n)\s*""")

_CUTS = (re.compile(r"[;:](?=\s)|[；：]"), re.compile(r"[,)](?=\s)| [-–—](?=\s)|[，、]"), re.compile(r"\s"))
"""Where a long sentence may be cut, from the best place to the worst."""

_WORD = re.compile(r"\w")


def split(text: str) -> list[str]:
    """The pieces of a text that is written out. Joined, they hold all its words, once and in order."""
    found = [part for sentence in _sentences(text) for part in _cut(sentence, LONGEST)]
    if found and len(found[0]) > FIRST:
        found[:1] = _begun(found[0])
    return [piece for piece in found if _WORD.search(piece)]


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if sentence := text[start : end.end()].strip():
            yield sentence
        start = end.end()
    if rest := text[start:].strip():
        yield rest


def _cut(sentence: str, longest: int) -> Iterator[str]:
    """Parts of at most `longest` characters, of like length, cut where a reader would pause."""
    while len(sentence) > longest:
        place = _place(sentence, longest)
        yield sentence[:place].strip()
        sentence = sentence[place:].strip()
    if sentence:
        yield sentence


def _place(sentence: str, longest: int) -> int:
    """The last good place to cut in the second half of what is allowed."""
    for cut in _CUTS:
        places = [found.end() for found in cut.finditer(sentence, longest // 3, longest)]
        if places:
            return places[-1]
    return longest


def _begun(piece: str) -> list[str]:
    """The first piece, cut at a comma if it has one early enough."""
    places = [found.end() for cut in _CUTS[:2] for found in cut.finditer(piece, FIRST // 4, FIRST)]
    return [piece[: max(places)].strip(), piece[max(places) :].strip()] if places else [piece]
