"""Downloads from a real hub on loopback that does everything wrong: a model appears whole, or not at all."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from server import catalogue, ggml, partial
from server.config import ConfigError, read
from server.errors import (
    BadField,
    ChecksumMismatch,
    Gated,
    HubUnreachable,
    ModelNotFound,
    NoSpace,
    NotAModel,
    NotAtSource,
    NotWritable,
    PullFailed,
    Stopping,
)
from server.models import Models
from server.pull import Pulling, Pulls, _Speed
from server.types import ModelInfo
from tests.hub import HOME, Hub, model, sha256
from tests.serving import until
from tests.test_ggml import DEMO as DEMO_FILE

TINY = "ggml-tiny.bin"
MODEL = model(1)
OTHER = model(2)
SIZE = len(MODEL)

Make = Callable[..., Pulls]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
async def make(hub: Hub, folder: Path) -> AsyncIterator[Make]:
    """Pulls into the folder, by a patient client that loses no time."""
    made = []

    def pulls(**changed: object) -> Pulls:
        settings = {"endpoint": hub.url, "stall": 5.0, "pause": 0.001, "tick": 0.05} | changed
        models = settings.pop("models", None) or Models(folder, DEMO_FILE.parent)
        made.append(Pulls(models, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield pulls
    for each in made:
        await each.stop()


@pytest.fixture
def pulls(make: Make, hub: Hub) -> Pulls:
    hub.add(HOME, TINY, MODEL)
    return make()


async def pulled(pulls: Pulls, path: str = "tiny", repo: str | None = None) -> ModelInfo:
    """The model that a pull ends with."""
    *_, last = await all_of(pulls, path, repo)
    assert isinstance(last, ModelInfo)
    return last


async def all_of(pulls: Pulls, path: str = "tiny", repo: str | None = None) -> list[Pulling | ModelInfo]:
    return [report async for report in pulls.pull(path, repo)]


async def refusal(pulls: Pulls, kind: type[Exception], path: str = "tiny", repo: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        await pulled(pulls, path, repo)
    assert type(caught.value) is kind
    return str(caught.value)


def inside(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


async def coming(reports: AsyncGenerator[Pulling | ModelInfo], at_least: int = 1) -> Pulling:
    """The first report with so many bytes."""
    async for report in reports:
        assert isinstance(report, Pulling)
        if report.completed >= at_least:
            return report
    raise AssertionError("it ended before")


INSTALLED = [f".{TINY}.json", TINY]
LEFT = [f"{TINY}.part", f"{TINY}.part.json"]


class TestInstalls:
    async def test_whole(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        reports = [report async for report in pulls.pull("tiny")]
        info = reports.pop()
        assert isinstance(info, ModelInfo)
        assert (info.id, info.path, info.size) == ("ggml-tiny", folder / TINY, SIZE)
        assert info.sha256 == sha256(MODEL)
        assert info.path.read_bytes() == MODEL
        assert inside(folder) == INSTALLED
        assert hub.sent == SIZE
        last = reports[-1]
        assert isinstance(last, Pulling)
        assert (last.path, last.status) == (TINY, f"installed {TINY}")
        assert (last.total, last.completed, last.remaining) == (SIZE, SIZE, 0.0)
        assert pulls.running() == ()
        assert Models(folder, None).find("tiny") == info, "another process knows the hash too"

    @pytest.mark.parametrize("name", ["tiny", "tiny.bin", "ggml-tiny", TINY])
    async def test_by_every_name(self, pulls: Pulls, name: str) -> None:
        assert pulls.find(name) is None
        info = await pulled(pulls, name)
        assert info.path.name == TINY
        assert pulls.find(name) == info

    async def test_any_file_of_any_repository(self, make: Make, hub: Hub, folder: Path) -> None:
        hub.add("some.body/else_s", "deep/er/my model §.bin", MODEL)
        info = await pulled(make(), "deep/er/my model §.bin", "some.body/else_s")
        assert info.path == folder / "my model §.bin"

    async def test_what_is_there_is_not_fetched(self, pulls: Pulls, hub: Hub) -> None:
        info = await pulled(pulls)
        hub.asked.clear()
        assert [report async for report in pulls.pull("tiny")] == [info]
        assert [report async for report in pulls.pull(TINY, HOME)] == [info]
        assert not hub.asked

    async def test_a_broken_file_is_replaced(self, pulls: Pulls, folder: Path) -> None:
        folder.mkdir()
        (folder / TINY).write_bytes(MODEL[:-1])
        assert pulls.find("tiny") is None
        await pulled(pulls)
        assert (folder / TINY).read_bytes() == MODEL

    async def test_a_deleted_bundled_model_comes_back_without_a_hub(self, make: Make, folder: Path) -> None:
        models = Models(folder, DEMO_FILE.parent)
        models.delete("demo")
        pulls = make(models=models, endpoint="http://127.0.0.1:1")
        for name in "demo", "ggml-demo.bin":
            assert pulls.find(name) is None
            info = await pulled(pulls, name)
            assert (info.path, models.find("demo")) == (DEMO_FILE, info)
            models.delete("demo")
        assert inside(folder) == [".ggml-demo.bin.deleted"]

    async def test_another_repositorys_file_of_the_same_name(
        self, pulls: Pulls, make: Make, hub: Hub, folder: Path
    ) -> None:
        hub.add("some/body", TINY, OTHER)
        hub.add("some/body", "ggml-demo.bin", OTHER)
        await pulled(pulls)
        words = await refusal(pulls, BadField, TINY, "some/body")
        assert words == f"{TINY} is installed from {HOME}; delete it to have that of some/body"
        assert (folder / TINY).read_bytes() == MODEL
        # Who names a repository does not mean the bundled model.
        assert (await pulled(pulls, "ggml-demo.bin", "some/body")).path == folder / "ggml-demo.bin"

    def test_a_hub_that_does_not_answer_holds_up_no_end(self, folder: Path) -> None:
        """Its thread still waits when everything else has ended."""
        connections: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0)) as silent:

            async def begin_and_stop() -> None:
                pulls = Pulls(Models(folder, None), endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
                pulling = asyncio.create_task(pulled(pulls))
                connections.append((await asyncio.to_thread(silent.accept))[0])
                await pulls.stop()
                with pytest.raises(Stopping):
                    await pulling

            asyncio.run(begin_and_stop())
            waiting = [thread for thread in threading.enumerate() if thread.name == "asking the hub"]
            connections[0].close()
        assert waiting
        for thread in waiting:
            thread.join(60)

    async def test_a_pinned_repository_is_pulled_at_its_revision(self, make: Make, hub: Hub) -> None:
        pin = hub.add("some/body", "m.bin", MODEL)
        hub.add("some/body", "m.bin", OTHER)
        info = await pulled(make(trusted=[f"some/body@{pin}"]), "m.bin", "some/body")
        assert info.path.read_bytes() == MODEL

    async def test_a_pinned_commit_is_not_another_one(self, make: Make, hub: Hub, folder: Path) -> None:
        pin = hub.add("some/body", "m.bin", MODEL)
        hub.faults.other_commit = "f" * 40
        words = await refusal(make(trusted=[f"some/body@{pin}"]), ChecksumMismatch, "m.bin", "some/body")
        assert words == f"some/body is pinned to the commit {pin}, and the hub tells of {'f' * 40}"
        assert (inside(folder), hub.sent) == ([], 0)

    async def test_a_pinned_hash_holds_against_moved_names_and_mirrors_that_lie(
        self, make: Make, hub: Hub, folder: Path
    ) -> None:
        pin = hub.add("some/body", "dir/m.bin", MODEL)
        repository = hub.repositories["some/body"]
        repository.tags["v1"] = pin
        trusted = ["some/body@v1", f"some/body/dir/m.bin@sha256:{sha256(MODEL)}"]
        moved = hub.add("some/body", "dir/m.bin", OTHER)
        repository.tags["v1"] = moved
        words = await refusal(make(trusted=trusted), ChecksumMismatch, "dir/m.bin", "some/body")
        assert words.startswith(
            f"dir/m.bin of some/body is pinned to the SHA-256 {sha256(MODEL)}, and the hub"
        )
        repository.commits[0] = (pin, {"dir/m.bin": OTHER})
        trusted[0] = f"some/body@{pin}"
        await refusal(make(trusted=trusted), ChecksumMismatch, "dir/m.bin", "some/body")
        assert (inside(folder), hub.sent) == ([], 0)
        repository.commits[0] = (pin, {"dir/m.bin": MODEL})
        info = await pulled(make(trusted=trusted), "dir/m.bin", "some/body")
        assert info.sha256 == sha256(MODEL)

    async def test_code_is_pulled_from_pinned_commits_alone(self, make: Make, hub: Hub) -> None:
        pin = hub.add("some/body", "weights.pt", MODEL)
        for trusted, words in (
            ([], "some/body@COMMIT"),
            ([f"some/body/weights.pt@sha256:{sha256(MODEL)}"], "some/body@COMMIT"),
            (["some/body@v1"], "pinned to v1, which can be moved"),
            ([f"some/body@{pin[:12]}"], "by all 40 figures"),
            ([f"some/body@{pin.upper()}"], "by all 40 figures"),
            ([f"some/body@{pin}"], "nothing here runs other kinds"),
        ):
            assert words in await refusal(make(trusted=trusted), BadField, "weights.pt", "some/body")
        assert not hub.asked

    @pytest.mark.parametrize(
        "entry", ["some/body", "some/body@", "body@v1", "a/b/c.bin@sha256:12", "a/b@v 1"]
    )
    def test_what_pins_nothing_is_refused(self, entry: str) -> None:
        with pytest.raises(ConfigError, match="trusted_repos"):
            read(environment={"WHISPERD_TRUSTED_REPOS": entry})

    async def test_mirror_with_entity_tags_of_its_own(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.own_etags = True
        assert (await pulled(pulls)).sha256 == sha256(MODEL)

    async def test_plain_http_where_xet_is_offered(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.xet = True
        await pulled(pulls)
        assert not [asked for asked in hub.asked if "xet" in asked.path]

    async def test_mirror_by_environment(self, hub: Hub, folder: Path, tmp_path: Path) -> None:
        hub.add(HOME, TINY, MODEL)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", "-c", PULLER, str(folder)],
            env={"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_environment"},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (folder / TINY).read_bytes() == MODEL
        told = {asked.headers.get("authorization") for asked in hub.asked if asked.host == "hub"}
        assert told == {"Bearer hf_environment"}
        assert not [asked for asked in hub.asked if asked.method == "GET" and "/api/" in asked.path]


PULLER = """
import asyncio, sys
from pathlib import Path
from server.models import Models
from server.pull import Pulls

async def main():
    pulls = Pulls(Models(Path(sys.argv[1]), None), pause=0.001)
    async for report in pulls.pull("tiny"):
        pass

asyncio.run(main())
"""
"""A process that pulls the tiny model, from HF_ENDPOINT."""


class TestResumes:
    async def test_no_byte_twice(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.break_after = [100_000, 1, 1_500_000, 65_536]
        info = await pulled(pulls)
        assert info.path.read_bytes() == MODEL
        assert [asked.start for asked in hub.bodies] == [0, 100_000, 100_001, 1_600_001, 1_665_537]
        assert hub.sent == SIZE
        assert inside(folder) == INSTALLED

    async def test_many_breaks_at_random(self, pulls: Pulls, hub: Hub) -> None:
        noise = random.Random(4)
        hub.faults.break_after = [noise.choice([1, noise.randrange(1, 150_000)]) for _ in range(40)]
        breaks = len(hub.faults.break_after)
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert len(hub.bodies) == breaks + 1
        assert hub.sent == SIZE

    async def test_a_stall_is_a_break(self, make: Make, pulls: Pulls, hub: Hub) -> None:
        hub.faults.stall_after = [700_000]
        # The hub itself would wait for ten minutes.
        async with asyncio.timeout(30):
            assert (await pulled(make(stall=0.3))).path.read_bytes() == MODEL
        assert [asked.start for asked in hub.bodies] == [0, 700_000]
        assert hub.sent == SIZE

    async def test_an_answer_that_just_ends_is_a_break(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.unframed = True
        hub.faults.break_after = [500_000]
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert [asked.start for asked in hub.bodies] == [0, 500_000]

    async def test_storage_that_refuses_now_and_then(self, pulls: Pulls, hub: Hub) -> None:
        """Its addresses are signed, and expire."""
        hub.faults.break_after = [500_000]
        hub.faults.statuses = [503, 403, 429]
        hub.faults.hub_statuses = [500, 502]
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert hub.sent == SIZE

    async def test_after_a_restart(self, make: Make, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.stall_after = [1_234_567]
        async with aclosing(pulls.pull("tiny")) as reports:
            await coming(reports, 1_234_567)
            await pulls.stop()
        assert inside(folder) == LEFT
        assert (folder / LEFT[0]).read_bytes() == MODEL[:1_234_567]
        with pytest.raises(ModelNotFound):
            Models(folder, None).find("tiny")
        await pulled(make())
        assert (folder / TINY).read_bytes() == MODEL
        assert [asked.start for asked in hub.bodies] == [0, 1_234_567]
        assert hub.sent == SIZE
        assert inside(folder) == INSTALLED

    async def test_after_a_kill(self, make: Make, hub: Hub, folder: Path, tmp_path: Path) -> None:
        hub.add(HOME, TINY, MODEL)
        hub.faults.stall_after = [2_000_000]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PULLER, str(folder)),
            env={"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)},
            cwd=Path(__file__).parent.parent,
        )
        part = folder / LEFT[0]
        await asyncio.to_thread(until, lambda: part.exists() and part.stat().st_size == 2_000_000)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert part.read_bytes() == MODEL[:2_000_000]
        await pulled(make())
        assert (folder / TINY).read_bytes() == MODEL
        assert [asked.start for asked in hub.bodies] == [0, 2_000_000]
        assert hub.sent == SIZE
        assert inside(folder) == INSTALLED

    async def test_all_was_there_before_the_kill(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        leave_part(folder, MODEL, sha256(MODEL))
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert hub.sent == 0

    @pytest.mark.parametrize("kept", [0, 1, 63, 64, 1000, SIZE - 1])
    async def test_parts_of_all_lengths(self, pulls: Pulls, hub: Hub, folder: Path, kept: int) -> None:
        leave_part(folder, MODEL[:kept], sha256(MODEL))
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert hub.sent == SIZE - kept

    async def test_a_part_of_another_file_is_no_part(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        leave_part(folder, OTHER[:1_000_000], sha256(OTHER))
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert hub.sent == SIZE

    @pytest.mark.parametrize("note", ["", "{", "[]", '{"size": "x"}'])
    async def test_a_part_that_nothing_is_known_of(
        self, pulls: Pulls, hub: Hub, folder: Path, note: str
    ) -> None:
        leave_part(folder, OTHER[:1_000_000], sha256(OTHER))
        (folder / LEFT[1]).write_text(note)
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert hub.sent == SIZE

    async def test_a_part_that_is_too_long(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        leave_part(folder, MODEL + b"x", sha256(MODEL))
        assert (await pulled(pulls)).path.read_bytes() == MODEL

    async def test_a_part_that_was_damaged(self, pulls: Pulls, folder: Path) -> None:
        """Its hash is that of the disk, not of what once came."""
        leave_part(folder, MODEL[:500_000] + b"\0" * 500_000, sha256(MODEL))
        assert "SHA-256" in await refusal(pulls, ChecksumMismatch)
        assert inside(folder) == []
        await pulled(pulls)

    async def test_a_source_without_ranges_starts_over(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.ignore_ranges = True
        hub.faults.break_after = [600_000, 400_000]
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert [(asked.status, asked.sent) for asked in hub.bodies] == [
            (200, 600_000),
            (200, 400_000),
            (200, SIZE),
        ]

    async def test_a_file_that_changes_is_fetched_as_it_was(self, pulls: Pulls, hub: Hub) -> None:
        """The hub keeps old revisions."""
        hub.faults.break_after = [600_000]
        hub.faults.before = [lambda: None, lambda: changed(hub)]
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert hub.sent == SIZE

    async def test_a_file_that_changes_at_a_mirror_without_revisions(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.no_commit = True
        hub.faults.break_after = [600_000]
        hub.faults.before = [lambda: None, lambda: changed(hub)]
        info = await pulled(pulls)
        assert info.path.read_bytes() == OTHER
        assert info.sha256 == sha256(OTHER)
        assert [asked.start for asked in hub.bodies] == [0, 0]


def changed(hub: Hub) -> None:
    hub.add(HOME, TINY, OTHER)


def fill(file: Path) -> None:
    file.write_bytes(bytes(4_000_000))


def leave_part(folder: Path, data: bytes, digest: str) -> None:
    """What a killed process left."""
    folder.mkdir(exist_ok=True)
    (folder / LEFT[0]).write_bytes(data)
    (folder / LEFT[1]).write_text(f'{{"size": {SIZE}, "sha256": "{digest}"}}')


class TestReports:
    async def test_go_on_while_nothing_arrives(self, make: Make, pulls: Pulls, hub: Hub) -> None:
        hub.faults.stall_after = [900_000]
        same = 0
        async with aclosing(make(stall=30.0).pull("tiny")) as reports:
            async for report in reports:
                assert isinstance(report, Pulling)
                same += report.completed == 900_000
                if same == 4:
                    assert (report.status, report.total) == (f"downloading {TINY}", SIZE)
                    return
        raise AssertionError("it ended")

    async def test_tell_speed_and_rest(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.rate = 8_000_000
        told = []
        async for report in pulls.pull("tiny"):
            if isinstance(report, Pulling) and 0 < report.completed < SIZE:
                told.append(report)
                assert pulls.running()[0].path == TINY
        assert told
        assert [report.completed for report in told] == sorted({report.completed for report in told})
        assert all(report.speed > 0 and report.remaining for report in told)

    async def test_tell_that_the_line_broke(self, make: Make, pulls: Pulls, hub: Hub) -> None:
        hub.faults.hub_statuses = [500]
        told = [report async for report in make(pause=0.1).pull("tiny")]
        status = {report.status for report in told if isinstance(report, Pulling)}
        assert "waiting for the hub: the hub answers 500" in status

    async def test_tell_of_what_is_done_once_it_is_installed(
        self, make: Make, hub: Hub, folder: Path
    ) -> None:
        """A phase of its own, with sizes of its own; the end is that of the download."""
        hub.add(HOME, TINY, MODEL)
        seen = asyncio.Event()
        prepared: list[ModelInfo] = []

        async def prepare(info: ModelInfo, tell: Callable[[int, int], None]) -> None:
            prepared.append(info)
            tell(5, 10)
            await seen.wait()

        reports: list[Pulling | ModelInfo] = []
        async for report in make(prepare=prepare).pull("tiny"):
            reports.append(report)
            if isinstance(report, Pulling) and report.status == f"converting {TINY}":
                assert (report.completed, report.total) == (5, 10)
                assert inside(folder) == INSTALLED
                seen.set()
        assert seen.is_set()
        last = reports[-2]
        assert isinstance(last, Pulling)
        assert (last.status, last.completed, last.total) == (f"installed {TINY}", SIZE, SIZE)
        assert reports[-1] == prepared[0]

    async def test_what_was_there_is_no_speed(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        leave_part(folder, MODEL[:-1], sha256(MODEL))
        hub.faults.stall_after = [0]
        async with aclosing(pulls.pull("tiny")) as reports:
            async for report in reports:
                assert isinstance(report, Pulling)
                if report.status.startswith("downloading"):
                    assert (report.completed, report.speed, report.remaining) == (SIZE - 1, 0.0, None)
                    return
        raise AssertionError("it ended")

    def test_speed_is_that_of_the_last_seconds(self) -> None:
        speed = _Speed()
        assert speed.now(1000, at=0.0) == 0.0
        assert speed.now(2000, at=1.0) == 1000.0
        assert [speed.now(2000 + 10 * i, at=1.0 + i) for i in range(1, 10)][-1] == pytest.approx(10.0)
        assert speed.now(2090, at=30.0) == 0.0
        assert speed.now(50, at=31.0) == 0.0, "it was started anew"
        assert speed.now(150, at=32.0) == 100.0


class TestShared:
    async def test_two_clients_one_download(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.rate = 8_000_000
        one, two = await asyncio.gather(all_of(pulls), all_of(pulls, TINY))
        assert one[-1] == two[-1]
        for reports in one, two:
            assert [report for report in reports[:-1] if 0 < _completed(report) < SIZE]
        assert len(hub.bodies) == 1
        assert hub.sent == SIZE

    async def test_one_leaves(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.rate = 8_000_000
        staying = asyncio.create_task(pulled(pulls))
        async with aclosing(pulls.pull("tiny")) as reports:
            await coming(reports)
        assert (await staying).path.read_bytes() == MODEL
        assert hub.sent == SIZE

    async def test_both_leave_and_it_goes_on(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.rate = 8_000_000
        async with aclosing(pulls.pull("tiny")) as one, aclosing(pulls.pull("tiny")) as two:
            await coming(one)
            await coming(two)
        while pulls.running():
            await asyncio.sleep(0.01)
        assert (folder / TINY).read_bytes() == MODEL
        assert hub.sent == SIZE

    async def test_both_leave_and_it_pauses(self, make: Make, hub: Hub, folder: Path) -> None:
        hub.add(HOME, TINY, MODEL)
        pulls = make(go_on=False)
        hub.faults.stall_after = [800_000]
        async with aclosing(pulls.pull("tiny")) as one:
            async with aclosing(pulls.pull("tiny")) as two:
                await coming(one, 800_000)
                await coming(two, 800_000)
            assert pulls.running(), "one is still there"
        assert pulls.running() == ()
        # At once, while the first may still be closing its file.
        assert (await pulled(pulls)).path.read_bytes() == MODEL
        assert [asked.start for asked in hub.bodies] == [0, 800_000]
        assert hub.sent == SIZE
        assert inside(folder) == INSTALLED

    async def test_another_process_is_waited_for(self, make: Make, pulls: Pulls, hub: Hub) -> None:
        hub.faults.stall_after = [800_000]
        async with aclosing(pulls.pull("tiny")) as reports:
            await coming(reports, 800_000)
            waiting = []
            async for report in make().pull("tiny"):
                waiting.append(report)
                if isinstance(report, Pulling) and report.status.startswith("waiting for another process"):
                    await pulls.stop()
        assert any(_completed(report) == 800_000 for report in waiting)
        assert isinstance(waiting[-1], ModelInfo)
        assert hub.sent == SIZE, "it went on where the other stopped"

    async def test_another_process_installs_it(self, make: Make, pulls: Pulls, hub: Hub) -> None:
        hub.faults.rate = 8_000_000
        one, two = await asyncio.gather(all_of(pulls), all_of(make()))
        assert one[-1] == two[-1]
        assert hub.sent == SIZE

    async def test_the_same_name_from_elsewhere(self, pulls: Pulls, hub: Hub) -> None:
        hub.add("some/body", TINY, OTHER)
        hub.faults.stall_after = [800_000]
        async with aclosing(pulls.pull("tiny")) as reports:
            await coming(reports)
            words = await refusal(pulls, BadField, TINY, "some/body")
        assert words == f"{TINY} is just being pulled from {HOME}"

    async def test_everybody_hears_why_it_failed(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.corrupt = 2_000_000
        failures = await asyncio.gather(all_of(pulls), all_of(pulls), return_exceptions=True)
        assert [type(failure) for failure in failures] == [ChecksumMismatch] * 2
        assert hub.sent == SIZE

    async def test_a_failure_that_nobody_watches_is_logged(
        self, pulls: Pulls, hub: Hub, caplog: pytest.LogCaptureFixture
    ) -> None:
        hub.faults.corrupt = 2_000_000
        hub.faults.rate = 8_000_000
        async with aclosing(pulls.pull("tiny")) as reports:
            await coming(reports, 0)
        while pulls.running():
            await asyncio.sleep(0.01)
        assert f"pulling {TINY} failed: {TINY} of {HOME} came with the SHA-256" in caplog.text

    async def test_stopping(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.stall_after = [800_000]
        watching = asyncio.create_task(all_of(pulls))
        while not (pulls.running() and pulls.running()[0].completed == 800_000):
            await asyncio.sleep(0.01)
        await pulls.stop()
        with pytest.raises(Stopping):
            await watching
        await refusal(pulls, Stopping)
        assert inside(folder) == LEFT
        assert (folder / LEFT[0]).read_bytes() == MODEL[:800_000]


def _completed(report: Pulling | ModelInfo) -> int:
    return report.completed if isinstance(report, Pulling) else 0


class TestRefuses:
    async def test_wrong_content(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.corrupt = 2_000_000
        words = await refusal(pulls, ChecksumMismatch)
        assert words.startswith(f"{TINY} of {HOME} came with the SHA-256 ")
        assert f"the hub promised {sha256(MODEL)}" in words
        assert inside(folder) == []
        hub.faults.corrupt = None
        await pulled(pulls)

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"", "breaks off"),
            (b"<html></html>", "not a GGML Whisper model"),
            (MODEL[:-1], "breaks off"),
            (MODEL + b"x", "1 bytes follow after the last tensor"),
            (b"PK\x03\x04" + bytes(100), "a zip archive or a PyTorch checkpoint"),
        ],
        ids=["empty", "page", "cut", "longer", "pickle"],
    )
    async def test_what_is_no_model(self, make: Make, hub: Hub, folder: Path, data: bytes, why: str) -> None:
        hub.add("some/body", "pytorch_model.bin", data)
        words = await refusal(make(), NotAModel, "pytorch_model.bin", "some/body")
        assert words.startswith("pytorch_model.bin of some/body is not a whole GGML Whisper model: ")
        if data:
            assert why in words
        assert inside(folder) == []

    async def test_gigabytes_of_something_else_need_not_come(
        self, make: Make, hub: Hub, folder: Path
    ) -> None:
        hub.add("some/body", "m.bin", b"GGUF" + bytes(20_000_000))
        hub.faults.rate = 5_000_000
        assert "a GGUF file" in await refusal(make(), NotAModel, "m.bin", "some/body")
        assert hub.sent < 10_000_000
        assert inside(folder) == []

    @pytest.mark.parametrize(
        "path",
        [
            *(
                "../x.bin",
                "a/../x.bin",
                "/etc/x.bin",
                "a//x.bin",
                "./x.bin",
                "a\\x.bin",
                "a\\b/x.bin",
                "x\0.bin",
                "a\n/x.bin",
            ),
            *(
                ".bin",
                ".hidden.bin",
                "a/.bin",
                "a/.hidden.bin",
                "",
                "/",
                "x" * 300 + ".bin",
                "x/" * 400 + "x.bin",
            ),
            *("\ud800.bin", "pytorch_model.safetensors", "model.bin.py", "no-such-model", "http://x/y.bin/"),
        ],
    )
    async def test_what_is_no_model_file(self, pulls: Pulls, hub: Hub, tmp_path: Path, path: str) -> None:
        for repo in None, HOME:
            words = await refusal(pulls, BadField, path, repo)
            assert words.isascii()
            assert len(words) < 400
        with pytest.raises(BadField):
            pulls.find(path)
        assert not hub.asked
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "repo",
        ["x", "a/b/c", "../x", "a/..", "a/b?x=", "a b/c", "http://127.0.0.1/x", "a/b#c", "a--b/c", "a/b.git"],
    )
    async def test_what_is_no_repository(self, pulls: Pulls, hub: Hub, repo: str) -> None:
        assert "is not a repository's name" in await refusal(pulls, BadField, TINY, repo)
        assert not hub.asked

    async def test_unknown_name_tells_the_nearest(self, pulls: Pulls) -> None:
        words = await refusal(pulls, BadField, "large-v3-turbp")
        assert "'large-v3-turbp' is neither a model of the catalogue nor a GGML file" in words
        assert "near it in the catalogue: ggml-large-v3-turbo, " in words

    async def test_missing_file_tells_the_nearest(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        words = await refusal(pulls, NotAtSource, "ggml-tinny.bin")
        assert words == f"there is no ggml-tinny.bin in {HOME}; near it: {TINY}"
        words = await refusal(pulls, NotAtSource, "zzz.bin", HOME)
        assert words == f"there is no zzz.bin in {HOME}; 1 GGML files are"
        assert inside(folder) == []

    async def test_missing_repository(self, pulls: Pulls) -> None:
        words = await refusal(pulls, NotAtSource, "ggml-large-v4.bin", "no/body")
        assert "there is no repository no/body on the hub, or it is private" in words
        assert "ggml-large-v3" in words

    async def test_missing_revision(self, make: Make, pulls: Pulls) -> None:
        pinned = make(trusted=[f"{HOME}@v9"])
        assert "does not know this revision" in await refusal(pinned, NotAtSource)

    async def test_gated(self, make: Make, hub: Hub, folder: Path) -> None:
        hub.add("some/body", TINY, MODEL, gated=True, token="hf_open")
        for token in None, "hf_wrong":
            words = await refusal(make(token=token), Gated, TINY, "some/body")
            assert words.startswith(f"some/body is gated: accept its terms on {hub.url}/some/body, and ")
        assert inside(folder) == []

    @pytest.mark.parametrize("status", [401, 403])
    async def test_refused(self, pulls: Pulls, hub: Hub, status: int) -> None:
        hub.faults.hub_statuses = [status]
        words = await refusal(pulls, Gated)
        assert words.startswith(f"the hub refuses access to {HOME} ({status}): see {hub.url}/{HOME};")
        hub.faults.before = [lambda: hub.faults.hub_statuses.append(status)]
        hub.faults.break_after = [1000]
        assert await refusal(pulls, Gated) == words

    async def test_hub_that_fails(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.hub_statuses = [500, 429, 503]
        words = await refusal(pulls, HubUnreachable)
        assert words == f"the hub cannot be asked for {TINY}: the hub answers 503"
        assert len(hub.asked) == 3
        assert inside(folder) == []

    async def test_hub_that_is_down(self, make: Make, folder: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            nobody = make(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
            words = await refusal(nobody, HubUnreachable)
        assert words.startswith(f"the hub cannot be asked for {TINY}: ")
        assert "refused" in words
        assert inside(folder) == []

    async def test_hub_that_is_no_address(self, make: Make) -> None:
        for endpoint in "localhost", "ftp://x", "http://[::bad", "http://":
            words = await refusal(make(endpoint=endpoint), HubUnreachable)
            assert words.startswith("the hub's address is neither http nor https: ")

    async def test_line_that_breaks_for_good(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.break_after = [1_000_000] + [0] * 50
        words = await refusal(pulls, HubUnreachable)
        assert words.startswith(f"pulling {TINY} broke off at 1 MB of 3.72 MB: ")
        assert words.endswith("; what has come is kept for the next try")
        assert inside(folder) == LEFT
        assert 5 < len([asked for asked in hub.asked if asked.host == "storage"]) < 12
        hub.faults.break_after = []
        await pulled(pulls)
        assert hub.sent == SIZE

    async def test_wrong_ranges(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.break_after = [1_000_000]
        hub.faults.wrong_range = 999_999
        words = await refusal(pulls, HubUnreachable)
        assert "sends bytes 999999-" in words
        assert (folder / LEFT[0]).read_bytes() == MODEL[:1_000_000]

    async def test_source_without_ranges_that_always_breaks(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.ignore_ranges = True
        hub.faults.break_after = [1_000_000] * 100
        assert "broke off at 1 MB" in await refusal(pulls, HubUnreachable)

    @pytest.mark.parametrize("lie", [SIZE - 1, SIZE + 1, 0])
    async def test_wrong_length(self, pulls: Pulls, hub: Hub, lie: int) -> None:
        hub.faults.length = lie
        assert "what comes is not what the hub tells of" in await refusal(pulls, HubUnreachable)

    async def test_wrong_total(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.break_after = [1000]
        hub.faults.total = SIZE + 1
        assert "what comes is not what the hub tells of" in await refusal(pulls, HubUnreachable)
        hub.faults.total = None
        await pulled(pulls)
        assert (hub.bodies[-1].start, hub.bodies[-1].sent) == (1000, SIZE - 1000)

    async def test_more_than_was_promised(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.unframed = True
        hub.faults.surplus = b"x" * 100_000
        assert (await pulled(pulls)).path.read_bytes() == MODEL

    async def test_compressed(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.encoding = "gzip"
        assert "compressed" in await refusal(pulls, HubUnreachable)

    async def test_no_hash(self, pulls: Pulls, hub: Hub) -> None:
        hub.faults.own_etags = hub.faults.no_hashes = True
        assert "tells no SHA-256" in await refusal(pulls, PullFailed)

    @pytest.mark.parametrize(
        "where",
        ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher:x", "data:,x"],
    )
    async def test_redirect_to_elsewhere(self, pulls: Pulls, hub: Hub, folder: Path, where: str) -> None:
        hub.faults.location = where
        words = await refusal(pulls, PullFailed)
        assert words.startswith("127.0.0.1 redirects to ")
        assert inside(folder) == []

    @pytest.mark.parametrize(
        "where", ["{url}/{home}/resolve/main/ggml-tiny.bin", "http://", "http://[::bad/"]
    )
    async def test_redirect_in_circles(self, pulls: Pulls, hub: Hub, folder: Path, where: str) -> None:
        hub.faults.location = where.format(url=hub.url, home=HOME)
        with pytest.raises(PullFailed):
            await pulled(pulls)
        assert len(hub.asked) < 100
        assert inside(folder) == []

    async def test_offline(self, hub: Hub, folder: Path, tmp_path: Path) -> None:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", PULLER, str(folder)],
            env={"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
        )
        assert "HubUnreachable: the hub is not asked: HF_HUB_OFFLINE is set" in done.stderr
        assert not hub.asked


class TestToken:
    async def test_is_told_to_the_hub_only(self, make: Make, hub: Hub) -> None:
        hub.add(HOME, TINY, MODEL, gated=True, token="hf_open")
        hub.faults.break_after = [1000]
        await pulled(make(token="hf_open"))
        told = {
            host: {a.headers.get("authorization") for a in hub.asked if a.host == host}
            for host in ("hub", "storage")
        }
        assert told == {"hub": {"Bearer hf_open"}, "storage": {None}}

    async def test_of_the_environment(self, make: Make, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.add(HOME, TINY, MODEL, gated=True, token="hf_environment")
        monkeypatch.setenv("HF_TOKEN", "hf_environment")
        await pulled(make())
        assert not [
            asked for asked in hub.asked if asked.host == "storage" and "authorization" in asked.headers
        ]


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """The models' folder on a disk of 6 MB: one model has room, two have not."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(mounted: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)


class TestSmallDisk:
    async def test_is_checked_first(self, small_disk: Path, pulls: Pulls, hub: Hub) -> None:
        (small_disk / "filler").write_bytes(bytes(4_000_000))
        words = await refusal(pulls, NoSpace)
        assert words.startswith(f"{TINY} still needs 3.72 MB; the disk of {small_disk} has 2.")
        assert hub.sent == 0
        assert inside(small_disk) == ["filler"]

    async def test_counts_what_others_still_fetch(self, small_disk: Path, pulls: Pulls, hub: Hub) -> None:
        hub.add(HOME, "ggml-base.bin", OTHER)
        hub.faults.stall_after = [1_000_000]
        async with aclosing(pulls.pull("tiny")) as reports:
            await coming(reports, 1_000_000)
            words = await refusal(pulls, NoSpace, "base")
            assert f"ggml-base.bin still needs {SIZE / 1e6:.3g} MB and 2.72 MB for other downloads" in words
        assert [asked.start for asked in hub.bodies] == [0]

    async def test_counts_what_is_there_already(self, small_disk: Path, pulls: Pulls, hub: Hub) -> None:
        leave_part(small_disk, MODEL[:3_000_000], sha256(MODEL))
        (small_disk / "filler").write_bytes(bytes(2_000_000))
        await pulled(pulls)

    async def test_read_only(self, small_disk: Path, pulls: Pulls, hub: Hub) -> None:
        make_read_only(small_disk)
        words = await refusal(pulls, NotWritable)
        assert words == f"the models' folder {small_disk} cannot be written: Read-only file system"
        assert hub.sent == 0

    async def test_full_in_the_middle(self, small_disk: Path, pulls: Pulls, hub: Hub) -> None:
        filler = small_disk / "filler"
        hub.faults.break_after = [1_000_000]
        hub.faults.before = [lambda: None, lambda: fill(filler)]
        assert await refusal(pulls, NoSpace) == f"the disk of {small_disk} is full"
        assert inside(small_disk) == ["filler", *LEFT]
        had = (small_disk / LEFT[0]).stat().st_size
        assert 1_000_000 <= had < SIZE
        filler.unlink()
        await pulled(pulls)
        assert (small_disk / TINY).read_bytes() == MODEL
        assert hub.bodies[-1].start == had
        assert inside(small_disk) == INSTALLED


class TestSweeping:
    def test_what_nobody_went_on_with(self, folder: Path) -> None:
        leave_part(folder, MODEL[:1000], sha256(MODEL))
        partial.sweep(folder, now=time.time() + partial.ABANDONED - 60)
        assert inside(folder) == LEFT
        partial.sweep(folder, now=time.time() + partial.ABANDONED + 60)
        assert inside(folder) == []

    def test_what_somebody_works_on(self, folder: Path) -> None:
        leave_part(folder, MODEL[:1000], sha256(MODEL))
        part = partial.Partial(folder / TINY)
        assert part.lock()
        part.begin(partial.Whole(SIZE, sha256(MODEL)))
        partial.sweep(folder, now=time.time() + partial.ABANDONED + 60)
        assert inside(folder) == LEFT
        part.close()
        assert inside(folder) == LEFT

    async def test_leftovers_of_killed_processes_at_start(self, make: Make, folder: Path) -> None:
        folder.mkdir()
        gone = await asyncio.create_subprocess_exec("true")
        await gone.wait()
        (folder / f".{TINY}.{gone.pid}-0123abcd.tmp").write_bytes(b"half")
        (folder / f".{TINY}.{os.getpid()}-0123abcd.tmp").write_bytes(b"half, and somebody writes on")
        (folder / f"{TINY}.part.json").write_text("{}")
        (folder / ".my.1-notes.tmp").write_text("not ours")
        make()
        assert inside(folder) == [f".{TINY}.{os.getpid()}-0123abcd.tmp", ".my.1-notes.tmp"]

    def test_no_folder(self, folder: Path) -> None:
        partial.sweep(folder)
        assert not folder.exists()


def test_the_catalogue_can_be_pulled_by_its_paths() -> None:
    for entry in catalogue.entries():
        assert entry.path.endswith(".bin") or entry.kind
        assert entry.repo.count("/") == 1


def test_starting_does_not_wait_for_the_hubs_library() -> None:
    seen = subprocess.run(
        [sys.executable, "-c", "import sys, server.pull; server.pull.Hub(); print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "server.sources.huggingface" in seen
    assert "huggingface_hub" not in seen


def test_the_hubs_files_are_models(tmp_path: Path) -> None:
    (tmp_path / TINY).write_bytes(MODEL)
    ggml.check(tmp_path / TINY)
    assert MODEL != OTHER
    assert len(MODEL) == len(OTHER)
