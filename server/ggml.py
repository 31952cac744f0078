"""Reading a GGML Whisper file: what it says of itself, whether it is whole, its words, where its tensors lie.

The layout is that of whisper.cpp's converter (ggml-org/whisper.cpp, models/convert-pt-to-ggml.py), little-
endian throughout: a magic number and eleven int32, the mel filters, the tokens, then tensors to the end.
whisper.cpp trusts those numbers, and aborts or reads past its buffers where one is wrong. So nothing is
loaded before `check` has walked the file; it seeks over the data, so that a large file takes little longer.
"""

import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from server.errors import ModelBroken

_NAMES = (
    "en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese, pt "
    "portuguese, tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian, id "
    "indonesian, hi hindi, fi finnish, vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay, cs "
    "czech, ro romanian, da danish, hu hungarian, ta tamil, no norwegian, th thai, ur urdu, hr croatian, "
    "bg bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh, sk slovak, te telugu, fa "
    "persian, lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian, kn kannada, et estonian, "
    "mk macedonian, br breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian, "
    "kk kazakh, sq albanian, sw swahili, gl galician, mr marathi, pa punjabi, si sinhala, km khmer, sn "
    "shona, yo yoruba, so somali, af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd "
    "sindhi, gu gujarati, am amharic, yi yiddish, lo lao, uz uzbek, fo faroese, ht haitian creole, ps "
    "pashto, tk turkmen, nn nynorsk, mt maltese, sa sanskrit, lb luxembourgish, my myanmar, bo tibetan, "
    "tl tagalog, mg malagasy, as assamese, tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir, jw "
    "javanese, su sundanese, yue cantonese"
)

LANGUAGES: Mapping[str, str] = MappingProxyType(dict(pair.split(" ", 1) for pair in _NAMES.split(", ")))
"""Code -> English name, in the order of Whisper's language tokens; the last came with large-v3."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """How numbers are packed: blocks of `block` numbers, each block `bytes` long."""

    name: str
    block: int
    bytes: int

    @property
    def bits(self) -> float:
        """Bits per number."""
        return 8 * self.bytes / self.block


TENSOR_TYPES: Mapping[int, TensorType] = MappingProxyType(
    {
        0: TensorType("f32", 1, 4),
        1: TensorType("f16", 1, 2),
        2: TensorType("q4_0", 32, 18),
        3: TensorType("q4_1", 32, 20),
        6: TensorType("q5_0", 32, 22),
        7: TensorType("q5_1", 32, 24),
        8: TensorType("q8_0", 32, 34),
        10: TensorType("q2_K", 256, 84),
        11: TensorType("q3_K", 256, 110),
        12: TensorType("q4_K", 256, 144),
        13: TensorType("q5_K", 256, 176),
        14: TensorType("q6_K", 256, 210),
    }
)
"""By the number that stands before each tensor (ggml.h, enum ggml_type)."""

_F32, _F16 = 0, 1

_WEIGHTS = {0: 0, 1: 1, 2: 2, 3: 3, 7: 8, 8: 6, 9: 7, 10: 10, 11: 11, 12: 12, 13: 13, 14: 14}
"""File type (ggml.h, enum ggml_ftype) -> the type of its matrices."""

_KINDS = {(4, 384): "tiny", (6, 512): "base", (12, 768): "small", (24, 1024): "medium", (32, 1280): "large"}


@dataclass(frozen=True, slots=True)
class Header:
    """The eleven numbers after the magic one, as they stand in the file."""

    vocab: int
    """Tokens the model tells apart, special ones and timestamps included."""
    audio_ctx: int
    """Positions of the encoder: 1500 for 30 s."""
    audio_state: int
    """Width of the encoder."""
    audio_heads: int
    audio_layers: int
    text_ctx: int
    """Positions of the decoder."""
    text_state: int
    """Width of the decoder."""
    text_heads: int
    text_layers: int
    mels: int
    """Mel bands of the sound."""
    file_type: int
    """How its matrices are packed, plus 1000 for each version of the packing."""

    @property
    def multilingual(self) -> bool:
        return self.vocab >= 51865

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes it has tokens for, in their order."""
        return tuple(LANGUAGES)[: self.vocab - 51766] if self.multilingual else ("en",)

    @property
    def kind(self) -> str:
        """ "tiny" to "large", for people; "other" for a size that OpenAI has not published."""
        return _KINDS.get((self.audio_layers, self.audio_state), "other")

    @property
    def weights(self) -> TensorType:
        """How its matrices are packed."""
        return TENSOR_TYPES[_WEIGHTS[self.file_type % 1000]]


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Where one tensor lies in the file."""

    name: str
    """As in OpenAI's checkpoints: "encoder.blocks.0.attn.query.weight"."""
    type: int
    """Key into TENSOR_TYPES."""
    shape: tuple[int, ...]
    """Slowest dimension first, as numpy has it; the file has them the other way round."""
    offset: int
    """Bytes from the start of the file to its data."""
    size: int
    """Bytes of its data."""


def read_header(path: Path) -> Header:
    """The header alone, its numbers within bounds, whatever the rest of the file is. Raises ModelBroken."""
    with _opened(path) as file:
        return _header(file)


def check(path: Path) -> Header:
    """The header of a file that is whole: every length fits, every tensor is there, nothing follows.

    Raises ModelBroken with the reason. The values of the tensors are not looked at.
    """
    with _opened(path) as file:
        header, _ = _walk(file)
    return header


def vocabulary(path: Path) -> tuple[bytes, ...]:
    """The bytes of each token that the file stores, by id; the special ones above are not stored.

    A character may be spread over several tokens: join their bytes before decoding UTF-8. Raises ModelBroken.
    """
    with _opened(path) as file:
        header = _header(file)
        _skip_filters(file, header)
        return tuple(_tokens(file, header))


def mel_filters(path: Path) -> NDArray[np.float32]:
    """The filters that make a spectrum into mel bands, of shape (bands, frequencies). Raises ModelBroken."""
    with _opened(path) as file:
        header = _header(file)
        _check_filters(file, header)
        data = file.read(4 * header.mels * _SPECTRUM, "in the mel filters")
    return np.frombuffer(data, "<f4").reshape(header.mels, _SPECTRUM)


def numbers(header: Header) -> int:
    """How many numbers the tensors of a model have."""
    return sum(prod(shape) for _, shape in _shapes(header))


def tensors(path: Path) -> tuple[TensorHeader, ...]:
    """Where each tensor lies, in the order of the file, once the whole file has passed `check`.

    Raises ModelBroken.
    """
    with _opened(path) as file:
        _, found = _walk(file)
    return found


_Tensors = dict[str, tuple[tuple[int, ...], int]]
"""Name -> shape and type."""

_Shapes = Iterator[tuple[str, tuple[int, ...]]]
"""Name and shape."""


class _File:
    """A file read forwards, of which nothing may be missing."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.whole: int | None = None
        """Bytes a whole file would have, once that is known."""

    @property
    def position(self) -> int:
        return self._file.tell()

    @property
    def left(self) -> int:
        return self._size - self.position

    def read(self, count: int, where: str) -> bytes:
        """The next bytes. Python makes room for all of them first, so `count` must have been checked."""
        data = self._file.read(count)
        if len(data) < count:
            raise self.broken_off(where)
        return data

    def skip(self, count: int, where: str) -> None:
        if count > self.left:
            raise self.broken_off(where)
        self._file.seek(count, os.SEEK_CUR)

    def number(self, where: str) -> int:
        return int.from_bytes(self.read(4, where), "little", signed=True)

    def numbers(self, count: int, where: str) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self.read(4 * count, where))

    def broken_off(self, where: str) -> ModelBroken:
        of = f" of {self.whole:,}" if self.whole else ""
        return ModelBroken(f"the file breaks off at {self._size:,}{of} bytes, {where}")


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    try:
        # Opening a named pipe would otherwise wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelBroken("not a regular file")
            yield _File(file, status.st_size)
    except OSError as error:
        raise ModelBroken(f"the file cannot be read: {error.strerror}") from error


_MAGIC = b"lmgg"

_FOREIGN = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a zip archive or a PyTorch checkpoint",
    b"vers": "perhaps a Git LFS pointer: the file itself was never fetched",
}
"""First four bytes of what is often mistaken for a GGML Whisper file."""

_BOUNDS = {
    # It tells whisper.cpp how many languages there are, and so which tokens are the special ones: one more
    # language than it knows ends its process, a smaller vocabulary has no room for the timestamps.
    "vocab": (51864, 51866),
    "audio_ctx": (1, 6000),
    "audio_state": (32, 4096),
    "audio_heads": (1, 128),
    "audio_layers": (1, 128),
    "text_ctx": (16, 4096),
    "text_state": (32, 4096),
    "text_heads": (1, 128),
    "text_layers": (1, 128),
    "mels": (1, 256),
}
"""What a number of the header may be, both ends included: wide enough for models yet to come."""

_FEWEST_TOKENS = 50256
"""GPT-2's vocabulary; the special tokens come after it."""

_LONGEST_TOKEN = 256
_LONGEST_NAME = 128
_SPECTRUM = 201
"""Frequencies of a mel filter: half of the 400 samples of Whisper's Fourier transform, and one."""


def _header(file: _File) -> Header:
    _check_magic(file.read(min(4, file.left), "in the magic number"))
    header = Header(*file.numbers(11, "in the header"))
    for name, (low, high) in _BOUNDS.items():
        if not low <= getattr(header, name) <= high:
            raise ModelBroken(
                f"the header's {name} is {getattr(header, name):,}, not from {low:,} to {high:,}"
            )
    if header.file_type < 0 or header.file_type % 1000 not in _WEIGHTS:
        raise ModelBroken(f"the header's file type {header.file_type} is not one of Whisper's")
    _check_widths(header)
    return header


def _check_magic(magic: bytes) -> None:
    if magic != _MAGIC:
        hint = _FOREIGN.get(magic, "") if magic else "the file is empty"
        raise ModelBroken("not a GGML Whisper model" + (f" ({hint})" if hint else ""))


def _check_widths(header: Header) -> None:
    if header.audio_state != header.text_state:
        raise ModelBroken(f"the encoder is {header.audio_state} wide and the decoder {header.text_state}")
    if header.audio_state % header.audio_heads or header.text_state % header.text_heads:
        raise ModelBroken(
            f"a width of {header.audio_state} does not divide into the header's number of heads"
        )


def _skip_filters(file: _File, header: Header) -> None:
    _check_filters(file, header)
    file.skip(4 * header.mels * _SPECTRUM, "in the mel filters")


def _check_filters(file: _File, header: Header) -> None:
    found = file.numbers(2, "before the mel filters")
    if found != (header.mels, _SPECTRUM):
        raise ModelBroken(f"the mel filters are {found[0]} x {found[1]}, not {header.mels} x {_SPECTRUM}")


def _tokens(file: _File, header: Header) -> Iterator[bytes]:
    count = file.number("before the vocabulary")
    if not _FEWEST_TOKENS <= count <= header.vocab:
        raise ModelBroken(f"{count:,} tokens are stored, not from {_FEWEST_TOKENS:,} to {header.vocab:,}")
    for index in range(count):
        length = file.number("in the vocabulary")
        if not 0 <= length <= _LONGEST_TOKEN:
            raise ModelBroken(f"token {index:,} is {length:,} bytes long")
        yield file.read(length, "in the vocabulary")


def _walk(file: _File) -> tuple[Header, tuple[TensorHeader, ...]]:
    header = _header(file)
    _skip_filters(file, header)
    for _ in _tokens(file, header):
        pass
    missing = _expected(header)
    file.whole = file.position + sum(_room(name, *kind) for name, kind in missing.items())
    found: list[TensorHeader] = []
    while missing:
        if not file.left:
            raise file.broken_off(f"with {len(found):,} of {len(found) + len(missing):,} tensors")
        tensor = _tensor(file)
        _check_tensor(tensor, missing)
        del missing[tensor.name]
        found.append(tensor)
    if file.left:
        raise ModelBroken(f"{file.left:,} bytes follow after the last tensor")
    return header, tuple(found)


def _tensor(file: _File) -> TensorHeader:
    start = file.position
    dimensions, name_length, type_ = file.numbers(3, "in a tensor's header")
    if not (1 <= dimensions <= 4 and 1 <= name_length <= _LONGEST_NAME and type_ in TENSOR_TYPES):
        raise ModelBroken(f"there is no tensor at byte {start:,}, where one should begin")
    shape = file.numbers(dimensions, "in a tensor's header")[::-1]
    name = file.read(name_length, "in a tensor's name").decode("ascii", "backslashreplace")
    if min(shape) < 1:
        raise ModelBroken(f"the tensor {name} has the shape {shape}")
    size = _bytes(shape, type_, name)
    offset = file.position
    file.skip(size, f"in the tensor {name}")
    return TensorHeader(name, type_, shape, offset, size)


def _bytes(shape: tuple[int, ...], type_: int, name: str) -> int:
    packed = TENSOR_TYPES[type_]
    if shape[-1] % packed.block:
        raise ModelBroken(f"the tensor {name} has rows of {shape[-1]:,}, which {packed.name} cannot pack")
    return prod(shape) // packed.block * packed.bytes


def _room(name: str, shape: tuple[int, ...], type_: int) -> int:
    """Bytes of a tensor in the file, its header included."""
    return 12 + 4 * len(shape) + len(name) + _bytes(shape, type_, name)


def _check_tensor(tensor: TensorHeader, missing: _Tensors) -> None:
    if tensor.name not in missing:
        raise ModelBroken(f"the tensor {tensor.name} stands twice, or is not one of Whisper's")
    shape, type_ = missing[tensor.name]
    if (tensor.shape, tensor.type) != (shape, type_):
        is_, should = TENSOR_TYPES[tensor.type].name, TENSOR_TYPES[type_].name
        raise ModelBroken(f"the tensor {tensor.name} is {is_} {tensor.shape}, where {should} {shape} belongs")


def _expected(header: Header) -> _Tensors:
    """What whisper.cpp wants to find, each with the very shape and type."""
    weights = _WEIGHTS[header.file_type % 1000]
    return {name: (shape, _type(name, shape, weights)) for name, shape in _shapes(header)}


def _type(name: str, shape: tuple[int, ...], weights: int) -> int:
    if len(shape) == 3:
        return _F32 if weights == _F32 else _F16
    return weights if len(shape) == 2 and name.endswith(".weight") else _F32


def _shapes(header: Header) -> _Shapes:
    yield from _encoder(header, header.audio_state)
    for layer in range(header.audio_layers):
        yield from _block(f"encoder.blocks.{layer}", header.audio_state, ("attn",))
    yield from _decoder(header, header.text_state)
    for layer in range(header.text_layers):
        yield from _block(f"decoder.blocks.{layer}", header.text_state, ("attn", "cross_attn"))


def _encoder(header: Header, width: int) -> _Shapes:
    yield "encoder.positional_embedding", (header.audio_ctx, width)
    for conv, inputs in ("conv1", header.mels), ("conv2", width):
        yield f"encoder.{conv}.weight", (width, inputs, 3)
        yield f"encoder.{conv}.bias", (width, 1)
    yield from _vectors("encoder.ln_post", width)


def _decoder(header: Header, width: int) -> _Shapes:
    yield "decoder.positional_embedding", (header.text_ctx, width)
    yield "decoder.token_embedding.weight", (header.vocab, width)
    yield from _vectors("decoder.ln", width)


def _block(prefix: str, width: int, attentions: tuple[str, ...]) -> _Shapes:
    for attention in attentions:
        for part in "query", "key", "value", "out":
            yield f"{prefix}.{attention}.{part}.weight", (width, width)
            if part != "key":
                yield f"{prefix}.{attention}.{part}.bias", (width,)
        yield from _vectors(f"{prefix}.{attention}_ln", width)
    for part, outputs, inputs in ("0", 4 * width, width), ("2", width, 4 * width):
        yield f"{prefix}.mlp.{part}.weight", (outputs, inputs)
        yield f"{prefix}.mlp.{part}.bias", (outputs,)
    yield from _vectors(f"{prefix}.mlp_ln", width)


def _vectors(prefix: str, width: int) -> _Shapes:
    yield f"{prefix}.weight", (width,)
    yield f"{prefix}.bias", (width,)
