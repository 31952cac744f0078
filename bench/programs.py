"""Programs that hear: whisperd by each of its engines, and those that it is held against.

Each is in processes of its own. A library runs in a child, `python -m bench.programs NAME MODEL`, which for
each path that it is sent answers with a line of JSON: seconds, text, and seconds to the first segment.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import psutil

from bench import over_http, peers, whisper_server
from bench.bare import CORES, LANGUAGE, demo
from bench.children import child
from bench.recordings import decoded
from bench.sound import Recording
from server.convert import convert
from server.models import Models, bundled
from server.types import Decode, Loading, ModelInfo, Window

_BATCH = 8

_PATIENCE = 3600.0
"""Seconds that an answer may take."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a recording."""

    seconds: float
    """From the request to the whole text."""
    text: str
    first: float | None = None
    """Seconds to the first segment, where it comes before the rest."""


@dataclass(frozen=True, slots=True)
class Program:
    """Something with the model loaded."""

    hear: Callable[[Recording], Reply]
    """May be called from several threads; what hears one recording at a time makes the others wait."""
    processes: Callable[[], list[psutil.Process]]
    first: Callable[[Recording], float] | None = None
    """Where the first segment wants a request of another kind: the seconds to it."""


def started(name: str, model: Path, stack: ExitStack, tell: Callable[[str], None]) -> Program:
    """The program of that name with the model loaded, until the stack is closed. Raises NotBuilt."""
    return _WAYS[name](name, model, stack, tell)


def _whisperd(name: str, model: Path, stack: ExitStack, tell: Callable[[str], None]) -> Program:
    engine = name.removeprefix("whisperd, ").lower()
    own = ["--models", str(model.parent), "--default-model", model.stem] if model != demo() else []
    demo_or_not = "false" if own else "true"
    server = stack.enter_context(over_http.server("--engine", engine, *own, demo=demo_or_not))
    client = stack.enter_context(server.client(timeout=_PATIENCE))

    def hear(recording: Recording) -> Reply:
        return Reply(*over_http.transcribe(client, recording, "json"))

    def processes() -> list[psutil.Process]:
        return [psutil.Process(server.process.pid), *server.children()]

    return Program(hear, processes, lambda recording: over_http.stream(client, recording).first)


def _server(name: str, model: Path, stack: ExitStack, tell: Callable[[str], None]) -> Program:
    program = whisper_server.built(tell)
    url, process = stack.enter_context(whisper_server.running(program, model, LANGUAGE))
    client = stack.enter_context(httpx.Client(base_url=url, timeout=_PATIENCE, trust_env=False))

    def hear(recording: Recording) -> Reply:
        with recording.path.open("rb") as file:
            began = time.perf_counter()
            data = {"response_format": "json", "temperature": "0.0"}
            answer = client.post("/inference", files={"file": file}, data=data)
            took = time.perf_counter() - began
        return Reply(took, str(answer.raise_for_status().json()["text"]))

    return Program(hear, lambda: [psutil.Process(process.pid)])


def _library(name: str, model: Path, stack: ExitStack, tell: Callable[[str], None]) -> Program:
    process = stack.enter_context(child("bench.programs", name, str(model)))
    assert process.stdin
    assert process.stdout
    asked, answered, turn = process.stdin, process.stdout, threading.Lock()

    def hear(recording: Recording) -> Reply:
        with turn:
            return _ask(asked, answered, recording.path)

    return Program(hear, lambda: [psutil.Process(process.pid)])


_WAYS = {
    "whisperd, CTranslate2": _whisperd,
    "whisperd, whisper.cpp": _whisperd,
    "whisperd's CTranslate2 alone, its windows": _library,
    "pywhispercpp": _library,
    "whisper.cpp's server": _server,
    "faster-whisper": _library,
    "faster-whisper, batched": _library,
    "faster-whisper, batched, our windows": _library,
}

NAMES = tuple(_WAYS)


def _ask(asked: IO[str], answered: IO[str], path: Path) -> Reply:
    print(path, file=asked, flush=True)
    return Reply(**json.loads(answered.readline()))


# The children -----------------------------------------------------------------------------------------


def main(name: str, path: str) -> None:
    """A child."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whisper.cpp prints
    hear = _CHILDREN[name](_model(Path(path)))
    print("loaded", file=answers, flush=True)
    for line in sys.stdin:
        seconds, text, first = hear(Path(line.rstrip("\n")))
        print(json.dumps({"seconds": seconds, "text": text, "first": first}), file=answers, flush=True)


_Heard = tuple[float, str, float | None]
"""Seconds, text, seconds to the first segment."""

_Hear = Callable[[Path], _Heard]


def _model(path: Path) -> ModelInfo:
    """As whisperd knows it."""
    return Models(path.parent, bundled()).find(path.stem)


def _pywhispercpp(model: ModelInfo) -> _Hear:
    from pywhispercpp.model import Model

    whisper: Any = Model(str(model.path), redirect_whispercpp_logs_to=None, print_progress=False)

    def hear(path: Path) -> _Heard:
        came: list[float] = []
        began = time.perf_counter()
        found = whisper.transcribe(
            decoded(path),
            language=LANGUAGE,
            n_threads=CORES,
            new_segment_callback=lambda segment: came.append(time.perf_counter() - began),
        )
        text = "".join(segment.text for segment in found)
        return time.perf_counter() - began, text, came[0] if came else None

    return hear


def _sequential(model: ModelInfo) -> _Hear:
    """As its own page shows it, but greedy, and with no window told of the one before."""
    whisper = _faster_whisper(model)
    return _by_segments(
        lambda path: whisper.transcribe(
            str(path), language=LANGUAGE, beam_size=1, vad_filter=True, condition_on_previous_text=False
        )
    )


def _batched(model: ModelInfo) -> _Hear:
    from faster_whisper import BatchedInferencePipeline

    whisper = BatchedInferencePipeline(_faster_whisper(model))
    return _by_segments(
        lambda path: whisper.transcribe(str(path), language=LANGUAGE, beam_size=1, batch_size=_BATCH)
    )


def _our_windows(model: ModelInfo) -> _Hear:
    """The batched pipeline on windows that were cut before, so that the engines alone are compared."""
    from faster_whisper import BatchedInferencePipeline

    whisper = BatchedInferencePipeline(_faster_whisper(model))
    known: dict[Path, list[dict[str, float]]] = {}

    def transcribe(path: Path) -> Any:
        return whisper.transcribe(
            str(path),
            language=LANGUAGE,
            beam_size=1,
            batch_size=_BATCH,
            vad_filter=False,
            clip_timestamps=known[path],
        )

    hear = _by_segments(transcribe)

    def prepared(path: Path) -> _Heard:
        if path not in known:
            known[path] = [{"start": one.start, "end": one.end} for one in _windows(path, model)]
        return hear(path)

    return prepared


def _faster_whisper(model: ModelInfo) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(_converted(model)), compute_type="int8", cpu_threads=CORES, local_files_only=True)


def _by_segments(transcribe: Callable[[Path], Any]) -> _Hear:
    """How faster-whisper's two ways of hearing are timed."""

    def hear(path: Path) -> _Heard:
        texts, first = [], None
        began = time.perf_counter()
        segments, _ = transcribe(path)
        for segment in segments:
            first = first or time.perf_counter() - began
            texts.append(segment.text)
        return time.perf_counter() - began, "".join(texts), first

    return hear


def _alone(model: ModelInfo) -> _Hear:
    """whisperd's engine, a thread a core, on windows that were cut before: no server, no voice activity."""
    from server.engines import Asked
    from server.engines.ctranslate2 import Engine

    engine = Engine(_converted(model), Loading("ctranslate2", slots=CORES, threads=1))
    decode = Decode(language=LANGUAGE, words=True, aligned=False, short_context=model.short_context)
    known: dict[Path, list[Asked]] = {}

    def hear(path: Path) -> _Heard:
        if path not in known:
            known[path] = [Asked(_pcm(one), decode, lambda: False) for one in _windows(path, model)]
        began = time.perf_counter()
        texts = _in_slots(known[path], lambda batch: [_text(one) for one in engine.together(batch)])
        return time.perf_counter() - began, "".join(texts), None

    return hear


def _in_slots(windows: list[Any], hear: Callable[[list[Any]], list[str]]) -> list[str]:
    """The texts of all windows, batches of them in as many threads as there are cores."""
    size = max(1, min(_BATCH, -(-len(windows) // CORES)))
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for start in range(0, len(windows), size):
        todo.put(start)
    texts: dict[int, list[str]] = {}

    def slot() -> None:
        while True:
            try:
                start = todo.get_nowait()
            except queue.Empty:
                return
            texts[start] = hear(windows[start : start + size])

    slots = [threading.Thread(target=slot) for _ in range(CORES)]
    for one in slots:
        one.start()
    for one in slots:
        one.join()
    return [text for start in sorted(texts) for text in texts[start]]


def _text(heard: Any) -> str:
    return "".join(segment.text for segment in heard.segments)


def _pcm(window: Window) -> Any:
    import numpy as np

    return np.frombuffer(window.pcm, "<i2").astype(np.float32) / np.float32(32768)


def _windows(path: Path, model: ModelInfo) -> list[Window]:
    """As whisperd's readers cut the file."""
    from server.media import open_media
    from server.windows import cut

    with path.open("rb") as file, open_media(file) as media:
        return list(cut(media.blocks(), model.shape))


def _converted(model: ModelInfo) -> Path:
    """The same weights for CTranslate2, with the tokenizer that faster-whisper wants: made once in a run."""
    folder = Path(os.environ["BENCH_CONVERTED"], model.id)
    if not folder.is_dir():
        convert(model.path, folder, "int8")
        peers.write_tokenizer(folder)
    return folder


_CHILDREN: dict[str, Callable[[ModelInfo], _Hear]] = {
    "whisperd's CTranslate2 alone, its windows": _alone,
    "pywhispercpp": _pywhispercpp,
    "faster-whisper": _sequential,
    "faster-whisper, batched": _batched,
    "faster-whisper, batched, our windows": _our_windows,
}


if __name__ == "__main__":
    main(*sys.argv[1:])
