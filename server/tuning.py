"""Which engine, slots and threads run a model fastest on this machine: measured in about a minute.

Each way is loaded as the server would load it and hears windows of the bundled clip: one by itself, then as
many as it can take.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from server.child import ChildGone
from server.config import EngineName, Tuning
from server.errors import SpeechError, WorkFailed
from server.placement import SMALL, Placement, sharing
from server.runners.local import BATCH, LONGEST_BATCH
from server.services import Services
from server.spool import Spool
from server.types import SAMPLE_RATE, Decode, Loading, ModelInfo, Window
from server.worker import Result
from server.workers import Worker

_ALL = 50.0
"""Seconds that all ways take together, where a window takes few of them."""

_LONE = 3
"""A lone window is heard so many times, within a third of a way's seconds."""

_LENGTH = 8.0
"""Seconds of sound in a window: the clip, again and again."""

_AS_FAST = 0.95
"""Of two ways whose throughput differs by less, the one that hears a lone window sooner is better."""


@dataclass(frozen=True, slots=True)
class Way:
    """How the model could be run, and how that went."""

    engine: EngineName
    slots: int
    threads: int
    lone: float = 0.0
    """Seconds for one window when nothing else is to be done."""
    speed: float = 0.0
    """Seconds of sound that are heard in a second, all slots busy."""
    memory: int = 0
    """Bytes of all its processes."""
    failed: str = ""
    """Why it could not be measured."""


def ways(cores: int) -> Iterator[Way]:
    """What is tried: a slot for each core, one slot with all cores, and on CTranslate2 what lies between."""
    for engine, slots in itertools.product(("ctranslate2", "whisper.cpp"), sorted({1, cores})):
        yield Way(engine, slots, max(1, cores // slots))  # type: ignore[arg-type]
    slots, threads = sharing(SMALL, cores, cores)
    if cores > 1:
        yield Way("ctranslate2", slots, threads)


async def compare(services: Services, model: ModelInfo, clip: Spool) -> AsyncIterator[Way]:
    """Each way once it has been measured. Raises what reading the clip raises."""
    pcm = await _sound(services, model, clip)
    todo = list(ways(len(os.sched_getaffinity(0))))
    over = time.perf_counter() + _ALL
    for left, way in zip(range(len(todo), 0, -1), todo, strict=True):
        now = time.perf_counter()
        try:
            yield await _measured(services, model, way, pcm, now + max(0.0, over - now) / left)
        except (SpeechError, ChildGone) as error:
            yield replace(way, failed=str(error) or "its process died")


def best(measured: Iterable[Way]) -> Way:
    """The fastest; of those as fast, the one with the shortest wait. Raises WorkFailed where none works."""
    working = [way for way in measured if not way.failed]
    if not working:
        raise WorkFailed("no engine can run this model here")
    fastest = max(way.speed for way in working)
    return min((way for way in working if way.speed > _AS_FAST * fastest), key=lambda way: way.lone)


def lines(model: str, way: Way) -> dict[str, Any]:
    """The way as the setting `tuning` has it."""
    return {model: {"engine": way.engine, "slots": way.slots, "threads": way.threads}}


def write(file: Path, model: str, way: Way) -> None:
    """Put the way into a config file; all other lines of it stay as they are. Raises OSError."""
    text = file.read_text("utf-8") if file.exists() else ""
    tuning = (yaml.safe_load(text) or {}).get("tuning") or {}
    merged = tuning | {model: {**tuning.get(model, {}), **lines(model, way)[model]}}
    kept = "".join(_without(text.splitlines(keepends=True), "tuning"))
    block = yaml.safe_dump({"tuning": merged}, sort_keys=False, allow_unicode=True)
    file.write_text(kept.rstrip("\n") + ("\n" if kept.strip() else "") + block, "utf-8")


def _without(written: list[str], key: str) -> Iterator[str]:
    """The lines of a YAML file without those of one key at its top."""
    inside = False
    for line in written:
        if line.startswith(f"{key}:"):
            inside = True
        elif line[:1] not in (" ", "\n", "-"):
            inside = False
        if not inside:
            yield line


async def _sound(services: Services, model: ModelInfo, clip: Spool) -> bytes:
    """A window's sound: the clip's speech, repeated."""
    reading = services.readers.read(clip, model.shape)
    parts = [item.pcm async for item in reading if isinstance(item, Window)]
    once = b"".join(parts)
    count = int(_LENGTH * SAMPLE_RATE) * 2
    return (once * (count // max(1, len(once)) + 1))[:count]


async def _measured(services: Services, model: ModelInfo, way: Way, pcm: bytes, until: float) -> Way:
    """The way with its figures, at about the time `until`: each of them takes a window or batch at least."""
    loading = await _loading(services.placement, model, way)
    decode = Decode(language="en", short_context=model.short_context, threads=way.threads)
    async with _crew(services.config.data / "empty", loading, way.slots, model.id) as workers:
        lone = await _lone(workers[0], (pcm, decode), until)
        speed = await _throughput(workers, loading, [(pcm, decode)] * _fitting(loading, lone), until)
        memory = sum(psutil.Process(worker.pid).memory_info().rss for worker in workers)
    return replace(way, lone=lone, speed=speed, memory=memory)


async def _loading(placement: Placement, model: ModelInfo, way: Way) -> Loading:
    """As the server would load it, with this engine, slots and threads."""
    wanted = Tuning(engine=way.engine, slots=way.slots, threads=way.threads)
    return await placement.tuned(model, wanted).loading(model, way.slots)


@asynccontextmanager
async def _crew(folder: Path, loading: Loading, slots: int, name: str) -> AsyncIterator[list[Worker]]:
    """As many processes as these slots need, all loaded."""
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(-(-slots // loading.slots)):
            workers.append(await Worker.start(folder, loading, name))
            stack.push_async_callback(workers[-1].end)
        yield workers


def _fitting(loading: Loading, lone: float) -> int:
    """Windows of a batch, as the runner would choose it for this speed."""
    return max(1, min(loading.batch, BATCH, int(LONGEST_BATCH / lone)))


async def _lone(worker: Worker, window: tuple[bytes, Decode], until: float) -> float:
    """The least seconds of a few tries; the first also wakes the model up."""
    enough = time.perf_counter() + (until - time.perf_counter()) / 3
    took = [await _timed(worker, [window])]
    while len(took) < _LONE and time.perf_counter() < enough:
        took.append(await _timed(worker, [window]))
    return min(took)


async def _throughput(
    workers: list[Worker], loading: Loading, batch: list[tuple[bytes, Decode]], until: float
) -> float:
    """Seconds of sound in a second, each slot given the next batch as soon as it is free."""
    began = time.perf_counter()
    slots = (_keep_busy(worker, batch, until) for worker in workers for _ in range(loading.slots))
    heard = sum(await asyncio.gather(*slots))
    return heard * _LENGTH / (time.perf_counter() - began)


async def _keep_busy(worker: Worker, batch: list[tuple[bytes, Decode]], until: float) -> int:
    heard = 0
    while not heard or time.perf_counter() < until:
        await _ask(worker, batch)
        heard += len(batch)
    return heard


async def _timed(worker: Worker, batch: list[tuple[bytes, Decode]]) -> float:
    began = time.perf_counter()
    await _ask(worker, batch)
    return time.perf_counter() - began


async def _ask(worker: Worker, batch: list[tuple[bytes, Decode]]) -> None:
    answers = await worker.ask((pcm, decode, "") for pcm, decode in batch)
    for answer in await asyncio.gather(*answers.values()):
        if not isinstance(answer, Result):
            raise WorkFailed("a window could not be heard")
