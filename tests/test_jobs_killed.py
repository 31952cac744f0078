"""Jobs and their webhooks over `kill -9`, at the points where it hurts and at others."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.receiver import Receiver
from tests.serving import Server, serving, until
from tests.speech import SENTENCES, talk, wav

TWO = wav(talk(SENTENCES[:2]))
TEXT = " ".join(SENTENCES[:2])

SETTINGS = {"WHISPERD_ALLOWED_URL_HOSTS": "localhost", "WHISPERD_WEBHOOK_WAIT": "0.2"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


class Run:
    """Jobs over several servers on one data folder."""

    def __init__(self, data: Path, receiver: Receiver) -> None:
        self.data = data
        self.receiver = receiver
        self.jobs: list[str] = []

    def submit(self, client: httpx.Client, count: int) -> list[str]:
        """Ids of so many new jobs, all acknowledged."""
        made = []
        for _ in range(count):
            answer = client.post(
                "/v1/audio/transcriptions",
                params={"async": "true", "webhook": self.receiver.url},
                files={"file": ("a.wav", TWO)},
            )
            assert answer.status_code == 202, answer.text
            made.append(answer.json()["id"])
        self.jobs += made
        return made

    def killed(self, count: int, when: Callable[[httpx.Client, list[str]], object]) -> None:
        """A server that gets so many jobs, and is killed when that returns."""
        with serving(self.data, environment=SETTINGS) as server, server.client() as client:
            when(client, self.submit(client, count))
            kill(server)

    def check(self) -> None:
        """After another start, everything is right and told."""
        with serving(self.data, environment=SETTINGS) as server, server.client() as client:
            until(lambda: count(client, "queued,running") == 0, 120)
            for id in self.jobs:
                assert client.get(f"/v1/jobs/{id}/result").json()["text"] == TEXT
            until(lambda: all(self.receiver.of(id) for id in self.jobs), 60)
            assert count(client, "succeeded") == len(self.jobs)


def kill(server: Server) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()


def count(client: httpx.Client, states: str) -> int:
    return len(client.get("/v1/jobs", params={"status": states, "limit": 100}).json()["data"])


def is_done(client: httpx.Client, id: str) -> bool:
    return bool(client.get(f"/v1/jobs/{id}").json()["status"] == "succeeded")


def killed_at_each_point(run: Run, each: int) -> None:
    receiver = run.receiver
    # After the acknowledgement.
    run.killed(each, lambda client, ids: None)
    # In the middle of a window.
    run.killed(each, lambda client, ids: until(lambda: count(client, "running")))
    # The result is written, and its webhook has found nobody.
    receiver.refusing = 10**6
    run.killed(each, lambda client, ids: until(lambda: is_done(client, ids[0]), 60))
    receiver.refusing = 0
    # The webhook has been taken, and nobody has noted it.
    receiver.answering.clear()
    taken = len(receiver.taken)
    run.killed(each, lambda client, ids: until(lambda: len(receiver.taken) > taken, 60))
    receiver.answering.set()


def test_nothing_is_lost_at_any_point(tmp_path: Path, receiver: Receiver) -> None:
    run = Run(tmp_path, receiver)
    killed_at_each_point(run, 2)
    run.check()


@pytest.mark.slow
def test_nothing_of_fifty_is_lost_at_any_point_nor_at_random(tmp_path: Path, receiver: Receiver) -> None:
    run = Run(tmp_path, receiver)
    killed_at_each_point(run, 10)
    for _ in range(5):
        run.killed(2, lambda client, ids: time.sleep(random.uniform(0, 3)))
    assert len(run.jobs) == 50
    run.check()
