"""How many windows at a time, by how many threads, in batches of how many: `scripts/bench slots`.

The first table is whisperd's own runner, given so many windows at once, each of a request of its own.
The second is its worker process, all slots kept busy with batches of one size: what a window takes then, and
for how long a clip that comes just after would have to wait.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from bench import over_http
from bench.bare import CORES, LANGUAGE, demo
from bench.fixed import write_fixed
from server.convert import convert
from server.models import Models, bundled
from server.placement import sharing
from server.runners import Unit
from server.runners.local import BATCH, Runner
from server.types import Decode, Loading, ModelInfo, Window
from server.workers import Worker
from tests.speech import say

_MODELS = {"demo": "demo model", "base-12": "base, 12 tokens", "base-80": "base, 80 tokens"}
"""Random weights of base dimensions say so many tokens in each window, in full context."""

_AT_ONCE = (1, 2, 4, 16)

_SIZES = (1, 2, 4, 8, 16)

_WINDOWS = 16
"""Heard in batches of each size by each slot."""

_TEXT = "The quick brown fox jumps over the lazy dog."
"""2.9 s."""


@dataclass(frozen=True, slots=True)
class Way:
    """Slots, and threads of each."""

    slots: int
    threads: int

    def __str__(self) -> str:
        return f"{self.slots} × {self.threads}"


@dataclass(frozen=True, slots=True)
class Batched:
    """Batches of one size, all slots busy."""

    window: list[float] = field(default_factory=list)
    """Seconds for each window, of each round."""
    batch: list[float] = field(default_factory=list)
    """Seconds from handing a batch over until its answer."""


def main(
    only: Annotated[str, typer.Option(help="Models, with commas between.")] = ",".join(_MODELS),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each measurement.")] = 3,
    tables: Annotated[str, typer.Option(help="What is measured.")] = "slots,batches",
) -> None:
    """Print what slots, threads and batches do on this machine, which should have nothing else to do."""
    over_http.forget_settings()
    if unknown := {*only.split(",")} - {*_MODELS}:
        raise typer.BadParameter(
            f"{', '.join(unknown)}: models are {', '.join(_MODELS)}", param_hint="--only"
        )
    with TemporaryDirectory(prefix="whisperd-slots-") as folder:
        for name in only.split(","):
            asyncio.run(_measured(name, Path(folder, name), rounds, tables.split(",")))


async def _measured(name: str, folder: Path, rounds: int, tables: Sequence[str]) -> None:
    (folder / "empty").mkdir(parents=True)
    model = _model(name, folder)
    convert(model.path, folder / "converted", "int8")
    if "slots" in tables:
        _print(_slots_table(name, await _slots(model, folder, rounds)))
    if "batches" in tables:
        _print(_batches_table(name, await _batches(model, folder, rounds)))


def _model(name: str, folder: Path) -> ModelInfo:
    if name == "demo":
        path = demo()
    else:
        size, words = name.split("-")
        path = write_fixed(folder / f"ggml-{name}.bin", size, int(words))
    return Models(path.parent, bundled()).find(path.stem)


def _ways() -> list[Way]:
    return [Way(CORES, 1), Way(1, CORES), Way(CORES, CORES)]


def _loading(folder: Path, way: Way, batch: int) -> Loading:
    return Loading("ctranslate2", folder / "converted", way.slots, way.slots, way.threads, batch, "cpu")


def _window() -> Window:
    return Window(0, 0.0, (say(_TEXT) * np.float32(32767)).astype("<i2").tobytes())


def _decode(model: ModelInfo) -> Decode:
    return Decode(language=LANGUAGE, words=True, short_context=model.short_context)


# So many at once --------------------------------------------------------------------------------------


async def _slots(model: ModelInfo, folder: Path, rounds: int) -> dict[tuple[int, Way], float]:
    """Seconds until all of so many windows are heard."""
    took: dict[tuple[int, Way], list[float]] = {}
    async with AsyncExitStack() as stack:
        runners = {}
        for way in _ways():
            runners[way] = _runner(folder, way)
            stack.push_async_callback(runners[way].stop)
            await _all(runners[way], model, 2 * BATCH)  # so that it knows how long a window takes
        for number in range(rounds):
            _tell(f"{model.id}: so many at once, round {number + 1} of {rounds}")
            for count in _AT_ONCE:
                for way, runner in runners.items():
                    began = time.perf_counter()
                    await _all(runner, model, count)
                    took.setdefault((count, way), []).append(time.perf_counter() - began)
    return {case: median(each) for case, each in took.items()}


def _runner(folder: Path, way: Way) -> Runner:
    async def prepare(model: ModelInfo, slots: int) -> Loading:
        return _loading(folder, way, BATCH)

    return Runner(folder / "empty", slots=way.slots, prepare=prepare)


async def _all(runner: Runner, model: ModelInfo, count: int) -> None:
    window, decode = _window(), _decode(model)
    await asyncio.gather(*(runner.run(Unit(model, window, decode, str(one))) for one in range(count)))


# Batches of one size ----------------------------------------------------------------------------------


async def _batches(model: ModelInfo, folder: Path, rounds: int) -> dict[int, Batched]:
    slots, threads = sharing((folder / "converted" / "model.bin").stat().st_size, CORES, CORES)
    loading = _loading(folder, Way(slots, threads), max(_SIZES))
    worker = await Worker.start(folder / "empty", loading, model.id)
    found: dict[int, Batched] = {size: Batched() for size in _SIZES}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(worker.end)
        await _batch(worker, model, 1)
        for number in range(rounds):
            _tell(f"{model.id}: batches of {slots} × {threads}, round {number + 1} of {rounds}")
            for size, one in found.items():
                began = time.perf_counter()
                each = await asyncio.gather(*(_busy(worker, model, size) for _ in range(slots)))
                one.window.append((time.perf_counter() - began) / (slots * _WINDOWS))
                one.batch.extend(took for batches in each for took in batches)
    return found


async def _busy(worker: Worker, model: ModelInfo, size: int) -> list[float]:
    """One slot's batches, one after the other."""
    return [await _batch(worker, model, size) for _ in range(_WINDOWS // size)]


async def _batch(worker: Worker, model: ModelInfo, size: int) -> float:
    began = time.perf_counter()
    answers = await worker.ask([(_window().pcm, _decode(model), "")] * size)
    await asyncio.gather(*answers.values())
    return time.perf_counter() - began


# What is printed --------------------------------------------------------------------------------------


def _slots_table(name: str, took: dict[tuple[int, Way], float]) -> Iterator[list[str]]:
    yield [f"{_MODELS[name]}: windows at once", *map(str, _ways())]
    for count in _AT_ONCE:
        best = min(took[count, way] for way in _ways())
        yield [str(count), *(_milliseconds(took[count, way], best) for way in _ways())]


def _batches_table(name: str, found: dict[int, Batched]) -> Iterator[list[str]]:
    yield [
        f"{_MODELS[name]}: windows in a batch",
        "ms a window",
        "windows a second, of those alone",
        "a batch",
    ]
    alone = median(found[1].window)
    for size, one in found.items():
        each = median(one.window)
        yield [str(size), f"{1000 * each:,.0f}", f"{alone / each:.2f}", f"{median(one.batch):.2f} s"]


def _milliseconds(seconds: float, best: float) -> str:
    text = f"{1000 * seconds:,.0f}"
    return f"**{text}**" if seconds == best else text


def _print(rows: Iterator[list[str]]) -> None:
    head = next(rows)
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |", flush=True)
    print()


def _tell(doing: str) -> None:
    print(doing, file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
