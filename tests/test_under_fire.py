"""What lasts longer than patience does: the rest is in docs/reliability.md, as `scripts/faults` makes it."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.receiver import Receiver
from tests.serving import ROOT, Server, serving, until

HELLO = (ROOT / "models" / "hello.ogg").read_bytes()
PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"WHISPERD_ALLOWED_URL_HOSTS": "localhost", "WHISPERD_WEBHOOK_WAIT": "0.2"}
    with serving(tmp_path_factory.mktemp("data"), environment=settings) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.mark.slow
def test_jobs_outlast_a_locked_store(own: Server, receiver: Receiver) -> None:
    """Longer than SQLite waits: who submits then is kept, or told when to come; what was taken is done."""
    query = {"async": "true", "webhook": receiver.url}
    with own.client() as client:
        taken = client.post(PATH + "?async=true", files={"file": ("a.ogg", HELLO)}).json()["id"]
        until(lambda: state(client, taken) == "succeeded", 60)
        for _ in range(2):
            ids = [
                client.post(PATH, params=query, files={"file": ("a.ogg", HELLO)}).json()["id"]
                for _ in range(3)
            ]
            lock(own.data / "jobs" / "jobs.sqlite")
            refused = client.post(PATH + "?async=true", files={"file": ("a.ogg", HELLO)})
            # It may have waited behind another one for so long that the store was free again.
            assert refused.status_code in (202, 503), refused.text
            assert client.post(PATH, files={"file": ("a.ogg", HELLO)}).status_code == 200
            until(lambda: not waiting(client), 120)
            assert all(state(client, id) == "succeeded" for id in ids)
            until(lambda: all(receiver.of(id) for id in ids), 60)  # noqa: B023


@pytest.mark.slow
def test_the_engine_of_jobs_rests_soon_after_the_last_one_and_comes_back(own: Server) -> None:
    """It would ask its database each second; SQLite keeps this file for as long as somebody has it open."""
    log_of_writes = own.data / "jobs" / "durable.sqlite-wal"
    with own.client() as client:
        for _ in range(2):
            id = client.post(PATH + "?async=true", files={"file": ("a.ogg", HELLO)}).json()["id"]
            assert log_of_writes.exists()
            until(lambda id=id: state(client, id) == "succeeded", 60)  # type: ignore[misc]
            until(lambda: not log_of_writes.exists(), 60)


def waiting(client: httpx.Client) -> bool:
    answer = client.get("/v1/jobs", params={"status": "queued,running"})
    return answer.status_code != 200 or bool(answer.json()["data"])


def state(client: httpx.Client, id: str) -> str:
    return str(client.get(f"/v1/jobs/{id}").json()["status"])


def lock(store: Path) -> None:
    """The store is another program's for 13 s from now."""
    held = threading.Event()

    def hold() -> None:
        with sqlite3.connect(store, isolation_level=None, timeout=60) as database:
            database.execute("BEGIN EXCLUSIVE")
            held.set()
            time.sleep(13)
            database.execute("ROLLBACK")
        database.close()

    threading.Thread(target=hold).start()
    assert held.wait(90)
