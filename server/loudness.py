"""Sentences of one loudness: a voice's next sentence is no louder or softer than its last."""

import numpy as np
from numpy.typing import NDArray

_LOUDNESS = 0.1
"""Root mean square that a sentence is brought to (-20 dBFS)."""
_GAINS = (0.25, 4.0)
_AUDIBLE = 0.01
"""Samples below are pauses."""


def levelled(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sound at the common loudness, and no peak cut off."""
    loud = sound[np.abs(sound) > _AUDIBLE]
    if not loud.size:
        return sound
    gain = float(np.clip(_LOUDNESS / np.sqrt(np.mean(np.square(loud))), *_GAINS))
    peak = float(np.abs(sound).max())
    return sound * np.float32(min(gain, 0.99 / peak))


def int16(sound: NDArray[np.float32]) -> bytes:
    """Samples from -1 to 1 as int16, little-endian."""
    return bytes(np.clip(sound * 32767, -32768, 32767).astype("<i2"))
