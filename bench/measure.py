"""The measurements, each a part of the report. What is compared with each other is measured by turns."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import httpx
import psutil

from bench import bare, over_http
from bench.bare import CORES, Heard
from bench.report import Aim, Part, Row
from bench.sound import Recording, word_errors
from server.serve import clip_path
from tests.serving import Server, until

Tell = Callable[[str], None]
"""Is told what is being done."""

ONE_WORKER = ("--slots", "1", "--threads", str(CORES))
"""A server that decodes one window at a time with all cores; the default is a window a core."""

_SAMPLING = 0.25
"""Seconds between two looks at the memory."""

_MEGABYTE = 1e6

Looked = TypeVar("Looked")

_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"


def speed(recordings: list[Recording], rounds: int, tell: Tell) -> Part:
    """How long a transcript takes: the model alone, one worker, and the default."""
    rows: list[Row] = []
    with ExitStack() as stack:
        ways: dict[str, Callable[[Recording], Heard]] = {
            "pywhispercpp alone": _alone,
            f"over HTTP, 1 worker × {CORES} threads": _way(stack, *ONE_WORKER),
            f"over HTTP, {CORES} workers × 1 thread": _way(stack),
        }
        for way in list(ways.values())[1:]:
            way(recordings[0])
        for recording in recordings:
            runs = _by_turns({name: partial(way, recording) for name, way in ways.items()}, rounds, tell)
            rows += _speeds(recording, runs)
    return Part("real-time factor (time over length; lower is faster)", tuple(rows))


def _alone(recording: Recording) -> Heard:
    with bare.child("whole", recording) as transcribe:
        return transcribe()


def _way(stack: ExitStack, *flags: str) -> Callable[[Recording], Heard]:
    return partial(over_http.transcribe, _client(stack, stack.enter_context(over_http.server(*flags))))


def _client(stack: ExitStack, server: Server) -> httpx.Client:
    return stack.enter_context(server.client(timeout=3600))


def _by_turns(ways: Mapping[str, Callable[[], Heard]], rounds: int, tell: Tell) -> dict[str, list[Heard]]:
    runs: dict[str, list[Heard]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            tell(f"{name}: round {number + 1} of {rounds}")
            runs[name].append(way())
    return runs


def _speeds(recording: Recording, runs: Mapping[str, list[Heard]]) -> Iterator[Row]:
    name = f"{recording.seconds:g} s"
    for way, heard in runs.items():
        factors = tuple(seconds / recording.seconds for seconds, _ in heard)
        yield Row(f"{name}, {way}", factors, "", word_errors(recording, heard[-1][1]))
    alone, one, default = runs.values()
    long = recording.seconds >= 600
    yield Row(f"{name}, 1 worker over alone", _ratios(one, alone), aim=Aim("≤", 1.1) if long else None)
    yield Row(
        f"{name}, {CORES} workers over alone", _ratios(default, alone), aim=Aim("<", 1) if long else None
    )


def _ratios(these: list[Heard], those: list[Heard]) -> tuple[float, ...]:
    """Of the times of each round."""
    return tuple(this[0] / that[0] for this, that in zip(these, those, strict=True))


def first_segment(recording: Recording, rounds: int, tell: Tell) -> Part:
    """How soon the first words of a recording are there, also in units of a window's decoding."""
    rows: list[Row] = []
    for name, workers, flags in (("1 worker", 1, ONE_WORKER), (f"{CORES} workers", CORES, ())):
        with over_http.server(*flags) as server, server.client() as client:
            over_http.stream(client, recording)
            tell(f"the first segment, {name}")
            streams = [over_http.stream(client, recording) for _ in range(rounds)]
        firsts = tuple(stream.first for stream in streams)
        # Of several workers, windows come that much more often than each takes.
        windows = tuple(stream.gap * workers for stream in streams)
        rows += _firsts(name, firsts, windows)
    return Part(f"time to the first segment of {recording.seconds:g} s, streamed", tuple(rows))


def _firsts(name: str, firsts: tuple[float, ...], windows: tuple[float, ...]) -> Iterator[Row]:
    yield Row(name, firsts, "s")
    yield Row(f"{name}, one window's decoding", windows, "s")
    in_windows = tuple(first / window for first, window in zip(firsts, windows, strict=True))
    yield Row(f"{name}, first segment in windows", in_windows, aim=Aim("<", 2))


def latency(clip: Recording, requests: int, tell: Tell) -> Part:
    """What a warm server adds to the time of the engine, on a short clip."""
    with over_http.server() as server, server.client() as client, bare.child("window", clip) as engine:
        ask = partial(over_http.transcribe, client, clip, "json")
        for way in (ask, engine) * 3:
            way()
        tell(f"a clip of {clip.seconds:.1f} s, {requests} times")
        asked, alone = zip(*((ask(), engine()) for _ in range(requests)), strict=True)
    return Part(
        f"latency of a clip of {clip.seconds:.1f} s, language given", tuple(_latencies(clip, asked, alone))
    )


def _latencies(clip: Recording, asked: Sequence[Heard], alone: Sequence[Heard]) -> Iterator[Row]:
    asked_ms, alone_ms = (tuple(1000 * seconds for seconds, _ in runs) for runs in (asked, alone))
    yield Row("over HTTP", asked_ms, "ms", word_errors(clip, asked[-1][1]))
    yield Row("the engine alone, same options", alone_ms, "ms", word_errors(clip, alone[-1][1]))
    added = median(asked_ms) - median(alone_ms)
    yield Row("added by the server (of the medians)", (added,), "ms", aim=Aim("≤", 30))


def memory(recording: Recording, folder: Path, tell: Tell) -> Part:
    """What a very long recording takes above a server with its model loaded, all processes together."""
    path = folder / "answer.json"
    with over_http.server() as server, server.client(timeout=3600) as client:
        _load_all_workers(client, server)
        tell("memory at rest")
        rest = median(_memory_during(server, lambda: time.sleep(5)))
        tell(f"memory for {recording.seconds / 3600:g} hours")
        began = time.perf_counter()
        sizes = _memory_during(server, lambda: over_http.download(client, recording, path))
        took = time.perf_counter() - began
    hours, share = recording.seconds / 3600, recording.speech / recording.seconds
    answer = _answer(path, recording, took)
    return Part(f"memory for {hours:g} hours, {share:.0%} of them speech", (*_sizes(rest, sizes), *answer))


def _sizes(rest: float, sizes: list[float]) -> Iterator[Row]:
    yield Row("at rest, model loaded", (rest,), "MB")
    yield Row(f"above that, each {_SAMPLING} s", tuple(size - rest for size in sizes), "MB")
    yield Row("above that, at most", (max(sizes) - rest,), "MB", aim=Aim("≤", 300))


def _answer(path: Path, recording: Recording, took: float) -> Iterator[Row]:
    answer = json.loads(path.read_text("utf-8"))
    yield Row("real-time factor", (took / recording.seconds,), "", word_errors(recording, answer["text"]))
    yield Row("words in the answer", (len(answer["words"]),))
    yield Row("size of the answer", (path.stat().st_size / _MEGABYTE,), "MB")


def _load_all_workers(client: httpx.Client, server: Server) -> None:
    """Requests side by side until each slot has its worker."""
    clip = clip_path()
    assert clip
    heard = Recording(clip, 0, 0, "")
    with ThreadPoolExecutor(CORES) as pool:

        def ask(_: int) -> Heard:
            return over_http.transcribe(client, heard)

        until(lambda: list(pool.map(ask, range(CORES))) and len(server.children("server.worker")) == CORES)


def _memory_during(server: Server, work: Callable[[], object]) -> list[float]:
    return during(work, partial(megabytes, server))


def during(work: Callable[[], object], look: Callable[[], Looked]) -> list[Looked]:
    """What is seen before the work, and again and again until it is done."""
    seen = [look()]
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        while not wait({working}, timeout=_SAMPLING).done:
            seen.append(look())
        working.result()
    return seen


def megabytes(server: Server) -> float:
    """Proportional memory (PSS) of the server and all its children."""
    return sum(map(proportional, (psutil.Process(server.process.pid), *server.children()))) / _MEGABYTE


def proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def neighbour(recording: Recording, rounds: int, tell: Tell) -> Part:
    """How much throughput is left beside another process that keeps one core busy."""
    with over_http.server() as server, server.client() as client:
        ask = partial(over_http.transcribe, client, recording)
        ask()

        def crowded() -> Heard:
            with _busy():
                return ask()

        idle, busy = _by_turns({"machine idle": ask, "machine busy": crowded}, rounds, tell).values()
    rows = (
        Row("idle machine", _throughputs(recording, idle), "× real time"),
        Row("beside the busy process", _throughputs(recording, busy), "× real time"),
        Row("share that is left", _ratios(idle, busy), aim=Aim("≥", 0.5)),
    )
    return Part(f"throughput on {recording.seconds:g} s beside a busy process, {CORES} workers", rows)


def _throughputs(recording: Recording, runs: list[Heard]) -> tuple[float, ...]:
    return tuple(recording.seconds / seconds for seconds, _ in runs)


@contextmanager
def _busy() -> Iterator[None]:
    """A process that computes without end; it also ends when we do."""
    spinning = subprocess.Popen([sys.executable, "-c", _SPIN])
    try:
        time.sleep(0.3)
        yield
    finally:
        spinning.kill()
        spinning.wait()
