"""The server over time: `scripts/soak` works one of its own with all that it does.

Clips, streams, speech, jobs, clients that leave, media that is none, a model that is unloaded and loaded
again: one after the other, each checked. Meanwhile memory, handles, threads and processes of the server are
written down; at the end those of the last quarter must be those of the second.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import httpx
import psutil

from tests.serving import Server, started, until
from tests.speech import SENTENCES, talk, wav

PATH = "/v1/audio/transcriptions"

_LEAST = 28
"""Things that are done, however slow the machine is."""

_LOOKS = 180
"""How often the server is looked at, at most."""


@dataclass(frozen=True)
class Look:
    """What the server takes at a moment."""

    at: float
    """Seconds since the start."""
    server_mb: float
    """Resident memory of the server's own process."""
    all_mb: float
    """The same with its children; what they share counts for each."""
    handles: int
    all_handles: int
    threads: int
    processes: int


def look(server: Server, began: float) -> Look:
    process = psutil.Process(server.process.pid)
    own = process.memory_info().rss
    children = [found for child in server.children() if (found := _held(child))]
    return Look(
        round(time.monotonic() - began, 1),
        round(own / 1e6, 1),
        round((own + sum(size for size, _ in children)) / 1e6, 1),
        process.num_fds(),
        process.num_fds() + sum(handles for _, handles in children),
        process.num_threads(),
        1 + len(children),
    )


def _held(child: psutil.Process) -> tuple[int, int] | None:
    """Memory and handles of a child, if it is still there."""
    try:
        return child.memory_info().rss, child.num_fds()
    except psutil.Error:
        return None


_NAMES = {
    "server_mb": "memory of the server's process, MB",
    "all_mb": "memory of all processes, MB",
    "handles": "handles of the server's process",
    "all_handles": "handles of all processes",
    "threads": "threads of the server's process",
    "processes": "processes",
}


class Work:
    """Everything that clients do, a step at a time."""

    def __init__(self, server: Server, client: httpx.Client) -> None:
        self.server = server
        self.client = client
        self.done: Counter[str] = Counter()
        self.steps: tuple[Callable[[], None], ...] = (
            self.clip,
            self.stream,
            self.speech,
            self.job,
            self.leaves,
            self.nonsense,
            self.reload,
        )
        self._turn = itertools.cycle(self.steps)
        self._said = itertools.cycle(
            [
                (" ".join(two), wav(talk(two)))
                for two in zip(SENTENCES, SENTENCES[1:] + SENTENCES[:1], strict=True)
            ]
        )
        self._long = wav(talk(SENTENCES))

    def step(self) -> None:
        step = next(self._turn)
        step()
        self.done[step.__name__] += 1

    def words(self) -> tuple[str, bytes]:
        return next(self._said)

    def clip(self) -> None:
        words, media = self.words()
        answer = self.client.post(PATH, files={"file": ("a.wav", media)}, data={"language": "en"})
        assert answer.json()["text"] == words, answer.text

    def stream(self) -> None:
        words, media = self.words()
        asked = {"language": "en", "stream": "true"}
        with self.client.stream("POST", PATH, files={"file": ("a.wav", media)}, data=asked) as answer:
            last = [line for line in answer.iter_lines() if line.startswith("data: {")][-1]
        assert json.loads(last[6:])["text"] == words, last

    def speech(self) -> None:
        asked = {"model": "tts-1", "input": self.words()[0], "response_format": "mp3"}
        answer = self.client.post("/v1/audio/speech", json=asked)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) > 5000

    def job(self) -> None:
        words, media = self.words()
        job = self.client.post(
            PATH + "?async=true", files={"file": ("a.wav", media)}, data={"language": "en"}
        ).json()
        address = f"/v1/jobs/{job['id']}"
        until(lambda: self.client.get(address).json()["status"] == "succeeded", 120)
        assert self.client.get(address + "/result").json()["text"] == words
        self.client.delete(address).raise_for_status()

    def leaves(self) -> None:
        with self.client.stream("POST", PATH + "?stream=1", files={"file": ("a.wav", self._long)}) as answer:
            assert any(line == "event: segment" for line in answer.iter_lines())

    def nonsense(self) -> None:
        answer = self.client.post(PATH, files={"file": ("a.wav", bytes(range(256)) * 100)})
        assert answer.status_code == 400, answer.text

    def reload(self) -> None:
        self.client.post("/v1/models/ggml-demo/unload").raise_for_status()
        self.client.post("/v1/models/ggml-demo/load").raise_for_status()


def soak(server: Server, seconds: float, pause: float = 0.0) -> tuple[Counter[str], list[Look]]:
    """What was done, and what the server took meanwhile."""
    looks: list[Look] = []
    with server.client() as client:
        work = Work(server, client)
        for step in work.steps:
            step()  # what is loaded and made with the first of each is no growth
        began = time.monotonic()
        while time.monotonic() < began + seconds or work.done.total() < _LEAST:
            work.step()
            time.sleep(pause)
            if time.monotonic() - began >= len(looks) * seconds / _LOOKS:
                looks.append(look(server, began))
    return work.done, looks


def growth(looks: list[Look]) -> dict[str, float]:
    """Of the medians, from the second quarter to the last one."""
    quarter = len(looks) // 4
    second, last = looks[quarter : 2 * quarter], looks[-quarter:]
    return {
        name: round(
            statistics.median(getattr(one, name) for one in last)
            - statistics.median(getattr(one, name) for one in second),
            1,
        )
        for name in _NAMES
    }


def written(looks: list[Look], about: dict[str, object]) -> str:
    """JSON with a line for each look."""
    lines = ",\n".join(json.dumps(list(asdict(one).values())) for one in looks)
    columns = json.dumps([field.name for field in fields(Look)])
    return f'{json.dumps(about)[:-1]},\n"columns": {columns},\n"looks": [\n{lines}\n]}}\n'


def table(looks: list[Look]) -> str:
    """For the page: the medians of quarters."""
    size = len(looks) // 4
    quarters = [looks[number * size : (number + 1) * size] for number in range(4)]
    lines = [
        f"| {_NAMES[name]} | "
        + " | ".join(f"{statistics.median(getattr(one, name) for one in part):g}" for part in quarters)
        + f" | {max(getattr(one, name) for one in looks):g} |"
        for name in _NAMES
    ]
    head = "| median of | 1st quarter | 2nd | 3rd | 4th | highest of all |\n|---|---|---|---|---|---|"
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds between two things that are asked for"
    )
    parser.add_argument("--write", type=Path, help="keep the raw figures in this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data", folder, "--demo", "true"]
        with started([*command, "--log-level", "warning"], Path(folder), {}) as server:
            done, looks = soak(server, asked.seconds, asked.pause)
    about: dict[str, object] = {
        "seconds": asked.seconds,
        "pause": asked.pause,
        "done": done,
        "growth": growth(looks),
    }
    print(json.dumps(about, indent=1), table(looks), sep="\n")
    if asked.write:
        asked.write.write_text(written(looks, about))


if __name__ == "__main__":
    main()
