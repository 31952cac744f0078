"""Reading a folder with a Whisper model as CTranslate2's converter writes them: is it whole, what can it do.

`model.bin` is walked from variable to variable (OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py):
CTranslate2 itself would read what is cut short or made up until memory ends. Weights are not looked at.
"""

import json
import os
import re
import struct
from collections.abc import Collection
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import BinaryIO

from server import catalogue, folders
from server.errors import ModelBroken
from server.folders import Kind
from server.ggml import Header
from server.types import ModelInfo

ENGINE = "ctranslate2"

_MODEL, _CONFIG = "model.bin", "config.json"
_VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
_TAKEN = (_MODEL, _CONFIG, *_VOCABULARIES, "tokenizer.json", "preprocessor_config.json", "mel_filters.npy")

_VERSIONS = (4, 5, 6)
"""Of the layout of `model.bin`; those before have other fields."""

_SPEC, _REVISION = "WhisperSpec", 3
_MOST_VARIABLES = 20_000
_MOST_DIMENSIONS = 8
_LARGEST_CONFIG, _LARGEST_VOCABULARY = 1 << 20, 1 << 25

_TYPES = {0: (4, 0), 1: (1, 7), 2: (2, 1), 3: (4, 0), 4: (2, 1), 5: (2, 1)}
"""CTranslate2's numbers of types (include/ctranslate2/types.h): bytes, and GGML's file type most like it."""

_LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/")

_Shapes = dict[str, tuple[tuple[int, ...], int]]
"""Name of a variable -> shape and type."""


def check(folder: Path) -> Header:
    """The dimensions of a folder that is whole, as a GGML file's header has them. Raises ModelBroken."""
    try:
        missing = [name for name in (_MODEL, _CONFIG) if not (folder / name).is_file()]
        if not any((folder / name).is_file() for name in _VOCABULARIES):
            missing.append(" or ".join(_VOCABULARIES))
        if missing:
            raise ModelBroken(f"it lacks {', '.join(missing)}")
        with (folder / _MODEL).open("rb") as file:
            header = _header(_walk(file))
        _check_texts(folder, header)
    except OSError as error:
        raise ModelBroken(f"it cannot be read: {error.strerror}") from error
    return header


def looks_like_one(folder: Path) -> bool:
    """Whether a folder means to be such a model, whole or not."""
    return any((folder / name).is_file() for name in (_MODEL, *_VOCABULARIES))


def info(folder: Path) -> ModelInfo | None:
    """The model in a folder; None where that means to be none. See folders.Kind."""
    if not looks_like_one(folder):
        return None
    plain = folders.plain(folder, ENGINE)
    try:
        return _described(plain, check(folder))
    except ModelBroken as error:
        return replace(plain, broken=str(error))


def files(there: Collection[str]) -> Collection[str]:
    """See folders.Kind."""
    whole = {_MODEL, _CONFIG} <= set(there) and set(_VOCABULARIES) & set(there)
    return [name for name in _TAKEN if name in there] if whole else []


KIND = Kind("ctranslate2", files, info)


def _described(plain: ModelInfo, header: Header) -> ModelInfo:
    return replace(
        plain,
        multilingual=header.multilingual,
        languages=header.languages,
        capabilities=catalogue.capabilities(
            plain.id, header.multilingual, short_decoder=2 * header.text_layers <= header.audio_layers
        ),
    )


def _walk(file: BinaryIO) -> _Shapes:
    """Every variable of a `model.bin`. Raises ModelBroken where it is none, is cut short or goes on."""
    size = os.fstat(file.fileno()).st_size
    if file.read(4) == b"vers":
        raise ModelBroken("model.bin is a Git LFS pointer: the file itself was never fetched")
    file.seek(0)
    (version,) = _numbers(file, "I")
    if version not in _VERSIONS or _text(file) != _SPEC:
        raise ModelBroken("model.bin is no Whisper model of CTranslate2's")
    revision, count = _numbers(file, "II")
    if revision > _REVISION or count > _MOST_VARIABLES:
        raise ModelBroken(f"model.bin is of a revision that is not known here ({revision})")
    shapes: _Shapes = {}
    for _ in range(count):
        name, shape, type, length = _variable(file)
        if length > size - file.tell():
            raise _broken_off(size)
        shapes[name] = shape, type
        file.seek(length, os.SEEK_CUR)
    for _ in range(_numbers(file, "I")[0] if count else 0):
        alias, name = _text(file), _text(file)
        if name not in shapes:
            raise ModelBroken("model.bin names a variable that it does not have")
        shapes[alias] = shapes[name]
    if file.tell() != size:
        raise ModelBroken(f"model.bin goes on after its {file.tell():,} bytes")
    return shapes


def _variable(file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and bytes of the next variable."""
    name = _text(file)
    (rank,) = _numbers(file, "B")
    if rank > _MOST_DIMENSIONS:
        raise ModelBroken(f"model.bin has a variable of {rank} dimensions")
    shape = _numbers(file, f"{rank}I")
    type, length = _numbers(file, "BI")
    if type not in _TYPES or prod(shape) * _TYPES[type][0] != length:
        raise ModelBroken(f"the length of {name[:80]!a} in model.bin is not that of its numbers")
    return name, shape, type, length


def _numbers(file: BinaryIO, layout: str) -> tuple[int, ...]:
    count = struct.calcsize(f"<{layout}")
    data = file.read(count)
    if len(data) < count:
        raise _broken_off(file.tell())
    return struct.unpack(f"<{layout}", data)


def _text(file: BinaryIO) -> str:
    (length,) = _numbers(file, "H")
    data = file.read(length)
    if len(data) < length:
        raise _broken_off(file.tell())
    return data.removesuffix(b"\0").decode("utf-8", "replace")


def _broken_off(at: int) -> ModelBroken:
    return ModelBroken(f"model.bin breaks off at {at:,} bytes")


def _header(shapes: _Shapes) -> Header:
    """The dimensions by the shapes. Raises ModelBroken where they are not those of a Whisper model."""
    try:
        (state, mels, _), _ = shapes["encoder/conv1/weight"]
        (vocab, width), type = shapes["decoder/embeddings/weight"]
        (audio_ctx, _), _ = shapes["encoder/position_encodings/encodings"]
        (text_ctx, _), _ = shapes["decoder/position_encodings/encodings"]
    except (KeyError, ValueError) as error:
        raise ModelBroken("model.bin lacks what every Whisper model has") from error
    layers = dict.fromkeys(("encoder", "decoder"), 0)
    for name in shapes:
        if found := _LAYER.match(name):
            layers[found[1]] = max(layers[found[1]], int(found[2]) + 1)
    if width != state or vocab < 51864 or vocab > 51866 or not all(layers.values()):
        raise ModelBroken(
            f"its dimensions are no Whisper model's: {vocab} tokens, widths {state} and {width}"
        )
    # All that OpenAI has published has heads of 64.
    heads = max(1, state // 64)
    return Header(
        vocab,
        audio_ctx,
        state,
        heads,
        layers["encoder"],
        text_ctx,
        width,
        heads,
        layers["decoder"],
        mels,
        _TYPES[type][1],
    )


def _check_texts(folder: Path, header: Header) -> None:
    """Whether settings and vocabulary are such, and of this model. Raises ModelBroken."""
    settings = _json(folder / _CONFIG, _LARGEST_CONFIG)
    if not isinstance(settings, dict):
        raise ModelBroken("config.json is no object")
    tokens = _tokens(folder)
    if len(tokens) != header.vocab:
        raise ModelBroken(f"the vocabulary has {len(tokens):,} tokens, the model {header.vocab:,}")
    if not {"<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"} <= set(tokens):
        raise ModelBroken("the vocabulary is not that of a Whisper model")


def _tokens(folder: Path) -> list[str]:
    if (file := folder / _VOCABULARIES[0]).is_file():
        tokens = _json(file, _LARGEST_VOCABULARY)
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ModelBroken("vocabulary.json is no list of tokens")
        return tokens
    return _read(folder / _VOCABULARIES[1], _LARGEST_VOCABULARY).removesuffix("\n").split("\n")


def _json(path: Path, largest: int) -> object:
    try:
        return json.loads(_read(path, largest))
    except (ValueError, RecursionError) as error:
        raise ModelBroken(f"{path.name} is not JSON") from error


def _read(path: Path, largest: int) -> str:
    if path.stat().st_size > largest:
        raise ModelBroken(f"{path.name} is larger than such a file can be")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelBroken(f"{path.name} is not UTF-8") from error
