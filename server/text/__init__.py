"""Text on its way to a voice: one path for all engines. Each step is a file; `pieces` joins them.

What comes out holds every word that went in, once, in order, written out for reading aloud.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from server.errors import TextTooLong
from server.text import clean, dictionary, sentences, ssml, written
from server.text.ssml import Break, Part, Span
from server.types import Piece, Pronounced

_MARKUP = 8
"""Times the limit that a text may have before anything is written out: nothing but tags explains more."""

_NO_WORDS: Mapping[str, str] = {}


@dataclass(slots=True)
class _Run:
    """Text that is spoken in one way, all of it written out."""

    like: Span
    text: str = ""
    pronounced: list[Pronounced] = field(default_factory=list)

    def add(self, text: str, ipa: str) -> None:
        if ipa:
            self.pronounced.append(Pronounced(len(self.text), len(self.text) + len(text), ipa))
        self.text += text


def pieces(
    text: str,
    language: str,
    *,
    speed: float = 1.0,
    longest: int = 0,
    words: Mapping[str, str] = _NO_WORDS,
) -> list[Piece]:
    """The pieces in which a text is spoken; none where it has nothing to say.

    `language` in BCP 47; `longest`: characters of the text when it is written out, 0: any number; `words`: a
    dictionary, see dictionary.py. Raises TextTooLong, and BadField where it is SSML that cannot be read.
    """
    if longest and len(text) > _MARKUP * longest:
        raise TextTooLong(len(text), longest)
    parts: Iterable[Part] = ssml.parse(text) if ssml.is_ssml(text) else ssml.plain(text)
    runs = list(_runs(parts, language))
    size = sum(len(run.text.strip()) for run in runs if isinstance(run, _Run))
    if longest and size > longest:
        raise TextTooLong(size, longest)
    return list(_pieces(runs, language, speed, dict(words)))


def _runs(parts: Iterable[Part], language: str) -> Iterator[_Run | Break]:
    """The parts, neighbours of one kind joined: a sentence may go on behind a tag."""
    run: _Run | None = None
    for part in parts:
        if isinstance(part, Break):
            if run:
                yield run
                run = None
            yield part
            continue
        if run and _manner(part) != _manner(run.like) and part.text != "\n":
            yield run
            run = None
        run = run or _Run(part)
        run.add(_written(part, language), part.ipa)
    if run:
        yield run


def _manner(span: Span) -> tuple[object, ...]:
    return span.speed, span.pitch, span.volume, span.language


def _written(span: Span, language: str) -> str:
    text = clean.clean(span.text)
    language = span.language or language
    if text and not span.ipa:
        text = (
            written.say_as(text, span.say_as, language) if span.say_as else written.write_out(text, language)
        )
    # What `clean` trims, a neighbour needs.
    before = " " if span.text[:1] == " " else ""
    behind = " " if span.text[-1:] == " " and text else ""
    return "\n" if span.text == "\n" else before + text + behind


def _pieces(runs: list[_Run | Break], language: str, speed: float, words: dict[str, str]) -> Iterator[Piece]:
    first = True
    for run in runs:
        if isinstance(run, Break):
            yield Piece("", pause=run.seconds)
            continue
        marks = (*run.pronounced, *dictionary.found(run.text, words))
        for start, end in sentences.places(run.text, first):
            first = False
            yield Piece(
                text=run.text[start:end],
                language=run.like.language or language,
                pronounced=tuple(
                    Pronounced(mark.start - start, mark.end - start, mark.ipa)
                    for mark in sorted(marks, key=lambda mark: mark.start)
                    if start <= mark.start and mark.end <= end
                ),
                speed=min(max(speed * run.like.speed, 0.25), 4.0),
                pitch=run.like.pitch,
                volume=run.like.volume,
            )
