"""Media of any kind, and what holds for the answer to each."""

import io
import wave
from collections.abc import Iterable, Iterator
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np

from tests.speech import SENTENCES, Pcm, say, silence

VOICES = ("en-us", "de", "es", "fr-fr", "en-us+f3", "en-us+m4")

RATES = (8_000, 16_000, 22_050, 44_100)


def random_file(seed: int) -> tuple[bytes, float, dict[str, str]]:
    """A WAV file of speech, noise and silence in any order and shape, its length in seconds, and fields."""
    random = Random(seed)
    parts = [_part(random) for _ in range(random.randint(1, 6))]
    pcm: Pcm = np.concatenate([*parts, silence(0.2)]) * np.float32(10 ** random.uniform(-1.5, 0.3))
    noise = np.random.default_rng(seed).normal(0, 10 ** random.uniform(-4, -1.5), len(pcm))
    pcm = np.clip(pcm + noise.astype(np.float32) + random.choice((0, 0, 0.2)), -1, 1)
    channels, rate = random.choice((1, 1, 2)), random.choice(RATES)
    fields = {
        "response_format": "verbose_json",
        "timestamp_granularities[]": "word",
        "language": random.choice(("", "en", "multi")),
        "multichannel": random.choice(("false", "true")) if channels == 2 else "false",
    }
    return _wav(pcm, channels, rate), len(pcm) / rate, fields


def _part(random: Random) -> Pcm:
    kind = random.choice(("speech", "speech", "speech", "silence", "noise", "breathless"))
    if kind == "silence":
        return silence(random.uniform(0.05, 4))
    if kind == "noise":
        size = random.randint(1_000, 40_000)
        return np.random.default_rng(random.getrandbits(32)).normal(0, 0.1, size).astype(np.float32)
    spoken = say(random.choice(SENTENCES), random.choice(VOICES))
    if kind == "breathless":
        return np.concatenate([spoken[1_500:-4_000]] * random.randint(2, 5))
    return spoken[random.randint(0, 3_000) :]


def _wav(pcm: Pcm, channels: int, rate: int) -> bytes:
    """The samples as if they had been taken at that rate: also too slow and too fast speech."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.repeat(pcm[:, np.newaxis], channels, axis=1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def faults(answer: dict[str, Any], seconds: float) -> Iterator[str]:
    """What is out of order, doubled, or outside of the media in a verbose_json."""
    segments = answer["segments"]
    if [one["id"] for one in segments] != list(range(len(segments))):
        yield "ids are not in order"
    for one in segments:
        if not 0 <= one["start"] <= one["end"] <= seconds + 0.05:
            yield f"segment {one['id']} lies outside of the media"
    for channel in {one.get("channel") for one in segments}:
        for one, other in pairwise(one for one in segments if one.get("channel") == channel):
            if one["end"] > other["start"]:
                yield f"segment {other['id']} begins before {one['id']} ends"
    words = answer["words"]
    if not all(0 <= word["start"] <= word["end"] <= seconds + 0.05 for word in words):
        yield "a word lies outside of the media"
    if all("channel" not in one for one in segments):
        if any(one["end"] > other["start"] for one, other in pairwise(words)):
            yield "words are out of order"
        if _letters(word["word"] for word in words) != _letters([answer["text"]]):
            yield "words are missing or doubled"
    if "".join(one["text"] for one in segments).strip() != answer["text"]:
        yield "the text is not that of the segments"


def _letters(texts: Iterable[str]) -> str:
    return "".join("".join(texts).split())
