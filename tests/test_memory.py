"""Memory that obeys: real models in real workers, and a clock of the test's own."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from server import config, transcribe
from server.errors import Leaving, ModelBroken, NoMemory
from server.memory import Memory, available
from server.runners import Unit, local
from server.services import running
from server.spool import on_disk
from server.types import Decode, Listen, ModelInfo, Waiting, Window
from tests.serving import Server, serving, until
from tests.speech import SENTENCES, say, talk, wav

DEMO = Path(__file__).parent.parent / "models" / "ggml-demo.bin"
MEGABYTE = 10**6
ONE = 175 * MEGABYTE
"""Room for one model: its size, and what a worker is thought to need beside it."""


def model(id: str) -> ModelInfo:
    return ModelInfo(
        id=id, path=DEMO, size=DEMO.stat().st_size, created=0, languages=("en",), short_context=True
    )


A, B, C = model("a"), model("b"), model("c")

Make = Callable[..., Memory]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(tmp_path: Path, clock: Clock) -> AsyncIterator[Make]:
    made: list[Memory] = []

    def build(slots: int = 2, **settings: object) -> Memory:
        runner = local.Runner(tmp_path / "empty", slots=slots)
        made.append(Memory(runner, clock=clock, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for memory in made:
        await memory.stop()


def ids(memory: Memory) -> list[str]:
    return [resident.model for resident in memory.loaded()]


async def test_a_model_loads_at_first_use_and_says_what_it_takes(make: Make, clock: Clock) -> None:
    memory = make(keep_alive=300)
    assert memory.loaded() == ()
    async with memory.using(A):
        (resident,) = memory.loaded()
        assert (resident.model, resident.requests, resident.expires) == ("a", 1, None)
        assert 20 * MEGABYTE < resident.memory < 500 * MEGABYTE
        assert "whisper.cpp" in resident.engine
    assert memory.loaded()[0].expires == clock.now + 300


async def test_it_goes_when_its_time_has_run_out(make: Make, clock: Clock) -> None:
    memory = make(keep_alive=300)
    others = psutil.Process().children()
    await memory.load(A)
    processes = [process for process in psutil.Process().children() if process not in others]
    assert processes
    clock.now += 299
    await memory.reap()
    assert ids(memory) == ["a"]
    clock.now += 2
    await memory.reap()
    assert ids(memory) == []
    assert not any(process.is_running() for process in processes)


async def test_it_goes_by_itself(tmp_path: Path) -> None:
    memory = Memory(local.Runner(tmp_path / "empty", slots=1), keep_alive=0.2)
    await memory.load(A)
    while memory.loaded():
        await asyncio.sleep(0.02)
    await memory.stop()


@pytest.mark.parametrize(("asked", "left"), [(0.0, []), (-1.0, ["a"]), (5000.0, ["a"]), (None, [])])
async def test_a_request_says_how_long_it_stays(
    make: Make, clock: Clock, asked: float | None, left: list[str]
) -> None:
    memory = make(keep_alive=300)
    await memory.load(A, asked)
    clock.now += 1000
    await memory.reap()
    assert ids(memory) == left


async def test_a_model_has_a_keep_alive_of_its_own(make: Make, clock: Clock) -> None:
    memory = make(keep_alive=1, keep_alive_of={"b": -1})
    await memory.load(A)
    await memory.load(B)
    clock.now += 10
    await memory.reap()
    assert ids(memory) == ["b"]


async def test_room_is_made_by_the_least_recently_used(make: Make, clock: Clock) -> None:
    memory = make(slots=1, budget=2 * ONE)
    for each in (A, B, A):
        await memory.load(each)
        clock.now += 1
    memory.budget = sum(resident.memory for resident in memory.loaded()) + ONE * 3 // 4
    await memory.load(C)
    assert ids(memory) == ["a", "c"]


async def test_what_is_past_its_time_goes_before_what_was_used_longer_ago(make: Make, clock: Clock) -> None:
    memory = make(slots=1, budget=2 * ONE, keep_alive_of={"a": 5000, "b": 1})
    await memory.load(A)
    clock.now += 1
    await memory.load(B)
    clock.now += 10
    memory.budget = sum(resident.memory for resident in memory.loaded()) + ONE * 3 // 4
    await memory.load(C)
    assert ids(memory) == ["a", "c"]


async def test_pinned_models_stay_and_the_numbers_are_told(make: Make, clock: Clock) -> None:
    memory = make(budget=ONE, pinned=("a",), keep_alive=1)
    await memory.load(A)
    clock.now += 100
    await memory.reap()
    with pytest.raises(NoMemory, match=r"needs about 169 MB; of the budget of 175 MB only \d+ MB are free"):
        await memory.load(B)
    assert ids(memory) == ["a"]
    assert memory.loaded()[0].pinned


async def test_a_model_in_use_is_never_taken(make: Make) -> None:
    memory = make(budget=ONE)
    async with memory.using(A, keep_alive=0):
        with pytest.raises(NoMemory):
            await memory.load(B)
        assert ids(memory) == ["a"]
    await memory.load(B)
    assert ids(memory) == ["b"]


async def test_a_small_budget_means_fewer_slots(make: Make) -> None:
    memory = make(budget=ONE)
    await memory.load(A)
    assert memory.loaded()[0].slots == 1
    roomy = make(budget=10 * ONE)
    await roomy.load(A)
    assert roomy.loaded()[0].slots == 2


async def test_many_ask_at_once_and_it_loads_once(make: Make) -> None:
    memory = make()
    await asyncio.gather(*(memory.load(A) for _ in range(20)))
    assert len(memory.loaded()) == 1


async def test_one_who_leaves_does_not_stop_the_load_of_others(make: Make) -> None:
    memory = make()
    first = asyncio.create_task(memory.load(A))
    await asyncio.sleep(0)
    second = asyncio.create_task(memory.load(A))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert ids(memory) == ["a"]


async def test_a_broken_model_takes_no_room_and_can_be_tried_again(make: Make, tmp_path: Path) -> None:
    memory = make(budget=ONE)
    half = tmp_path / "half.bin"
    half.write_bytes(DEMO.read_bytes()[: 5 << 20])
    for _ in range(2):
        with pytest.raises(ModelBroken):
            await memory.load(replace(A, path=half))
    await memory.load(A)
    assert ids(memory) == ["a"]


async def test_unloading_waits_for_running_requests_and_refuses_new_ones(make: Make) -> None:
    memory = make()
    async with memory.using(A):
        unloading = asyncio.create_task(memory.unload("a"))
        await asyncio.sleep(0.01)
        with pytest.raises(Leaving):
            await memory.load(A)
        assert not unloading.done()
        assert ids(memory) == ["a"]
    assert await unloading
    assert ids(memory) == []
    await memory.load(A)
    assert not await memory.unload("b")


async def test_retiring_returns_at_once_while_in_use(make: Make) -> None:
    memory = make()
    async with memory.using(A):
        await memory.retire("a")
        with pytest.raises(Leaving):
            await memory.load(A)
    await memory.unload("a")
    await memory.load(A)
    await memory.retire("a")
    assert ids(memory) == []


async def test_a_request_that_meets_an_expiring_model_loads_it_again(make: Make, clock: Clock) -> None:
    memory = make(keep_alive=1)
    await memory.load(A)
    clock.now += 10
    reaping = asyncio.create_task(memory.reap())
    await asyncio.sleep(0)
    await memory.load(A)
    await reaping
    assert ids(memory) == ["a"]


@pytest.mark.alone
async def test_the_memory_returns_however_often(tmp_path: Path) -> None:
    """Whole process tree, by proportional size: after ten loads and unloads as after the first."""
    runner = local.Runner(tmp_path / "empty", slots=1)
    memory = Memory(runner)
    sizes = []
    sound = (say(SENTENCES[0]) * 32767).astype("<i2").tobytes()
    for _ in range(10):
        async with memory.using(A):
            await runner.run(Unit(A, Window(0, 0.0, sound), Decode(language="en"), "r"))
        await memory.unload("a")
        us = psutil.Process()
        sizes.append(sum(p.memory_full_info().pss for p in (us, *us.children(recursive=True))))
    await memory.stop()
    assert max(sizes[1:]) < sizes[0] * 1.05


def test_a_container_has_its_own_limit(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    assert available(limit) == 1_000_000
    limit.write_text("max\n")
    assert available(limit) == available(tmp_path / "none") == psutil.virtual_memory().total


# Through the front door -------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    models = tmp_path / "models"
    models.mkdir()
    for id in ("one", "two"):
        (models / f"{id}.bin").symlink_to(DEMO)
    with serving(tmp_path / "data", "--models", str(models), "--memory", "400MB") as running:
        yield running


def ask(client: httpx.Client, **fields: str) -> httpx.Response:
    return client.post(
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", wav(say(SENTENCES[0])))},
        data={"language": "en", **fields},
    )


def test_keep_alive_of_a_request(own: Server) -> None:
    with own.client() as client:
        assert ask(client, model="one").status_code == 200
        assert ask(client, model="ggml-demo", keep_alive="0").status_code == 200
        until(lambda: len(own.children("server.worker")) == 1)
        refused = ask(client, model="one", keep_alive="-7")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "keep_alive")


def test_a_full_memory_is_told_with_its_numbers(own: Server) -> None:
    long = wav(talk(SENTENCES * 6))
    with own.client() as client, own.client() as other, own.client() as third:
        streams = [
            each.stream(
                "POST",
                "/v1/audio/transcriptions?stream=1",
                files={"file": ("a.wav", long)},
                data={"model": name, "language": "en"},
            )
            for each, name in ((client, "ggml-demo"), (other, "one"))
        ]
        with streams[0] as first, streams[1] as second:
            lines = [first.iter_lines(), second.iter_lines()]
            for each in lines:
                assert any(line == "event: segment" for line in each)
            refused = ask(third, model="two")
            assert refused.status_code == 507
            assert refused.json()["error"]["code"] == "no_memory"
            assert "MB" in refused.json()["reason"]


async def test_a_loaded_model_never_waits_for_the_load_of_another(make: Make) -> None:
    memory = make()
    await memory.load(A)
    loading = asyncio.create_task(memory.load(B))
    await asyncio.sleep(0)
    async with memory.using(A):
        assert not loading.done()
    await loading


async def test_who_waits_for_a_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe, "_PATIENCE", 0.0)
    media = tmp_path / "a.wav"
    media.write_bytes(wav(say(SENTENCES[0])))
    settings = config.read(environment={"WHISPERD_DATA": str(tmp_path / "data")})
    async with running(settings) as services:
        for reasons in (["the model ggml-demo is being loaded"], []):
            events = services.transcribe(Listen("demo", language="en"), on_disk(media))
            found = [event async for event in events]
            assert [event.reason for event in found if isinstance(event, Waiting)] == reasons


# On cards ---------------------------------------------------------------------------------------------

GIGABYTE = 1 << 30


class Driver:
    """An `nvidia-smi` of the test's own, which answers in the words of the real one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken = "300"
        """MiB of a card that each of our workers takes."""
        listing = "printf '0, RTX, 600, 500\\n1, RTX, 900, 900\\n'"
        self.answers(f"case $1 in --query-gpu*) {listing} ;; *) cat processes ;; esac")

    def answers(self, script: str) -> None:
        tool = self.folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\ncd {self.folder}\n{script}\n")
        tool.chmod(0o755)

    def watch(self, stop: threading.Event) -> None:
        """Lists each worker that comes, among others, until it is stopped."""
        while not stop.wait(0.01):
            ours = [f"{child.pid}, {self.taken}" for child in psutil.Process().children()]
            (self.folder / "part").write_text("\n".join([*ours, "1, 5000", "[N/A], [N/A]"]) + "\n")
            (self.folder / "part").replace(self.folder / "processes")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    folder = tmp_path / "driver"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    driver, stop = Driver(folder), threading.Event()
    watching = threading.Thread(target=driver.watch, args=(stop,))
    watching.start()
    yield driver
    stop.set()
    watching.join()


async def but_c(model: ModelInfo) -> bool:
    return model.id != "c"


def sizes(memory: Memory) -> dict[str, int]:
    return {resident.model: resident.memory for resident in memory.loaded()}


async def test_cards_have_a_budget_of_their_own(make: Make, clock: Clock, driver: Driver) -> None:
    """Of 600 MiB three quarters may be used: a takes 300, and b has no room beside it."""
    memory = make(slots=1, on_card=but_c)
    for each in (C, A, B):
        await memory.load(each)
        clock.now += 1
    assert sizes(memory).pop("b") == 300 << 20
    assert ids(memory) == ["b", "c"], "c is not on the card, and no reason to go"
    with pytest.raises(NoMemory, match=r"budget of 472 MB on the cards only 157 MB are free"):
        async with memory.using(B):
            await memory.load(A)


async def test_a_driver_that_does_not_tell_of_processes(make: Make, driver: Driver) -> None:
    driver.taken = "[N/A]"
    memory = make(slots=1, on_card=but_c)
    await memory.load(A)
    assert sizes(memory) == {"a": DEMO.stat().st_size + (150 << 20)}


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo '0, x, [N/A], [N/A]'"])
async def test_without_a_card_all_is_the_machines(make: Make, driver: Driver, script: str) -> None:
    driver.answers(script)
    memory = make(slots=1, budget=ONE, on_card=but_c)
    await memory.load(A)
    await memory.load(B)
    assert ids(memory) == ["b"]
    assert sizes(memory)["b"] != 300 << 20


async def test_a_card_budget_of_ones_own(make: Make, driver: Driver) -> None:
    memory = make(slots=1, card_budget=2 * (300 << 20) + MEGABYTE, on_card=but_c)
    await memory.load(A)
    await memory.load(B)
    assert ids(memory) == ["a", "b"]


async def test_this_build_of_whisper_cpp_leaves_a_card_alone(tmp_path: Path, driver: Driver) -> None:
    """Its wheel is for processors only: whatever card there is, models lie in the machine's memory."""
    settings = config.read(environment={"WHISPERD_DATA": str(tmp_path / "data"), "WHISPERD_READERS": "0"})
    async with running(settings) as services:
        await services.memory.load(services.models.find("ggml-demo"))
        (resident,) = services.memory.loaded()
    assert resident.memory != 300 << 20
