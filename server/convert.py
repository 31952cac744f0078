"""A GGML Whisper file made into a CTranslate2 model: the same weights, packed for its kernels.

The result is a folder with `model.bin`, `config.json`, `vocabulary.json` and the file's own mel filters,
written matrix by matrix: memory never holds more than one of them, packed. The layout is that of
CTranslate2's own converter (OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py), which would hold
the whole model in float32, and load torch where that is installed.
"""

import json
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from server import alignment, digests, ggml
from server.child import Parent
from server.errors import ModelBroken
from server.ggml import LANGUAGES, Header, TensorHeader

Precision = Literal["int8", "float16"]
"""How the matrices of the result are packed: int8 for CPUs, float16 for GPUs."""

Tell = Callable[[float], None]
"""Is told how much is done, from 0 to 1."""

_Array = NDArray[Any]

_BINARY_VERSION = 6
_REVISION = 3
_TYPES = ("float32", "int8", "int16", "int32", "float16")
"""Numbers of the types in `model.bin`, by position (CTranslate2, include/ctranslate2/types.h)."""

_GELU = 3
"""CTranslate2's number of that activation."""

_LARGEST_INT8 = 127.0

_SLICE = 1 << 22
"""Numbers that are unpacked at a time."""

_TIMESTAMPS = 1501
"""Tokens from <|0.00|> to <|30.00|>."""

_PROCESS = 150 << 20
"""Bytes of a process that converts, beside the matrices."""

_TELLING = 0.5
"""Seconds between two messages about the progress."""


class Progress(msgspec.Struct, tag=True):
    """From the converting process: how much is done, from 0 to 1."""

    share: float


class Converted(msgspec.Struct, tag=True):
    """From the converting process: the folder is there."""


class Failed(msgspec.Struct, tag=True):
    """From the converting process: it cannot be done."""

    message: str


FromConverter = Progress | Converted | Failed


def main() -> None:
    """A process that converts one file: model, folder and precision are its arguments."""
    parent = Parent[Progress](Progress)
    model, folder, precision = Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
    assert precision in get_args(Precision)
    # Only to end with the parent, which sends nothing.
    parent.hear(lambda _: None)
    last = 0.0

    def tell(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > _TELLING:
            last = time.monotonic()
            parent.send(Progress(share))

    try:
        convert(model, folder, precision, tell)  # type: ignore[arg-type]
    except ModelBroken as error:
        parent.send(Failed(str(error)))
    except OSError as error:
        parent.send(Failed(f"{folder.parent} cannot be written: {error.strerror}"))
    else:
        parent.send(Converted())


def convert(model: Path, folder: Path, precision: Precision, tell: Tell = lambda share: None) -> None:
    """Make `folder`, whole or not at all, from a GGML file. Raises ModelBroken and OSError."""
    header, tensors = ggml.check(model), {tensor.name: tensor for tensor in ggml.tensors(model)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = digests.temporary_name(folder)
    temporary.mkdir()
    try:
        with model.open("rb") as file, (temporary / "model.bin").open("xb") as result:
            _write_model(_Weights(file, tensors, precision), header, result, tell)
        _write_json(temporary / "config.json", _config(header, model))
        _write_json(temporary / "vocabulary.json", _vocabulary(header, ggml.vocabulary(model)))
        np.save(temporary / "mel_filters.npy", ggml.mel_filters(model))
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def size(header: Header, precision: Precision) -> int:
    """Bytes of the result, to within a hundredth."""
    numbers = ggml.numbers(header)
    return numbers if precision == "int8" else 2 * numbers


def memory(header: Header) -> int:
    """Bytes that the converting process takes: itself, and twice the largest matrix in bytes."""
    return _PROCESS + 2 * header.vocab * header.text_state


# Tensors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Weights:
    """The tensors of a GGML file, and how the result has them packed."""

    file: BinaryIO
    tensors: dict[str, TensorHeader]
    precision: Precision

    def rows(self, name: str) -> Iterator[NDArray[np.float32]]:
        """A tensor's numbers, some rows at a time, so that the largest ones are never held in float32."""
        import gguf

        tensor = self.tensors[name]
        packed = gguf.GGMLQuantizationType(tensor.type)
        count = prod(tensor.shape[:-1])
        step = max(1, _SLICE * count // prod(tensor.shape))
        for first in range(0, count, step):
            rows = min(step, count - first)
            self.file.seek(tensor.offset + tensor.size // count * first)
            data = np.frombuffer(self.file.read(tensor.size // count * rows), np.uint8)
            yield np.asarray(gguf.dequantize(data.reshape(rows, -1), packed), np.float32)

    def plain(self, name: str) -> _Array:
        """A vector, or a table of positions."""
        numbers = np.concatenate(list(self.rows(name))).reshape(self.tensors[name].shape)
        return numbers.astype(np.float16) if self.precision == "float16" else numbers

    def packed(self, name: str, *parts: str) -> Iterator[tuple[str, _Array]]:
        """A matrix, or several above each other, as the variable `name`, with its scale where it has one."""
        first, *others = (self.tensors[part].shape for part in parts)
        shape = (first[0] + sum(other[0] for other in others), *first[1:])
        matrix = np.empty(shape, np.int8 if self.precision == "int8" else np.float16)
        # Of a convolution, a row is all that goes into one output.
        flat, scale, at = matrix.reshape(shape[0], -1), np.ones(shape[0], np.float32), 0
        for rows in chain.from_iterable(self._outputs(part) for part in parts):
            here = slice(at, at := at + len(rows))
            flat[here], scale[here] = _in_bytes(rows) if self.precision == "int8" else (rows, 1.0)
        yield name, matrix
        if self.precision == "int8":
            yield f"{name}_scale", scale

    def _outputs(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Rows of a matrix; those of a convolution are joined, it is small."""
        shape = self.tensors[name].shape
        if len(shape) == 2:
            return self.rows(name)
        return iter((np.concatenate(list(self.rows(name))).reshape(shape[0], -1),))


def _in_bytes(rows: NDArray[np.float32]) -> tuple[_Array, NDArray[np.float32]]:
    """Rows as whole numbers, and what each was multiplied with."""
    largest = np.abs(rows).max(axis=1)
    largest[largest == 0] = _LARGEST_INT8
    scale = np.float32(_LARGEST_INT8) / largest
    return np.rint(rows * scale[:, np.newaxis]).astype(np.int8), scale


_Variables = Iterator[tuple[str, _Array]]


def _variables(weights: _Weights, header: Header) -> _Variables:
    yield from _encoder(weights, header)
    yield from _decoder(weights, header)


def _encoder(weights: _Weights, header: Header) -> _Variables:
    yield "encoder/num_heads", np.array(header.audio_heads, np.int16)
    for conv in "conv1", "conv2":
        yield from weights.packed(f"encoder/{conv}/weight", f"encoder.{conv}.weight")
        yield f"encoder/{conv}/bias", weights.plain(f"encoder.{conv}.bias").reshape(-1)
    yield "encoder/position_encodings/encodings", weights.plain("encoder.positional_embedding")
    yield from _norm(weights, "encoder/layer_norm", "encoder.ln_post")
    for index in range(header.audio_layers):
        name, block = f"encoder/layer_{index}", f"encoder.blocks.{index}"
        yield from _self_attention(weights, f"{name}/self_attention", f"{block}.attn")
        yield from _feed_forward(weights, f"{name}/ffn", block)


def _decoder(weights: _Weights, header: Header) -> _Variables:
    yield "decoder/num_heads", np.array(header.text_heads, np.int16)
    yield "decoder/activation", np.array(_GELU, np.int8)
    yield "decoder/alignment_heads", np.array(1, np.int16)
    yield "decoder/alignment_layer", np.array(-1, np.int16)
    yield "decoder/pre_norm", np.array(1, np.int8)
    for name in (
        "alibi",
        "alibi_use_positive_positions",
        "scale_alibi",
        "scale_embeddings",
        "start_from_zero_embedding",
    ):
        yield f"decoder/{name}", np.array(0, np.int8)
    yield from weights.packed("decoder/embeddings/weight", "decoder.token_embedding.weight")
    yield "decoder/position_encodings/encodings", weights.plain("decoder.positional_embedding")
    yield from _norm(weights, "decoder/layer_norm", "decoder.ln")
    for index in range(header.text_layers):
        name, block = f"decoder/layer_{index}", f"decoder.blocks.{index}"
        yield from _self_attention(weights, f"{name}/self_attention", f"{block}.attn")
        yield from _cross_attention(weights, f"{name}/attention", f"{block}.cross_attn")
        yield from _feed_forward(weights, f"{name}/ffn", block)


def _norm(weights: _Weights, name: str, tensor: str) -> _Variables:
    yield f"{name}/gamma", weights.plain(f"{tensor}.weight")
    yield f"{name}/beta", weights.plain(f"{tensor}.bias")


def _self_attention(weights: _Weights, name: str, tensor: str) -> _Variables:
    """Query, key and value as one matrix."""
    yield from _norm(weights, f"{name}/layer_norm", f"{tensor}_ln")
    parts = [f"{tensor}.{part}" for part in ("query", "key", "value")]
    yield from weights.packed(f"{name}/linear_0/weight", *(f"{part}.weight" for part in parts))
    query, value = weights.plain(f"{parts[0]}.bias"), weights.plain(f"{parts[2]}.bias")
    yield f"{name}/linear_0/bias", np.concatenate([query, np.zeros_like(query), value])
    yield from _linear(weights, f"{name}/linear_1", f"{tensor}.out")


def _cross_attention(weights: _Weights, name: str, tensor: str) -> _Variables:
    """The query for itself, key and value as one matrix."""
    yield from _norm(weights, f"{name}/layer_norm", f"{tensor}_ln")
    yield from _linear(weights, f"{name}/linear_0", f"{tensor}.query")
    yield from weights.packed(f"{name}/linear_1/weight", f"{tensor}.key.weight", f"{tensor}.value.weight")
    value = weights.plain(f"{tensor}.value.bias")
    yield f"{name}/linear_1/bias", np.concatenate([np.zeros_like(value), value])
    yield from _linear(weights, f"{name}/linear_2", f"{tensor}.out")


def _feed_forward(weights: _Weights, name: str, tensor: str) -> _Variables:
    yield from _norm(weights, f"{name}/layer_norm", f"{tensor}.mlp_ln")
    yield from _linear(weights, f"{name}/linear_0", f"{tensor}.mlp.0")
    yield from _linear(weights, f"{name}/linear_1", f"{tensor}.mlp.2")


def _linear(weights: _Weights, name: str, tensor: str) -> _Variables:
    yield from weights.packed(f"{name}/weight", f"{tensor}.weight")
    yield f"{name}/bias", weights.plain(f"{tensor}.bias")


# Files ------------------------------------------------------------------------------------------------


def _write_model(weights: _Weights, header: Header, file: BinaryIO, tell: Tell) -> None:
    file.write(struct.pack("<I", _BINARY_VERSION))
    _write_string(file, "WhisperSpec")
    file.write(struct.pack("<I", _REVISION))
    at = file.tell()
    file.write(struct.pack("<I", 0))
    whole, count = size(header, weights.precision), 0
    for name, numbers in _variables(weights, header):
        _write_variable(file, name, numbers)
        count += 1
        tell(min(1.0, file.tell() / whole))
    # What a token looks like when it is written is what it looks like when it is read.
    file.write(struct.pack("<I", 1))
    _write_string(file, "decoder/projection/weight")
    _write_string(file, "decoder/embeddings/weight")
    file.seek(at)
    file.write(struct.pack("<I", count))


def _write_variable(file: BinaryIO, name: str, numbers: _Array) -> None:
    _write_string(file, name)
    file.write(struct.pack(f"<B{numbers.ndim}I", numbers.ndim, *numbers.shape))
    file.write(struct.pack("<BI", _TYPES.index(str(numbers.dtype)), numbers.nbytes))
    file.write(numbers.tobytes())


def _write_string(file: BinaryIO, text: str) -> None:
    data = text.encode() + b"\0"
    file.write(struct.pack("<H", len(data)) + data)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), "utf-8")


def _config(header: Header, model: Path) -> dict[str, object]:
    first = _end_of_text(header)
    return {
        "alignment_heads": alignment.published(header, model.stem) or alignment.upper(header),
        "aligns": bool(alignment.published(header, model.stem)),
        "lang_ids": [first + 2 + index for index in range(len(header.languages))],
        "max_length": header.text_ctx,
        "suppress_ids": [],
        "suppress_ids_begin": [_SPACE, first],
    }


_SPACE = 220
"""The token of a space alone: no text begins with it."""


def _end_of_text(header: Header) -> int:
    """The first of the special tokens."""
    return 50257 if header.multilingual else 50256


def _vocabulary(header: Header, stored: tuple[bytes, ...]) -> list[str]:
    """Every token as GPT-2's vocabulary writes it, special ones by their names."""
    first = _end_of_text(header)
    plain = [written(token) for token in stored[:first]]
    # Some files leave out what was never learnt.
    missing = [f"<|unused_{index}|>" for index in range(len(plain), first)]
    return [*plain, *missing, *_special_names(header)][: header.vocab]


def _special_names(header: Header) -> Iterator[str]:
    yield "<|endoftext|>"
    yield "<|startoftranscript|>"
    # English-only models have tokens for languages too, and never use them.
    languages = tuple(LANGUAGES)[: max(99, len(header.languages))]
    yield from (f"<|{code}|>" for code in languages)
    yield from (
        f"<|{name}|>"
        for name in ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    )
    yield from (f"<|{index * 0.02:.2f}|>" for index in range(_TIMESTAMPS))


def _byte_names() -> dict[int, str]:
    """GPT-2's printable character of each byte (openai/gpt-2, src/encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_BYTE_NAMES = _byte_names()


def written(token: bytes) -> str:
    """A token as GPT-2's vocabulary writes it."""
    return "".join(_BYTE_NAMES[byte] for byte in token)
