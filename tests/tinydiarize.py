"""A model with turns of speakers, made of the demo: where that ends a sentence with a full stop, this one
writes that somebody else goes on, if it is asked for turns; else the full stop.

There is no small model that was trained for it. This one's token is chosen by its weights as a trained one's
is: the row of `[_SOLM_]` in the token embedding is that of ".", scaled.
"""

import struct
from pathlib import Path

from server import ggml

DEMO = Path(__file__).parent.parent / "models" / "ggml-demo.bin"

_TURN = 50360
"""The token, in multilingual vocabularies."""

_BLOCK = 22
"""Bytes of 32 numbers in q5_0: a half-precision scale stands first."""

_LOUDER = 1.2


def write(path: Path) -> Path:
    """The model, as a file at `path`, whose name should end with -tdrz.bin."""
    data = bytearray(DEMO.read_bytes())
    (embedding,) = (one for one in ggml.tensors(DEMO) if one.name == "decoder.token_embedding.weight")
    row = embedding.size // embedding.shape[0]
    stop = embedding.offset + row * ggml.vocabulary(DEMO).index(b".")
    scaled = bytearray(data[stop : stop + row])
    for at in range(0, row, _BLOCK):
        (scale,) = struct.unpack_from("<e", scaled, at)
        struct.pack_into("<e", scaled, at, scale * _LOUDER)
    turn = embedding.offset + row * _TURN
    data[turn : turn + row] = scaled
    path.write_bytes(data)
    return path
