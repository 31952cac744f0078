"""Every runner, whatever files there are, with real workers and the real demo model."""

import asyncio
import os
import pkgutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pytest

from server import convert, engines, runners
from server.errors import ModelBroken, WindowFailed, WorkFailed
from server.runners import Runner, Unit
from server.types import SAMPLE_RATE, Decode, Heard, Loading, ModelInfo, Window
from tests.speech import SENTENCES, Pcm, say, silence

DEMO = Path(__file__).parent.parent.parent / "models" / "ggml-demo.bin"
MODEL = ModelInfo(
    id="ggml-demo", path=DEMO, size=0, created=0, languages=("en",), short_context=True, notice="", broken=""
)
RUNNERS = tuple(module.name for module in pkgutil.iter_modules(runners.__path__))


ENGINES = tuple(module.name for module in pkgutil.iter_modules(engines.__path__))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "demo"
    convert.convert(DEMO, folder, "int8")
    return folder


@pytest.fixture(params=[(runner, engine) for runner in RUNNERS for engine in ENGINES], ids="-".join)
async def runner(request: pytest.FixtureRequest, converted: Path, tmp_path: Path) -> AsyncIterator[Runner]:
    name, engine = request.param

    async def prepare(model: ModelInfo, slots: int) -> Loading:
        if engine == "ctranslate2" and model is MODEL:
            return Loading(engine, converted, slots=slots, threads=1, batch=4)
        return Loading(path=model.path)

    module = import_module(f"server.runners.{name}")
    made: Runner = module.Runner(tmp_path / "empty", slots=2, prepare=prepare)
    yield made
    await made.stop()


def unit(pcm: Pcm, request: str = "a", index: int = 0, model: ModelInfo = MODEL, short: bool = True) -> Unit:
    sound = (pcm * 32767).astype("<i2").tobytes()
    return Unit(model, Window(index, 0.0, sound), Decode(language="en", short_context=short), request)


def text(heard: Heard) -> str:
    return "".join(segment.text for segment in heard.segments).strip()


def slow() -> Pcm:
    """A window that takes a worker a while: full context, half a minute."""
    return silence(29.9) + 1e-4


async def until_busy(runner: Runner, number: int = 1) -> tuple[int, ...]:
    """Process ids, once so many windows are being decoded."""
    while True:
        for residence in runner.loaded():
            if residence.busy >= number:
                return residence.processes
        await asyncio.sleep(0.002)


async def test_words(runner: Runner) -> None:
    assert text(await runner.run(unit(say(SENTENCES[0])))) == SENTENCES[0]


async def test_many_at_once_each_get_their_own(runner: Runner) -> None:
    heard = await asyncio.gather(*(runner.run(unit(say(s), request=s)) for s in SENTENCES))
    assert [text(one) for one in heard] == list(SENTENCES)
    (residence,) = runner.loaded()
    assert len(residence.processes) == residence.most


async def test_a_killed_worker_is_not_noticed(runner: Runner) -> None:
    await runner.load(MODEL)
    running = asyncio.create_task(runner.run(unit(say(SENTENCES[1]))))
    (process,) = await until_busy(runner)
    os.kill(process, signal.SIGKILL)
    assert text(await running) == SENTENCES[1]
    assert process not in runner.loaded()[0].processes


async def test_a_window_that_kills_two_workers_is_an_error_and_the_next_one_works(runner: Runner) -> None:
    running = asyncio.create_task(runner.run(unit(slow(), index=12, short=False)))
    killed: set[int] = set()
    while len(killed) < 2:
        process = (await until_busy(runner))[0]
        if process not in killed:
            killed.add(process)
            os.kill(process, signal.SIGKILL)
        await asyncio.sleep(0.002)
    with pytest.raises(WindowFailed, match="window 12"):
        await running
    assert text(await runner.run(unit(say(SENTENCES[0])))) == SENTENCES[0]


async def test_cancelling_frees_the_worker_for_the_next(runner: Runner) -> None:
    running = asyncio.create_task(runner.run(unit(slow(), short=False)))
    (process,) = await until_busy(runner)
    running.cancel()
    assert text(await runner.run(unit(say(SENTENCES[0])))) == SENTENCES[0]
    while runner.loaded()[0].busy:
        await asyncio.sleep(0.01)
    assert process in runner.loaded()[0].processes


async def test_a_cancelled_window_that_waits_is_never_run(runner: Runner) -> None:
    running = [asyncio.create_task(runner.run(unit(slow(), short=False))) for _ in range(4)]
    await until_busy(runner, 2)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    assert runner.loaded()[0].queued == 0


async def test_requests_take_turns(runner: Runner) -> None:
    order: list[str] = []

    async def run(request: str) -> None:
        await runner.run(unit(say("Stop the music."), request=request))
        order.append(request)

    film = [asyncio.create_task(run("film")) for _ in range(40)]
    await until_busy(runner, 2)
    before = len(order)
    await run("clip")
    assert len(order) - before < 20  # two batches of four at work, and what ends beside the clip
    await asyncio.gather(*film)


async def test_unloading_gives_the_memory_back(runner: Runner) -> None:
    await runner.run(unit(say(SENTENCES[0])))
    processes = runner.loaded()[0].processes
    assert processes
    await runner.unload(MODEL.id)
    assert runner.loaded() == ()
    assert not any(psutil.pid_exists(process) for process in processes)
    assert text(await runner.run(unit(say(SENTENCES[0])))) == SENTENCES[0]


async def test_a_model_that_kills_its_loader_is_broken(runner: Runner, tmp_path: Path) -> None:
    half = tmp_path / "half.bin"
    half.write_bytes(DEMO.read_bytes()[: 5 << 20])
    broken = replace(MODEL, id="half", path=half)
    with pytest.raises(ModelBroken):
        await runner.run(unit(say(SENTENCES[0]), model=broken))
    with pytest.raises(ModelBroken):
        await runner.load(broken)
    assert text(await runner.run(unit(say(SENTENCES[0])))) == SENTENCES[0]


async def test_a_death_among_several_windows_counts_against_none_of_them(
    converted: Path, tmp_path: Path
) -> None:
    from server.runners import local

    async def prepare(model: ModelInfo, slots: int) -> Loading:
        return Loading("ctranslate2", converted, slots=slots, batch=4)

    runner = local.Runner(tmp_path / "empty", slots=2, prepare=prepare)
    try:
        await runner.load(MODEL)
        windows = [
            np.concatenate([say(sentence), silence(20)]).astype(np.float32) for sentence in SENTENCES[:6]
        ]
        running = [
            asyncio.create_task(runner.run(unit(pcm, request=str(index), short=False)))
            for index, pcm in enumerate(windows)
        ]
        for at_work in (2, 1):
            (process,) = await until_busy(runner, at_work)
            os.kill(process, signal.SIGKILL)
            while process in [one for residence in runner.loaded() for one in residence.processes]:
                await asyncio.sleep(0.002)
        heard = await asyncio.gather(*running)
        assert [text(one) for one in heard] == list(SENTENCES[:6])
    finally:
        await runner.stop()


async def test_windows_that_wait_go_together(converted: Path, tmp_path: Path) -> None:
    from server.runners import local

    async def prepare(model: ModelInfo, slots: int) -> Loading:
        return Loading("ctranslate2", converted, batch=4)

    runner = local.Runner(tmp_path / "empty", slots=1, prepare=prepare)
    try:
        await runner.run(unit(say(SENTENCES[0])))
        running = [asyncio.create_task(runner.run(unit(say(s), request=s))) for s in SENTENCES[:9]]
        most = 0
        while not all(task.done() for task in running):
            most = max(most, *(residence.busy for residence in runner.loaded()))
            await asyncio.sleep(0.001)
        assert [text(task.result()) for task in running] == list(SENTENCES[:9])
        assert most == 4
    finally:
        await runner.stop()


async def test_a_first_window_is_heard_beside_those_of_films(converted: Path, tmp_path: Path) -> None:
    from server.runners import local

    async def prepare(model: ModelInfo, slots: int) -> Loading:
        return Loading("ctranslate2", converted, spare=1)

    runner = local.Runner(tmp_path / "empty", slots=1, prepare=prepare)
    try:
        await runner.load(MODEL)
        film = [
            asyncio.create_task(runner.run(unit(slow(), request="film", index=number, short=False)))
            for number in range(1, 5)
        ]
        await until_busy(runner)
        clip = asyncio.create_task(runner.run(unit(say(SENTENCES[0]), request="clip")))
        most = 0
        while not clip.done():
            most = max(most, *(residence.busy for residence in runner.loaded()))
            await asyncio.sleep(0.001)
        assert text(clip.result()) == SENTENCES[0]
        assert most == 2, "a film's and the clip's"
        await asyncio.gather(*film)
    finally:
        await runner.stop()


async def test_a_frozen_worker_is_replaced(tmp_path: Path) -> None:
    from server.runners import local

    runner = local.Runner(tmp_path / "empty", slots=1, timeout=2.0)
    try:
        await runner.load(MODEL)
        (process,) = runner.loaded()[0].processes
        os.kill(process, signal.SIGSTOP)
        assert text(await runner.run(unit(say(SENTENCES[0])))) == SENTENCES[0]
        assert not psutil.pid_exists(process)
    finally:
        await runner.stop()


async def test_workers_are_recycled(tmp_path: Path) -> None:
    from server.runners import local

    runner = local.Runner(tmp_path / "empty", slots=1, recycle=2)
    try:
        seen: set[int] = set()
        for sentence in SENTENCES[:5]:
            assert text(await runner.run(unit(say(sentence)))) == sentence
            seen.update(runner.loaded()[0].processes if runner.loaded() else ())
        assert len(seen) >= 2
    finally:
        await runner.stop()


async def test_a_slot_that_fails_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.runners import local

    async def fails(*_: object) -> None:
        raise OSError("something that nobody thought of")

    runner = local.Runner(tmp_path / "empty", slots=2)
    try:
        await asyncio.gather(
            *(runner.run(unit(say(s), request=s)) for s in SENTENCES[:2])
        )  # both slots are there
        with monkeypatch.context() as patched:
            patched.setattr("server.workers.Worker.ask", fails)
            with pytest.raises(WorkFailed, match="cannot be run"):
                await asyncio.wait_for(runner.run(unit(say(SENTENCES[0]))), 60)
        assert text(await runner.run(unit(say(SENTENCES[0])))) == SENTENCES[0]
    finally:
        await runner.stop()


def test_a_lone_window_gets_all_cores_and_many_get_one_each(tmp_path: Path) -> None:
    from server.runners import local

    cores = len(os.sched_getaffinity(0))
    runner = local.Runner(tmp_path)
    assert runner.threads_for(1) == cores
    assert runner.threads_for(cores) == 1
    assert runner.threads_for(1000) == 1
    assert local.Runner(tmp_path, threads=3).threads_for(1) == 3


def test_slow_is_slow() -> None:
    assert len(slow()) > 29 * SAMPLE_RATE
