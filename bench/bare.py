"""The model without a server, in a process of its own: what whisperd is measured against.

A child is `python -m bench.bare WAY MODEL SOUND`. It loads the model, and then for each line that it is sent
transcribes the sound once and answers with a line of JSON.
"""

import json
import os
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from bench.sound import Recording
from server.models import bundled
from server.types import Decode, Loading
from tests.speech import Pcm

CORES = len(os.sched_getaffinity(0))

LANGUAGE = "en"

Heard = tuple[float, str]
"""Seconds that it took, and the text."""


@contextmanager
def child(way: str, recording: Recording) -> Iterator[Callable[[], Heard]]:
    """A process with the model loaded; calling the value transcribes the recording once.

    `way`: "whole" or "window", see below.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.bare", way, str(recording.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # As whisperd starts its workers: without it the threads of OpenMP spin while they wait.
        env={**os.environ, "GOMP_SPINCOUNT": "1000"},
    )
    assert process.stdin
    assert process.stdout
    asked, answered = process.stdin, process.stdout
    try:
        answered.readline()
        yield lambda: _ask(asked, answered)
    finally:
        process.kill()
        process.communicate()


def _ask(asked: IO[str], answered: IO[str]) -> Heard:
    print(file=asked, flush=True)
    seconds, text = json.loads(answered.readline())
    return float(seconds), str(text)


def main(way: str, path: str) -> None:
    """The child."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whisper.cpp prints
    transcribe = {"whole": _whole, "window": _window}[way]()
    pcm = _sound(Path(path))
    print("loaded", file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        text = transcribe(pcm)
        print(json.dumps((time.perf_counter() - began, text)), file=answers, flush=True)


def _whole() -> Callable[[Pcm], str]:
    """pywhispercpp as its own page shows it: the whole sound at once, all cores."""
    from pywhispercpp.model import Model

    model = Model(str(demo()), redirect_whispercpp_logs_to=None, print_progress=False)

    def transcribe(pcm: Pcm) -> str:
        return "".join(segment.text for segment in model.transcribe(pcm, language=LANGUAGE, n_threads=CORES))

    return transcribe


def _window() -> Callable[[Pcm], str]:
    """whisperd's engine, as its worker calls it for the only window there is."""
    from server.engines.whisper_cpp import Engine

    engine = Engine(demo(), Loading())
    decode = Decode(language=LANGUAGE, short_context=True, threads=CORES)

    def transcribe(pcm: Pcm) -> str:
        heard = engine.transcribe(pcm, decode, lambda: False)
        return "".join(segment.text for segment in heard.segments)

    return transcribe


def demo() -> Path:
    folder = bundled()
    assert folder, "the demo model is part of the repository"
    return folder / "ggml-demo.bin"


def _sound(path: Path) -> Pcm:
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return samples.astype(np.float32) / np.float32(32768)


if __name__ == "__main__":
    main(*sys.argv[1:])
