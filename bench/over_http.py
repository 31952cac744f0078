"""whisperd in a process of its own, and requests to it over loopback."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
from httpx_sse import EventSource

from bench.bare import LANGUAGE, Heard
from bench.sound import Recording
from tests.serving import Server, started

PATH = "/v1/audio/transcriptions"


def forget_settings() -> None:
    """What the caller's shell sets for whisperd or OpenMP is not what is measured."""
    for name in [name for name in os.environ if name.startswith(("WHISPERD_", "OMP_", "GOMP_"))]:
        del os.environ[name]


@contextmanager
def server(*flags: str, demo: str = "true") -> Iterator[Server]:
    """A server as `whisperd serve` starts it, idle."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data", folder, "--demo", demo]
        with started([*command, *flags], Path(folder), {}) as running:
            yield running


def transcribe(client: httpx.Client, recording: Recording, format: str = "verbose_json") -> Heard:
    """Send the recording; the time until its whole transcript is here."""
    with recording.path.open("rb") as file:
        began = time.perf_counter()
        answer = client.post(
            PATH, files={"file": file}, data={"response_format": format, "language": LANGUAGE}
        )
        took = time.perf_counter() - began
    return took, str(answer.raise_for_status().json()["text"])


@dataclass(frozen=True, slots=True)
class Streamed:
    """How a transcript came, as seconds."""

    first: float
    """From the request to the first segment."""
    gap: float
    """Between the first segments of two windows that follow one another: the median; 0 where one is all."""


def stream(client: httpx.Client, recording: Recording) -> Streamed:
    """Send the recording and note when its windows' segments come."""
    fields = {"response_format": "verbose_json", "language": LANGUAGE}
    arrivals: dict[int, float] = {}
    began = time.perf_counter()
    with (
        recording.path.open("rb") as file,
        client.stream("POST", PATH, params={"stream": "true"}, files={"file": file}, data=fields) as answer,
    ):
        for event in EventSource(answer.raise_for_status()).iter_sse():
            if event.event == "segment":
                arrivals.setdefault(event.json()["seek"], time.perf_counter() - began)
    times = list(arrivals.values())
    gaps = [after - before for before, after in pairwise(times)]
    return Streamed(times[0], median(gaps) if gaps else 0.0)


def download(client: httpx.Client, recording: Recording, path: Path) -> None:
    """Send the recording; its transcript with words goes to the file at `path` as it comes."""
    fields = {
        "response_format": "verbose_json",
        "language": LANGUAGE,
        "timestamp_granularities[]": ["segment", "word"],
    }
    with (
        recording.path.open("rb") as file,
        client.stream("POST", PATH, files={"file": file}, data=fields) as answer,
        path.open("wb") as out,
    ):
        for chunk in answer.raise_for_status().iter_bytes():
            out.write(chunk)
