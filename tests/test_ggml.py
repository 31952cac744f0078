"""GGML files, whole, cut short, foreign and hostile. `write_model` makes whole ones of any size, sparse."""

import os
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from server import ggml
from server.errors import ModelBroken

DEMO = Path(__file__).parents[1] / "models" / "ggml-demo.bin"

_ATTENTION = "query.weight 1 1, query.bias 1, key.weight 1 1, value.weight 1 1, value.bias 1, out.weight 1 1"
_REST = "mlp.0.weight 1 4, mlp.0.bias 4, mlp.2.weight 4 1, mlp.2.bias 1, mlp_ln.weight 1, mlp_ln.bias 1"
"""Names and dimensions in widths, in the order of the file."""

PACKED = {
    0: (0, 1, 4),
    1: (1, 1, 2),
    2: (2, 32, 18),
    3: (3, 32, 20),
    7: (8, 32, 34),
    8: (6, 32, 22),
    9: (7, 32, 24),
    10: (10, 256, 84),
    11: (11, 256, 110),
    12: (12, 256, 144),
    13: (13, 256, 176),
    14: (14, 256, 210),
}
"""File type -> tensor type, numbers a block, bytes a block (ggml.h, ggml-common.h)."""


@dataclass(frozen=True)
class Tensor:
    name: str
    dims: tuple[int, ...]
    """As in the file: the fastest first."""
    type: int
    size: int

    @property
    def head(self) -> bytes:
        name = self.name.encode()
        return struct.pack(f"<{3 + len(self.dims)}i", len(self.dims), len(name), self.type, *self.dims) + name


@dataclass(frozen=True)
class Shape:
    """What `write_model` writes; the smallest Whisper that there can be, unless told otherwise."""

    vocab: int = 51865
    audio_ctx: int = 8
    width: int = 32
    heads: int = 2
    audio_layers: int = 1
    text_ctx: int = 16
    text_layers: int = 1
    mels: int = 80
    file_type: int = 1
    tokens: int = 50257

    @property
    def head(self) -> bytes:
        audio = (self.audio_ctx, self.width, self.heads, self.audio_layers)
        text = (self.text_ctx, self.width, self.heads, self.text_layers)
        numbers = (0x67676D6C, self.vocab, *audio, *text, self.mels, self.file_type)
        return struct.pack("<14i", *numbers, self.mels, 201)

    @property
    def vocabulary_at(self) -> int:
        return 56 + 4 * self.mels * 201

    @property
    def tensors_at(self) -> int:
        return self.vocabulary_at + 4 + 5 * self.tokens

    def tensors(self) -> Iterator[Tensor]:
        width, conv = self.width, 0 if self.file_type == 0 else 1
        yield self._tensor("encoder.positional_embedding", (width, self.audio_ctx), 0)
        yield self._tensor("encoder.conv1.weight", (3, self.mels, width), conv)
        yield self._tensor("encoder.conv1.bias", (1, width), 0)
        yield self._tensor("encoder.conv2.weight", (3, width, width), conv)
        yield self._tensor("encoder.conv2.bias", (1, width), 0)
        yield self._tensor("encoder.ln_post.weight", (width,), 0)
        yield self._tensor("encoder.ln_post.bias", (width,), 0)
        for layer in range(self.audio_layers):
            yield from self._block(f"encoder.blocks.{layer}", ["attn"])
        yield self._tensor("decoder.positional_embedding", (width, self.text_ctx), 0)
        yield self._tensor("decoder.token_embedding.weight", (width, self.vocab), None)
        for layer in range(self.text_layers):
            yield from self._block(f"decoder.blocks.{layer}", ["attn", "cross_attn"])
        yield self._tensor("decoder.ln.weight", (width,), 0)
        yield self._tensor("decoder.ln.bias", (width,), 0)

    def _block(self, prefix: str, attentions: list[str]) -> Iterator[Tensor]:
        rows = [f"{attention}.{row}" for attention in attentions for row in _ATTENTION.split(", ")]
        ends = (".out.bias", "_ln.weight", "_ln.bias")
        rows += [f"{attention}{end} 1" for attention in attentions for end in ends]
        for row in [*rows, *_REST.split(", ")]:
            name, *widths = row.split()
            dims = tuple(int(width) * self.width for width in widths)
            yield self._tensor(f"{prefix}.{name}", dims, None if len(dims) == 2 else 0)

    def _tensor(self, name: str, dims: tuple[int, ...], type_: int | None) -> Tensor:
        number, block, size = PACKED[self.file_type % 1000 if type_ is None else type_]
        return Tensor(name, dims, number, int(np.prod(dims, dtype=np.int64)) // block * size)


SMALL = Shape()


def write_model(path: Path, shape: Shape = SMALL, tensors: list[Tensor] | None = None) -> Path:
    """A whole GGML Whisper file of zeros, with holes for the data. Every token but the 49th is "a"."""
    with path.open("wb") as file:
        file.write(shape.head)
        file.seek(shape.vocabulary_at)
        file.write(struct.pack("<i", shape.tokens) + struct.pack("<ic", 1, b"a") * shape.tokens)
        for tensor in list(shape.tensors()) if tensors is None else tensors:
            file.write(tensor.head)
            file.seek(tensor.size, os.SEEK_CUR)
        file.truncate(file.tell())
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def reason(path: Path) -> str:
    """Why `check` refuses a file."""
    with pytest.raises(ModelBroken) as caught:
        ggml.check(path)
    return str(caught.value)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_model(tmp_path / "small.bin")


class TestDemo:
    def test_header(self) -> None:
        header = ggml.check(DEMO)
        assert (
            header == ggml.read_header(DEMO) == ggml.Header(51865, 1500, 192, 3, 4, 448, 192, 3, 3, 80, 2008)
        )
        assert header.multilingual
        assert len(header.languages) == 99
        assert (header.kind, header.weights.name, header.weights.bits) == ("other", "q5_0", 5.5)

    def test_vocabulary_turns_ids_into_text(self) -> None:
        words = ggml.vocabulary(DEMO)
        assert len(words) == 50257
        assert words[0] == b"!"
        assert len(set(words)) == len(words)
        pieces = (
            words.index("場".encode()),
            words.index(b" Pakistani"),
            words.index(b"\xc3"),
            words.index(b"\xbc"),
        )
        assert b"".join(words[piece] for piece in pieces).decode() == "場 Pakistaniü"

    def test_tensors_lie_where_they_are_said_to(self) -> None:
        found = {tensor.name: tensor for tensor in ggml.tensors(DEMO)}
        assert len(found) == 12 + 4 * 15 + 3 * 24 - 1
        where = found["encoder.positional_embedding"]
        assert (where.type, where.shape) == (0, (1500, 192))
        data = DEMO.read_bytes()[where.offset : where.offset + where.size]
        first = np.frombuffer(data, "<f4").reshape(where.shape)[0]
        assert first.tolist() == [0.0] * 96 + [1.0] * 96, "sines and cosines of position 0"

    def test_tensors_fill_the_file(self) -> None:
        found = ggml.tensors(DEMO)
        assert found[-1].offset + found[-1].size == DEMO.stat().st_size
        heads = [12 + 4 * len(tensor.shape) + len(tensor.name) for tensor in found[1:]]
        gaps = [after.offset - before.offset - before.size for before, after in pairwise(found)]
        assert gaps == heads


def test_languages_are_whisper_cpps() -> None:
    code = (
        "import _pywhispercpp as w;"
        "print(*(w.whisper_lang_str(i) for i in range(w.whisper_lang_max_id() + 1)))"
    )
    listed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert listed.split() == list(ggml.LANGUAGES)
    assert len(ggml.LANGUAGES) == len(set(ggml.LANGUAGES.values())) == 100
    assert (ggml.LANGUAGES["en"], ggml.LANGUAGES["ht"]) == ("english", "haitian creole")


@pytest.mark.parametrize(
    ("shape", "kind", "languages"),
    [
        (Shape(width=384, heads=6, audio_layers=4, text_layers=4), "tiny", 99),
        (Shape(width=512, heads=8, audio_layers=6, text_layers=6, vocab=51864, tokens=50256), "base", 1),
        (Shape(width=768, heads=12, audio_layers=12, text_layers=12, file_type=2009), "small", 99),
        (Shape(width=1024, heads=16, audio_layers=24, text_layers=24), "medium", 99),
        (Shape(width=1280, heads=20, audio_layers=32, text_layers=32, vocab=51866, mels=128), "large", 100),
    ],
)
def test_sizes_of_whisper(tmp_path: Path, shape: Shape, kind: str, languages: int) -> None:
    header = ggml.check(write_model(tmp_path / "model.bin", replace(shape, audio_ctx=1500, text_ctx=448)))
    assert (header.kind, len(header.languages), header.multilingual) == (kind, languages, languages > 1)
    assert header.languages[-1] == {1: "en", 99: "su", 100: "yue"}[languages]


@pytest.mark.parametrize("file_type", PACKED)
def test_packings(tmp_path: Path, file_type: int) -> None:
    number, block, size = PACKED[file_type]
    header = ggml.check(write_model(tmp_path / "model.bin", Shape(width=256, file_type=file_type)))
    assert header.weights == ggml.TENSOR_TYPES[number]
    assert header.weights.bits == 8 * size / block


def test_whisper_cpp_loads_what_the_tests_write(tmp_path: Path) -> None:
    """So what `check` expects is what whisper.cpp expects, not a mistake shared with the tests."""
    path = write_model(tmp_path / "model.bin", replace(SMALL, text_layers=2))
    code = (
        "import sys, _pywhispercpp as w;"
        "model = w.whisper_init_from_file_with_params(sys.argv[1], w.whisper_context_default_params());"
        "print(w.whisper_model_n_text_layer(model))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    ggml.check(path)


class TestBrokenOff:
    """A file cut short anywhere is refused, and the reason says where."""

    SIZE = DEMO.stat().st_size

    @pytest.mark.parametrize(
        ("size", "words"),
        [
            (0, "the file is empty"),
            (3, "not a GGML Whisper model"),
            (4, "at 4 bytes, in the header"),
            (47, "at 47 bytes, in the header"),
            (48, "at 48 bytes, before the mel filters"),
            (56, "at 56 bytes, in the mel filters"),
            (56 + 64320 - 1, "at 64,375 bytes, in the mel filters"),
            (56 + 64320, "at 64,376 bytes, before the vocabulary"),
            (64380, "in the vocabulary"),
            (64384, "in the vocabulary"),
            (572464, "at 572,464 bytes, in the vocabulary"),
            (572465, "at 572,465 of 11,748,705 bytes, with 0 of 143 tensors"),
            (572466, "of 11,748,705 bytes, in a tensor's header"),
            (572465 + 12, "in a tensor's header"),
            (572465 + 20, "in a tensor's name"),
            (572465 + 47, "in a tensor's name"),
            (572465 + 48, "in the tensor encoder.positional_embedding"),
            (3145728, "at 3,145,728 of 11,748,705 bytes, in the tensor encoder.blocks.3.mlp.0.weight"),
            (SIZE - 768 - 12 - 4 - 15, "bytes, with 142 of 143 tensors"),
            (SIZE - 1, "at 11,748,704 of 11,748,705 bytes, in the tensor decoder.ln.bias"),
        ],
    )
    def test_where(self, tmp_path: Path, size: int, words: str) -> None:
        path = tmp_path / "cut.bin"
        with DEMO.open("rb") as whole:
            path.write_bytes(whole.read(size))
        assert words in reason(path)

    def test_at_every_kind_of_edge(self, small: Path) -> None:
        edges = [*range(60), SMALL.vocabulary_at, SMALL.tensors_at]
        edges += [tensor.offset + by for tensor in ggml.tensors(small)[::5] for by in (-9, -1, 0, 1)]
        for size in sorted((edge for edge in edges if edge < small.stat().st_size), reverse=True):
            os.truncate(small, size)
            assert reason(small)

    def test_vocabulary_does_not_need_the_tensors(self, small: Path) -> None:
        os.truncate(small, SMALL.tensors_at)
        assert len(ggml.vocabulary(small)) == SMALL.tokens
        os.truncate(small, SMALL.tensors_at - 1)
        with pytest.raises(ModelBroken, match="in the vocabulary"):
            ggml.vocabulary(small)


def test_bytes_after_the_end(small: Path) -> None:
    patch(small, small.stat().st_size, b"junk")
    assert reason(small) == "4 bytes follow after the last tensor"


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"Once upon a time", ""),
        (b"\0" * 5000, ""),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 5000, ""),
        (b"ggml", ""),
        (b"PK\x03\x04" + b"\0" * 5000, " (a zip archive or a PyTorch checkpoint)"),
        (b"GGUF\x03\0\0\0" + b"\0" * 5000, " (a GGUF file)"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 147951465\n",
            " (perhaps a Git LFS pointer: the file itself was never fetched)",
        ),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, hint: str) -> None:
    path = tmp_path / "foreign.bin"
    path.write_bytes(content)
    assert reason(path) == "not a GGML Whisper model" + hint


FIELDS = [field.name for field in fields(ggml.Header)]


@pytest.mark.parametrize("value", [-(2**31), -1, 2**31 - 1])
@pytest.mark.parametrize("field", FIELDS)
def test_hostile_header(small: Path, field: str, value: int) -> None:
    patch(small, 4 + 4 * FIELDS.index(field), struct.pack("<i", value))
    with pytest.raises(ModelBroken, match=field.replace("_type", " type")):
        ggml.read_header(small)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("vocab", 51863, "vocab is 51,863"),
        ("vocab", 51867, "vocab is 51,867, not from 51,864 to 51,866"),
        ("audio_layers", 0, "audio_layers is 0"),
        ("text_state", 64, "the encoder is 32 wide and the decoder 64"),
        ("text_heads", 3, "does not divide"),
        ("audio_heads", 5, "does not divide"),
        ("mels", 128, "the mel filters are 80 x 201, not 128 x 201"),
        ("file_type", 4, "file type 4"),
        ("file_type", -999, "file type -999"),
        ("file_type", 2008, "where q5_0 (32, 32) belongs"),
        ("file_type", 2012, "rows of 32, which q4_K cannot pack"),
        ("audio_ctx", 9, "the tensor encoder.positional_embedding is f32 (8, 32), where f32 (9, 32) belongs"),
        ("text_layers", 2, "with 50 of 74 tensors"),
    ],
)
def test_header_that_does_not_fit(small: Path, field: str, value: int, words: str) -> None:
    patch(small, 4 + 4 * FIELDS.index(field), struct.pack("<i", value))
    assert words in reason(small)


def test_one_layer_too_many(tmp_path: Path) -> None:
    tensors = list(Shape(text_layers=2).tensors())
    path = write_model(tmp_path / "model.bin", SMALL, tensors)
    assert (
        reason(path)
        == "the tensor decoder.blocks.1.attn.query.weight stands twice, or is not one of Whisper's"
    )


@pytest.mark.parametrize("numbers", [(80, 202), (79, 201), (-1, 201), (80, 2**31 - 1)])
def test_hostile_filters(small: Path, numbers: tuple[int, int]) -> None:
    patch(small, 48, struct.pack("<2i", *numbers))
    assert "the mel filters are" in reason(small)


@pytest.mark.parametrize("count", [-1, 0, 50255, 51866, 2**31 - 1])
def test_hostile_token_count(small: Path, count: int) -> None:
    patch(small, SMALL.vocabulary_at, struct.pack("<i", count))
    assert reason(small) == f"{count:,} tokens are stored, not from 50,256 to 51,865"


@pytest.mark.parametrize("length", [-1, 257, 2**31 - 1])
def test_hostile_token_length(small: Path, length: int) -> None:
    patch(small, SMALL.vocabulary_at + 4 + 5 * 7, struct.pack("<i", length))
    assert reason(small) == f"token 7 is {length:,} bytes long"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (0, -1, "there is no tensor at byte"),
        (0, 0, "there is no tensor at byte"),
        (0, 5, "there is no tensor at byte"),
        (1, -1, "there is no tensor at byte"),
        (1, 0, "there is no tensor at byte"),
        (1, 2**31 - 1, "there is no tensor at byte"),
        (2, 4, "there is no tensor at byte"),
        (2, -1, "there is no tensor at byte"),
        (2, 1, "is f16 (8, 32), where f32 (8, 32) belongs"),
        (3, 0, "has the shape (8, 0)"),
        (3, -32, "has the shape (8, -32)"),
        (3, 64, "is f32 (8, 64), where f32 (8, 32) belongs"),
        (4, 2**31 - 1, "bytes, in the tensor encoder.positional_embedding"),
        (5, 0x41414141, "the tensor AAAAder.positional_embedding stands twice, or is not one of"),
        (5, -1, "the tensor \\xff\\xff\\xff\\xffder.positional"),
    ],
)
def test_hostile_tensor(small: Path, field: int, value: int, words: str) -> None:
    patch(small, SMALL.tensors_at + 4 * field, struct.pack("<i", value))
    assert words in reason(small)


Edit = Callable[[list[Tensor]], list[Tensor]]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda tensors: [tensors[0], *tensors], "encoder.positional_embedding stands twice"),
        (lambda tensors: tensors[:5] + tensors[6:], "bytes, with 49 of 50 tensors"),
        (lambda tensors: [], "bytes, with 0 of 50 tensors"),
        (lambda tensors: tensors[::-1], ""),
    ],
    ids=["twice", "without one", "without any", "in another order"],
)
def test_set_of_tensors(tmp_path: Path, edit: Edit, words: str) -> None:
    path = write_model(tmp_path / "model.bin", SMALL, edit(list(SMALL.tensors())))
    if words:
        assert words in reason(path)
    else:
        ggml.check(path)


def test_nothing_is_allocated_by_a_number_of_the_file(small: Path) -> None:
    """Lengths that the (sparse) file has room for are not read, and those it has not are not allocated."""
    patch(small, SMALL.vocabulary_at + 4 + 5 * 50000, struct.pack("<i", 2**31 - 1))
    os.truncate(small, 2**33)
    tracemalloc.start()
    try:
        assert "token 50,000" in reason(small)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.bin"
    os.mkfifo(pipe)
    assert reason(pipe) == "not a regular file"
    assert reason(Path(os.devnull)) == "not a regular file"
    assert reason(tmp_path) == "the file cannot be read: Is a directory"
    assert reason(tmp_path / "absent.bin") == "the file cannot be read: No such file or directory"


def test_random_damage_is_refused_or_harmless(small: Path) -> None:
    """Whatever is overwritten or cut off: a header or a reason, never another exception."""
    rng = random.Random(20)
    heads = [tensor.offset - by for tensor in ggml.tensors(small) for by in range(1, 60)]
    regions = [range(4, 60), range(SMALL.vocabulary_at, SMALL.tensors_at), heads]
    whole = ggml.check(small)
    size = small.stat().st_size
    outcomes = {"refused": 0, "harmless": 0}
    for _ in range(250):
        offset = rng.choice(rng.choice(regions))
        with small.open("rb") as file:
            file.seek(offset)
            before = file.read(4)
        patch(small, offset, rng.choice([rng.randbytes(4), struct.pack("<i", rng.randrange(-3, 300))]))
        try:
            ggml.check(small)
            outcomes["harmless"] += 1
        except ModelBroken:
            outcomes["refused"] += 1
        patch(small, offset, before)
    assert small.stat().st_size == size
    assert ggml.check(small) == whole
    assert outcomes["refused"] > 150
    assert outcomes["harmless"] > 10
