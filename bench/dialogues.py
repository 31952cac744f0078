"""Dialogues of which it is known who says what and when, and how near an answer is to that."""

import io
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import av
import jiwer
import numpy as np

from server.types import SAMPLE_RATE, Turn
from tests.speech import SENTENCES, Pcm, silence

VOICES = {
    "default": "espeak-ng -v en-us -p 50 --stdout",
    "f3": "espeak-ng -v en-us+f3 -p 50 --stdout",
    "f4-high": "espeak-ng -v en-us+f4 -p 85 --stdout",
    "m3-low": "espeak-ng -v en-us+m3 -p 20 --stdout",
    "whisper": "espeak-ng -v en-us+whisper -p 50 --stdout",
    "slt": "flite -voice slt -o /dev/stdout -t",
    "rms": "flite -voice rms -o /dev/stdout -t",
    "kal16": "flite -voice kal16 -o /dev/stdout -t",
}
"""Those that the pipeline knows (tests/fixtures/diarization/README.md), and what speaks a text in each."""

_LEVEL = 0.063
"""Root mean square of every sentence: -24 dBFS."""

_PAUSES = (0.3, 0.8)
"""Seconds between two sentences, of one speaker or not."""


_NEAR = 0.5
"""Seconds from its sentence within which a word may be heard."""


@dataclass(frozen=True, slots=True)
class Said:
    """A true word, plain, with the times of its sentence."""

    text: str
    voice: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A word of an answer, plain, with the time of its middle."""

    text: str
    speaker: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A recording whose turns are known, and its words where it was spoken here."""

    pcm: Pcm
    turns: tuple[Turn, ...]
    words: tuple[Said, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE


def spoken(voices: Sequence[str], seconds: float, seed: int = 1) -> Dialogue:
    """The voices take turns of one to three sentences each; each sentence is a turn."""
    dice = np.random.default_rng(seed)
    sound, turns, words, at = [silence(0.5)], list[Turn](), list[Said](), 0.5
    for voice, text in _lines(voices, dice):
        said, pause = _said(text, voice), silence(dice.uniform(*_PAUSES))
        turns.append(Turn(at, at + len(said) / SAMPLE_RATE, voice))
        words += [Said(word, voice, at, turns[-1].end) for word in plain(text).split()]
        sound += [said, pause]
        at = turns[-1].end + len(pause) / SAMPLE_RATE
        if at >= seconds:
            break
    return Dialogue(np.concatenate(sound), tuple(turns), tuple(words))


def _lines(voices: Sequence[str], dice: np.random.Generator) -> Iterator[tuple[str, str]]:
    while True:
        for voice in voices:
            for _ in range(dice.integers(1, 4)):
                yield voice, SENTENCES[dice.integers(len(SENTENCES))]


@cache
def _said(text: str, voice: str) -> Pcm:
    """A sentence without the silence around it, as loud as every other one."""
    told = subprocess.run([*VOICES[voice].split(), text], check=True, capture_output=True)
    pcm = _decoded(io.BytesIO(told.stdout))
    loud = np.flatnonzero(np.abs(pcm) > 0.02 * np.abs(pcm).max())
    pcm = pcm[loud[0] : loud[-1] + 1]
    levelled: Pcm = (pcm * (_LEVEL / np.sqrt(np.mean(pcm * pcm)))).astype(np.float32)
    return levelled


def plain(text: str) -> str:
    """Words without case and punctuation."""
    return re.sub(r"[^\w\s']", "", text.lower())


def excerpt(path: Path) -> Dialogue:
    """A recording with its turns in an RTTM file beside it."""
    rows = [line.split() for line in path.with_suffix(".rttm").read_text("utf-8").splitlines()]
    turns = (Turn(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in rows)
    return Dialogue(_decoded(str(path)), tuple(turns))


def _decoded(media: io.BytesIO | str) -> Pcm:
    with av.open(media, "r") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        frames = [done for frame in container.decode(audio=0) for done in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


# Scores -----------------------------------------------------------------------------------------------


def error_rate(true: Sequence[Turn], found: Sequence[Turn], seconds: float) -> float:
    """pyannote.metrics' diarization error rate over the whole sound, without a collar, overlaps scored."""
    from pyannote.core import Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    whole = Timeline([Segment(0, seconds)])
    return float(DiarizationErrorRate()(_annotation(true), _annotation(found), uem=whole))


def _annotation(turns: Sequence[Turn]) -> Any:
    from pyannote.core import Annotation, Segment

    made = Annotation()
    for number, turn in enumerate(turns):
        made[Segment(turn.start, turn.end), number] = turn.speaker
    return made


@dataclass(frozen=True, slots=True)
class Words:
    """Whose the words of an answer are."""

    laid: int
    """Words that lie beside a true one, be it the same or another in its place."""
    wrong: int
    """Those of them that somebody else says, by the kindest assignment of speakers to voices."""
    nobodys: int
    """Words without a speaker."""
    errors: float
    """Word error rate."""


def words(true: Sequence[Said], heard: Sequence[Heard]) -> Words:
    """How many words of the answer are given to the wrong speaker."""
    pairs = [(true[one].voice, heard[other].speaker) for one, other in _beside(true, heard)]
    errors = jiwer.wer(" ".join(word.text for word in true), " ".join(word.text for word in heard))
    return Words(len(pairs), _wrong(pairs), sum(not word.speaker for word in heard), float(errors))


def _beside(true: Sequence[Said], heard: Sequence[Heard]) -> list[tuple[int, int]]:
    """Places of words that lie beside each other where as few words as can be are missing, added or wrong."""
    costs = [list(range(len(heard) + 1))]
    for number, said in enumerate(true, 1):
        row = [number]
        for place, word in enumerate(heard):
            replaced = costs[-1][place] + _apart(said, word)
            row.append(min(replaced, costs[-1][place + 1] + 1, row[-1] + 1))
        costs.append(row)
    return _backwards(costs, true, heard)


def _apart(said: Said, word: Heard) -> int:
    """1 for another word in its place; words of other times never stand for each other."""
    if not said.start - _NEAR <= word.at <= said.end + _NEAR:
        return 3
    return int(said.text != word.text)


def _backwards(
    costs: Sequence[Sequence[int]], true: Sequence[Said], heard: Sequence[Heard]
) -> list[tuple[int, int]]:
    pairs, one, other = list[tuple[int, int]](), len(true), len(heard)
    while one and other:
        if costs[one][other] == costs[one - 1][other - 1] + _apart(true[one - 1], heard[other - 1]):
            one, other = one - 1, other - 1
            pairs.append((one, other))
        elif costs[one][other] == costs[one - 1][other] + 1:
            one -= 1
        else:
            other -= 1
    return pairs[::-1]


def _wrong(pairs: Sequence[tuple[str, str | None]]) -> int:
    """How many pairs of a voice and a speaker do not belong together, however speakers are matched."""
    voices = sorted({voice for voice, _ in pairs})
    speakers = sorted({speaker for _, speaker in pairs if speaker})
    # Where too few speakers were found, some voices are nobody's.
    speakers += [""] * max(0, len(voices) - len(speakers))
    return min(
        sum(matched.get(speaker or "") != voice for voice, speaker in pairs)
        for order in permutations(speakers, len(voices))
        for matched in [{name: voice for name, voice in zip(order, voices, strict=True) if name}]
    )
