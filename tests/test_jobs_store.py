"""The store of jobs: what older versions of it hold is read by this one."""

import hashlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.jobs import _new_id
from server.records import SCHEMA, Records
from server.types import Delivery, Job, JobRequest, Listen
from tests.serving import ROOT, serving, until

STORES = Path(__file__).parent / "stores"
DONE, QUEUED, FAILING = (f"01990000-0000-7000-8000-00000000000{number}" for number in (1, 2, 3))


def restored(folder: Path, version: int) -> Path:
    """A data folder's jobs, as a server of that version of the store left them."""
    media = ROOT / "models" / "hello.ogg"
    digest = hashlib.sha256(media.read_bytes()).hexdigest()
    for path, data in {
        f"blobs/{digest[:2]}/{digest}": media.read_bytes(),
        f"results/{DONE}.json": (STORES / f"result-{version}.json").read_bytes(),
    }.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(data)
    store = folder / "jobs.sqlite"
    with sqlite3.connect(store) as database:
        database.executescript((STORES / f"jobs-{version}.sql").read_text())
    database.close()
    return store


@pytest.mark.parametrize("version", range(1, SCHEMA + 1))
def test_a_server_goes_on_with_the_jobs_of_every_version(tmp_path: Path, version: int) -> None:
    restored(tmp_path / "jobs", version)
    keep = {"WHISPERD_JOBS_KEEP": "36500d"}
    with serving(tmp_path, environment=keep) as server, server.client() as client:
        result = client.get(f"/v1/jobs/{DONE}/result").text
        assert result.startswith("1\n00:00:00,312 --> 00:00:01,822\nThe weather is beautiful today.")
        until(lambda: client.get(f"/v1/jobs/{QUEUED}").json()["status"] == "succeeded", 60)
        assert "Peter" in client.get(f"/v1/jobs/{QUEUED}/result").json()["text"]
        until(lambda: client.get(f"/v1/jobs/{FAILING}").json()["status"] == "failed", 60)
        stored = client.get(f"/files/b/w{'0' * 32}/hello.ogg")
        assert stored.content == (ROOT / "models" / "hello.ogg").read_bytes()


def job(place: int, **told: Any) -> Job:
    """A job that was submitted at that second."""
    return Job(f"0199-{place}", JobRequest(Listen("")), created=float(place), **told)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "jobs.sqlite")
    yield records
    records.close()


def test_a_priority_is_an_hour(records: Records) -> None:
    """High goes before what is less than an hour older, low behind what is so much younger."""
    line = [(0, "low"), (1, "normal"), (3500, "high"), (3700, "normal"), (3800, "high")]
    for place, priority in line:
        records.add(job(place, priority=priority), "")
    expected = [f"0199-{place}" for place in (3500, 1, 3800, 0, 3700)]
    assert [records.position(id) for id in expected] == [*range(5)]
    assert [found.id for _ in line if (found := records.claim())] == expected
    assert records.claim() is None


def test_what_has_had_its_time_goes_but_for_whom_a_webhook_waits(records: Records) -> None:
    told = Delivery(0.0, 204, "", 0.1)
    kinds: tuple[dict[str, Any], ...] = ({}, {"private": True}, *({"webhook": "http://a"},) * 3)
    for place, kind in enumerate(kinds):
        records.add(job(place, **kind), "")
        if place < 4:
            records.finish(f"0199-{place}", "succeeded", size=10_000)
    records.deliver("0199-3", told, over=True)
    now = time.time()
    assert records.expired(now - 60, 10**9, private=now - 60) == []
    assert records.expired(now - 60, 10**9, private=now + 60) == ["0199-1"]
    assert records.expired(now + 60, 10**9) == ["0199-0", "0199-1", "0199-3"]
    assert records.expired(now - 60, 20_000) == ["0199-0", "0199-1"], "the oldest, beyond that size"


def test_ids_sort_by_the_time_of_their_making() -> None:
    made = [_new_id() for _ in range(20_000)]
    times = [id[:18] for id in made]
    assert times == sorted(times)
    assert len(set(made)) == len(made)


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = restored(tmp_path / "jobs", SCHEMA)
    with sqlite3.connect(store) as database:
        database.execute("UPDATE schema_version SET version = ?", (SCHEMA + 1,))
    database.close()
    with pytest.raises(RuntimeError, match="newer whisperd"):
        Records(store)


def test_the_store_is_as_its_version_says(tmp_path: Path) -> None:
    """Tables that change need another version, and a way to it from this one."""
    store = restored(tmp_path / "old", SCHEMA)
    Records(tmp_path / "new.sqlite").close()

    def schema(path: Path) -> list[str]:
        with sqlite3.connect(path) as database:
            found = [str(row[0]) for row in database.execute("SELECT sql FROM sqlite_master WHERE sql != ''")]
        database.close()
        return sorted(found)

    assert schema(tmp_path / "new.sqlite") == schema(store)


_RESTS = """
import asyncio, logging, sys
from pathlib import Path
from server.durable import Durable

async def nothing(*_):
    return None

async def main():
    left = []
    for _ in range(4):
        engine = Durable(Path(sys.argv[1]), nothing, nothing)
        await engine.start()
        await engine.stop()
        left.append(len(logging.getLogger("dbos").handlers))
    assert left == [1, 1, 1, 1], left

asyncio.run(main())
"""


@pytest.mark.slow
def test_an_engine_that_rests_adds_no_handler_to_the_log_each_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _RESTS, str(tmp_path / "durable.sqlite")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
