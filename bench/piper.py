"""Piper without a server, in a process of its own, and a voice in the size of its published ones.

The voice is the project's own network with random weights: it makes noise, no speech, but costs what one of
quality "medium" costs, 63 MB. It never varies what it says: of the same text comes the same sound.

A child is `python -m bench.piper VOICE`. For each line of JSON that it is sent, a text, it answers with one:
seconds to the first sound, seconds to the last, and how many seconds of sound there were.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import children

NAME = "en_US-random-medium"

RATE = 22_050

_MEDIUM: dict[str, Any] = {
    "spec_channels": 513,
    "segment_size": 32,
    "inter_channels": 192,
    "hidden_channels": 192,
    "filter_channels": 768,
    "n_heads": 2,
    "n_layers": 6,
    "kernel_size": 3,
    "p_dropout": 0.1,
    "resblock": "2",
    "resblock_kernel_sizes": (3, 5, 7),
    "resblock_dilation_sizes": ((1, 2), (2, 6), (3, 12)),
    "upsample_rates": (8, 8, 4),
    "upsample_initial_channel": 256,
    "upsample_kernel_sizes": (16, 16, 8),
}
"""What Piper trains its voices of that quality with."""

_LENGTH = 2.6
"""Without any training phonemes are too short; with this a text lasts about as long as when it is spoken."""


class Said(NamedTuple):
    """What came of a text, in seconds."""

    first: float
    """To the first sound."""
    whole: float
    """To the last."""
    sound: float
    """How long it is."""


Say = Callable[[str], Said]


@contextmanager
def child(voice: Path) -> Iterator[Say]:
    """A process with the voice loaded; calling the value speaks a text."""
    with children.child("bench.piper", str(voice), environment={}) as process:
        assert process.stdin
        assert process.stdout
        asked, answered = process.stdin, process.stdout

        def say(text: str) -> Said:
            print(json.dumps(text), file=asked, flush=True)
            return Said(*json.loads(answered.readline()))

        yield say


def main(voice: str) -> None:
    """The child: piper-tts as its own page shows it."""
    from piper import PiperVoice

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loaded = PiperVoice.load(voice)
    print("loaded", file=answers, flush=True)
    for line in sys.stdin:
        first, samples, began = 0.0, 0, time.perf_counter()
        for chunk in loaded.synthesize(json.loads(line)):
            samples += len(chunk.audio_int16_bytes) // 2
            first = first or time.perf_counter() - began
        said = Said(first, time.perf_counter() - began, samples / loaded.config.sample_rate)
        print(json.dumps(said), file=answers, flush=True)


def write_voice(folder: Path) -> Path:
    """Write the pair of files; the path of the .onnx."""
    import torch
    from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
    from piper.train.vits.models import SynthesizerTrn

    torch.manual_seed(1)
    symbols = 256
    network: Any = SynthesizerTrn(n_vocab=symbols, **_MEDIUM).eval()
    infer = network.infer

    def forward(text: Any, lengths: Any, scales: Any) -> Any:
        sound = infer(text, lengths, noise_scale=scales[0], length_scale=scales[1], noise_scale_w=scales[2])[
            0
        ]
        return sound.unsqueeze(1)

    network.forward = forward
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.dec.remove_weight_norm()
        file = folder / f"{NAME}.onnx"
        torch.onnx.export(
            network,
            (torch.randint(0, symbols, (1, 50)), torch.LongTensor([50]), torch.FloatTensor([0, 1, 0])),
            str(file),
            dynamo=False,
            opset_version=15,
            input_names=["input", "input_lengths", "scales"],
            output_names=["output"],
            dynamic_axes={
                "input": {0: "batch_size", 1: "phonemes"},
                "input_lengths": {0: "batch_size"},
                "output": {0: "batch_size", 2: "time"},
            },
        )
    config = {
        "audio": {"sample_rate": RATE, "quality": "medium"},
        "espeak": {"voice": "en-us"},
        "language": {"code": "en_US"},
        "phoneme_type": "espeak",
        "num_symbols": symbols,
        "num_speakers": 1,
        "speaker_id_map": {},
        "inference": {"noise_scale": 0.0, "length_scale": _LENGTH, "noise_w": 0.0},
        "phoneme_id_map": DEFAULT_PHONEME_ID_MAP,
    }
    file.with_name(file.name + ".json").write_text(json.dumps(config))
    return file


if __name__ == "__main__":
    main(sys.argv[1])
