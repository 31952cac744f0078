"""By which engine each model is run: what its owner says, what the engines can, and what is there already."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace

import pytest

from server import config, convert, ct2, placement, services
from server.errors import ModelBroken, NoSpace
from server.memory import Memory
from server.placement import Placement
from server.runners import local
from server.services import running
from server.spool import on_disk
from server.types import Done, Listen, ModelInfo
from tests.speech import SENTENCES, say, wav
from tests.test_ggml import DEMO, Shape, write_model

Make = Callable[..., Placement]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as a folder of CTranslate2's."""
    made = tmp_path_factory.mktemp("converted") / "folder"
    convert.convert(DEMO, made, "int8")
    return made


@pytest.fixture
def folder(tmp_path: Path, converted: Path) -> Path:
    """Models of every kind."""
    path = tmp_path / "models"
    path.mkdir()
    (path / "ggml-mine.bin").symlink_to(DEMO)
    write_model(path / "ggml-small.en-tdrz.bin")
    (path / "folder").symlink_to(converted)
    return path


@pytest.fixture
async def place(tmp_path: Path, folder: Path) -> AsyncIterator[Make]:
    made: list[Placement] = []

    def build(**settings: object) -> Placement:
        flags = {"data": tmp_path / "data", "models": folder, **settings}
        read = config.read(flags=flags)
        made.append(services.placing(read, services.store(read)))
        return made[-1]

    yield build
    for each in made:
        await each.stop()


def model(folder: Path, id: str) -> ModelInfo:
    return next(
        info for info in services.store(config.read(flags={"models": folder})).installed() if info.id == id
    )


@pytest.mark.parametrize(
    ("settings", "id", "engine"),
    [
        ({}, "ggml-mine", "ctranslate2"),
        ({"engine": "whisper.cpp"}, "ggml-mine", "whisper_cpp"),
        ({"tuning": {"ggml-mine": {"engine": "whisper.cpp"}}}, "ggml-mine", "whisper_cpp"),
        ({}, "ggml-small.en-tdrz", "whisper_cpp"),
        ({"tuning": {"ggml-small.en-tdrz": {"engine": "ctranslate2"}}}, "ggml-small.en-tdrz", "ctranslate2"),
        ({}, "folder", "ctranslate2"),
        ({"engine": "whisper.cpp"}, "folder", "ctranslate2"),
    ],
)
async def test_what_one_engine_cannot_do_the_other_does(
    place: Make, folder: Path, settings: dict[str, object], id: str, engine: str
) -> None:
    """whisper.cpp alone hears turns of speakers, CTranslate2 alone reads its folders; of the rest CTranslate2
    is the faster on processors."""
    loading = await place(**settings).loading(model(folder, id), 2)
    assert loading.engine == engine
    assert loading.path.is_dir() == (engine == "ctranslate2")


async def test_words_by_attention_are_for_models_whose_heads_are_known(place: Make, folder: Path) -> None:
    write_model(folder / "ggml-tiny.bin", Shape(width=384, heads=6, audio_layers=4, text_layers=4))
    for id, dtw, heads in (
        ("ggml-tiny", True, "tiny"),
        ("ggml-tiny", False, ""),
        ("ggml-mine", True, ""),
        ("ggml-small.en-tdrz", True, ""),
    ):
        placed = place(tuning={id: {"engine": "whisper.cpp", "dtw": dtw}})
        assert (await placed.loading(model(folder, id), 1)).heads == heads


def test_what_the_engines_say_they_can_is_what_the_choice_goes_by() -> None:
    from server.engines import ctranslate2, whisper_cpp

    assert (whisper_cpp.Engine.hears_turns, ctranslate2.Engine.hears_turns) == (True, False)
    assert (whisper_cpp.READS, ctranslate2.READS) == ("ggml", "ctranslate2")


async def test_an_engine_that_cannot_run_it_is_no_choice(place: Make, folder: Path) -> None:
    wanted = {"folder": {"engine": "whisper.cpp"}}
    with pytest.raises(ModelBroken, match=r"is of ctranslate2's kind, which whisper\.cpp cannot run"):
        await place(tuning=wanted).loading(model(folder, "folder"), 1)


async def test_where_it_cannot_be_converted_whisper_cpp_runs_it(
    place: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    mine = model(folder, "ggml-mine")
    loading = await place().loading(mine, 1)
    assert (loading.engine, loading.path) == ("whisper_cpp", mine.path)
    with pytest.raises(NoSpace):
        await place(engine="ctranslate2").loading(mine, 1)


async def test_it_is_converted_when_it_has_come(place: Make, folder: Path) -> None:
    placed = place()
    told: list[tuple[int, int]] = []
    mine = model(folder, "ggml-mine")
    await placed.make(mine, lambda done, size: told.append((done, size)))
    sizes = {size for _, size in told}
    assert len(sizes) == 1
    assert (told[0][0], told[-1][0]) == (0, sizes.pop())
    known = services.store(config.read(flags={"models": folder})).digest("ggml-mine")
    assert placed.disk(known) == pytest.approx(told[-1][0], rel=0.2)
    told.clear()
    for id in "folder", "ggml-small.en-tdrz":
        await placed.make(model(folder, id), lambda done, size: told.append((done, size)))
    assert told == [], "nothing is made that will not be used"


# Memory -----------------------------------------------------------------------------------------------


async def test_a_conversion_is_booked_in_the_budget(place: Make, folder: Path, tmp_path: Path) -> None:
    placed = place()
    mine = model(folder, "ggml-mine")
    runner = local.Runner(tmp_path / "empty", slots=1)
    placed.memory = Memory(runner, budget=1 << 20)
    told: list[tuple[int, int]] = []
    await placed.make(mine, lambda done, size: told.append((done, size)))
    assert placed.disk(services.store(config.read(flags={"models": folder})).digest(mine.id)) == 0
    placed.memory = Memory(runner, budget=1 << 30)
    free: list[int] = []
    await placed.make(mine, lambda done, size: free.append(placed.memory.free() if placed.memory else 0))
    assert min(free) == (1 << 30) - convert.memory(ct2.check(folder / "folder"))
    assert placed.memory.free() == 1 << 30


async def test_batches_are_as_large_as_there_is_memory(place: Make, folder: Path, tmp_path: Path) -> None:
    one = placement.window(ct2.check(folder / "folder"))
    placed = place()
    for budget, slots, batch in (
        (0, 1, 8),
        (1, 1, 1),
        (4 * 3 * one, 1, 4),
        (4 * 3 * one, 3, 2),
        (4 * one, 2, 1),
    ):
        placed.memory = Memory(local.Runner(tmp_path / "empty"), budget=budget)
        assert (await placed.loading(model(folder, "folder"), slots)).batch == batch
    loading = await place(batch=5).loading(model(folder, "folder"), 1)
    assert loading.batch == 5, "what the owner says is done"


@pytest.mark.parametrize("id", ["ggml-mine", "folder"])
async def test_what_it_will_take_goes_by_the_copy_and_not_by_the_file(
    place: Make, folder: Path, id: str
) -> None:
    """The int8 copy of a q5_0 file is larger than that."""
    info = model(folder, id)
    cost = await place().cost(info)
    copy = (folder / "folder" / "model.bin").stat().st_size
    assert cost.fixed - placement._PROCESS == pytest.approx(copy * 7 / 4, rel=0.1)
    assert cost.window > 16 << 20
    by_file = await place(engine="whisper.cpp").cost(model(folder, "ggml-mine"))
    assert (by_file.fixed, by_file.window) == (0, DEMO.stat().st_size + info.overhead)


# The changeover ---------------------------------------------------------------------------------------


async def test_whisper_cpp_answers_until_the_copy_is_there_and_no_request_is_lost(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_BACKGROUND", 1)
    media = tmp_path / "a.wav"
    media.write_bytes(wav(say(SENTENCES[0])))
    settings = config.read(
        environment={"WHISPERD_DATA": str(tmp_path / "data"), "WHISPERD_MODELS": str(folder)}
    )
    engines: list[str] = []

    async def hear() -> str:
        text = ""
        listen = Listen("ggml-mine", language="en")
        async with aclosing(serving.transcribe(listen, on_disk(media))) as events:
            async for event in events:
                if isinstance(event, Done):
                    text = event.transcript.text.strip()
                    engines.append(event.transcript.engine)
        return text

    async with running(settings) as serving:
        assert await hear() == SENTENCES[0]
        async with asyncio.timeout(60):
            while engines[-1] != "ctranslate2":
                assert [*await asyncio.gather(hear(), hear())] == [SENTENCES[0]] * 2
        assert [*await asyncio.gather(hear(), hear())] == [SENTENCES[0]] * 2
    assert engines[0] == "whisper_cpp"
    assert engines == sorted(engines, reverse=True), "once it has changed over, it stays"
