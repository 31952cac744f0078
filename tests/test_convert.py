"""GGML files become CTranslate2 models: the same as its own converter writes, whole or not at all."""

import asyncio
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from ctranslate2.specs import whisper_spec

from server import alignment, convert, ct2, ggml
from server.conversions import Conversions
from server.errors import ModelBroken, NoSpace
from server.ggml import Header
from server.types import ModelInfo
from tests.test_ggml import PACKED, Shape, write_model

BASE = Shape(width=512, heads=8, audio_layers=6, text_layers=6)
"""Of the size of OpenAI's `base`: seconds of work."""

DEMO = Path(__file__).parents[1] / "models" / "ggml-demo.bin"


def variables(file: Path) -> Iterator[tuple[str, Any]]:
    """Of a model.bin: each variable with its numbers, then each alias with the name that it stands for."""
    data, at = file.read_bytes(), 0

    def take(format: str) -> tuple[Any, ...]:
        nonlocal at
        at += struct.calcsize(f"<{format}")
        return struct.unpack_from(f"<{format}", data, at - struct.calcsize(f"<{format}"))

    def text() -> str:
        (length,) = take("H")
        return str(take(f"{length}s")[0][:-1].decode())

    assert (take("I"), text(), take("I")) == ((6,), "WhisperSpec", (3,))
    for _ in range(take("I")[0]):
        name = text()
        shape = take(f"{take('B')[0]}I")
        kind = ("float32", "int8", "int16", "int32", "float16")[take("B")[0]]
        yield name, np.frombuffer(take(f"{take('I')[0]}s")[0], kind).reshape(shape)
    for _ in range(take("I")[0]):
        yield text(), text()
    assert at == len(data)


def official(model: Path) -> dict[str, Any]:
    """The variables that CTranslate2's own specification makes of the same weights."""
    header, weights = ggml.check(model), {}
    data = model.read_bytes()
    for tensor in ggml.tensors(model):
        raw = np.frombuffer(data[tensor.offset : tensor.offset + tensor.size], np.uint8)
        rows = raw.reshape(int(np.prod(tensor.shape[:-1])), -1)
        weights[tensor.name] = gguf.dequantize(rows, gguf.GGMLQuantizationType(tensor.type)).reshape(
            tensor.shape
        )

    def set_both(part: Any, name: str, *, ends: tuple[str, str] = ("weight", "bias")) -> None:
        for end, ours in zip(ends, ("weight", "bias"), strict=True):
            numbers = weights[f"{name}.{ours}"]
            setattr(part, end, numbers.reshape(-1) if ours == "bias" else numbers)

    def set_norm(part: Any, name: str) -> None:
        set_both(part, name, ends=("gamma", "beta"))

    def joined(part: Any, name: str, *parts: str) -> None:
        part.weight = np.concatenate([weights[f"{name}.{one}.weight"] for one in parts])
        none = np.zeros(header.text_state, np.float32)
        part.bias = np.concatenate([weights.get(f"{name}.{one}.bias", none) for one in parts])

    def set_layer(layer: Any, name: str) -> None:
        set_norm(layer.self_attention.layer_norm, f"{name}.attn_ln")
        joined(layer.self_attention.linear[0], f"{name}.attn", "query", "key", "value")
        set_both(layer.self_attention.linear[1], f"{name}.attn.out")
        if name.startswith("decoder"):
            set_norm(layer.attention.layer_norm, f"{name}.cross_attn_ln")
            set_both(layer.attention.linear[0], f"{name}.cross_attn.query")
            joined(layer.attention.linear[1], f"{name}.cross_attn", "key", "value")
            set_both(layer.attention.linear[2], f"{name}.cross_attn.out")
        set_norm(layer.ffn.layer_norm, f"{name}.mlp_ln")
        set_both(layer.ffn.linear_0, f"{name}.mlp.0")
        set_both(layer.ffn.linear_1, f"{name}.mlp.2")

    spec = whisper_spec.WhisperSpec(
        header.audio_layers, header.audio_heads, header.text_layers, header.text_heads
    )
    set_both(spec.encoder.conv1, "encoder.conv1")
    set_both(spec.encoder.conv2, "encoder.conv2")
    set_norm(spec.encoder.layer_norm, "encoder.ln_post")
    set_norm(spec.decoder.layer_norm, "decoder.ln")
    spec.encoder.position_encodings.encodings = weights["encoder.positional_embedding"]
    spec.decoder.position_encodings.encodings = weights["decoder.positional_embedding"]
    spec.decoder.embeddings.weight = weights["decoder.token_embedding.weight"]
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    for side, layers in ("encoder", spec.encoder.layer), ("decoder", spec.decoder.layer):
        for number, layer in enumerate(layers):
            set_layer(layer, f"{side}.blocks.{number}")
    spec.register_vocabulary([str(number) for number in range(header.vocab)])
    spec.validate()
    spec.optimize("int8")
    return {
        name: value if isinstance(value, str) else value.numpy()
        for name, value in spec.variables(ordered=True)
    }


def test_the_result_is_what_ctranslate2s_own_converter_makes(tmp_path: Path) -> None:
    convert.convert(DEMO, tmp_path / "demo", "int8")
    ours = dict(variables(tmp_path / "demo" / "model.bin"))
    theirs = official(DEMO)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        if isinstance(value, str):
            assert ours[name] == value
        else:
            assert ours[name].dtype == value.dtype, name
            np.testing.assert_allclose(ours[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("precision", ["int8", "float16"])
@pytest.mark.parametrize("file_type", sorted(PACKED))
def test_every_packing_of_weights_loads(tmp_path: Path, file_type: int, precision: convert.Precision) -> None:
    import ctranslate2

    model = write_model(tmp_path / "m.bin", Shape(width=256, heads=4, file_type=file_type))
    convert.convert(model, tmp_path / "m", precision)
    assert ctranslate2.models.Whisper(str(tmp_path / "m")).n_mels == 80
    whole = (tmp_path / "m" / "model.bin").stat().st_size
    assert whole == pytest.approx(convert.size(ggml.read_header(model), precision), rel=0.05)


@pytest.mark.parametrize(
    ("shape", "languages", "mels"),
    [
        (Shape(vocab=51864, tokens=50256), 1, 80),
        (Shape(vocab=51865), 99, 80),
        (Shape(vocab=51866, mels=128), 100, 128),
        (Shape(vocab=51864, tokens=50256, audio_layers=2), 1, 80),
    ],
)
def test_english_only_multilingual_and_large_v3(
    tmp_path: Path, shape: Shape, languages: int, mels: int
) -> None:
    from server.engines import ctranslate2
    from server.types import Loading

    convert.convert(write_model(tmp_path / "m.bin", shape), tmp_path / "m", "int8")
    names = json.loads((tmp_path / "m" / "vocabulary.json").read_text())
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert len(names) == shape.vocab
    assert names[-1] == "<|30.00|>"
    assert names[config["lang_ids"][0]] == "<|en|>"
    assert len(config["lang_ids"]) == languages
    assert np.load(tmp_path / "m" / "mel_filters.npy").shape == (mels, 201)
    assert ctranslate2.Engine(tmp_path / "m", Loading()).describe()


def test_alignment_heads_are_those_that_openai_published() -> None:
    from ctranslate2.converters import transformers

    sizes = {"tiny": (4, 384, 6), "base": (6, 512, 8), "small": (12, 768, 12), "medium": (24, 1024, 16)}
    for name, heads in transformers._WHISPER_ALIGNMENT_HEADS.items():
        kind = name.removeprefix("openai/whisper-")
        layers, width, count = sizes.get(kind.removesuffix(".en"), (32, 1280, 20))
        vocab = 51864 if kind.endswith(".en") else 51866 if "v3" in kind else 51865
        header = Header(vocab, 1500, width, count, layers, 448, width, count, layers, 80, 1)
        file = "ggml-large-v1" if kind == "large" else f"ggml-{kind}"
        assert alignment.published(header, file) == tuple(heads), kind
    turbo = Header(51866, 1500, 1280, 20, 32, 448, 1280, 20, 4, 128, 1)
    assert alignment.published(turbo, "ggml-large-v3-turbo-q5_0")[0] == (2, 4)
    distilled = replace(turbo, text_layers=2)
    assert alignment.published(distilled, "ggml-distil-large-v3") == ()
    assert alignment.upper(distilled) == tuple((1, head) for head in range(20))


def test_memory_holds_one_matrix_and_no_more(tmp_path: Path) -> None:
    """Packed, that is: the largest one here would take 106 MB in float32."""
    model = write_model(tmp_path / "m.bin", Shape(width=512, heads=8, audio_layers=6, text_layers=6))
    code = (
        "import resource, sys, gguf, numpy\nfrom pathlib import Path\nfrom server import convert\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbefore = used()\n"
        "convert.convert(Path(sys.argv[1]), Path(sys.argv[2]), 'int8')\nprint(used() - before)"
    )
    run = [sys.executable, "-c", code, str(model), str(tmp_path / "m")]
    kilobytes = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 150_000


@pytest.fixture
def conversions(tmp_path: Path) -> Conversions:
    return Conversions(tmp_path / "converted", tmp_path / "empty")


def known(path: Path, sha256: str = "abc") -> ModelInfo:
    return ModelInfo(id=path.stem, path=path, size=path.stat().st_size, created=0, sha256=sha256)


async def test_a_copy_is_made_once_for_all_who_ask(conversions: Conversions) -> None:
    assert conversions.find("abc", "int8") is None
    folders = await asyncio.gather(*(conversions.make(known(DEMO), "int8") for _ in range(3)))
    assert set(folders) == {conversions.find("abc", "int8")}
    made = folders[0].stat().st_mtime_ns
    assert (await conversions.make(known(DEMO), "int8")).stat().st_mtime_ns == made
    assert conversions.disk("abc") > 10_000_000
    conversions.remove("other")
    assert conversions.find("abc", "int8")
    conversions.remove("abc")
    assert conversions.find("abc", "int8") is None
    assert conversions.disk("abc") == 0


async def test_what_is_broken_off_or_broken_leaves_nothing(conversions: Conversions, tmp_path: Path) -> None:
    making = asyncio.create_task(conversions.make(known(DEMO), "int8"))
    while not any((tmp_path / "converted").glob(".*")):
        await asyncio.sleep(0.002)
    await conversions.stop()
    await asyncio.wait([making])
    assert not any((tmp_path / "converted").iterdir())

    half = tmp_path / "half.bin"
    half.write_bytes(DEMO.read_bytes()[: 5 << 20])
    with pytest.raises(ModelBroken, match="breaks off"):
        await conversions.make(known(half), "int8")
    assert not any((tmp_path / "converted").iterdir())


async def test_a_full_disk_is_said_before(conversions: Conversions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(NoSpace, match="converting ggml-demo needs"):
        await conversions.make(known(DEMO), "int8")


async def test_who_asks_is_told_how_far_it_is(conversions: Conversions, tmp_path: Path) -> None:
    shares: list[float] = []
    await conversions.make(known(write_model(tmp_path / "ggml-base.bin", BASE)), "int8", shares.append)
    assert shares
    assert shares == sorted(shares)
    assert 0 < shares[0] <= 1


KILLED = """
import asyncio, sys
from pathlib import Path
from server.conversions import Conversions
from server.types import ModelInfo

async def main(model, folder):
    info = ModelInfo(id=model.stem, path=model, size=1, created=0, sha256="abc")
    await Conversions(folder / "converted", folder / "empty").make(info, "int8")

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.slow
async def test_killed_half_way_it_leaves_no_copy_and_is_made_the_next_time(
    conversions: Conversions, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "ggml-base.bin", BASE)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, str(model), str(tmp_path)), cwd=Path(__file__).parent.parent
    )
    made = tmp_path / "converted"
    async with asyncio.timeout(60):
        while not any(made.glob(".*/model.bin")):
            await asyncio.sleep(0.002)
        process.kill()
        await process.wait()
    assert conversions.find("abc", "int8") is None
    conversions.sweep(["abc"])
    assert not any(made.iterdir())
    copy = await conversions.make(known(model), "int8")
    assert ct2.check(copy).audio_state == 512
    assert conversions.disk("abc") == sum(file.stat().st_size for file in copy.iterdir())


def test_copies_of_files_that_are_gone_are_swept(conversions: Conversions, tmp_path: Path) -> None:
    for name in ("aa-int8", "bb-int8", ".cc-int8.1-2.tmp"):
        (tmp_path / "converted" / name).mkdir(parents=True)
    conversions.sweep(["aa"])
    assert [folder.name for folder in (tmp_path / "converted").iterdir()] == ["aa-int8"]
