"""What a model wrote is believed only where somebody speaks, and where it does not repeat itself.

Whisper's well-known faults: it loops, it writes subtitles' credits into silence and music, its timestamps
stray. Each guard says what it did, where and why; nothing is removed in silence.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from server import segments
from server.engines import compression_ratio
from server.repetition import Run, key, loop
from server.types import Decode, Guard, GuardKind, Heard, Segment, Window

_TOO_REPETITIVE = 2.4
"""Compression ratio above which OpenAI's Whisper does not believe a text."""

_RETRY_TEMPERATURE = 0.4

_FASTEST = 6.0
"""Words a second that a person says at most, for long."""

_NO_SPEECH = 0.6
_UNSURE = -1.0
"""No-speech probability and mean log probability at which OpenAI's Whisper does not believe a segment."""

_SPOKEN = 0.1
"""Seconds of voice activity without which nobody speaks."""

_LOOSE = 0.3
"""Seconds by which times may lie outside of voice activity, whose edges are soft."""

_HASTE = 0.5
"""Share of its first time in which nobody says the same again."""

_PHRASE = 3
"""Words of which that is known; "no" can be short."""

_BRISK = 16.0
"""Letters a second of somebody who speaks fast, where nothing else tells: in doubt, text stays."""

_PHANTOMS_FILE = "phantoms.txt"


@dataclass(frozen=True, slots=True)
class Guarded:
    """What is left of what was heard, and what was done to it; times count from the window's start."""

    heard: Heard
    guards: tuple[Guard, ...] = ()


def suspicion(heard: Heard) -> str:
    """Why a window is to be decoded again with `other_settings`; empty where it is believed."""
    if run := loop(_words(heard.segments)):
        return f"{run.length} words were repeated {run.times} times"
    ratio = compression_ratio("".join(segment.text for segment in heard.segments)) if heard.segments else 0.0
    return f"its compression ratio is {ratio:.1f}" if ratio > _TOO_REPETITIVE else ""


def other_settings(decode: Decode) -> Decode:
    """What a window that looped is decoded with the second time."""
    temperature = max(decode.temperature, _RETRY_TEMPERATURE)
    return replace(decode, temperature=temperature, prompt="", short_context=False)


def settled(first: Heard, second: Heard, window: Window, why: str) -> Guarded:
    """The better of two decodings of a window, without a loop that both have.

    A repetition that both wrote word by word, slowly enough for a mouth, has been said.
    """
    again = Guard("loop", "decoded_again", 0.0, window.duration, "", why)
    if not suspicion(second):
        return Guarded(second, (again,))
    texts = [[key(word) for word in _words(heard.segments)] for heard in (first, second)]
    if texts[0] == texts[1] and len(texts[0]) <= _FASTEST * _spoken(window):
        return Guarded(first, (again,))
    better = min(first, second, key=lambda heard: len(_words(heard.segments)))
    cut = _without_loops(better)
    return Guarded(cut.heard, (again, *cut.guards))


def guarded(heard: Heard, window: Window) -> Guarded:
    """The segments that are believed, at times at which somebody speaks."""
    kept: list[Segment] = []
    guards: list[Guard] = []
    for segment in heard.segments:
        if guard := _disbelief(segment, window) or (kept and _echo(segment, kept, window)):
            guards.append(guard)
            continue
        moved = _clamped(segment, window)
        kept.append(moved)
        if max(abs(moved.start - segment.start), abs(moved.end - segment.end)) > _LOOSE:
            why = f"the model put it at {segment.start:.2f} to {segment.end:.2f} s of its window"
            guards.append(Guard("time", "moved", moved.start, moved.end, segment.text.strip(), why))
    return Guarded(replace(heard, segments=tuple(kept)), tuple(guards))


def placed(guard: Guard, window: Window) -> Guard:
    """The same on the media's axis."""

    def at(time: float) -> float:
        return round(window.start + min(max(0.0, time), window.duration), 3)

    return replace(guard, start=at(guard.start), end=at(guard.end))


def _disbelief(segment: Segment, window: Window) -> Guard | None:
    def drop(kind: GuardKind, reason: str) -> Guard:
        return Guard(kind, "dropped", segment.start, segment.end, segment.text.strip(), reason)

    if _spoken(window) < _SPOKEN:
        return drop("no_speech", "voice activity hears nobody in this window")
    silent, score = segment.no_speech_prob or 0.0, segment.avg_logprob or 0.0
    if silent > _NO_SPEECH and score < _UNSURE:
        return drop("no_speech", f"no-speech probability {silent:.2f}, mean log probability {score:.2f}")
    if _overlap(segment.start, segment.end, window) < _SPOKEN and _is_phantom(segment.text):
        return drop("phantom", "models write this in silence, and voice activity hears nobody here")
    return None


def _echo(segment: Segment, kept: Sequence[Segment], window: Window) -> Guard | None:
    """The guard against a segment that says once more what the one before it said, where nobody can have."""
    before = kept[-1]
    if _keys(before) != _keys(segment) or len(segment.words) < _PHRASE:
        return None
    took, takes = before.end - before.start, segment.end - segment.start
    silent = _overlap(segment.start, segment.end, window) < _SPOKEN
    if not silent and (takes >= _HASTE * took or _has_room_for_two(kept, window)):
        return None
    there = "voice activity hears nobody there" if silent else f"in {takes:.2f} s after {took:.2f} s"
    reason = f"it was written again, {there}"
    return Guard("loop", "cut", segment.start, segment.end, segment.text.strip(), reason)


def _keys(segment: Segment) -> list[str]:
    return [key(word.text) for word in segment.words]


def _has_room_for_two(kept: Sequence[Segment], window: Window) -> bool:
    """Whether the last one has so much speech that it was said twice there: its words were laid over both."""
    last, others = kept[-1], [one for one in kept if _keys(one) != _keys(kept[-1])] or kept[:-1]
    spoken, letters = _amount(others, window)
    took, once = _amount([last], window)
    return took * (letters / spoken if spoken else _BRISK) > (1 + _HASTE) * once


def _amount(heard: Sequence[Segment], window: Window) -> tuple[float, int]:
    """Seconds of voice activity, and letters."""
    spoken = sum(_overlap(one.start, one.end, window) for one in heard)
    return spoken, sum(len(_letters(one.text)) for one in heard)


def _is_phantom(text: str) -> bool:
    return _letters(text) in _phantoms()


@cache
def _phantoms() -> frozenset[str]:
    """What Whisper is known to write where nobody speaks, in its larger languages."""
    lines = files("server").joinpath(_PHANTOMS_FILE).read_text("utf-8").splitlines()
    return frozenset(_letters(line) for line in lines if not line.startswith("#"))


def _letters(text: str) -> str:
    return re.sub(r"\W", "", text).casefold()


def _speech(window: Window) -> Sequence[tuple[float, float]]:
    """Voice activity; the whole window where nobody listened for it."""
    return ((0.0, window.duration),) if window.speech is None else window.speech


def _spoken(window: Window) -> float:
    """Seconds of voice activity."""
    return sum(end - begin for begin, end in _speech(window))


def _overlap(start: float, end: float, window: Window) -> float:
    return sum(max(0.0, min(end, until) - max(start, since)) for since, until in _speech(window))


def _clamped(segment: Segment, window: Window) -> Segment:
    """The segment within the voice activity that it overlaps, else at the one that is nearest."""
    every = _speech(window)
    spans = [span for span in every if span[0] < segment.end and span[1] > segment.start]
    spans = spans or [min(every, key=lambda span: max(span[0] - segment.end, segment.start - span[1]))]
    return segments.within(segment, spans[0][0] - _LOOSE, spans[-1][1] + _LOOSE)


def _words(heard: Sequence[Segment]) -> list[str]:
    return [word.text for segment in heard for word in segment.words]


def _without_loops(heard: Heard) -> Guarded:
    """Of each loop its first time."""
    guards: list[Guard] = []
    while run := loop(_words(heard.segments)):
        heard, guard = _cut(heard, run)
        guards.append(guard)
    return Guarded(heard, tuple(guards))


def _cut(heard: Heard, run: Run) -> tuple[Heard, Guard]:
    first, stop = run.start + run.length, run.end
    removed = [word for segment in heard.segments for word in segment.words][first:stop]
    kept = tuple(_kept(heard.segments, first, stop))
    text = " ".join(word.text for word in removed[: run.length])
    why = f'"{text}" was repeated {run.times} times'
    return replace(heard, segments=kept), Guard(
        "loop", "cut", removed[0].start, removed[-1].end, " ".join(word.text for word in removed), why
    )


def _kept(heard: Sequence[Segment], first: int, stop: int) -> Iterator[Segment]:
    """The segments without the words from `first` up to `stop`, counted through all of them."""
    at = 0
    for segment in heard:
        count = len(segment.words)
        parts = [(0, min(max(first - at, 0), count)), (max(min(stop - at, count), 0), count)]
        left = [segments.part(segment, *range) for range in parts if range[0] < range[1]]
        if left:
            yield segments.joined(left) if parts != [(0, count), (0, count)] else segment
        elif not count:
            yield segment
        at += count
