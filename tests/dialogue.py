"""Dialogues whose words, speakers and turns are known: espeak-ng's voices take turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.types import SAMPLE_RATE, Turn
from tests.speech import SENTENCES, Pcm, say, silence

PIPELINE = Path(__file__).parent / "fixtures" / "diarization"
"""A small real pipeline in the layout of community-1; it knows synthetic voices only, see its README.md."""

AGGLOMERATIVE = """version: 3.1.0
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params:
    clustering: AgglomerativeClustering
    embedding: pyannote/wespeaker-voxceleb-resnet34-LM
    embedding_batch_size: 32
    embedding_exclude_overlap: true
    segmentation: pyannote/segmentation-3.0
    segmentation_batch_size: 32
params:
  clustering:
    method: centroid
    min_cluster_size: 12
    threshold: 0.7045654963945799
  segmentation:
    min_duration_off: 0.0
"""
"""The configuration of pyannote/speaker-diarization-3.1."""

TWO = ("en-us", "en-us+f3")
"""Two voices that it tells apart."""

_LEVEL = 0.063
"""Root mean square of every line: -24 dBFS."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    pcm: Pcm
    turns: tuple[Turn, ...]
    """The true ones, named by voice; one for each line."""
    lines: tuple[str, ...]


def dialogue(voices: Sequence[str] = TWO, lines: int = 8, gap: float = 0.5) -> Dialogue:
    """The voices speak by turns, each line two sentences long, `gap` seconds apart."""
    sound, turns, said, at = [silence(gap)], [], [], gap
    for number in range(lines):
        text = f"{SENTENCES[number % 10]} {SENTENCES[(number + 3) % 10]}"
        spoken = _line(text, voices[number % len(voices)])
        turns.append(Turn(at, at + len(spoken) / SAMPLE_RATE, voices[number % len(voices)]))
        sound += [spoken, silence(gap)]
        said.append(text)
        at = turns[-1].end + gap
    return Dialogue(np.concatenate(sound), tuple(turns), tuple(said))


def _line(text: str, voice: str) -> Pcm:
    """Without the silence around it, which is no turn, and as loud as every other line."""
    pcm = say(text, voice)
    loud = np.flatnonzero(np.abs(pcm) > 0.02 * np.abs(pcm).max())
    pcm = pcm[loud[0] : loud[-1] + 1]
    levelled: Pcm = pcm * np.float32(_LEVEL / np.sqrt(np.mean(pcm * pcm)))
    return levelled
