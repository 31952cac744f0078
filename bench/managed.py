"""What having models managed costs: fetching one, the first use of one that is not loaded, and what stays in
memory when they come and go. What is compared with each other is measured by turns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import httpx

from bench import measure, over_http
from bench.report import Aim, Part, Row
from bench.sound import Recording
from tests import hub
from tests.serving import serving
from tests.test_ggml import Shape

Tell = Callable[[str], None]

_FILE = "ggml-measured.bin"

_BASE = Shape(width=512, heads=8, audio_layers=6, text_layers=6, vocab=51865)
"""Of the size of `base`: 145 MB."""

_GIGABIT = 125_000_000
"""Bytes per second."""

_SERVE = """
import sys
from tests.hub import HOME, Hub, model
from bench.managed import _BASE, _FILE

hub = Hub()
data = model(0, _BASE)
hub.add(HOME, _FILE, data)
hub.faults.rate = int(sys.argv[1])
print(hub.url, len(data), flush=True)
sys.stdin.read()
"""

_LIBRARY = """
import json, sys, tempfile, time
from huggingface_hub import hf_hub_download

with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
    began = time.perf_counter()
    hf_hub_download(*sys.argv[3:], endpoint=sys.argv[1], cache_dir=folder)
    print(json.dumps(time.perf_counter() - began))
"""


def download(folder: Path, rounds: int, tell: Tell) -> Part:
    """A model fetched by a server's own API, and by huggingface-hub's own call, from the same hub."""
    rows: list[Row] = []
    for line, rate in (("no limit", 0), ("1 Gbit/s", _GIGABIT)):
        with _hub(rate) as (url, size), _server(folder, url) as client:
            ours, theirs = [], []
            for number in range(rounds + 1):
                tell(f"fetching a model, {line}: round {number} of {rounds}")
                ours.append(size / _pulled(client) / 1e6)
                theirs.append(size / _downloaded(url, folder) / 1e6)
        # The first round is the one in which files are read from the disk and libraries are compiled.
        rows += _paces(line, tuple(ours[1:]), tuple(theirs[1:]))
    return Part(f"fetching a model of {size / 1e6:.0f} MB from a hub on loopback", tuple(rows))


def _paces(line: str, ours: tuple[float, ...], theirs: tuple[float, ...]) -> Iterator[Row]:
    yield Row(f"{line}, whisperd", ours, "MB/s")
    yield Row(f"{line}, huggingface-hub", theirs, "MB/s")
    ratios = tuple(this / that for this, that in zip(ours, theirs, strict=True))
    yield Row(f"{line}, whisperd over huggingface-hub", ratios, aim=Aim("≥", 0.9))


@contextmanager
def _hub(rate: int) -> Iterator[tuple[str, int]]:
    """A hub in a process of its own, its address, and the size of its model."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(rate)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        url, size = process.stdout.readline().split()
        yield url, int(size)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _server(folder: Path, hub: str) -> Iterator[httpx.Client]:
    with (
        TemporaryDirectory(dir=folder) as data,
        serving(Path(data), environment={"HF_ENDPOINT": hub}) as server,
        server.client(timeout=600) as client,
    ):
        yield client


def _pulled(client: httpx.Client) -> float:
    """Seconds until the model is installed: fetched, checked, on the disk."""
    began = perf_counter()
    answer = client.post("/v1/models", json={"path": _FILE})
    took = perf_counter() - began
    assert answer.status_code == 201, answer.text
    client.delete(f"/v1/models/{answer.json()['id']}").raise_for_status()
    return took


def _downloaded(url: str, folder: Path) -> float:
    """Seconds of the library's call, its import not counted."""
    said = subprocess.run(
        [sys.executable, "-c", _LIBRARY, url, str(folder), hub.HOME, _FILE],
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(said.stdout))


def cold(recording: Recording, rounds: int, tell: Tell) -> Part:
    """How soon the first segment comes from a model that is not loaded, and from one that is."""
    firsts: dict[str, list[float]] = {"not loaded": [], "loaded": []}
    with over_http.server() as server, server.client() as client:
        over_http.stream(client, recording)
        for number in range(rounds):
            tell(f"a cold and a warm model: round {number + 1} of {rounds}")
            client.post("/v1/models/ggml-demo/unload").raise_for_status()
            for first in firsts.values():
                first.append(over_http.stream(client, recording).first)
    added = tuple(these - those for these, those in zip(*firsts.values(), strict=True))
    return Part(
        f"time to the first segment of {recording.seconds:g} s, by whether the model is loaded",
        (*(Row(name, tuple(first), "s") for name, first in firsts.items()), Row("the load", added, "s")),
    )


def cycles(recording: Recording, times: int, tell: Tell) -> Part:
    """What all processes together take after a model has been loaded, used and unloaded, again and again."""
    sizes: list[float] = []
    with over_http.server() as server, server.client() as client:
        client.post("/v1/models/ggml-demo/unload").raise_for_status()
        for number in range(times):
            tell(f"load, use, unload: {number + 1} of {times}")
            over_http.transcribe(client, recording)
            client.post("/v1/models/ggml-demo/unload").raise_for_status()
            # A reader that has been used is being replaced by a fresh one.
            sleep(0.5)
            sizes.append(median(measure.megabytes(server) for _ in range(3)))
    return Part(
        f"memory after a model was loaded, used and unloaded {times} times",
        (
            Row("after the first time", (sizes[0],), "MB"),
            Row("after each", tuple(sizes), "MB"),
            Row("after the last", (sizes[-1],), "MB"),
            Row("the last over the first", (sizes[-1] / sizes[0],), aim=Aim("≤", 1.05)),
        ),
    )
