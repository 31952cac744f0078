"""Which models are seen, and which one a name means: real files in real folders."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server import config, digests, services
from server.digests import Note
from server.errors import BadField, BadRequest, ModelBroken, ModelNotFound, NoSpace, NotWritable
from server.models import ALIASES, DEMO, Models, bundled
from server.transcribe import check, choose
from server.types import LONGEST_WINDOW, Listen, ModelInfo, WindowShape
from tests.test_ggml import DEMO as DEMO_FILE
from tests.test_ggml import SMALL, Shape, patch, write_model

BASE = Shape(width=512, heads=8, audio_layers=6, text_layers=6)
LARGE = Shape(width=1280, heads=20, audio_layers=32, text_layers=32)
ENGLISH = {"vocab": 51864, "tokens": 50256}
V3 = {"vocab": 51866, "mels": 128}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def models(folder: Path) -> Models:
    return Models(folder, DEMO_FILE.parent)


def add(folder: Path, *names: str) -> None:
    for name in names:
        write_model(folder / f"{name}.bin")


def ids(models: Models) -> list[str]:
    return [model.id for model in models.installed()]


def refusal(models: Models, name: str | None) -> str:
    with pytest.raises(ModelNotFound) as caught:
        models.find(name)
    return str(caught.value)


class TestInstalled:
    def test_bundled_demo(self, models: Models) -> None:
        (demo,) = models.installed()
        assert (demo.id, demo.path, demo.size) == ("ggml-demo", DEMO_FILE, 11748705)
        assert demo.created == int(DEMO_FILE.stat().st_mtime)
        assert demo.multilingual
        assert demo.languages == ("en", "de", "es", "fr")
        assert demo.short_context
        assert demo.shape == DEMO.shape
        assert 0 < demo.shape.target <= demo.shape.longest <= LONGEST_WINDOW
        assert demo.notice == DEMO.notice
        assert demo.broken == ""

    def test_ordinary_model(self, models: Models, folder: Path) -> None:
        path = write_model(folder / "ggml-mine.bin")
        os.utime(path, (1_700_000_000.9, 1_700_000_000.9))
        model = models.find("ggml-mine")
        assert model == ModelInfo(
            id="ggml-mine",
            path=path,
            size=path.stat().st_size,
            created=1_700_000_000,
            multilingual=True,
            languages=model.languages,
            capabilities=("translate", "words"),
        )
        assert len(model.languages) == 99
        assert model.shape == WindowShape(target=27.0, longest=29.0, gap=2.0)
        assert not model.short_context
        assert model.notice == ""

    def test_short_contexts_as_the_owner_says(self, folder: Path) -> None:
        add(folder, "ggml-acft-base", "ggml-base")
        shutil.copy(DEMO_FILE, folder)
        settings = config.read(
            environment={
                "WHISPERD_MODELS": str(folder),
                "WHISPERD_TUNING": '{"ggml-acft-base": {"short_context": true}, '
                '"ggml-demo": {"short_context": false}}',
            }
        )
        models = services.store(settings)
        told = {model.id: model.short_context for model in models.installed()}
        assert told == {"ggml-acft-base": True, "ggml-base": False, "ggml-demo": False}

    def test_english_model(self, models: Models, folder: Path) -> None:
        write_model(folder / "ggml-tiny.en.bin", Shape(**ENGLISH))
        model = models.find("ggml-tiny.en")
        assert (model.multilingual, model.languages) == (False, ("en",))

    def test_sorted_by_id_and_nothing_else_in_the_folder(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-b", "ggml-a", ".hidden", "ggml-a.bin.part", "x y; §'\"%2f")
        (folder / "ggml-c.bin.part").write_bytes(b"half")
        (folder / "ggml-c.bin.tmp").write_bytes(b"half")
        (folder / ".bin").write_bytes(b"no name")
        (folder / "notes.md").write_text("words")
        (folder / "folder.bin").mkdir()
        os.mkfifo(folder / "pipe.bin")
        assert ids(models) == ["ggml-a", "ggml-a.bin.part", "ggml-b", "ggml-demo", "x y; §'\"%2f"]

    def test_name_that_is_not_utf8(self, models: Models, folder: Path) -> None:
        write_model(folder / os.fsdecode(b"ggml-\xff.bin"))
        assert ids(models) == ["ggml-demo", "ggml-\N{REPLACEMENT CHARACTER}"]
        assert models.find("ggml-\N{REPLACEMENT CHARACTER}").path.read_bytes()[:4] == b"lmgg"

    def test_links(self, models: Models, folder: Path, tmp_path: Path) -> None:
        target = write_model(tmp_path / "elsewhere")
        (folder / "ggml-link.bin").symlink_to(target)
        (folder / "folder.bin").symlink_to(tmp_path)
        (folder / "device.bin").symlink_to(os.devnull)
        (folder / "dangling.bin").symlink_to(tmp_path / "absent")
        (folder / "loop.bin").symlink_to("loop.bin")
        assert ids(models) == ["ggml-demo", "ggml-link"]
        assert models.find("link").size == target.stat().st_size

    def test_writable_folder_wins(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-demo")
        (mine,) = models.installed()
        assert mine.path == folder / "ggml-demo.bin"
        assert mine.notice == "", "another model by the demo's name is not the demo"

    def test_demo_is_known_wherever_it_lies(self, folder: Path) -> None:
        shutil.copy(DEMO_FILE, folder)
        shutil.copy(DEMO_FILE, folder / "ggml-renamed.bin")
        demo, renamed = Models(folder, None).installed()
        assert (demo.path, demo.notice) == (folder / "ggml-demo.bin", DEMO.notice)
        assert renamed.notice == ""

    def test_folders_that_are_not_there(self, tmp_path: Path) -> None:
        assert Models(tmp_path / "absent", None).installed() == ()
        assert Models(tmp_path / "absent", tmp_path / "gone").installed() == ()
        assert not list(tmp_path.iterdir())

    def test_folder_that_is_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "models"
        path.write_text("")
        with pytest.raises(ModelNotFound, match="models cannot be read: Not a directory"):
            Models(path, None).installed()

    def test_paths_are_absolute(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers have other working directories."""
        add(folder, "ggml-mine")
        monkeypatch.chdir(folder.parent)
        (model,) = Models(Path("models"), None).installed()
        assert model.path == folder / "ggml-mine.bin"


class TestChanges:
    """Files come, go and change while the server runs."""

    def test_come_and_go(self, models: Models, folder: Path) -> None:
        assert ids(models) == ["ggml-demo"]
        add(folder, "ggml-new")
        assert ids(models) == ["ggml-demo", "ggml-new"]
        (folder / "ggml-new.bin").rename(folder / "ggml-newer.bin")
        assert ids(models) == ["ggml-demo", "ggml-newer"]
        (folder / "ggml-newer.bin").unlink()
        assert ids(models) == ["ggml-demo"]

    def test_grows_while_it_is_copied(self, models: Models, folder: Path) -> None:
        path = folder / "ggml-new.bin"
        whole = write_model(folder / "whole").read_bytes()
        path.write_bytes(whole[:-1000])
        assert "breaks off" in models.installed()[-1].broken
        path.write_bytes(whole)
        assert models.find("ggml-new").size == len(whole)

    def test_replaced_by_one_of_equal_size_and_time(self, models: Models, folder: Path) -> None:
        path = write_model(folder / "ggml-new.bin")
        before = models.find("ggml-new")
        other = patch(write_model(folder / "other"), 0, b"GGUF")
        os.utime(other, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
        other.replace(path)
        after = next(model for model in models.installed() if model.id == "ggml-new")
        assert (after.size, after.created) == (before.size, before.created)
        assert after.broken == "not a GGML Whisper model (a GGUF file)"

    def test_unchanged_file_is_not_read_again(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-new")
        before = {model.id: model for model in models.installed()}
        add(folder, "ggml-newer")
        after = {model.id: model for model in models.installed()}
        assert after["ggml-new"] is before["ggml-new"]
        os.utime(folder / "ggml-new.bin")
        assert models.find("ggml-new") is not before["ggml-new"]


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A folder in which a file of mode 0 cannot be read: root gives up its rights meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


class TestBroken:
    def test_is_listed_with_the_reason_and_cannot_be_found(self, models: Models, folder: Path) -> None:
        (folder / "ggml-page.bin").write_text("<html>404</html>")
        model = models.installed()[-1]
        assert (model.id, model.size) == ("ggml-page", 16)
        assert model.broken == "not a GGML Whisper model"
        with pytest.raises(
            ModelBroken, match=r"^the model ggml-page cannot be loaded: not a GGML Whisper model$"
        ):
            models.find("page")

    def test_is_never_the_best(self, models: Models, folder: Path) -> None:
        path = write_model(folder / "ggml-large.bin", LARGE)
        os.truncate(path, path.stat().st_size - 1)
        assert "no model but the demo is installed" in refusal(models, "whisper-1")
        add(folder, "ggml-small")
        assert models.find("whisper-1").id == "ggml-small"

    def test_unreadable(self, stranger: Path) -> None:
        models = Models(stranger, None)
        path = write_model(stranger / "ggml-secret.bin")
        path.chmod(0)
        (model,) = models.installed()
        assert model.broken == "the file cannot be read: Permission denied"
        path.chmod(0o600)
        assert models.find("ggml-secret").broken == ""


class TestFind:
    @pytest.mark.parametrize(
        "name",
        ["ggml-large-v3-turbo", "ggml-large-v3-turbo.bin", "large-v3-turbo", "large-v3-turbo.bin"],
    )
    def test_names_of_one_model(self, models: Models, folder: Path, name: str) -> None:
        add(folder, "ggml-large-v3-turbo", "ggml-large-v3")
        assert models.find(name).id == "ggml-large-v3-turbo"

    @pytest.mark.parametrize("name", ["ggml-demo", "demo", "ggml-demo.bin", "demo.bin"])
    def test_names_of_the_demo(self, models: Models, name: str) -> None:
        assert models.find(name).notice

    def test_exact_id_comes_first(self, models: Models, folder: Path) -> None:
        add(folder, "mine", "ggml-mine", "whisper-1", "large.bin", "large")
        assert models.find("mine").id == models.find("mine.bin").id == "mine"
        assert models.find("whisper-1").id == "whisper-1"
        assert models.find("large.bin").id == "large.bin"

    @pytest.mark.parametrize("name", sorted(ALIASES))
    def test_aliases(self, models: Models, folder: Path, name: str) -> None:
        assert "no model but the demo" in refusal(models, name)
        add(folder, "ggml-mine")
        assert models.find(name).id == "ggml-mine"

    @pytest.mark.parametrize("name", [None, ""])
    def test_default(self, folder: Path, name: str | None) -> None:
        bundle = DEMO_FILE.parent
        assert Models(folder, bundle, demo="true").find(name).id == "ggml-demo"
        assert "no model but the demo" in refusal(Models(folder, bundle), name)
        add(folder, "ggml-mine", "ggml-other")
        assert Models(folder, bundle, demo="true").find(name).id == "ggml-demo"
        assert Models(folder, bundle).find(name).id == "ggml-mine"
        assert Models(folder, bundle, default="other", demo="true").find(name).id == "ggml-other"
        assert Models(folder, bundle, default="whisper-1", demo="true").find(name).id == "ggml-mine"
        assert "there is no model 'absent'" in refusal(Models(folder, bundle, default="absent"), name)

    def test_who_names_no_single_model_gets_one_that_can(self, folder: Path) -> None:
        bundle = DEMO_FILE.parent
        write_model(folder / "ggml-base.en.bin", Shape(**ENGLISH, width=512, heads=8, audio_layers=6))
        add(folder, "ggml-mine")
        speaks_german = Listen(model="", language="de")
        english, any_language = Listen(model="", language="en"), Listen(model="")
        for models in (Models(folder, bundle), Models(folder, bundle, default="base.en")):
            assert choose(models, english).id == choose(models, any_language).id == "ggml-base.en"
            assert choose(models, speaks_german).id == "ggml-mine"
            assert choose(models, Listen(model="", task="translate")).id == "ggml-mine"
            assert choose(models, replace(speaks_german, model="whisper-1")).id == "ggml-mine"
            assert choose(models, replace(english, model="whisper-1")).id == "ggml-base.en"
            assert choose(models, replace(speaks_german, model="base.en")).id == "ggml-base.en"

    def test_a_model_without_translations_does_not_translate(self, folder: Path) -> None:
        write_model(folder / "ggml-large-v3-turbo.bin", replace(LARGE, text_layers=4))
        add(folder, "ggml-mine")
        models = Models(folder, None)
        translation = Listen(model="whisper-1", task="translate")
        assert choose(models, replace(translation, task="transcribe")).id == "ggml-large-v3-turbo"
        assert choose(models, translation).id == "ggml-mine"
        with pytest.raises(BadField, match="cannot translate: it was trained without translations"):
            check(models.find("large-v3-turbo"), translation)

    def test_the_demo_is_the_default_until_there_is_another(self, folder: Path) -> None:
        models = Models(folder, DEMO_FILE.parent, demo="auto")
        assert models.find(None).id == "ggml-demo"
        add(folder, "ggml-mine")
        assert models.find(None).id == "ggml-mine"

    def test_demo_default_without_the_demo(self, folder: Path) -> None:
        add(folder, "ggml-mine")
        assert Models(folder, None, demo="true").find(None).id == "ggml-mine"

    def test_nothing_installed(self, folder: Path) -> None:
        advice = (
            '"whisperd models pull base" fetches one; or copy a GGML Whisper file such as ggml-base.bin '
            f"into {folder}"
        )
        empty = Models(folder, None)
        assert refusal(empty, None) == f"no model that can be loaded is installed: {advice}"
        assert refusal(empty, "whisper-1") == f"no model that can be loaded is installed: {advice}"
        assert refusal(empty, "x") == (
            f"there is no model 'x', and no model that can be loaded is installed: {advice}"
        )

    def test_only_the_demo(self, models: Models, folder: Path) -> None:
        assert refusal(models, "whisper-1") == (
            'no model but the demo is installed, which answers to "ggml-demo": '
            '"whisperd models pull base" fetches one; or copy a GGML Whisper file such as ggml-base.bin '
            f"into {folder}"
        )

    def test_unknown_names_the_nearest(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-large-v3", "ggml-large-v3-turbo", "ggml-tiny.en")
        assert refusal(models, "large-v3-turbp") == (
            "there is no model 'large-v3-turbp' (installed: 4); near it: ggml-large-v3-turbo, ggml-large-v3"
        )
        assert refusal(models, "zzz") == "there is no model 'zzz' (installed: 4)"

    @pytest.mark.parametrize(
        "name",
        [
            "../secret",
            "../secret.bin",
            "models/../../secret",
            "..%2fsecret",
            "%2e%2e%2fsecret",
            "../../etc/passwd",
            "/etc/passwd",
            "ggml-demo\0",
            "\0",
            ".",
            "..",
            "*",
            "\ud800",
            "modèle",
            "x" * 1_000_000,
        ],
    )
    def test_names_are_never_paths(self, models: Models, tmp_path: Path, name: str) -> None:
        write_model(tmp_path / "secret.bin")
        write_model(tmp_path / "secret")
        words = refusal(models, name)
        assert words.startswith("there is no model '")
        assert words.isascii()
        assert words.isprintable()
        assert len(words) < 500

    def test_absolute_path_of_a_model_is_no_name_of_it(self, models: Models) -> None:
        assert "there is no model" in refusal(models, str(DEMO_FILE))
        assert "there is no model" in refusal(models, str(DEMO_FILE.with_suffix("")))


class TestCatalogueNames:
    @pytest.mark.parametrize("name", ["turbo", "large-v3-turbo", "ggml-large-v3-turbo.bin"])
    def test_of_an_installed_model(self, models: Models, folder: Path, name: str) -> None:
        add(folder, "ggml-large-v3-turbo")
        assert models.find(name).id == "ggml-large-v3-turbo"

    def test_of_one_that_is_not_installed(self, models: Models) -> None:
        for name in "ggml-large-v3", "large-v3", "large":
            assert refusal(models, name) == (
                "the model ggml-large-v3 is not installed: "
                '"whisperd models pull ggml-large-v3" fetches it (3,095 MB)'
            )


class TestOwnAliases:
    @pytest.fixture
    def models(self, folder: Path) -> Models:
        meanings = {
            "mine": "ggml-small-one",
            "short": "small-one",
            "best": "whisper-1",
            "whisper-1": "demo",
            "fast": "turbo",
            "again": "mine",
            "ggml-demo": "ggml-small-one",
            "nothing": "zzz",
        }
        return Models(folder, DEMO_FILE.parent, aliases=meanings)

    def test_mean_models(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-small-one", "ggml-large-v3-turbo")
        meant = {name: models.find(name).id for name in ("mine", "short", "whisper-1", "fast")}
        assert meant == {
            "mine": "ggml-small-one",
            "short": "ggml-small-one",
            "whisper-1": "ggml-demo",
            "fast": "ggml-large-v3-turbo",
        }
        assert not models.find("best").notice, "what whisper-1 means without the owner's word"

    def test_ids_come_first(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-small-one")
        assert models.find("ggml-demo").notice

    def test_of_nothing(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-small-one")
        assert refusal(models, "nothing").startswith("'nothing' means 'zzz': there is no model 'zzz' ")
        assert refusal(models, "again").startswith("'again' means 'mine': there is no model 'mine' ")
        assert "is not installed" in refusal(models, "fast")

    def test_can_be_the_default(self, folder: Path) -> None:
        add(folder, "ggml-small-one")
        models = Models(folder, None, default="mine", aliases={"mine": "small-one"})
        assert models.find(None).id == "ggml-small-one"


class TestCapabilities:
    def test_of_models(self, models: Models, folder: Path) -> None:
        large = {"width": 1280, "heads": 20, "audio_layers": 32, **V3}
        write_model(folder / "turbo.bin", Shape(**large, text_layers=4))
        write_model(folder / "large.bin", Shape(**large, text_layers=32))
        write_model(folder / "english.bin", Shape(**ENGLISH))
        write_model(folder / "ggml-small.en-tdrz.bin", Shape(**ENGLISH))
        (folder / "broken.bin").write_bytes(b"")
        assert {model.id: model.capabilities for model in models.installed()} == {
            "broken": (),
            "english": ("words",),
            "ggml-demo": ("translate", "words"),
            "ggml-small.en-tdrz": ("diarize", "words"),
            "large": ("translate", "words"),
            "turbo": ("words",),
        }


class TestDelete:
    def test_file(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-a", "ggml-b")
        before = models.find("a")
        with before.path.open("rb") as held:
            assert models.delete("a.bin") == before
            assert held.read(4) == b"lmgg", "who has it open works on"
        assert ids(models) == ["ggml-b", "ggml-demo"]
        assert os.listdir(folder) == ["ggml-b.bin"]

    def test_broken_file(self, models: Models, folder: Path) -> None:
        (folder / "ggml-x.bin").write_bytes(b"")
        assert models.delete("ggml-x").broken
        assert ids(models) == ["ggml-demo"]

    def test_link(self, models: Models, folder: Path, tmp_path: Path) -> None:
        target = write_model(tmp_path / "elsewhere.bin")
        (folder / "ggml-x.bin").symlink_to(target)
        models.delete("x")
        assert target.exists()
        assert os.listdir(folder) == []

    def test_its_hash_goes_too(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-x")
        models.digest("x")
        assert len(os.listdir(folder)) == 2
        models.delete("x")
        assert os.listdir(folder) == []

    def test_bundled(self, models: Models, folder: Path, tmp_path: Path) -> None:
        bundle = tmp_path / "bundle"
        shutil.copytree(DEMO_FILE.parent, bundle)
        assert models.delete("demo").path == DEMO_FILE
        assert ids(models) == []
        assert "there is no model 'demo'" in refusal(models, "demo")
        assert DEMO_FILE.exists()
        assert os.listdir(folder) == [".ggml-demo.bin.deleted"]
        assert ids(Models(folder, DEMO_FILE.parent)) == [], "also after a restart"
        assert ids(Models(tmp_path / "other", DEMO_FILE.parent)) == ["ggml-demo"]
        with pytest.raises(ModelNotFound):
            models.delete("demo")

    def test_bundled_into_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        models = Models(tmp_path / "a" / "b", DEMO_FILE.parent)
        models.delete("demo")
        assert ids(models) == []

    def test_bundled_below_another_of_its_name(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-demo")
        models.delete("demo")
        assert ids(models) == []

    def test_bundled_comes_back(self, models: Models, folder: Path) -> None:
        models.delete("demo")
        assert models.bundled("demo") == models.bundled("ggml-demo.bin") == "ggml-demo.bin"
        info = models.restore("ggml-demo.bin")
        assert info == models.find("demo")
        assert info.path == DEMO_FILE
        assert os.listdir(folder) == []
        assert (models.restore("ggml-tiny.bin"), models.bundled("tiny")) == (None, None)

    def test_bundled_is_imported_again(self, models: Models, folder: Path) -> None:
        models.delete("demo")
        assert models.import_(DEMO_FILE).path == folder / "ggml-demo.bin"
        assert os.listdir(folder) == ["ggml-demo.bin"]
        assert models.find("demo").notice

    @pytest.mark.parametrize("name", ["whisper-1", "mine", "turbo", "", "../x", "ggml-demo\0", "/etc/passwd"])
    def test_names_that_are_none(self, folder: Path, tmp_path: Path, name: str) -> None:
        add(folder, "ggml-x", "ggml-large-v3-turbo")
        write_model(tmp_path / "x.bin")
        models = Models(folder, None, default="x", aliases={"mine": "x"})
        with pytest.raises(ModelNotFound):
            models.delete(name)
        assert len(os.listdir(folder)) == 2
        assert (tmp_path / "x.bin").exists()

    def test_read_only(self, small_disk: Path) -> None:
        models = Models(small_disk, DEMO_FILE.parent)
        add(small_disk, "ggml-x")
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        for name in "x", "demo":
            with pytest.raises(NotWritable, match="Read-only file system"):
                models.delete(name)
        assert ids(models) == ["ggml-demo", "ggml-x"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 6 MB, which has room for one small model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", folder], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class TestImport:
    def test_file(self, models: Models, folder: Path, tmp_path: Path) -> None:
        source = write_model(tmp_path / "ggml-x.bin")
        info = models.import_(source)
        assert info == models.find("x")
        assert info.path == folder / "ggml-x.bin"
        assert info.path.read_bytes() == source.read_bytes()
        assert not info.path.samefile(source), "what becomes of the source does not change the model"
        assert os.listdir(folder) == ["ggml-x.bin"]

    @pytest.mark.parametrize("name", ["mine", "mine.bin"])
    def test_under_another_name(self, tmp_path: Path, name: str) -> None:
        models = Models(tmp_path / "not" / "there", None)
        source = write_model(tmp_path / "checkpoint")
        assert models.import_(source, name).path.name == "mine.bin"
        assert models.import_(source).id == "checkpoint"

    @pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "x\0", "x" * 201, "\n", ".bin", "\ud800"])
    def test_under_a_name_that_is_none(self, models: Models, folder: Path, tmp_path: Path, name: str) -> None:
        source = write_model(tmp_path / "ggml-x.bin")
        with pytest.raises(BadField, match="cannot be the name of a model file"):
            models.import_(source, name)
        assert os.listdir(folder) == []

    def test_what_is_no_model(self, models: Models, folder: Path, tmp_path: Path) -> None:
        cut = write_model(tmp_path / "ggml-cut.bin")
        os.truncate(cut, 1000)
        pipe = tmp_path / "pipe.bin"
        os.mkfifo(pipe)
        for path, why in (
            (cut, "breaks off"),
            (Path(__file__), "not a GGML Whisper model"),
            (pipe, "not a regular file"),
            (tmp_path / "absent.bin", "No such file"),
            (tmp_path, "Is a directory"),
        ):
            with pytest.raises(ModelBroken, match=why) as caught:
                models.import_(path)
            assert str(caught.value).startswith(f"{path} cannot be imported: ")
        assert os.listdir(folder) == []

    def test_what_changes_while_it_is_copied(
        self, models: Models, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = write_model(tmp_path / "ggml-x.bin")

        def copy(source: Path, target: Path) -> None:
            target.write_bytes(source.read_bytes()[:-1])

        monkeypatch.setattr("server.sources.local.copy", copy)
        with pytest.raises(ModelBroken, match="breaks off") as caught:
            models.import_(source)
        assert str(caught.value).startswith(f"{source} cannot be imported: ")
        assert os.listdir(folder) == []

    def test_again(self, models: Models, folder: Path, tmp_path: Path) -> None:
        source = write_model(tmp_path / "ggml-x.bin")
        first = models.import_(source)
        assert models.import_(source) == first
        assert models.import_(first.path) == first, "what is imported already"

    def test_never_replaces_another_model(self, models: Models, folder: Path, tmp_path: Path) -> None:
        add(folder, "ggml-x")
        before = (folder / "ggml-x.bin").read_bytes()
        for shape in SMALL, BASE:
            source = patch(write_model(tmp_path / "ggml-x.bin", shape), shape.tensors_at + 200, b"other")
            with pytest.raises(BadField, match="another model is installed as ggml-x"):
                models.import_(source)
        assert (folder / "ggml-x.bin").read_bytes() == before
        assert os.listdir(folder) == ["ggml-x.bin"]

    def test_replaces_a_broken_one(self, models: Models, folder: Path, tmp_path: Path) -> None:
        (folder / "ggml-x.bin").write_bytes(b"half")
        models.import_(write_model(tmp_path / "ggml-x.bin"))
        assert models.find("x").broken == ""

    def test_folder(self, models: Models, folder: Path, tmp_path: Path) -> None:
        stick = tmp_path / "stick"
        (stick / "deep" / "er").mkdir(parents=True)
        add(stick, "ggml-a")
        write_model(stick / "deep" / "er" / "ggml-b.bin")
        write_model(stick / "deep" / "named otherwise")
        (stick / "ggml-cut.bin").write_bytes(b"lmgg")
        (stick / "ggml-empty.bin").write_bytes(b"")
        (stick / "notes.txt").write_text("words")
        (stick / "data.bin").write_bytes(b"\x00\x01\x02\x03")
        found = {info.id: info for info in models.import_folder(stick)}
        assert sorted(found) == ["ggml-a", "ggml-b", "ggml-cut", "ggml-empty", "named otherwise"]
        assert {id for id, info in found.items() if info.broken} == {"ggml-cut", "ggml-empty"}
        assert "the file is empty" in found["ggml-empty"].broken
        assert ids(models) == ["ggml-a", "ggml-b", "ggml-demo", "named otherwise"]

    def test_folder_without_models(self, models: Models, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "stick").mkdir()
        for path in tmp_path / "stick", tmp_path / "absent":
            with pytest.raises(BadRequest, match="there is no GGML file in"):
                models.import_folder(path)

    def test_disk_too_small(self, small_disk: Path, tmp_path: Path) -> None:
        models = Models(small_disk, None)
        source = write_model(tmp_path / "ggml-x.bin")
        (small_disk / "filler").write_bytes(bytes(3_000_000))
        with pytest.raises(NoSpace, match="needs 3,723,813 bytes; the disk of"):
            models.import_(source)
        assert os.listdir(small_disk) == ["filler"]

    def test_disk_full_in_the_middle(
        self, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        models = Models(small_disk, None)
        source = tmp_path / "ggml-x.bin"
        # Holes take no room in the source; data takes it in the copy.
        source.write_bytes(write_model(tmp_path / "holes").read_bytes())
        (small_disk / "filler").write_bytes(bytes(3_000_000))
        monkeypatch.setattr(models, "_check_space", lambda path: None)
        with pytest.raises(NoSpace, match="is full"):
            models.import_(source)
        assert os.listdir(small_disk) == ["filler"]


class TestDigests:
    def test_is_computed_when_asked(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-x")
        assert models.find("x").sha256 == ""
        sha256 = models.digest("x").sha256
        done = subprocess.run(["sha256sum", folder / "ggml-x.bin"], capture_output=True, text=True)
        assert sha256 == done.stdout.split()[0]
        assert models.find("x").sha256 == sha256

    def test_is_remembered(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-x")
        sha256 = models.digest("x").sha256
        assert Models(folder, None).find("x").sha256 == sha256
        # Whoever read the file again would see something else.
        path = folder / "ggml-x.bin"
        before = path.stat()
        patch(path, SMALL.tensors_at + 200, b"other")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert Models(folder, None).digest("x").sha256 == sha256

    def test_is_forgotten_when_the_file_changes(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-x")
        sha256 = models.digest("x").sha256
        patch(folder / "ggml-x.bin", SMALL.tensors_at + 200, b"other")
        assert models.find("x").sha256 == ""
        assert models.digest("x").sha256 not in ("", sha256)

    def test_of_another_file_of_the_name(self, models: Models, folder: Path, tmp_path: Path) -> None:
        models.digest("demo")
        shutil.copy2(DEMO_FILE, folder)
        assert models.find("demo").path == folder / "ggml-demo.bin"
        assert models.find("demo").sha256 == ""

    def test_note_that_is_none(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-x")
        models.digest("x")
        (note,) = folder.glob(".*.json")
        for text in "", "{", "[]", '{"file": 1}':
            note.write_text(text)
            assert Models(folder, None).find("x").sha256 == ""

    def test_all_in_the_background(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-x", "ggml-y")
        (folder / "ggml-broken.bin").write_bytes(b"")
        models.digest_all(lambda: True)
        assert not [model for model in models.installed() if model.sha256]
        models.digest_all()
        assert [model.id for model in models.installed() if not model.sha256] == ["ggml-broken"]

    def test_stopped_on_the_way(self, models: Models) -> None:
        answers = iter([False, True])
        assert models.digest("demo", lambda: next(answers)).sha256 == ""
        assert models.find("demo").sha256 == ""

    def test_of_a_file_that_changes_on_the_way(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-x")

        def meanwhile() -> bool:
            patch(folder / "ggml-x.bin", SMALL.tensors_at + 200, b"other")
            return False

        models.digest("x", meanwhile)
        assert models.find("x").sha256 == ""

    def test_in_memory_where_the_folder_is_read_only(self, small_disk: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        models = Models(small_disk, DEMO_FILE.parent)
        sha256 = models.digest("demo").sha256
        assert models.find("demo").sha256 == sha256 != ""
        assert os.listdir(small_disk) == []

    def test_origin(self, models: Models, folder: Path) -> None:
        add(folder, "ggml-x")
        assert models.origin(models.find("x")) is None
        note = Note("0" * 64, "some/body", "x.bin")
        info = models.adopt(write_model(folder / "x.part"), "ggml-y.bin", note)
        assert (info.id, info.sha256, models.origin(info)) == ("ggml-y", note.sha256, note)
        models.delete("y")
        assert models.origin(info) is None

    def test_small_files_appear_whole_or_not_at_all(self, small_disk: Path) -> None:
        path = small_disk / "note"
        digests.write(path, b"old")
        (small_disk / "filler").write_bytes(bytes(5_900_000))
        with pytest.raises(OSError, match="No space"):
            digests.write(path, bytes(500_000))
        assert path.read_bytes() == b"old"
        assert sorted(os.listdir(small_disk)) == ["filler", "note"]


RANKED = [
    ("ggml-large-v3", Shape(width=1280, heads=20, audio_layers=32, text_layers=32, **V3)),
    (
        "ggml-large-v3-q5_0",
        Shape(width=1280, heads=20, audio_layers=32, text_layers=32, file_type=2008, **V3),
    ),
    ("ggml-large-v3-turbo", Shape(width=1280, heads=20, audio_layers=32, text_layers=4, **V3)),
    ("ggml-distil-large-v3", Shape(width=1280, heads=20, audio_layers=32, text_layers=2, **V3)),
    ("ggml-large-v2", LARGE),
    ("ggml-large-v1", LARGE),
    ("ggml-medium", Shape(width=1024, heads=16, audio_layers=24, text_layers=24)),
    ("ggml-medium.en", Shape(width=1024, heads=16, audio_layers=24, text_layers=24, **ENGLISH)),
    ("ggml-base", BASE),
    ("ggml-base-q8_0", Shape(width=512, heads=8, audio_layers=6, text_layers=6, file_type=2007)),
    ("ggml-base-q5_1", Shape(width=512, heads=8, audio_layers=6, text_layers=6, file_type=2009)),
    ("ggml-base-q5_0", Shape(width=512, heads=8, audio_layers=6, text_layers=6, file_type=2008)),
    ("ggml-base.en", Shape(width=512, heads=8, audio_layers=6, text_layers=6, **ENGLISH)),
    ("ggml-slim", Shape(width=256, heads=4, audio_layers=6, text_layers=6)),
    ("ggml-small-one", SMALL),
]
"""Best first; the order by id is another."""


def test_best_is_the_largest_then_multilingual_then_newest_then_finest(models: Models, folder: Path) -> None:
    for name, shape in RANKED:
        write_model(folder / f"{name}.bin", shape)
    assert ids(models) != [name for name, _ in RANKED]
    for name, _ in RANKED:
        assert models.find("whisper-1").id == name
        (folder / f"{name}.bin").unlink()
    assert "no model but the demo" in refusal(models, "whisper-1")


def test_notice_fits_an_http_header() -> None:
    assert DEMO.notice.isascii()
    assert DEMO.notice.isprintable()
    assert len(DEMO.notice) < 200


class TestBundled:
    def test_of_this_checkout(self) -> None:
        assert bundled() == DEMO_FILE.parent

    def test_of_a_wheel(self, tmp_path: Path) -> None:
        package = tmp_path / "site-packages" / "server"
        (package / "bundled").mkdir(parents=True)
        assert bundled(package) == package / "bundled"

    def test_is_not_any_folder_beside_the_package(self, tmp_path: Path) -> None:
        package = tmp_path / "site-packages" / "server"
        package.mkdir(parents=True)
        (tmp_path / "site-packages" / "models").mkdir()
        assert bundled(package) is None
