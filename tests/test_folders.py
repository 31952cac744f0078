"""Models of several files: pulled, checked, listed, imported and deleted as one."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

from server import convert, folders, kinds
from server.errors import (
    BadField,
    BadRequest,
    ChecksumMismatch,
    HubUnreachable,
    ModelBroken,
    ModelNotFound,
    NoSpace,
    NotAModel,
)
from server.models import Models
from server.pull import Pulling, Pulls
from server.types import ModelInfo
from tests.hub import Hub
from tests.serving import until
from tests.test_ggml import SMALL, write_model
from tests.test_pull import all_of, coming, inside, pulled, refusal

REPO = "Systran/faster-whisper-tiny"
NAME = "faster-whisper-tiny"
COMING = f".{NAME}.pulling"

Make = Callable[..., Pulls]


@cache
def ct2() -> dict[str, bytes]:
    """The files of a small model as CTranslate2's converter writes them."""
    with TemporaryDirectory() as name:
        convert.convert(write_model(Path(name) / "small.bin", SMALL), Path(name) / "made", "int8")
        files = {path.name: path.read_bytes() for path in (Path(name) / "made").iterdir()}
    return files | {"preprocessor_config.json": b"{}"}


PIPELINE = {
    "config.yaml": b"pipeline: {name: pyannote.audio.pipelines.SpeakerDiarization}",
    "segmentation/pytorch_model.bin": b"s" * 70_000,
    "embedding/pytorch_model.bin": b"e" * 90_000,
    "plda/plda.npz": b"p" * 1000,
    "plda/xvec_transform.npz": b"x" * 1000,
}

VOICE = {
    "en_US-ljspeech-high.onnx": b"o" * 80_000,
    "en_US-ljspeech-high.onnx.json": b'{"audio": {"sample_rate": 22050}}',
}


_HEADER = b'{"__metadata__": {}, "a": {"dtype": "U8", "shape": [80000], "data_offsets": [0, 80000]}}'

POCKET = {
    "model.safetensors": len(_HEADER).to_bytes(8, "little") + _HEADER + b"w" * 80_000,
    "tokenizer.json": b"{}",
    "embeddings/alba.safetensors": b"a" * 5000,
    "embeddings/marius.safetensors": b"m" * 5000,
}


def add(hub: Hub, repo: str, files: dict[str, bytes], at: str = "") -> str:
    """A repository with these files and what people put beside them; its commit."""
    for name, data in files.items():
        hub.add(repo, at + name, data)
    return hub.add(repo, f"{at}README.md", b"for people")


def whole(files: dict[str, bytes]) -> int:
    return sum(map(len, files.values()))


def here(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folders.contents(folder)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    return tmp_path / "voices"


@pytest.fixture
async def make(hub: Hub, folder: Path, voices: Path) -> AsyncIterator[Make]:
    made = []

    def pulls(**changed: object) -> Pulls:
        settings = {"endpoint": hub.url, "stall": 5.0, "pause": 0.001, "tick": 0.05, "voices": voices}
        made.append(Pulls(Models(folder, None), **(settings | changed)))  # type: ignore[arg-type]
        return made[-1]

    yield pulls
    for each in made:
        await each.stop()


@pytest.fixture
def pulls(make: Make, hub: Hub) -> Pulls:
    add(hub, REPO, ct2())
    return make()


@pytest.mark.parametrize(
    ("path", "repo"), [(REPO, None), (NAME, None), (".", REPO), ("./", REPO)], ids=lambda word: str(word)
)
async def test_a_repository_becomes_one_model(
    pulls: Pulls, hub: Hub, folder: Path, path: str, repo: str | None
) -> None:
    assert pulls.find(path, repo) is None
    reports = await all_of(pulls, path, repo)
    info = reports.pop()
    assert isinstance(info, ModelInfo)
    assert (info.id, info.path, info.engine) == (NAME, folder / NAME, "ctranslate2")
    assert info.size == hub.sent == whole(ct2())
    assert (len(info.languages), info.capabilities) == (99, ("translate", "words"))
    assert here(folder / NAME) == ct2()
    assert inside(folder) == [NAME], "nothing is left beside it"
    last = reports[-1]
    assert isinstance(last, Pulling)
    assert (last.path, last.status) == (NAME, f"installed {NAME}")
    assert (last.total, last.completed) == (info.size, info.size)
    totals = [report.completed for report in reports if isinstance(report, Pulling)]
    assert totals == sorted(totals)
    assert Models(folder, None).installed() == (info,)
    assert Models(folder, None).find(REPO) == info, "clients of other servers send the repository"
    hub.asked.clear()
    assert (pulls.find(path, repo), await pulled(pulls, path, repo)) == (info, info)
    assert not hub.asked


async def test_a_folder_of_a_repository(make: Make, hub: Hub, folder: Path) -> None:
    add(hub, "some/body", ct2(), at="whisper/mine/")
    add(hub, "some/body", ct2(), at="whisper/other/")
    info = await pulled(make(), "whisper/mine/", "some/body")
    assert (info.id, here(info.path)) == ("mine", ct2())
    words = await refusal(make(), NotAModel, "whisper/", "some/body")
    assert words.startswith("whisper/ of some/body is no model that can be run here: it has mine/README.md, ")


async def test_a_voice_goes_to_the_voices(make: Make, hub: Hub, folder: Path, voices: Path) -> None:
    at = "en/en_US/ljspeech/high/"
    with_card = VOICE | {"MODEL_CARD": b"for people"}
    add(hub, "rhasspy/piper-voices", with_card | {"samples/0.mp3": b"sound"}, at=at)
    info = await pulled(make(), f"{at}en_US-ljspeech-high.onnx", "rhasspy/piper-voices")
    assert (info.id, info.path) == ("en_US-ljspeech-high", voices / "en_US-ljspeech-high")
    assert (info.size, info.engine) == (whole(with_card), "piper")
    assert here(info.path) == with_card
    assert (inside(folder), inside(voices)) == ([], ["en_US-ljspeech-high"])


async def test_a_language_of_pocket_tts_goes_to_the_voices(
    make: Make, hub: Hub, folder: Path, voices: Path
) -> None:
    at = "languages/english/"
    add(hub, "kyutai/pocket", POCKET | {"README.md": b"for people"}, at=at)
    info = await pulled(make(), at, "kyutai/pocket")
    assert (info.id, info.path, info.engine) == ("english", voices / "english", "pocket")
    assert (here(info.path), info.size, inside(folder)) == (POCKET, whole(POCKET), [])
    cut = POCKET | {"model.safetensors": POCKET["model.safetensors"][:-1]}
    add(hub, "kyutai/pocket", cut, at="languages/german/")
    assert "breaks off" in await refusal(make(), NotAModel, "languages/german/", "kyutai/pocket")
    assert inside(voices) == ["english"]


async def test_what_may_contain_code_is_pulled_at_a_pinned_commit(make: Make, hub: Hub, folder: Path) -> None:
    pin = add(hub, "some/pipeline", PIPELINE)
    words = await refusal(make(), BadField, "some/pipeline")
    assert "may contain code" in words
    assert "some/pipeline@COMMIT" in words
    assert "can be moved" in await refusal(make(trusted=["some/pipeline@main"]), BadField, "some/pipeline")
    assert (hub.sent, inside(folder)) == (0, [])
    hub.add("some/pipeline", "config.yaml", b"import os")
    info = await pulled(make(trusted=[f"some/pipeline@{pin}"]), "some/pipeline")
    assert (info.id, info.engine, info.capabilities) == ("pipeline", "pyannote", ("diarize",))
    assert here(info.path) == PIPELINE
    assert info.size == whole(PIPELINE)


class TestResumes:
    async def test_each_file_where_it_broke_off(self, pulls: Pulls, hub: Hub, folder: Path) -> None:
        hub.faults.break_after = [100, 100_000, -1, 50]
        assert here((await pulled(pulls, REPO)).path) == ct2()
        assert hub.sent == whole(ct2())

    async def test_after_a_restart_with_all_that_came(self, make: Make, pulls: Pulls, hub: Hub) -> None:
        # Files come in the order of their names: config.json, mel_filters.npy, model.bin...
        hub.faults.stall_after = [-1, -1, 100_000]
        before = len(ct2()["config.json"]) + len(ct2()["mel_filters.npy"]) + 100_000
        async with aclosing(pulls.pull(REPO)) as reports:
            await coming(reports, before)
            await pulls.stop()
        assert hub.sent == before
        hub.faults.stall_after = [0]
        again = make()
        async with aclosing(again.pull(REPO)) as reports:
            assert (await coming(reports)).completed == before, "what was there counts at once"
            await again.stop()
        await pulled(make(), REPO)
        assert hub.sent == whole(ct2())

    async def test_after_a_kill(self, make: Make, hub: Hub, folder: Path, tmp_path: Path) -> None:
        add(hub, REPO, ct2())
        hub.faults.stall_after = [-1, -1, 200_000]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PULLER, str(folder)),
            env={"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)},
            cwd=Path(__file__).parent.parent,
        )
        part = folder / COMING / "model.bin.part"
        await asyncio.to_thread(until, lambda: part.exists() and part.stat().st_size == 200_000)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert Models(folder, None).installed() == ()
        assert here((await pulled(make(), REPO)).path) == ct2()
        assert hub.sent == whole(ct2())
        assert inside(folder) == [NAME]

    async def test_killed_while_it_gave_the_files_their_names(
        self, pulls: Pulls, hub: Hub, folder: Path
    ) -> None:
        (folder / COMING).mkdir(parents=True)
        for name, data in ct2().items():
            (folder / COMING / name).write_bytes(data)
        await pulled(pulls, REPO)
        assert hub.sent == 0
        assert inside(folder) == [NAME]

    async def test_what_another_revision_has_is_kept_and_the_rest_is_not(
        self, pulls: Pulls, hub: Hub, folder: Path
    ) -> None:
        hub.faults.stall_after = [-1, -1, -1, 0]
        came = sum(len(ct2()[name]) for name in ("config.json", "mel_filters.npy", "model.bin"))
        async with aclosing(pulls.pull(REPO)) as reports:
            await coming(reports, came)
            await pulls.stop()
        (folder / COMING / "gone.bin.part").write_bytes(b"of a revision before")
        hub.add(REPO, "config.json", b'{"new": 1}')
        again = Pulls(Models(folder, None), endpoint=hub.url, tick=0.05)
        info = await pulled(again, REPO)
        assert here(info.path) == ct2() | {"config.json": b'{"new": 1}'}
        assert hub.sent == whole(ct2()) + len(b'{"new": 1}')


PULLER = """
import asyncio, sys
from pathlib import Path
from server.models import Models
from server.pull import Pulls

async def main():
    async for report in Pulls(Models(Path(sys.argv[1]), None)).pull("Systran/faster-whisper-tiny"):
        pass

asyncio.run(main())
"""


class TestRefuses:
    @pytest.mark.parametrize("file", ["model.bin", "config.json"])
    async def test_a_file_that_came_wrong(self, pulls: Pulls, hub: Hub, folder: Path, file: str) -> None:
        hub.faults.corrupt = 100_000 if file == "model.bin" else 0
        words = await refusal(pulls, ChecksumMismatch, REPO)
        assert words.endswith("; it has been removed")
        hub.faults.corrupt = None
        assert here((await pulled(pulls, REPO)).path) == ct2()
        assert inside(folder) == [NAME]

    async def test_files_that_are_no_model_together(self, make: Make, hub: Hub, folder: Path) -> None:
        add(hub, REPO, ct2() | {"vocabulary.json": json.dumps(["a"]).encode()})
        words = await refusal(make(), NotAModel, REPO)
        assert "the vocabulary has 1 tokens, the model 51,865" in words
        assert inside(folder) == []

    async def test_other_models(self, make: Make, hub: Hub, folder: Path) -> None:
        add(hub, "openai/whisper-tiny", {"model.safetensors": b"x", "config.json": b"{}"})
        words = await refusal(make(), NotAModel, "openai/whisper-tiny")
        assert words == (
            "openai/whisper-tiny is no model that can be run here: it has README.md, config.json, "
            "model.safetensors"
        )
        assert inside(folder) == []

    async def test_names_that_lead_out_of_the_folder(self, make: Make, hub: Hub, folder: Path) -> None:
        pin = add(hub, "a/b", PIPELINE | {"../../evil.bin": b"x"})
        assert "cannot be used" in await refusal(make(trusted=[f"a/b@{pin}"]), NotAModel, "a/b")
        assert (hub.sent, inside(folder)) == (0, [])

    async def test_a_disk_that_is_too_small_for_all(
        self, pulls: Pulls, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
        assert "still needs" in await refusal(pulls, NoSpace, REPO)
        assert (hub.sent, inside(folder)) == (0, [])

    async def test_a_folder_of_somebody_elses(self, pulls: Pulls, folder: Path) -> None:
        (folder / NAME).mkdir(parents=True)
        (folder / NAME / "letters.odt").write_text("mine")
        assert "is no model: take it away first" in await refusal(pulls, BadField, REPO)
        assert (folder / NAME / "letters.odt").read_text() == "mine"

    async def test_another_repository_of_the_same_name(self, pulls: Pulls, hub: Hub) -> None:
        add(hub, f"else/{NAME}", ct2())
        await pulled(pulls, REPO)
        words = await refusal(pulls, BadField, f"else/{NAME}")
        assert words == f"{NAME} is installed from {REPO}; delete it to have that of else/{NAME}"

    async def test_a_hub_that_is_not_there(self, make: Make, folder: Path) -> None:
        await refusal(make(endpoint="http://127.0.0.1:9"), HubUnreachable, REPO)
        assert inside(folder) == []


async def test_clients_share_a_download_and_so_do_processes(make: Make, pulls: Pulls, hub: Hub) -> None:
    hub.faults.rate = 20_000_000
    one, two, other = await asyncio.gather(
        all_of(pulls, REPO), all_of(pulls, NAME), all_of(make(), ".", REPO)
    )
    assert one[-1] == two[-1] == other[-1]
    assert hub.sent == whole(ct2())


async def test_a_broken_one_is_replaced(pulls: Pulls, folder: Path) -> None:
    (folder / NAME).mkdir(parents=True)
    (folder / NAME / "model.bin").write_bytes(ct2()["model.bin"][:-1])
    (broken,) = Models(folder, None).installed()
    assert broken.broken == "it lacks config.json, vocabulary.json or vocabulary.txt"
    assert (await pulled(pulls, REPO)).broken == ""


def test_what_is_left_of_pulls_goes_after_a_week(hub: Hub, folder: Path) -> None:
    old, new = folder / ".old.pulling", folder / ".new.pulling"
    for path in old, new:
        path.mkdir(parents=True)
        (path / "model.bin.part").write_bytes(b"x")
    os.utime(old / "model.bin.part", (0, 0))
    os.utime(old, (0, 0))
    Pulls(Models(folder, None), endpoint=hub.url)
    assert inside(folder) == [".new.pulling"]


# Listed, imported, deleted ----------------------------------------------------------------------------


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("config.json", None, "it lacks config.json"),
        ("model.bin", None, "it lacks model.bin"),
        ("vocabulary.json", None, "it lacks vocabulary.json or vocabulary.txt"),
        ("model.bin", lambda data: data[:-1], "model.bin breaks off at"),
        ("model.bin", lambda data: data[: len(data) // 2], "model.bin breaks off at"),
        ("model.bin", lambda data: data[:20], "model.bin breaks off at"),
        ("model.bin", lambda data: b"", "model.bin breaks off at"),
        ("model.bin", lambda data: data + b"x", "model.bin goes on after its"),
        ("model.bin", lambda data: b"lmgg" + data[4:], "no Whisper model of CTranslate2's"),
        ("model.bin", lambda data: data.replace(b"WhisperSpec", b"MistralSpec"), "no Whisper model"),
        ("model.bin", lambda data: b"version https://git-lfs", "Git LFS pointer"),
        ("config.json", lambda data: b"[]", "config.json is no object"),
        ("config.json", lambda data: b"{", "config.json is not JSON"),
        ("vocabulary.json", lambda data: b'["a"]', "the vocabulary has 1 tokens"),
        ("vocabulary.json", lambda data: b"\xff", "vocabulary.json is not UTF-8"),
    ],
)
def test_a_broken_folder_is_listed_with_the_reason_and_never_loaded(
    folder: Path, name: str, change: Callable[[bytes], bytes] | None, reason: str
) -> None:
    files = dict(ct2())
    data = files.pop(name)
    lay(folder / "mine", files | ({name: change(data)} if change else {}))
    models = Models(folder, None)
    (info,) = models.installed()
    assert (info.id, info.engine) == ("mine", "ctranslate2")
    assert reason in info.broken
    with pytest.raises(ModelBroken, match="cannot be loaded"):
        models.find("mine")
    models.delete("mine")
    assert inside(folder) == []


def test_a_folder_that_changes_is_read_again(folder: Path) -> None:
    lay(folder / "mine", ct2())
    models = Models(folder, None)
    (before,) = models.installed()
    assert models.installed()[0] is before
    (folder / "mine" / "config.json").write_text("[]")
    assert models.installed()[0].broken


def test_import_and_delete(tmp_path: Path, folder: Path, voices: Path) -> None:
    models = Models(folder, None)
    homes: kinds.Homes = {"models": folder, "voices": voices}
    stick = tmp_path / "stick"
    lay(stick / "mine", ct2() | {"notes.md": b"for people"})
    lay(stick / "pipeline", PIPELINE)
    lay(stick / "voice", VOICE)
    lay(stick / "cut", ct2() | {"model.bin": ct2()["model.bin"][:-1]})
    write_model(stick / "ggml-other.bin")
    found = {info.id: info for info in kinds.import_all(stick, models, homes)}
    assert {id for id, info in found.items() if not info.broken} == {
        "mine",
        "pipeline",
        "voice",
        "ggml-other",
    }
    assert "breaks off" in found["cut"].broken
    assert here(folder / "mine") == ct2()
    assert here(folder / "pipeline") == PIPELINE
    assert here(voices / "voice") == VOICE
    with pytest.raises(BadField, match="another model is installed as mine"):
        kinds.import_all(stick / "mine", models, homes)
    with pytest.raises(BadRequest):
        kinds.import_all(tmp_path / "nothing", models, homes)
    models.delete("mine")
    assert not (folder / "mine").exists()
    with pytest.raises(ModelNotFound):
        models.find("mine")
    (again,) = kinds.import_all(stick / "mine", models, homes)
    assert again == models.find("mine")
