"""When each word was said: tokens joined into words, and words laid over the sound they can be heard in.

Runs in the worker, behind every engine. Whisper's own token times are loose by a fifth of a second and more,
and few models have heads whose attention tells them. Words begin and end where the sound changes, keep the
proportions of their letters, have hisses where their letters do, and never lie in a pause: the boundaries
are chosen together, by dynamic programming over frames of 10 ms. Where the engine aligned its tokens,
boundaries stay near those times.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from server.types import SAMPLE_RATE, Heard, Segment, Token, Word

Floats = NDArray[np.float64]
Pcm = NDArray[np.float32]

_OPENING = frozenset("\"'“¿([{-«¡‘「『（")
"""Punctuation of the word after it."""

_CLOSING = frozenset("\"'.。,，!！?？:：;；”)]}、»…’」』）")
"""Punctuation of the word before it."""

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of languages written without spaces: Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese."""

_HOP = SAMPLE_RATE // 100
_FRAMES = 100.0
"""Frames of 10 ms in a second."""

_SLACK = 0.2
"""Seconds by which a segment's own times may be wrong."""

_QUIET, _LOUDER = 10, 90
"""Percentiles of a band's energy in a window that are taken for noise, since people pause, and for speech."""

_ABOVE, _AUDIBLE = 3.0, 3.0
"""Times the noise that is taken away before loudness is measured, and under which a spectrum has no shape."""

_DROWNED = 3.0
_DEAFEST = 1e-3
"""Times the noise that a band's loud frames must have to count at all, and how little it counts otherwise."""

_TELLING = 0.05
"""Least standard deviation of what is heeded."""

_FAINTEST = 1e-7
"""Energy of a frame that nobody hears."""

_RISE = 0.2
_DEEPEST = 30.0
"""A frame has voice from this share of the range from the quiet to the loud frames of a window, and never
more than so many dB below the loud ones."""

_BRIEF = 3
"""Frames of silence that are no pause but a stop consonant."""

_CHANGE, _LOUD, _PAUSE = 0.4, 1.0, 3.0
"""What a boundary gains where the sound changes, loses where it is loud, and gains in a pause."""

_LONG_PAUSE = 10.0
"""Frames from which a pause counts in full; the shortest counts half, since a stop consonant may be one."""

_BEGINNING = 1.25
"""Letters by which every word is longer than its letters."""

_DIGIT = 4.0
"""Letters that a digit is spoken with."""

_LINGER = 1.45
"""How much longer words last before punctuation."""

_SPREAD = 0.22
_LEAST_SPREAD = 1.0
"""How far a word's length strays from what its letters promise: a share of it, and frames on top."""

_HISSES = re.compile("sch|tch|sh|ch|ss|ß|s|zz|z|x|ç|c(?=[eiéèêy])", re.IGNORECASE)
"""What is mostly spoken as a hiss in languages with Latin letters."""

_HISS_FROM = 3300.0
_HISS_RANGE = 1e-3
"""Hertz above which a hiss has its energy, and the share of a loud frame's below which none is heard."""

_LONGEST_HISS = 10.0
_HISS_WEIGHT, _MOST_MISSED = 0.5, 8.0
"""Frames that a hiss lasts at most; what a word loses for each frame of hiss that it has too much or too
little, up to so many: letters are not always spoken."""

_DRIFT = 10.0
"""Frames, and a tenth of the root of the length, by which a boundary strays from its proportional place."""
_DRIFT_WEIGHT = 0.3

_ALIGNED = 6.0
"""Frames by which a boundary strays from where the engine's attention put it."""

_SHORTEST = 4
"""Frames of voice without which a word's segment is not believed to have its words in them."""

_LONGEST = 5.0
"""No word lasts longer than so many times what its letters promise, but for half a second."""


def timed(heard: Heard, pcm: Pcm, words: bool) -> Heard:
    """The segments at the times at which they can be heard, and with `words` so their words.

    `pcm`: the window, float32 mono 16 kHz. Segments and words are in order and inside the window.
    """
    sound = Sound(pcm)
    segments: list[Segment] = []
    for segment, (low, high) in zip(heard.segments, _bounds(heard.segments, sound.seconds), strict=True):
        floor = segments[-1].end if segments else 0.0
        segments.append(_timed(segment, sound, max(low, floor), high, words))
    return replace(heard, segments=tuple(segments))


class Sound:
    """What is seen of a window's sound when words are laid over it: what stands out of its noise."""

    def __init__(self, pcm: Pcm) -> None:
        self.seconds = len(pcm) / SAMPLE_RATE
        bands = _bands(_framed(pcm - pcm.mean() if len(pcm) else pcm))
        noise, loud = np.percentile(_smooth(bands), (_QUIET, _LOUDER), axis=0)
        # Where a band has little but noise, what stands out of it is noise too.
        clear = np.maximum(1 - _DROWNED * noise / loud, _DEAFEST)
        above = 10 * np.log10(_FAINTEST + np.maximum(bands - _ABOVE * noise, 0) @ clear)
        self.loudness: Floats = np.maximum(above, np.percentile(above, 95) - _DEEPEST - 5)
        """dB of each frame, without the noise."""
        even = _smooth(self.loudness)
        quiet, loud = np.percentile(even, (10, 95))
        self.voiced: NDArray[np.bool_] = even > max(quiet + _RISE * (loud - quiet), loud - _DEEPEST)
        self.hiss: Floats = _hiss(np.maximum(bands - _ABOVE * noise, 0))
        """Of each frame, which share of it is a hiss."""
        self._spectra: Floats = np.log(np.maximum(bands, _AUDIBLE * noise))

    @cached_property
    def change(self) -> Floats:
        """How much the spectrum of the 30 ms after each frame differs from that of the 30 ms before."""
        spectra = self._spectra
        padded = np.pad(spectra, ((3, 3), (0, 0)), mode="edge")
        sums = np.cumsum(np.vstack([np.zeros(spectra.shape[1]), padded]), axis=0)
        means = (sums[3:] - sums[:-3]) / 3
        change: Floats = np.abs(means[3 : 3 + len(spectra)] - means[: len(spectra)]).mean(axis=1)
        return change


def _bands(frames: Pcm) -> Floats:
    """Energy of each frame in each band, never nothing."""
    power = np.abs(np.fft.rfft(frames, 512)) ** 2
    bands: Floats = np.add.reduceat(power, _edges(), axis=1)[:, :-1].astype(np.float64) + 1e-8
    return bands


def _hiss(bands: Floats) -> Floats:
    energy = bands.sum(axis=1)
    first = np.searchsorted(_edges()[:-1] * (SAMPLE_RATE / 512), _HISS_FROM)
    audible = energy > _HISS_RANGE * np.percentile(energy, _LOUDER)
    hiss: Floats = np.where(audible, bands[:, first:].sum(axis=1) / (energy + _FAINTEST), 0.0)
    return hiss


def _smooth(values: Floats) -> Floats:
    """Means over 50 ms around each frame; frames come first."""
    edges = [(2, 2)] + [(0, 0)] * (values.ndim - 1)
    padded = np.pad(values, edges, mode="edge")
    smooth: Floats = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0).mean(axis=-1)
    return smooth


def _framed(pcm: Pcm) -> Pcm:
    count = max(1, len(pcm) // _HOP)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(pcm, (200, 400)), 400)
    framed: Pcm = windows[::_HOP][:count] * np.hanning(400).astype(np.float32)
    return framed


@lru_cache(maxsize=1)
def _edges() -> NDArray[np.int64]:
    """Bins at which 20 bands of equal width on the mel scale begin, from 80 to 7600 Hz."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (80, 7600))
    hertz = 700 * (10 ** (np.linspace(low, high, 22) / 2595) - 1)
    return np.unique(np.round(512 / SAMPLE_RATE * hertz).astype(np.int64))


def _bounds(segments: Sequence[Segment], seconds: float) -> Iterator[tuple[float, float]]:
    """The stretch of sound in which each segment may lie: its own, a little more, and none of another's."""
    middles = [(before.end + after.start) / 2 for before, after in pairwise(segments)]
    for segment, low, high in zip(segments, [0.0, *middles], [*middles, seconds], strict=False):
        yield max(segment.start - _SLACK, low), min(segment.end + _SLACK, high)


def _timed(segment: Segment, sound: Sound, low: float, high: float, words: bool) -> Segment:
    first, last = round(low * _FRAMES), min(round(high * _FRAMES), len(sound.voiced))
    units = tuple(joined(segment.logprobs)) if words else ()
    places = np.flatnonzero(_bridged(sound.voiced[first:last])) + first
    if len(places) < max(1, _SHORTEST * len(units)):
        places = np.arange(first, max(last, first + max(1, len(units))))
    if not units:
        return replace(segment, start=_seconds(places[0]), end=_seconds(places[-1] + 1), words=())
    placed = tuple(_placed(units, _Track(sound, places)))
    return replace(segment, start=placed[0].start, end=placed[-1].end, words=placed)


def _seconds(frame: np.int64) -> float:
    return float(frame / _FRAMES)


def _bridged(voiced: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The same with the briefest silences filled."""
    bridged = voiced.copy()
    places = np.flatnonzero(voiced)
    for before, after in pairwise(places.tolist()):
        if after - before <= _BRIEF:
            bridged[before:after] = True
    return bridged


# Tokens to words --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unit:
    """A word before its place is known."""

    text: str
    tokens: tuple[Token, ...]

    @property
    def probability(self) -> float:
        return float(np.exp(np.mean([token.logprob for token in self.tokens])))

    @property
    def length(self) -> float:
        """How long it lasts in the mouth, in letters."""
        letters = sum(_DIGIT if letter.isdigit() else letter.isalpha() for letter in self.text)
        return float((letters + _BEGINNING) * (_LINGER if self.text[-1] in ".,?!;:。，、？！…" else 1))

    @property
    def hisses(self) -> int:
        """Letters and groups of them that are spoken as a hiss."""
        return len(_HISSES.findall(self.text))


def joined(tokens: Sequence[Token]) -> Iterator[Unit]:
    """Tokens as words with their punctuation; where a language has no spaces, what a token has is one."""
    groups: list[tuple[str, tuple[Token, ...]]] = []
    for text, parts in _characters(tokens):
        if groups and not _begins(groups[-1][0], text):
            groups[-1] = (groups[-1][0] + text, groups[-1][1] + parts)
        elif text.strip() or groups:
            groups.append((text, parts))
    for text, parts in groups:
        yield Unit(text.strip(), parts)


def _characters(tokens: Sequence[Token]) -> Iterator[tuple[str, tuple[Token, ...]]]:
    """Tokens, joined where a character begins in one and ends in the next."""
    waiting: tuple[Token, ...] = ()
    for token in tokens:
        waiting += (token,)
        try:
            yield b"".join(part.text for part in waiting).decode(), waiting
        except UnicodeDecodeError:
            continue
        waiting = ()
    if waiting:
        yield b"".join(part.text for part in waiting).decode("utf-8", "replace"), waiting


def _begins(before: str, text: str) -> bool:
    """Whether `text` is a new word rather than more of the one `before`."""
    bare, spaced = text.strip(), text[0] == " " or before[-1] == " "
    if not bare or unicodedata.category(bare[0]).startswith("M") or set(before.strip()) <= _OPENING:
        return False
    if set(bare) <= _CLOSING and not (spaced and set(bare) <= _OPENING):
        return False
    return spaced or any(_UNSPACED.match(letter) for letter in (bare[0], before.rstrip("。，、？！")[-1:]))


# Words over sound -------------------------------------------------------------------------------------


class _Track:
    """The voiced frames of a segment, one after the other, with what a boundary at each costs."""

    def __init__(self, sound: Sound, places: NDArray[np.int64]) -> None:
        self.places = places
        """Frames of the window."""
        gaps = np.concatenate([[0], np.diff(places) - 1])
        pauses = np.where(gaps > 0, np.clip(gaps / _LONG_PAUSE, 0.5, 1.0), 0.0)
        change, loudness = (
            _standard(values[np.clip(places, 0, len(values) - 1)])
            for values in (sound.change, sound.loudness)
        )
        self.hissed: Floats = np.cumsum(np.pad(sound.hiss[np.clip(places, 0, len(sound.hiss) - 1)], (1, 0)))
        """Frames of hiss before each place, and before the end."""
        self.cost: Floats = _LOUD * loudness - _CHANGE * change - _PAUSE * pauses

    def __len__(self) -> int:
        return len(self.places)

    def at(self, seconds: float) -> int:
        """The place in the track of a time in the window."""
        return int(np.searchsorted(self.places, seconds * _FRAMES))


def _standard(values: Floats) -> Floats:
    """In standard deviations from their mean; what hardly varies tells nothing."""
    standard: Floats = (values - values.mean()) / max(values.std(), _TELLING)
    return standard


def _placed(units: Sequence[Unit], track: _Track) -> Iterator[Word]:
    begin = 0
    for unit, end in zip(units, _boundaries(units, track), strict=True):
        start, stop = _seconds(track.places[begin]), _seconds(track.places[end - 1] + 1)
        ends_turn = any(token.ends_turn for token in unit.tokens)
        yield Word(unit.text, start, stop, unit.probability, ends_turn=ends_turn)
        begin = end


def _boundaries(units: Sequence[Unit], track: _Track) -> list[int]:
    """Where in the track each word ends: the choice of least cost, found from the first word to the last."""
    lengths = np.array([unit.length for unit in units])
    expected = lengths / lengths.sum() * len(track)
    hisses = _hisses(units, track)
    best = np.full(len(track) + 1, np.inf)
    best[0] = 0.0
    steps: list[NDArray[np.int64]] = []
    for number, wanted in enumerate(expected):
        last = number == len(units) - 1
        longest = min(len(track) if last else int(_LONGEST * wanted) + 50, len(track))
        extra = 0.0 if hisses is None else _missed(track.hissed, hisses[number], longest)
        best, step = _extended(best, wanted, longest, extra)
        steps.append(step)
        if not last:
            best[:-1] += track.cost + _strayed(units, number, expected, track)
    ends = [len(track)]
    for step in reversed(steps[1:]):
        ends.append(ends[-1] - int(step[ends[-1]]))
    return ends[::-1]


def _extended(
    best: Floats, wanted: float, longest: int, extra: Floats | float
) -> tuple[Floats, NDArray[np.int64]]:
    """The costs with one more word that ends at each place, and the length of that word there.

    `extra`: what each length costs at each place besides, the longest first.
    """
    lengths = np.arange(longest, 0, -1)
    price = ((lengths - wanted) / (_SPREAD * wanted + _LEAST_SPREAD)) ** 2
    total = _since(best, longest, np.inf) + price + extra
    chosen = total.argmin(axis=1)
    return total[np.arange(len(best)), chosen], lengths[chosen]


def _since(values: Floats, longest: int, before: float) -> Floats:
    """For each place the values at those `longest` to one places earlier; `before` all of them: `before`."""
    padded = np.pad(values, (longest, 0), constant_values=before)
    since: Floats = np.lib.stride_tricks.sliding_window_view(padded, longest)[: len(values)]
    return since


def _hisses(units: Sequence[Unit], track: _Track) -> Floats | None:
    """Frames of hiss that each word should have; None where the letters promise none."""
    counts = np.array([unit.hisses for unit in units], float)
    promised = counts.sum()
    return counts * min(track.hissed[-1] / promised, _LONGEST_HISS) if promised else None


def _missed(hissed: Floats, wanted: float, longest: int) -> Floats:
    """What a word with so many frames of hiss costs, by its end and its length, the longest first."""
    has = hissed[:, np.newaxis] - _since(hissed, longest, 0.0)
    missed: Floats = _HISS_WEIGHT * np.minimum(np.abs(has - wanted), _MOST_MISSED)
    return missed


def _strayed(units: Sequence[Unit], number: int, expected: Floats, track: _Track) -> Floats:
    """What it costs that a word ends away from where it is expected to."""
    places = np.arange(len(track), dtype=float)
    start = units[number + 1].tokens[0].start
    if start is not None:
        return _squared((places - track.at(start)) / _ALIGNED)
    drift = _DRIFT + 0.1 * len(track) ** 0.5
    return _DRIFT_WEIGHT * _squared((places - expected[: number + 1].sum()) / drift)


def _squared(values: Floats) -> Floats:
    return values**2
