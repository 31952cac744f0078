"""What jobs cost: `python -m bench.jobs` measures a server with the demo model on this machine.

Prints the median of submitting a short clip, clips a second from the first submission to the last result with
and without jobs, and the processor's share of a server that waits for jobs.
"""

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
IDLE = 20.0


def main() -> None:
    clip = (Path(__file__).parent.parent / "models" / "hello.ogg").read_bytes()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server, server.client() as client:
        before = idle(server.process.pid)
        at_once = whole(client, clip)
        took, jobs = submitted(client, clip)
        done = ended(client, jobs)
        after = idle(server.process.pid)
    print(f"submit: median {statistics.median(took) * 1000:.1f} ms, p95 {_p95(took) * 1000:.1f} ms")
    print(f"clips a second: {CLIPS / done:.1f} as jobs, {CLIPS / at_once:.1f} as requests")
    print(f"idle: {before:.2f} % of a core before the first job, {after:.2f} % after the last")


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


def idle(pid: int) -> float:
    """Percent of a core that the server's own process takes while nobody asks."""
    process = psutil.Process(pid)
    time.sleep(2)
    first = process.cpu_times()
    time.sleep(IDLE)
    last = process.cpu_times()
    return (last.user + last.system - first.user - first.system) / IDLE * 100


if __name__ == "__main__":
    main()
