"""Where the time of a long file goes: `scripts/bench profile` prints each part's processor time and share.

The server's own process is measured from outside, over HTTP. What readers and workers do is done here once
more, part by part, on one core: processor time, which other programs on the machine hardly change.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Annotated, Any

# As in a worker; numpy reads it when it is imported.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import msgspec
import numpy as np
import psutil
import typer

from bench import over_http, sound
from bench.bare import demo
from server import words
from server.convert import convert
from server.engines import Asked, ctranslate2
from server.media import open_media
from server.models import Models, bundled
from server.types import Decode, Loading, Window
from server.windows import VoiceActivity, cut
from server.worker import Batch, Result, Work

_BATCH = 8

PARTS = {
    "server": "the server's process: upload, events, JSON",
    "decoding": "decoding and resampling",
    "voice": "voice activity",
    "cutting": "cutting windows",
    "passing": "windows and words between processes",
    "mel": "spectra",
    "encode": "the model: encoder",
    "generate": "the model: decoder",
    "align": "the model: where words lie",
    "words": "words laid over the sound",
}
"""In the order of the way through them."""


def main(
    seconds: Annotated[int, typer.Option(min=10, help="Length of the file.")] = 600,
) -> None:
    """Print what each part of transcribing a file takes, with the demo model on CTranslate2."""
    with TemporaryDirectory(prefix="whisperd-profile-") as folder:
        recording = sound.monologue(Path(folder), seconds)
        spent = {"server": _server(recording)}
        windows = _reading(recording.path, spent)
        _hearing(Path(folder), windows, spent)
    total = sum(spent.values())
    print(f"| part | processor seconds for {seconds} s | share |\n| --- | --- | --- |")
    for name, title in PARTS.items():
        print(f"| {title} | {spent[name]:.2f} | {spent[name] / total:.0%} |")
    print(f"| all | {total:.2f} | |")


def _server(recording: sound.Recording) -> float:
    with over_http.server("--engine", "ctranslate2") as server, server.client(timeout=3600) as client:
        over_http.transcribe(client, recording)
        process = psutil.Process(server.process.pid)
        before = process.cpu_times()
        over_http.transcribe(client, recording)
        after = process.cpu_times()
    return float(after.user + after.system - before.user - before.system)


def _reading(path: Path, spent: dict[str, float]) -> list[Window]:
    with path.open("rb") as file, _timed(spent, "decoding"), open_media(file) as media:
        blocks = list(media.blocks())
    shape = Models(path.parent, bundled()).find(demo().stem).shape
    list(cut(blocks[:3], shape))  # loads the model of voice activity
    spent["voice"] = 0.0
    hear = _watched(VoiceActivity.__call__, spent, "voice")
    original, VoiceActivity.__call__ = VoiceActivity.__call__, hear  # type: ignore[method-assign]
    try:
        with _timed(spent, "cutting"):
            windows = list(cut(blocks, shape))
    finally:
        VoiceActivity.__call__ = original  # type: ignore[method-assign]
    spent["cutting"] -= spent["voice"]
    return windows


def _hearing(folder: Path, windows: list[Window], spent: dict[str, float]) -> None:
    convert(demo(), folder / "converted", "int8")
    engine = ctranslate2.Engine(folder / "converted", Loading("ctranslate2"))
    decode = Decode(language="en", words=True, short_context=True)
    asked = [Asked(_pcm(window), decode, lambda: False) for window in windows]
    engine.together(asked[:1])
    engine._model = _Watched(engine._model, spent)
    engine._mel = _watched(engine._mel, spent, "mel")  # type: ignore[assignment]
    for start in range(0, len(asked), _BATCH):
        batch = asked[start : start + _BATCH]
        found = engine.together(batch)
        with _timed(spent, "words"):
            heard = [words.timed(one, mine.pcm, True) for one, mine in zip(found, batch, strict=True) if one]
        with _timed(spent, "passing"):
            works = tuple(Work(0, window.pcm, decode) for window in windows[start : start + _BATCH])
            for message, kind in ((Batch(works), Batch), *((Result(0, one), Result) for one in heard)):
                msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind)


def _pcm(window: Window) -> Any:
    return np.frombuffer(window.pcm, "<i2").astype(np.float32) / np.float32(32768)


class _Watched:
    """CTranslate2's model, its calls timed."""

    def __init__(self, model: Any, spent: dict[str, float]) -> None:
        self._model = model
        for name in ("encode", "generate", "align"):
            setattr(self, name, _watched(getattr(model, name), spent, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _watched(call: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    def watched(*arguments: Any, **named: Any) -> Any:
        with _timed(spent, part):
            return call(*arguments, **named)

    return watched


@contextmanager
def _timed(spent: dict[str, float], part: str) -> Iterator[None]:
    began = process_time()
    try:
        yield
    finally:
        spent[part] = spent.get(part, 0.0) + process_time() - began


if __name__ == "__main__":
    typer.run(main)
