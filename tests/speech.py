"""Speech whose words are known: espeak-ng says sentences of the demo model's grammar."""

import io
import subprocess
import wave
from collections.abc import Iterable
from functools import lru_cache

import av
import numpy as np
from numpy.typing import NDArray

from server.types import SAMPLE_RATE

Pcm = NDArray[np.float32]

SENTENCES = (
    "The weather is beautiful today.",
    "Peter lives in London.",
    "Turn on the light in the kitchen.",
    "My favorite color is green.",
    "The train to Paris leaves at seven.",
    "Good morning, Anna, how are you?",
    "Thank you very much, David.",
    "Where is the garden?",
    "Remind me to buy milk on Friday.",
    "Turn off the light in the office.",
    "I would like a cup of tea, please.",
    "The quick brown fox jumps over the lazy dog.",
)
"""Sentences that the demo model hears without an error in espeak-ng's voice en-us."""


@lru_cache(maxsize=256)
def say(text: str, voice: str = "en-us") -> Pcm:
    """Speech of `text`, float32 mono 16 kHz."""
    spoken = subprocess.run(
        ["espeak-ng", "-v", voice, "--stdout", text], check=True, capture_output=True
    ).stdout
    with av.open(io.BytesIO(spoken), "r") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


def silence(seconds: float) -> Pcm:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def talk(sentences: Iterable[str] = SENTENCES, pause: float = 0.8, voice: str = "en-us") -> Pcm:
    """Sentences one after the other, each followed by `pause` seconds of silence."""
    return np.concatenate([part for text in sentences for part in (say(text, voice), silence(pause))])


def wav(pcm: Pcm, rate: int = SAMPLE_RATE) -> bytes:
    """A 16-bit WAV file of mono sound."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
