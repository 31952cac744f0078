"""What jobs cost: `scripts/bench jobs` measures a server with the demo model on this machine.

Prints the median of submitting a short clip, clips a second from the first submission to the last result with
and without jobs, and the processor's share of a server that waits for jobs.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from tests.serving import serving

CLIPS = 100
SUBMITTERS = 4
IDLE = 60.0
"""Seconds that a waiting server is watched, from two after the last answer."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, help="keep the figures in this file")
    asked = parser.parse_args()
    clip = (Path(__file__).parent.parent / "models" / "hello.ogg").read_bytes()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server, server.client() as client:
        before = idle(server.process.pid, IDLE / 3)
        at_once = whole(client, clip)
        took, jobs = submitted(client, clip)
        done = ended(client, jobs)
        after = idle(server.process.pid, IDLE)
        rested = idle(server.process.pid, IDLE / 3)
    found = {
        "clips": CLIPS,
        "submit_median_ms": round(statistics.median(took) * 1000, 1),
        "submit_p95_ms": round(_p95(took) * 1000, 1),
        "clips_a_second_as_jobs": round(CLIPS / done, 1),
        "clips_a_second_as_requests": round(CLIPS / at_once, 1),
        "idle_percent_before_the_first_job": round(before, 2),
        "idle_percent_in_the_minute_after_the_last": round(after, 2),
        "idle_percent_after_that": round(rested, 2),
    }
    print(json.dumps(found, indent=1))
    if asked.write:
        asked.write.write_text(json.dumps(found, indent=1) + "\n")


def _p95(values: list[float]) -> float:
    return sorted(values)[-max(1, len(values) // 20)]


def submitted(client: httpx.Client, clip: bytes) -> tuple[list[float], float]:
    """Seconds of each submission, and when the first began."""
    began = time.monotonic()

    def one(_: int) -> float:
        start = time.monotonic()
        client.post("/v1/audio/transcriptions?async=true", files={"file": ("a.ogg", clip)}).raise_for_status()
        return time.monotonic() - start

    return [one(number) for number in range(CLIPS)], began


def ended(client: httpx.Client, began: float) -> float:
    """Seconds until no job is waiting or running."""
    while client.get("/v1/jobs", params={"status": "queued,running", "limit": 1}).json()["data"]:
        time.sleep(0.05)
    return time.monotonic() - began


def whole(client: httpx.Client, clip: bytes) -> float:
    """Seconds for the same clips as ordinary requests."""

    def one(_: int) -> None:
        client.post("/v1/audio/transcriptions", files={"file": ("a.ogg", clip)}).raise_for_status()

    began = time.monotonic()
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        list(pool.map(one, range(CLIPS)))
    return time.monotonic() - began


def idle(pid: int, seconds: float) -> float:
    """Percent of a core that the server's own process takes while nobody asks."""
    process = psutil.Process(pid)
    time.sleep(2)
    first = process.cpu_times()
    time.sleep(seconds)
    last = process.cpu_times()
    return (last.user + last.system - first.user - first.system) / seconds * 100


if __name__ == "__main__":
    main()
