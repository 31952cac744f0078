"""GGML files of true dimensions and random weights, which say the same number of tokens in every window.

Such a file costs an engine what a trained one of its size does, and its text costs the same in each program.
The decoder's position embeddings hold, far stronger than all else, the token that is to follow: a window's
text is words of the vocabulary, each once, and then its end.
"""

import re
import struct
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.bare import demo
from server import ggml
from tests.test_ggml import Shape, Tensor

SHAPES = {
    "tiny": Shape(width=384, heads=6, audio_layers=4, text_layers=4, audio_ctx=1500, text_ctx=448),
    "base": Shape(width=512, heads=8, audio_layers=6, text_layers=6, audio_ctx=1500, text_ctx=448),
    "small": Shape(width=768, heads=12, audio_layers=12, text_layers=12, audio_ctx=1500, text_ctx=448),
}
"""OpenAI's models of these names, as f16 files have them."""

_SPREAD, _SPREAD_OF_TOKENS, _STRENGTH = 0.02, 0.05, np.float32(200)
"""Standard deviation of weights, that of the tokens' embeddings, and by how much positions outweigh those."""

_ENGLISH, _TRANSCRIBE, _END, _BEGIN = 50259, 50359, 50257, 50364
"""Tokens of the multilingual vocabulary: a language, a task, the end of the text, and the time 0.00."""

_WORD = re.compile(rb" [a-z]{4,8}")
_EVERY = 31
"""Of so many words of the vocabulary, one is said."""


def write_fixed(path: Path, name: str, words: int) -> Path:
    """A file of the dimensions of `name` that says so many words, a token each, in a window."""
    shape, random = SHAPES[name], np.random.default_rng(1)
    embedding = random.standard_normal((shape.vocab, shape.width), np.float32) * np.float32(_SPREAD_OF_TOKENS)
    positions = _STRENGTH * embedding[_follows(words, shape.text_ctx)]
    special = {"decoder.token_embedding.weight": embedding, "decoder.positional_embedding": positions}
    with path.open("wb") as file:
        file.write(shape.head + ggml.mel_filters(demo()).tobytes() + _vocabulary())
        for tensor in shape.tensors():
            numbers = special.get(tensor.name)
            file.write(tensor.head)
            file.write(_packed(tensor, _random(tensor, random) if numbers is None else numbers))
    return path


def _follows(words: int, positions: int) -> list[int]:
    """The token that follows at each position: language and task, a time, the words, the end."""
    spoken = [token for token, piece in enumerate(ggml.vocabulary(demo())) if _WORD.fullmatch(piece)]
    said = [_ENGLISH, _TRANSCRIBE, _BEGIN, *islice(spoken[::_EVERY], words)]
    return said + [_END] * (positions - len(said))


def _vocabulary() -> bytes:
    pieces = ggml.vocabulary(demo())
    return struct.pack("<i", len(pieces)) + b"".join(struct.pack("<i", len(one)) + one for one in pieces)


def _random(tensor: Tensor, random: np.random.Generator) -> NDArray[np.float32]:
    """Matrices are random; norms do nothing, and biases are nothing."""
    if len(tensor.dims) > 1 and tensor.dims[0] > 1:
        return random.standard_normal(np.prod(tensor.dims), np.float32) * np.float32(_SPREAD)
    is_norm = re.search(r"(_ln|ln_post|decoder\.ln)\.weight$", tensor.name)
    return np.full(np.prod(tensor.dims), 1 if is_norm else 0, np.float32)


def _packed(tensor: Tensor, numbers: NDArray[np.float32]) -> bytes:
    return numbers.astype("<f2" if tensor.type == 1 else "<f4").tobytes()
