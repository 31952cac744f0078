"""Segments become cues: few short lines, broken where readers expect it, shown long enough to be read.

Lines are broken after punctuation where there is some, never inside a word, into lines of like length, the
lower ones longer. A cue that is spoken too fast to be read stays as long as the next one lets it; one that
cannot stay is joined with the next. Sources: BBC Subtitle Guidelines 1.2, sections 5 to 9; Netflix Timed Text
Style Guide, general requirements.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rich.cells import cell_len

from server.types import Segment, Style

_WIDTH = 42
"""Columns of a line where only the number of lines was given: Netflix's for Latin letters."""

_ENDLESS = 1 << 30

_FLASH = 0.001
"""Seconds that a cue stands at least: formats want its end after its start."""

_GAP = 2 / 24
"""Seconds that stay free before the next cue when one is prolonged: Netflix's two frames."""

_CUE, _BREAK, _CLAUSE, _SHORT_WORD = 1.5, 1.0, 0.3, 1.3
"""What a cue costs, and a break: anywhere, after a clause, after a short word such as an article."""

_SENTENCE_END = frozenset(".!?…。！？｡؟")
_CLAUSE_END = frozenset(",;:，、；：､،–—-")
_CLOSING = "\"'”’»)]）」』】"

_UNSPACED = re.compile("[\u2e80-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
"""Chinese and Japanese, which may be broken between any two characters but these:"""
_NEVER_FIRST = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ")
_NEVER_FIRST_KINDS = frozenset({"Pe", "Pf", "Po", "Lm", "Mn", "Mc"})
_NEVER_LAST_KINDS = frozenset({"Ps", "Pi"})


@dataclass(frozen=True, slots=True)
class Atom:
    """What is never broken: a word with its punctuation, or a Chinese or Japanese character."""

    text: str
    is_spaced: bool
    """Whether a space stands before it."""
    start: float
    end: float
    is_timed: bool
    """Whether an engine told when it is spoken; else its time is in proportion to its place in the text."""

    @property
    def width(self) -> int:
        return cell_len(self.text)


Line = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown together."""

    start: float
    end: float
    atoms: Line
    speaker: str | None = None
    lines: tuple[Line, ...] = ()


def joined(atoms: Line, mark: Callable[[Atom], str]) -> str:
    """Atoms as one line, each written by `mark`."""
    return "".join(" " * (atom.is_spaced and index > 0) + mark(atom) for index, atom in enumerate(atoms))


def text(atoms: Line) -> str:
    """Atoms as one line, as they are."""
    return joined(atoms, lambda atom: atom.text)


def timestamp(at: float, point: str) -> str:
    """Seconds as 01:02:03,456."""
    seconds, milliseconds = divmod(round(at * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


State = tuple[float, float, Atom | None]
"""From when to when a cue is shown with which word highlighted."""


def unlit(cue: Cue) -> Iterator[State]:
    """A cue whose words are not highlighted has one state."""
    yield cue.start, cue.end, None


def highlights(cue: Cue) -> Iterator[State]:
    """The states of a cue, without a gap: each word that has a time, and what lies between them."""
    at = cue.start
    for atom in cue.atoms:
        start, end = max(atom.start, at), min(atom.end, cue.end)
        if not atom.is_timed or end - start < _FLASH:
            continue
        if start - at >= _FLASH:
            yield at, start, None
        else:
            start = at
        yield start, end, atom
        at = end
    if cue.end - at >= _FLASH or at == cue.start:
        yield at, cue.end, None


class Cues:
    """The cues of a transcript whose segments come one by one. At most one cue is held back."""

    def __init__(self, style: Style) -> None:
        self._width = style.max_line_width or (style.max_line_count and _WIDTH)
        self._count = style.max_line_count
        self._longest = style.max_cue_duration or float("inf")
        self._shortest = style.min_cue_duration
        self._speed = style.max_reading_speed
        self._held: Cue | None = None

    def add(self, segment: Segment) -> Iterator[Cue]:
        """The cues that are certain now."""
        for cue in self._split(segment):
            if not (self._shortest or self._speed):
                yield self._laid_out(cue)
            elif self._held is None:
                self._held = cue
            elif joined := self._joined(self._held, cue):
                self._held = joined
            else:
                yield self._lasting(self._held, cue.start - _GAP)
                self._held = cue

    def end(self) -> Iterator[Cue]:
        """The cue that was held back."""
        if self._held:
            yield self._lasting(self._held, float("inf"))
            self._held = None

    # Time ---------------------------------------------------------------------------------------------

    def _lasting(self, cue: Cue, until: float) -> Cue:
        """The cue, shown as long as it takes to read, but not after `until`."""
        reading = len(text(cue.atoms)) / self._speed if self._speed else 0.0
        wanted = max(self._shortest, reading)
        end = min(cue.start + min(wanted, self._longest), until)
        return self._laid_out(replace(cue, end=round(max(cue.end, end), 3)))

    def _joined(self, cue: Cue, following: Cue) -> Cue | None:
        """Both as one, where the first would be gone too soon and both have room together."""
        joined = replace(cue, end=following.end, atoms=cue.atoms + _spaced(following.atoms))
        longest = max(cue.end, following.start - _GAP) - cue.start
        joins = longest < self._shortest and cue.speaker == following.speaker and self._fits(joined)
        return joined if joins else None

    def _fits(self, cue: Cue) -> bool:
        if cue.end - cue.start > self._longest:
            return False
        return self._width is None or _lines_of(cue.atoms, self._width) <= (self._count or 1)

    # Space --------------------------------------------------------------------------------------------

    def _split(self, segment: Segment) -> Iterator[Cue]:
        """A segment as the fewest good cues that keep to the limits."""
        atoms = tuple(_atoms(segment))
        if not atoms:
            return
        for first, last in self._bounds(atoms):
            start = segment.start if first == 0 else atoms[first].start
            end = max(segment.end, start) if last == len(atoms) else atoms[last - 1].end
            yield Cue(start, end, atoms[first:last], segment.speaker)

    def _bounds(self, atoms: Line) -> list[tuple[int, int]]:
        """Where cues begin and end: the cheapest way through the text."""
        total = len(atoms)
        cheapest = [0.0, *[float("inf")] * total]
        before = [0] * (total + 1)
        for first in range(total):
            for last in self._ends(atoms, first):
                cost = cheapest[first] + _CUE + self._emptiness(atoms[first:last])
                cost += _break_cost(atoms[last - 1]) if last < total else 0.0
                if cost < cheapest[last]:
                    cheapest[last], before[last] = cost, first
        bounds = [(before[total], total)]
        while bounds[0][0]:
            bounds.insert(0, (before[bounds[0][0]], bounds[0][0]))
        return bounds

    def _ends(self, atoms: Line, first: int) -> Iterator[int]:
        """Where a cue that begins at `first` may end; one atom always fits."""
        if self._width is None and self._longest == float("inf"):
            if first == 0:
                yield len(atoms)
            return
        lines, column = 1, 0
        for last, atom in enumerate(atoms[first:], first):
            lines, column = _filled(lines, column, atom, self._width or _ENDLESS)
            late = atom.end - atoms[first].start > self._longest
            if last > first and (late or (self._count is not None and lines > self._count)):
                return
            yield last + 1

    def _emptiness(self, atoms: Line) -> float:
        """0 for a full cue, near 1 for one that flashes by."""
        if not (self._width and self._count):
            return 0.0
        return max(0.0, 1 - sum(atom.width for atom in atoms) / (self._width * self._count)) ** 2

    def _laid_out(self, cue: Cue) -> Cue:
        lines = _balanced(cue.atoms, self._width) if self._width else (cue.atoms,)
        return replace(cue, end=max(cue.end, round(cue.start + _FLASH, 3)), lines=lines)


def _spaced(atoms: Line) -> Line:
    """Atoms that come after others."""
    joins = bool(_UNSPACED.match(atoms[0].text))
    return (replace(atoms[0], is_spaced=not joins), *atoms[1:])


def _break_cost(atom: Atom) -> float:
    """How much it hurts to break after this."""
    bare = atom.text.rstrip(_CLOSING)
    if bare[-1:] in _SENTENCE_END:
        return 0.0
    if bare[-1:] in _CLAUSE_END:
        return _CLAUSE
    is_short = atom.width <= 3 and not _UNSPACED.match(atom.text)
    return _SHORT_WORD if is_short else _BREAK


def _lines_of(atoms: Line, width: int) -> int:
    """The fewest lines that hold them."""
    lines, column = 1, 0
    for atom in atoms:
        lines, column = _filled(lines, column, atom, width)
    return lines


def _filled(lines: int, column: int, atom: Atom, width: int) -> tuple[int, int]:
    """Lines and the last one's columns, once the atom stands in them too."""
    wider = column + (atom.is_spaced and column > 0) + atom.width
    return (lines, wider) if wider <= width or not column else (lines + 1, atom.width)


def _balanced(atoms: Line, width: int) -> tuple[Line, ...]:
    """The fewest lines, of like length, broken where it hurts least."""
    wanted = _lines_of(atoms, width)
    if wanted == 1:
        return (atoms,)
    total = len(atoms)
    fair = cell_len(text(atoms)) / wanted
    # cheapest[n][i]: the first i atoms in n lines.
    cheapest = [[float("inf")] * (total + 1) for _ in range(wanted + 1)]
    before = [[0] * (total + 1) for _ in range(wanted + 1)]
    cheapest[0][0] = 0.0
    for line in range(1, wanted + 1):
        for first in range(total):
            if cheapest[line - 1][first] == float("inf"):
                continue
            column = 0
            for last, atom in enumerate(atoms[first:], first + 1):
                column += (atom.is_spaced and column > 0) + atom.width
                if column > width and last > first + 1:
                    break
                cost = cheapest[line - 1][first] + _line_cost(column, fair, is_last=line == wanted)
                cost += _break_cost(atom) if last < total else 0.0
                if cost < cheapest[line][last]:
                    cheapest[line][last], before[line][last] = cost, first
    lines: list[Line] = []
    last = total
    for line in range(wanted, 0, -1):
        first = before[line][last]
        lines.insert(0, atoms[first:last])
        last = first
    return tuple(lines)


def _line_cost(column: int, fair: float, is_last: bool) -> float:
    """Uneven lines cost, and an upper line that is long a little more."""
    return 4 * ((column - fair) / fair) ** 2 + (0.0 if is_last else 0.2 * column / fair)


# Atoms ------------------------------------------------------------------------------------------------


def plain(written: str) -> str:
    """A text as one line: no control characters, single spaces."""
    shown = (" " if unicodedata.category(char) == "Cc" else char for char in written)
    return " ".join("".join(shown).split())


def _atoms(segment: Segment) -> Iterator[Atom]:
    line = plain(segment.text)
    clock = _Clock(line, segment)
    for found in re.finditer(r"\S+", line):
        start = found.start()
        for end in [*_breaks(found[0], start), found.end()]:
            is_spaced = start == found.start() and start > 0
            times = clock.at(start), clock.at(end, is_end=True)
            yield Atom(line[start:end], is_spaced, *times, is_timed=clock.knows(start))
            start = end


def _breaks(word: str, offset: int) -> Iterator[int]:
    """Where a word without spaces may be broken all the same."""
    for index in range(1, len(word)):
        before, after = word[index - 1], word[index]
        if not (_UNSPACED.match(before) or _UNSPACED.match(after)):
            continue
        if after in _NEVER_FIRST or unicodedata.category(after) in _NEVER_FIRST_KINDS:
            continue
        if unicodedata.category(before) not in _NEVER_LAST_KINDS:
            yield offset + index


class _Clock:
    """When each character of a segment's line is spoken."""

    def __init__(self, line: str, segment: Segment) -> None:
        self._spans: list[tuple[int, int, float, float]] = []
        at = 0
        for word in segment.words:
            written = plain(word.text)
            found = line.find(written, at)
            if written and found >= 0:
                at = found + len(written)
                self._spans.append((found, at, word.start, word.end))
        self._whole = (0, len(line), segment.start, segment.end)

    def knows(self, position: int) -> bool:
        return any(first <= position < last for first, last, _, _ in self._spans)

    def at(self, position: int, is_end: bool = False) -> float:
        """Seconds; at a border between two words the start of the second, or the end of the first."""
        for first, last, start, end in self._spans:
            if (first < position <= last) if is_end else (first <= position < last):
                return _between(position, first, last, start, end)
        return self._guess(position)

    def _guess(self, position: int) -> float:
        """In proportion, between the words that are known."""
        first, last, start, end = self._whole
        for begins, ends, begin_time, end_time in self._spans:
            if ends <= position:
                first, start = ends, end_time
            elif begins >= position:
                last, end = begins, begin_time
                break
        return _between(position, first, last, start, end)


def _between(position: int, first: int, last: int, start: float, end: float) -> float:
    part = (position - first) / (last - first) if last > first else 0.0
    return round(start + part * (end - start), 3)
