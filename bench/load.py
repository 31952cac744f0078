"""The server under load: `scripts/load` runs mixed clients against one of its own, each checks its words.

At each level so many clients ask, without a pause, for what their number says: clips, streams, speech,
films, jobs whose result they download. Each has sentences of its own in an order of its own, so an answer
that is lost, doubled or another client's is noticed. Beside them another process pings. Locust is the tool:
its users, its runner, its statistics.
"""

import locust  # it patches sockets and threads, so it comes first  # isort: skip

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import gevent
import numpy as np
import psutil
from locust.env import Environment

from bench import report
from tests.serving import ROOT, Server, started
from tests.speech import SENTENCES, talk, wav

PATH = "/v1/audio/transcriptions"

KINDS = ("clip", "stream", "clip", "speech", "clip", "job", "clip", "stream", "clip", "film")
"""What the clients of ten numbers do."""

_RUNS_OUT = 30
"""Seconds that the last requests of a level have to end."""

_RETRIES = 400


class Wrong(Exception):
    """An answer that is not its client's."""


class Client(locust.HttpUser):
    """One client; `number` says what it asks for, and whose words are right."""

    numbers = itertools.count()
    sentences: ClassVar[list[tuple[str, ...]]] = []
    seen: ClassVar[Counter[str]] = Counter()
    waited: ClassVar[list[tuple[int, bool]]] = []
    """Seconds that refused clients were told to wait, and whether they were taken after that."""
    slowest_refusal = 0.0
    wait_time = locust.constant(0)

    def on_start(self) -> None:
        self.number = next(self.numbers)
        self.kind = KINDS[self.number % len(KINDS)]
        self.own = self.sentences[self.number % len(self.sentences)]
        spoken = self.own * (20 if self.kind == "film" else 1)
        self.words = " ".join(spoken)
        self.media = wav(talk(spoken))

    @locust.task
    def ask(self) -> None:
        getattr(self, self.kind)()

    def clip(self) -> None:
        self.transcribed(PATH)

    def film(self) -> None:
        self.transcribed(PATH)

    def transcribed(self, path: str) -> None:
        answer = self.posted(path, files={"file": ("a.wav", self.media)}, data={"language": "en"})
        if answer is not None:
            self.check(answer.json()["text"])

    def stream(self) -> None:
        fields = {"language": "en", "stream": "true"}
        answer = self.posted(PATH, files={"file": ("a.wav", self.media)}, data=fields, stream=True)
        if answer is None:
            return
        last = [line for line in answer.iter_lines() if line.startswith(b"data: {")][-1]
        self.check(json.loads(last[6:])["text"])

    def speech(self) -> None:
        asked = {"model": "tts-1", "input": self.words, "response_format": "wav"}
        answer = self.posted("/v1/audio/speech", json=asked)
        if answer is not None and not (
            answer.content.startswith(b"RIFF") and len(answer.content) > 1000 * len(self.own)
        ):
            raise Wrong("it is no speech of that length")

    def job(self) -> None:
        answer = self.posted(
            PATH + "?async=true", files={"file": ("a.wav", self.media)}, data={"language": "en"}
        )
        if answer is None:
            return
        address = f"/v1/jobs/{answer.json()['id']}"
        while self.client.get(address, name="job: status").json()["status"] in ("queued", "running"):
            gevent.sleep(0.2)
        self.check(self.client.get(address + "/result", name="job: result").json()["text"])

    def posted(self, path: str, **request: Any) -> Any:
        """The answer; None where the line stayed full. Who is refused comes again when he was told to."""
        told = 0
        for _ in range(_RETRIES):
            began = time.monotonic()
            with self.client.post(path, name=self.kind, catch_response=True, **request) as answer:
                if answer.status_code == 503 and "retry-after" in answer.headers:
                    answer.success()
                    self.seen["refused"] += 1
                    Client.slowest_refusal = max(Client.slowest_refusal, time.monotonic() - began)
                    if told:
                        self.waited.append((told, False))
                    told = int(answer.headers["retry-after"])
                    gevent.sleep(told)
                    continue
                if answer.status_code not in (200, 202):
                    self.seen["failed"] += 1
                    answer.failure(f"{answer.status_code}: {answer.text[:200]}")
                    return None
                if told:
                    self.waited.append((told, True))
                return answer
        return None

    def check(self, text: str) -> None:
        if text.strip() == self.words:
            self.seen["right"] += 1
            return
        others = {" ".join(other) for other in self.sentences} - {self.words}
        crossed = text.strip() in others
        self.seen["crossed" if crossed else "wrong"] += 1
        print(f"client {self.number} ({self.kind}): {text!r} instead of {self.words!r}", file=sys.stderr)


def level(server: Server, clients: int, seconds: float, seed: int) -> dict[str, object]:
    """What happened at one level."""
    triples: list[tuple[str, ...]] = list(itertools.permutations(SENTENCES, 3))
    random.Random(seed).shuffle(triples)
    Client.sentences, Client.seen, Client.waited = triples, Counter(), []
    Client.numbers, Client.slowest_refusal = itertools.count(), 0.0
    ping = subprocess.Popen(
        [sys.executable, "-m", "bench.ping", server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    environment = Environment(user_classes=[Client], host=server.url, stop_timeout=_RUNS_OUT)
    runner = environment.create_local_runner()
    began = time.monotonic()
    runner.start(clients, spawn_rate=clients)
    gevent.sleep(seconds)
    runner.quit()
    took = time.monotonic() - began
    pings = sorted(json.loads(ping.communicate("")[0]))
    stats = {
        entry.name: {
            "requests": entry.num_requests,
            "failures": entry.num_failures,
            "median_s": round(entry.get_response_time_percentile(0.5) / 1000, 3),
            "p95_s": round(entry.get_response_time_percentile(0.95) / 1000, 3),
        }
        for entry in environment.stats.entries.values()
    }
    for error in environment.stats.errors.values():
        print(f"{error.occurrences} times {error.name}: {error.error}"[:500], file=sys.stderr)
    taken = [told for told, was_taken in Client.waited if was_taken]
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "right": Client.seen["right"],
        "wrong": Client.seen["wrong"],
        "crossed": Client.seen["crossed"],
        "failed": environment.stats.total.num_failures,
        "refused": Client.seen["refused"],
        "slowest_refusal_s": round(Client.slowest_refusal, 3),
        "taken_after_waiting": f"{len(taken)} of {len(Client.waited)}",
        "ping_ms": {
            "count": len(pings),
            "p50": round(pings[len(pings) // 2], 1),
            "p99": round(pings[int(len(pings) * 0.99)], 1),
            "max": round(pings[-1], 1),
        },
        "server_mb": round(_memory(server) / 1e6),
        "by_kind": stats,
    }


def _memory(server: Server) -> int:
    return sum(
        process.memory_info().rss for process in [psutil.Process(server.process.pid), *server.children()]
    )


def fairness(server: Server, clips: int, seconds: float) -> dict[str, object]:
    """A 3 s clip's latency alone, and beside two films of two hours."""
    clip = wav(talk(SENTENCES[:2]))
    minute = talk(SENTENCES * 2)
    film = wav(np.tile(minute, int(7200 * 16000 / len(minute)) + 1))

    def latencies(client: Any, count: int, until: float) -> list[float]:
        took = []
        for _ in range(count):
            began = time.perf_counter()
            answer = client.post(PATH, files={"file": ("a.wav", clip)}, data={"language": "en"})
            took.append(time.perf_counter() - began)
            assert answer.json()["text"] == " ".join(SENTENCES[:2]), answer.text
            if time.monotonic() > until:
                break
            gevent.sleep(0.05)
        return sorted(took)

    with server.client() as client, tempfile.NamedTemporaryFile() as file:
        file.write(film)
        file.flush()
        latencies(client, 5, time.monotonic() + seconds)
        alone = latencies(client, clips, time.monotonic() + seconds)
        films = [
            subprocess.Popen(
                ["curl", "-sN", server.url + PATH, "-F", f"file=@{file.name}", "-F", "stream=true"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        try:
            for each in films:
                assert each.stdout
                while "delta" not in each.stdout.readline():
                    assert each.poll() is None, "the film ended"
            beside = latencies(client, clips, time.monotonic() + seconds)
            assert all(each.poll() is None for each in films), "a film ended"
        finally:
            for each in films:
                each.kill()
                each.wait()
    p95 = {name: took[int(len(took) * 0.95)] for name, took in (("alone", alone), ("beside", beside))}
    return {
        "clips": [len(alone), len(beside)],
        "clip_s": round(len(talk(SENTENCES[:2])) / 16000, 1),
        "alone_median_s": round(alone[len(alone) // 2], 3),
        "alone_p95_s": round(p95["alone"], 3),
        "beside_median_s": round(beside[len(beside) // 2], 3),
        "beside_p95_s": round(p95["beside"], 3),
        "ratio_of_p95": round(p95["beside"] / p95["alone"], 2),
    }


def table(levels: list[dict[str, Any]]) -> str:
    head = (
        "| clients | right | wrong, crossed, failed | refused (slowest) | taken when they came again | "
        "ping p50, p99, max | clip p95 | memory |\n|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {one['clients']} | {one['right']} | {one['wrong']}, {one['crossed']}, {one['failed']} | "
        f"{one['refused']} ({one['slowest_refusal_s']} s) | {one['taken_after_waiting']} | "
        f"{one['ping_ms']['p50']}, {one['ping_ms']['p99']}, {one['ping_ms']['max']} ms | "
        f"{one['by_kind'].get('clip', {}).get('p95_s', '-')} s | {one['server_mb']} MB |\n"
        for one in levels
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", default="1,4,16,64,256", help="levels, with commas; empty: none")
    parser.add_argument("--seconds", type=float, default=20, help="of each level")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--fairness", action="store_true", help="clips beside two films of two hours, too")
    parser.add_argument("--write", type=Path, help="keep the raw figures in this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data", folder, "--demo", "true"]
        with started([*command, "--log-level", "warning"], Path(folder), {}) as server:
            about = {"seed": asked.seed, "cores": os.cpu_count(), "seconds": asked.seconds}
            if asked.clients:
                levels = []
                for clients in map(int, asked.clients.split(",")):
                    levels.append(level(server, clients, asked.seconds, asked.seed))
                    print(json.dumps(levels[-1]), file=sys.stderr)
                print(table(levels))
                if asked.write:
                    report.keep(asked.write, {"load": {**about, "levels": levels}})
            if asked.fairness:
                fair = fairness(server, 40, asked.seconds)
                print(json.dumps(fair, indent=1))
                if asked.write:
                    report.keep(asked.write, {"fairness": {**about, **fair}})


if __name__ == "__main__":
    main()
