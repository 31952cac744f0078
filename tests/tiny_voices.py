"""Tiny real voices without weights of anybody's: the engines' own loaders load and run them.

    python -m tests.tiny_voices FOLDER

A Piper voice of two speakers in 16 kHz, half a megabyte: a graph with Piper's inputs and output, in which
each phoneme is a table of a tone with formants of its own. It is no speech that anybody understands, but
longer text is longer sound, phonemes and speakers sound different, and the length scale works.

A model of Kokoro's of the same make in 24 kHz with a few voices, whose styles say how high they speak.

A model of Pocket TTS of 54,000 parameters, a quarter of a megabyte: its own classes with random weights, the
same at each run. It makes noises; longer text makes longer ones, and each voice and each sample its own.
It never says that it has ended, so a text lasts two seconds and a third for each token.
"""

import json
import math
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

RATE = 16_000
HOP = 256
"""Samples of one period of the table: a multiple of the tones' periods, so that nothing clicks."""
FRAMES = 5
"""Periods of a phoneme at the normal speed."""

PITCHES = (2, 3)
"""Of the speakers, in periods a table: 125 Hz and 188 Hz."""


def piper(folder: Path, name: str = "en_US-tiny-x_low", espeak: str = "en-us", speakers: bool = True) -> Path:
    """Writes the pair of files; the path of the .onnx."""
    from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP

    folder.mkdir(parents=True, exist_ok=True)
    symbols = max(number for ids in DEFAULT_PHONEME_ID_MAP.values() for number in ids) + 1
    pitches = PITCHES if speakers else PITCHES[:1]
    config: dict[str, Any] = {
        "audio": {"sample_rate": RATE, "quality": "x_low"},
        "espeak": {"voice": espeak},
        "language": {"code": name.split("-")[0]},
        "phoneme_type": "espeak",
        "num_symbols": symbols,
        "num_speakers": len(pitches),
        "speaker_id_map": {"low": 0, "high": 1} if speakers else {},
        "inference": {"noise_scale": 0.667, "length_scale": 1.0, "noise_w": 0.8},
        "phoneme_id_map": DEFAULT_PHONEME_ID_MAP,
    }
    file = folder / f"{name}.onnx"
    onnx.save(_graph(np.stack([_tables(symbols, pitch) for pitch in pitches]), speakers), file)
    file.with_name(file.name + ".json").write_text(json.dumps(config))
    return file


def endless(folder: Path, name: str = "en_US-endless-x_low") -> Path:
    """A Piper voice that is still at its first sentence after many minutes."""
    file = piper(folder, name, speakers=False)
    onnx.save(counting(), file)
    return file


def counting() -> Any:
    """A graph with Piper's inputs that counts to a billion."""

    def flag(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.BOOL, [])

    def numbers(name: str, shape: list[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "one"], ["y"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), flag("go"), numbers("x", [3])],
        [flag("on"), numbers("y", [3])],
        [numpy_helper.from_array(np.array([1], np.float32), "one")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "", "scales"], ["output"], body=body)],
        "endless",
        [
            helper.make_tensor_value_info("input", TensorProto.INT64, [1, "phonemes"]),
            helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
            numbers("scales", [3]),
        ],
        [numbers("output", [3])],
        [numpy_helper.from_array(np.array(10**9, np.int64), "times")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


KOKORO = ("af_bella", "af_heart", "af_nova", "am_adam", "bf_emma", "jf_alpha")
"""Voices of the model."""


def kokoro(folder: Path, name: str = "onnx/model_quantized", *, hub: bool = True) -> Path:
    """Writes the model and its voices, as the hub has them or as kokoro-onnx does; the path of the .onnx."""
    from kokoro_onnx.config import DEFAULT_VOCAB

    file = folder / f"{name}.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    tables = np.stack([_tables(max(DEFAULT_VOCAB.values()) + 1, pitch, silent=17) for pitch in PITCHES])
    onnx.save(_kokoro_graph(tables, "input_ids" if hub else "tokens"), file)
    styles: dict[str, Any] = {
        voice: np.full((510, 1, 256), place / 4, np.float32) for place, voice in enumerate(KOKORO)
    }
    if hub:
        (folder / "voices").mkdir(exist_ok=True)
        for voice, style in styles.items():
            style.tofile(folder / "voices" / f"{voice}.bin")
    else:
        with (folder / "voices-v1.0.bin").open("wb") as packed:
            np.savez_compressed(packed, **styles)
    return file


def _kokoro_graph(tables: Any, tokens: str) -> Any:
    """The style's first number says how much of the high voice there is in the low one."""
    inputs = [
        helper.make_tensor_value_info(tokens, TensorProto.INT64, [1, "phonemes"]),
        helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
        helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
    ]
    nodes = [
        helper.make_node("Gather", ["style", "first"], ["high_row"], axis=1),
        helper.make_node("Mul", ["difference", "high_row"], ["changed"]),
        helper.make_node("Add", ["low", "changed"], ["table"]),
        helper.make_node("Squeeze", [tokens, "zero"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["periods"], axis=0),
        helper.make_node("Unsqueeze", ["periods", "one"], ["columns"]),
        helper.make_node("Div", ["frames", "speed"], ["wanted"]),
        helper.make_node("Ceil", ["wanted"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["times"], to=TensorProto.INT64),
        helper.make_node("Concat", ["one", "times", "one"], ["shape"], axis=0),
        helper.make_node("Expand", ["columns", "shape"], ["repeated"]),
        helper.make_node("Reshape", ["repeated", "flat"], ["waveform"]),
    ]
    constants = {
        "low": tables[0],
        "difference": tables[1] - tables[0],
        "first": np.array([0], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "frames": np.array([2 * FRAMES], np.float32),
        "flat": np.array([1, -1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, "samples"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _tables(symbols: int, pitch: int, silent: int = 3) -> Any:
    """A period of each phoneme, [symbols, HOP]: harmonics under two formants; the first are `silent`."""
    time = np.arange(HOP) / HOP
    chance = np.random.default_rng(1)
    tables = np.zeros((symbols, HOP), np.float32)
    for symbol in range(silent, symbols):
        formants = chance.uniform((300, 900), (900, 2600))
        for harmonic in range(1, 24):
            frequency = harmonic * pitch * RATE / HOP
            loudness = sum(np.exp(-(((frequency - formant) / 200) ** 2)) for formant in formants)
            tables[symbol] += loudness * np.sin(2 * np.pi * harmonic * pitch * time)
        tables[symbol] *= 0.3 / max(np.abs(tables[symbol]).max(), 1e-6)
    return tables


def _graph(tables: Any, speakers: bool) -> Any:
    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), name)

    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, [1, "phonemes"]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
    ]
    if speakers:
        inputs.append(helper.make_tensor_value_info("sid", TensorProto.INT64, [1]))
    nodes = [
        helper.make_node("Gather", ["tables", "sid" if speakers else "first"], ["mine"], axis=0),
        helper.make_node("Squeeze", ["mine", "zero"], ["table"]),
        helper.make_node("Squeeze", ["input", "zero"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["periods"], axis=0),
        helper.make_node("Unsqueeze", ["periods", "one"], ["columns"]),
        helper.make_node("Gather", ["scales", "one"], ["length"], axis=0),
        helper.make_node("Mul", ["length", "frames"], ["wanted"]),
        helper.make_node("Ceil", ["wanted"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["times"], to=TensorProto.INT64),
        helper.make_node("Concat", ["one", "times", "one"], ["shape"], axis=0),
        helper.make_node("Expand", ["columns", "shape"], ["repeated"]),
        helper.make_node("Reshape", ["repeated", "flat"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, "samples"])],
        [
            constant("tables", tables),
            *([] if speakers else [constant("first", np.array([0], np.int64))]),
            constant("zero", np.array([0], np.int64)),
            constant("one", np.array([1], np.int64)),
            constant("frames", np.array([FRAMES], np.float32)),
            constant("flat", np.array([1, 1, -1], np.int64)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# Pocket TTS --------------------------------------------------------------------------------------------

_LEARNT = "The weather is beautiful today. Peter lives in London, and his sister too. Good morning!"
_LOUDNESS = 0.1
"""Standard deviation of what the model makes."""

_SEANET = {
    "dimension": 16,
    "channels": 1,
    "n_filters": 4,
    "n_residual_layers": 1,
    "ratios": [6, 5, 4],
    "kernel_size": 7,
    "residual_kernel_size": 3,
    "last_kernel_size": 3,
    "dilation_base": 2,
    "pad_mode": "constant",
    "compress": 2,
}
_CODEC = {
    "dtype": "float32",
    "sample_rate": 24_000,
    "inner_dim": 8,
    "outer_dim": 16,
    "channels": 1,
    "frame_rate": 12.5,
    "seanet": _SEANET,
    "transformer": {
        "d_model": 16,
        "num_heads": 2,
        "num_layers": 1,
        "layer_scale": 0.5,
        "context": 50,
        "dim_feedforward": 32,
        "input_dimension": 16,
        "output_dimensions": [16],
    },
    "quantizer": {"dimension": 8, "output_dimension": 16},
}


def pocket(folder: Path, name: str = "english_tiny", *, clones: bool = True) -> Path:
    """Writes a model's folder with the voices `low` and `high`; its path. `clones`: with an encoder."""
    import torch
    from pocket_tts import TTSModel, export_model_state
    from safetensors.torch import save_file

    model_folder = folder / name
    embeddings = model_folder / "embeddings"
    embeddings.mkdir(parents=True, exist_ok=True)
    config = _pocket_config(model_folder / "tokenizer.json")
    (model_folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    model: Any = TTSModel.load_model(config=model_folder / "config.yaml")
    _fill(model)
    with torch.no_grad():
        for voice, frequency in {"low": 120, "high": 300}.items():
            state = model.get_state_for_audio_prompt(torch.from_numpy(tone(frequency))[None])
            export_model_state(state, embeddings / f"{voice}.safetensors")
        if not clones:
            model.mimi.encoder.requires_grad_(False)
            for tensor in (*model.mimi.encoder.parameters(), model.flow_lm.speaker_proj_weight):
                tensor.zero_()
    save_file(model.state_dict(), model_folder / "model.safetensors")
    return model_folder


def tone(frequency: float, seconds: float = 4.0) -> Any:
    """A hum that comes and goes, float32 at 24 kHz."""
    time = np.arange(int(24_000 * seconds)) / 24_000
    hum = 0.3 * np.sin(2 * np.pi * frequency * time) * (np.sin(6 * np.pi * time) > 0)
    return hum.astype(np.float32)


def _pocket_config(tokenizer: Path) -> dict[str, Any]:
    return {
        "default_eos_threshold": 1e9,
        "flow_lm": {
            "insert_bos_before_voice": True,
            "dtype": "float32",
            "flow": {"depth": 1, "dim": 16, "type": "pointwise"},
            "transformer": {
                "d_model": 32,
                "hidden_scale": 2,
                "max_period": 10_000,
                "num_heads": 2,
                "num_layers": 2,
            },
            "lookup_table": {
                "dim": 32,
                "n_bins": _tokenizer(tokenizer),
                "tokenizer": "tokenizers",
                "tokenizer_path": str(tokenizer),
            },
        },
        "mimi": _CODEC,
    }


def _tokenizer(file: Path) -> int:
    """Writes a vocabulary of letters, signs and parts of a few words; its size."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer: Any = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    alphabet = [*string.ascii_letters, *string.digits, *".,;:!?'"]
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([_LEARNT], trainer)
    tokenizer.save(str(file))
    return int(tokenizer.get_vocab_size())


def _fill(model: Any) -> None:
    """Random weights, at which neither sound nor voice fades on the way through; a loudness of speech."""
    import torch

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() >= 2:
                inputs = 2 * tensor.shape[0] if "convtr" in name else tensor[0].numel()
                torch.nn.init.normal_(tensor, std=1 / math.sqrt(inputs))
            elif "bias" in name and "norm" not in name:
                tensor.zero_()
        state = model.get_state_for_audio_prompt(torch.from_numpy(tone(120))[None])
        sound = model.generate_audio(state, _LEARNT)
        last = [layer for layer in model.mimi.decoder.modules() if isinstance(layer, torch.nn.Conv1d)][-1]
        gain = _LOUDNESS / sound.std()
        last.weight.mul_(gain)
        last.bias = torch.nn.Parameter(-sound.mean() * gain + torch.zeros(1))


if __name__ == "__main__":
    print(piper(Path(sys.argv[1])), kokoro(Path(sys.argv[1]) / "kokoro"), pocket(Path(sys.argv[1])))
