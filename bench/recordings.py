"""Recordings of which everything is known: what is said, when each word is, in which language, and the rest.

Voices, noises and seeds come in two halves: settings are tuned on one, tables report the other.
"""

import io
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from bench.grammar import LANGUAGES, sentences
from server.types import SAMPLE_RATE, Word
from tests.speech import Pcm, silence, wav
from tests.voices import Voice, speak

Half = Literal["tune", "report"]

VOICES: dict[Half, dict[str, tuple[str, ...]]] = {
    "tune": {
        "en": ("en-us", "en-us+f2", "en-us+m1"),
        "de": ("de", "de+f2", "de+m1"),
        "es": ("es", "es+f2", "es+m1"),
        "fr": ("fr-fr", "fr-be+f2", "fr-be+m1"),
    },
    "report": {
        "en": ("en-us+m3", "en-us+f3", "en-us+m4"),
        "de": ("de+m3", "de+f3", "de+m4"),
        "es": ("es+m3", "es+f3", "es+m4"),
        "fr": ("fr-be+m3", "fr-be+f3", "fr-be"),
    },
}

SPEEDS = (140, 175)
"""Words a minute."""

PAUSES = (0.5, 1.2)
"""Seconds between sentences."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Something that is said in a recording."""

    text: str
    language: str
    start: float
    end: float
    words: tuple[Word, ...]
    """Those whose times are known, on the recording's axis."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A file and what is in it."""

    path: Path
    seconds: float
    sentences: tuple[Sentence, ...]

    @property
    def language(self) -> str | None:
        """The one language of it; None where there are several or none."""
        found = {sentence.language for sentence in self.sentences}
        return found.pop() if len(found) == 1 else None

    @property
    def silence(self) -> float:
        """Seconds in which nobody speaks."""
        return self.seconds - sum(sentence.end - sentence.start for sentence in self.sentences)


Spoil = Callable[[Pcm, np.random.Generator, Half], Pcm]
"""What is done to clean sound."""


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of recording."""

    title: str
    languages: tuple[str, ...]
    """One file for each; "" for files without speech, "mixed" for all languages in one."""
    spoil: Spoil = lambda pcm, random, half: pcm
    pauses: tuple[float, float] = PAUSES
    suffix: str = ".wav"
    rate: int = SAMPLE_RATE
    level: float = 1.0


def white(count: int, random: np.random.Generator) -> Pcm:
    return random.standard_normal(count).astype(np.float32)


def pink(count: int, random: np.random.Generator) -> Pcm:
    spectrum = np.fft.rfft(random.standard_normal(count))
    return _even(np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), count))


def music(count: int, random: np.random.Generator, tempo: float = 0.5) -> Pcm:
    """Chords of decaying harmonics."""
    sound = np.zeros(count + SAMPLE_RATE * 2, np.float64)
    scale = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    time = np.arange(int(1.5 * SAMPLE_RATE)) / SAMPLE_RATE
    for start in range(0, count, int(tempo * SAMPLE_RATE)):
        for pitch in random.choice(scale, 3, replace=False):
            tones = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in (1, 2, 3, 4))
            sound[start : start + len(time)] += tones * np.exp(-4 * time)
    return _even(sound[:count])


def _even(sound: NDArray[np.float64]) -> Pcm:
    """Of mean square 1."""
    even: Pcm = (sound / sound.std()).astype(np.float32)
    return even


def _noise(half: Half) -> Callable[[int, np.random.Generator], Pcm]:
    return white if half == "tune" else pink


def with_noise(decibels: float) -> Spoil:
    """Noise so far below the speech."""

    def spoil(pcm: Pcm, random: np.random.Generator, half: Half) -> Pcm:
        return pcm + _noise(half)(len(pcm), random) * _loud(pcm) * np.float32(10 ** (-decibels / 20))

    return spoil


def with_music(decibels: float) -> Spoil:
    def spoil(pcm: Pcm, random: np.random.Generator, half: Half) -> Pcm:
        tempo = 0.5 if half == "tune" else 0.35
        return pcm + music(len(pcm), random, tempo) * _loud(pcm) * np.float32(10 ** (-decibels / 20))

    return spoil


def only_noise(pcm: Pcm, random: np.random.Generator, half: Half) -> Pcm:
    """A third each of noise, of music, and of noise that swells."""
    third = len(pcm) // 3
    swell = 0.5 + 0.5 * np.sin(np.arange(third) / SAMPLE_RATE * 2 * np.pi / 3).astype(np.float32)
    parts = (_noise(half)(third, random), music(third, random), _noise(half)(third, random) * swell)
    made = np.concatenate(parts) * np.float32(0.05)
    return np.pad(made, (0, len(pcm) - len(made)))


def quieter(decibels: float) -> Spoil:
    return lambda pcm, random, half: pcm * np.float32(10 ** (-decibels / 20))


def clipped(pcm: Pcm, random: np.random.Generator, half: Half) -> Pcm:
    """Recorded 12 dB too loud."""
    loud: Pcm = np.clip(pcm * np.float32(4 / max(1e-6, float(np.abs(pcm).max()))), -1, 1)
    return loud


def offset(pcm: Pcm, random: np.random.Generator, half: Half) -> Pcm:
    return pcm * np.float32(0.5) + np.float32(0.3)


def _loud(pcm: Pcm) -> np.float32:
    """Root mean square of what is said."""
    heard = pcm[np.abs(pcm) > 0.01]
    return np.float32(np.sqrt((heard**2).mean())) if len(heard) else np.float32(0.05)


ALL = tuple(LANGUAGES)

ROWS: Mapping[str, Row] = {
    **{f"clean-{language}": Row(f"clean, {language}", (language,)) for language in LANGUAGES},
    "noise-20": Row("noise, 20 dB below the speech", ALL, with_noise(20)),
    "noise-10": Row("noise, 10 dB below", ALL, with_noise(10)),
    "noise-5": Row("noise, 5 dB below", ALL, with_noise(5)),
    "telephone": Row("telephone, 8 kHz mu-law", ALL, rate=8000, suffix=".tel.wav"),
    "mp3": Row("MP3 of 32 kbit/s", ALL, suffix=".mp3"),
    "pauses": Row("pauses of 5 to 20 s", ALL, pauses=(5.0, 20.0)),
    "breathless": Row("no pauses", ALL, pauses=(0.02, 0.08)),
    "music": Row("music, 10 dB below", ALL, with_music(10)),
    "quiet": Row("40 dB too quiet", ALL, quieter(40)),
    "clipped": Row("12 dB too loud", ALL, clipped),
    "offset": Row("DC offset of 0.3", ALL, offset),
    "mixed": Row("languages mixed, a sentence or three each", ("mixed",)),
    "silence": Row("silence", ("",)),
    "noise": Row("noise and music alone", ("",), only_noise),
}


def recordings(name: str, folder: Path, half: Half, seconds: float) -> list[Recording]:
    """The files of a row, `seconds` in all; the same for the same half."""
    row = ROWS[name]
    each = seconds / len(row.languages)
    return [_recording(name, row, language, folder, half, each) for language in row.languages]


def _recording(name: str, row: Row, language: str, folder: Path, half: Half, seconds: float) -> Recording:
    random = Random(f"{name} {language} {half}")
    said, pcm = _spoken(language, row, half, seconds, random) if language else ([], silence(seconds))
    pcm = row.spoil(pcm, np.random.default_rng(random.getrandbits(32)), half)
    path = folder / f"{half}-{name}-{language or 'none'}{row.suffix}"
    _write(path, pcm, row)
    return Recording(path, len(pcm) / SAMPLE_RATE, tuple(said))


def _spoken(
    language: str, row: Row, half: Half, seconds: float, random: Random
) -> tuple[list[Sentence], Pcm]:
    parts, said, at = [silence(0.5)], [], 0.5
    for spoken_in, text in _texts(language, random):
        voice = Voice(random.choice(VOICES[half][spoken_in]), random.randint(*SPEEDS))
        spoken = speak(text, voice)
        pause = random.uniform(*row.pauses)
        # Where there are no pauses, the silence that espeak-ng itself puts around goes too.
        begin, end = _edges(spoken.words, len(spoken.pcm)) if row.pauses[1] < 0.1 else (0, len(spoken.pcm))
        if at + (end - begin) / SAMPLE_RATE + pause > seconds:
            break
        by = at - begin / SAMPLE_RATE
        words = tuple(replace(word, start=word.start + by, end=word.end + by) for word in spoken.words)
        said.append(Sentence(text, spoken_in, words[0].start, words[-1].end, words))
        parts += [spoken.pcm[begin:end], silence(pause)]
        at += (end - begin) / SAMPLE_RATE + int(pause * SAMPLE_RATE) / SAMPLE_RATE
    pcm = np.concatenate(parts)
    return said, np.pad(pcm, (0, max(0, int(seconds * SAMPLE_RATE) - len(pcm))))


def _edges(words: Sequence[Word], length: int) -> tuple[int, int]:
    return int(words[0].start * SAMPLE_RATE), min(length, int(words[-1].end * SAMPLE_RATE) + 1)


def _texts(language: str, random: Random) -> Iterator[tuple[str, str]]:
    if language != "mixed":
        for text in sentences(language, random):
            yield language, text
    sources = {code: sentences(code, random) for code in LANGUAGES}
    before = ""
    while True:
        before = random.choice([code for code in LANGUAGES if code != before])
        for _ in range(random.randint(1, 3)):
            yield before, next(sources[before])


def _write(path: Path, pcm: Pcm, row: Row) -> None:
    if row.suffix == ".mp3":
        path.write_bytes(_encoded(pcm, "mp3", "libmp3lame", row.rate, 32_000))
    elif row.rate != SAMPLE_RATE:
        path.write_bytes(_encoded(pcm, "wav", "pcm_mulaw", row.rate))
    else:
        path.write_bytes(wav(pcm))


def _encoded(pcm: Pcm, format: str, codec: str, rate: int, bit_rate: int = 0) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as file:
        stream = cast(AudioStream, file.add_stream(codec, rate=rate, layout="mono"))
        if bit_rate:
            stream.bit_rate = bit_rate
        resampler = av.AudioResampler(stream.format.name, "mono", rate)
        frame = av.AudioFrame.from_ndarray(np.clip(pcm, -1, 1)[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for made in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(made))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def decoded(path: Path) -> Pcm:
    """A file as mono sound of 16 kHz, by FFmpeg: what the peers are given."""
    if path.suffix == ".wav" and not path.name.endswith(".tel.wav"):
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.astype(np.float32) / np.float32(32768)
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        frames = [made for frame in container.decode(audio=0) for made in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])
