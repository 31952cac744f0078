"""Jobs and their webhooks over `kill -9`, at the points where it hurts and at others."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dialects.test_jobs import follow
from tests.receiver import Receiver
from tests.serving import Server, serving, until
from tests.speech import SENTENCES, talk, wav

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
        self.jobs: dict[str, str] = {}
        """What each must hear, by its id."""
        self.seen: list[Any] = []
        """Events of the job that was followed."""
        self.followed = ""

    def submit(self, client: httpx.Client, count: int, sentences: Sequence[str] = SENTENCES[:2]) -> list[str]:
        """Ids of so many new jobs, all acknowledged."""
        media = wav(talk(sentences))
        made = []
        for _ in range(count):
            answer = client.post(
                "/v1/audio/transcriptions",
                params={"async": "true", "webhook": self.receiver.url},
                files={"file": ("a.wav", media)},
            )
            assert answer.status_code == 202, answer.text
            made.append(answer.json()["id"])
        self.jobs |= dict.fromkeys(made, " ".join(sentences))
        return made

    def killed(self, count: int, when: Callable[[httpx.Client, list[str]], object]) -> None:
        """A server that gets so many jobs, and is killed when that returns."""
        with serving(self.data, environment=SETTINGS) as server, server.client() as client:
            when(client, self.submit(client, count))
            kill(server)

    def killed_while_followed(self, count: int) -> None:
        """A server that is killed in the middle of a long job, with others in line."""
        with serving(self.data, environment=SETTINGS) as server, server.client() as client:
            (self.followed,) = self.submit(client, 1, SENTENCES)
            self.submit(client, count - 1)
            self.seen = follow(client, {"id": self.followed}, most=3)
            kill(server)

    def goes_on(self, client: httpx.Client) -> None:
        """The stream of events that the kill broke off goes on where it was."""
        rest = follow(client, {"id": self.followed}, after=self.seen[-1][0])
        assert rest[-1][2]["text"] == self.jobs[self.followed]
        told = [int(number) for number, _, _ in self.seen + rest]
        assert told == list(range(1, len(told) + 1))
        job = client.get(f"/v1/jobs/{self.followed}").json()
        assert "after a restart" in json.dumps(job["logs"])
        assert job["attempts"] > 1

    def check(self) -> None:
        """After another start, everything is right and told."""
        with serving(self.data, environment=SETTINGS) as server, server.client() as client:
            until(lambda: count(client, "queued,running") == 0, 120)
            for id, text in self.jobs.items():
                assert client.get(f"/v1/jobs/{id}/result").json()["text"] == text
            self.goes_on(client)
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
    run.killed_while_followed(each)
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


@pytest.mark.long
def test_nothing_of_fifty_is_lost_at_any_point_nor_at_random(tmp_path: Path, receiver: Receiver) -> None:
    run = Run(tmp_path, receiver)
    killed_at_each_point(run, 10)
    for _ in range(5):
        run.killed(2, lambda client, ids: time.sleep(random.uniform(0, 3)))
    assert len(run.jobs) == 50
    run.check()
