"""Laying turns of speakers over words: who says each word, and segments that have one speaker each.

A word goes to the turn that overlaps it most, of exclusive turns, of which no two overlap: a recogniser
hears one stream of words, and these turns keep of two voices the dominant one.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import hypot

from server.segments import part
from server.types import Diarized, Segment, Turn, Word

_STRETCHED = 0.6
"""Seconds of a word that count: recognisers stretch words over the pause that follows, into the next turn."""

_NEAR = 1.0
"""Seconds from a turn's edge within which a word outside all turns is surely of that speaker."""

_MOVED = 2
"""Words by which a change of speakers is moved to the end of a sentence."""

_OVERLAPPED = 0.5
"""Share of a segment during which somebody else speaks too, from which it is marked."""

_END = re.compile(r"[.!?…。！？][\"'”’»)\]」』]*$")


def numbered(
    diarized: Diarized, segments: Sequence[Segment] = (), known: Container[str] = frozenset()
) -> tuple[Diarized, tuple[Segment, ...]]:
    """Both with speakers named SPEAKER_00, SPEAKER_01 … by their first appearance, in words if there are.

    `segments`: already laid out, so that who is heard first in the text comes first. Those in `known` keep
    their names.
    """
    seen = [segment.speaker for segment in segments if segment.speaker]
    seen += [turn.speaker for turn in diarized.turns]
    unknown = [name for name in dict.fromkeys(seen) if name not in known]
    names = {old: f"SPEAKER_{number:02}" for number, old in enumerate(unknown)}
    return renamed(diarized, names), tuple(_called(segment, names) for segment in segments)


def _called(segment: Segment, names: Mapping[str, str]) -> Segment:
    """The same with other names of its speakers."""

    def called(speaker: str | None) -> str | None:
        return names.get(speaker or "", speaker)

    words = tuple(replace(word, speaker=called(word.speaker)) for word in segment.words)
    return replace(segment, speaker=called(segment.speaker), words=words)


def recognised(
    diarized: Diarized, known: Mapping[str, Sequence[float]], threshold: float
) -> tuple[Diarized, frozenset[str]]:
    """The same with speakers called by the known voices that they are like, and which of the names are used.

    `known`: embeddings by name. Each name goes to one speaker, the most alike pair first; below `threshold`,
    a cosine, nobody is recognised.
    """
    pairs = sorted(
        (
            (_likeness(vector, sample), speaker, name)
            for speaker, vector in diarized.embeddings.items()
            for name, sample in known.items()
        ),
        reverse=True,
    )
    names: dict[str, str] = {}
    scores: dict[str, float] = {}
    for score, speaker, name in pairs:
        if score >= threshold and speaker not in names and name not in scores:
            names[speaker], scores[name] = name, score
    return replace(renamed(diarized, names), scores=scores), frozenset(scores)


def _likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """Cosine of two vectors."""
    lengths = hypot(*one) * hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def renamed(diarized: Diarized, names: dict[str, str]) -> Diarized:
    """The same with other names of speakers; who is not in `names` keeps his."""

    def named(turns: Iterable[Turn]) -> tuple[Turn, ...]:
        return tuple(replace(turn, speaker=names.get(turn.speaker, turn.speaker)) for turn in turns)

    embeddings = {names.get(speaker, speaker): vector for speaker, vector in diarized.embeddings.items()}
    scores = {names.get(speaker, speaker): score for speaker, score in diarized.scores.items()}
    return Diarized(named(diarized.turns), named(diarized.exclusive), embeddings, scores)


def laid_over(segments: Iterable[Segment], diarized: Diarized) -> tuple[Segment, ...]:
    """The segments with a speaker on each and on its words, cut where the speaker changes.

    Without any turn nobody has a speaker. A segment far from every turn takes the nearest speaker and says
    that it is not certain. Ids count anew.
    """
    segments = tuple(segments)
    if not diarized.exclusive:
        return tuple(replace(segment, turn=False) for segment in segments)
    track, several = _Track(diarized.exclusive), _Several(diarized.turns)
    labels = iter(_labels([word for segment in segments for word in segment.words], track))
    pieces = [
        replace(piece, overlap=several.overlap(piece))
        for segment in segments
        for piece in _of_one_speaker(segment, [next(labels) for _ in segment.words], track)
    ]
    befores = [piece.speaker for piece in pieces[:1] + pieces]
    return tuple(
        replace(piece, id=number, turn=piece.speaker != before)
        for number, (piece, before) in enumerate(zip(pieces, befores, strict=False))
    )


@dataclass(frozen=True, slots=True)
class _Label:
    """Whose a word is."""

    speaker: str
    certain: bool


class _Track:
    """Turns of which no two overlap, found by time."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = sorted(turns, key=lambda turn: turn.start)
        self._starts = [turn.start for turn in self._turns]
        self._ends = [turn.end for turn in self._turns]

    def label(self, start: float, end: float, before: str | None) -> _Label:
        """The speaker with the most overlap, of equals `before`; without any, that of the nearest edge."""
        first, stop = bisect_right(self._ends, start), bisect_left(self._starts, end)
        shares: dict[str, float] = {}
        for turn in self._turns[first:stop]:
            shared = min(end, turn.end) - max(start, turn.start)
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared
        if shares:
            return _Label(max(shares, key=lambda speaker: (shares[speaker], speaker == before)), True)
        near = [(start - turn.end, turn.speaker) for turn in self._turns[max(0, first - 1) : first]]
        near += [(turn.start - end, turn.speaker) for turn in self._turns[stop : stop + 1]]
        distance, speaker = min(near)
        return _Label(speaker, distance <= _NEAR)


def _labels(words: Sequence[Word], track: _Track) -> Iterator[_Label]:
    labels: list[_Label] = []
    for word in words:
        before = labels[-1].speaker if labels else None
        # A zero-length word still lies in the turn around it.
        end = max(min(word.end, word.start + _STRETCHED), word.start + 0.01)
        labels.append(track.label(word.start, end, before))
    return iter(_at_sentences(words, labels))


def _at_sentences(words: Sequence[Word], labels: list[_Label]) -> list[_Label]:
    """Changes of speaker moved to the end of a sentence that is at most two words away."""
    changes = [n for n in range(1, len(labels)) if labels[n].speaker != labels[n - 1].speaker]
    moved = list(labels)
    for number, change in enumerate(changes):
        low = changes[number - 1] + 1 if number else 1
        high = changes[number + 1] - 1 if number + 1 < len(changes) else len(words) - 1
        places = range(max(low, change - _MOVED), min(high, change + _MOVED) + 1)
        ends = [place for place in places if _END.search(words[place - 1].text)]
        place = min(ends, key=lambda place: abs(place - change), default=change)
        for n in range(min(place, change), max(place, change)):
            moved[n] = labels[change if place < change else change - 1]
    return moved


def _of_one_speaker(segment: Segment, labels: Sequence[_Label], track: _Track) -> Iterator[Segment]:
    if not labels:
        label = track.label(segment.start, max(segment.end, segment.start + 0.01), None)
        yield replace(segment, speaker=label.speaker, speaker_certain=label.certain)
        return
    words = tuple(
        replace(word, speaker=label.speaker) for word, label in zip(segment.words, labels, strict=True)
    )
    segment = replace(segment, words=words)
    runs = [list(run) for _, run in groupby(range(len(words)), key=lambda n: words[n].speaker)]
    for run in runs:
        piece = part(segment, run[0], run[-1] + 1) if len(runs) > 1 else segment
        certain = any(labels[n].certain for n in run)
        yield replace(piece, speaker=words[run[0]].speaker, speaker_certain=certain)


class _Several:
    """The stretches in which more than one speaker is heard."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        edges = sorted([(turn.start, 1) for turn in turns] + [(turn.end, -1) for turn in turns])
        voices, self._starts, self._ends = 0, list[float](), list[float]()
        for (at, step), (after, _) in pairwise(edges):
            voices += step
            if voices > 1 and after > at:
                self._starts.append(at)
                self._ends.append(after)

    def overlap(self, segment: Segment) -> bool:
        """Whether it is one of them for over half of its length."""
        first, stop = bisect_right(self._ends, segment.start), bisect_left(self._starts, segment.end)
        stretches = zip(self._starts[first:stop], self._ends[first:stop], strict=True)
        shared = sum(min(end, segment.end) - max(start, segment.start) for start, end in stretches)
        return shared > _OVERLAPPED * (segment.end - segment.start)
