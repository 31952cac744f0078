"""The models that can be pulled by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from server import catalogue
from server.catalogue import Entry

UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, Any]]:
    """The hub's models as whisper.cpp's pages list them, beside the checkout."""
    path = Path(__file__).parents[2] / "shared" / "reference" / "whisper-models.json"
    if not path.is_file():
        pytest.skip("the list is not on this machine")
    return {row["id"]: row for row in json.loads(path.read_text("utf-8"))["models"]}


def test_is_what_was_published(published: dict[str, dict[str, Any]]) -> None:
    entries = {entry.id: entry for entry in catalogue.entries() if not entry.kind}
    assert entries.keys() == published.keys()
    for id, row in published.items():
        entry = entries[id]
        mine = (entry.path, entry.repo, entry.sha1, entry.multilingual)
        assert mine == (row["path"], row["repo"], row["sha1"], row["multilingual"])
        if size := row["approx_size"]:
            assert entry.size == pytest.approx(float(size[:-3]) * UNITS[size[-3:]], rel=0.1)


def entry(name: str) -> Entry:
    found = catalogue.find(name)
    assert found
    return found


def test_entries() -> None:
    tiny, v3 = entry("tiny"), entry("large-v3")
    assert (tiny.id, tiny.path, tiny.repo) == ("ggml-tiny", "ggml-tiny.bin", "ggerganov/whisper.cpp")
    assert (len(tiny.languages), len(v3.languages), v3.languages[-1]) == (99, 100, "yue")
    assert entry("tiny.en").languages == ("en",)
    assert tiny.capabilities == ("translate", "words")
    assert entry("turbo").capabilities == ("words",), "it was not trained to translate"
    diarizes = [each.id for each in catalogue.entries() if "diarize" in each.capabilities]
    pipelines = ["speaker-diarization-community-1", "speaker-diarization-3.1"]
    assert diarizes == ["ggml-small.en-tdrz", *pipelines]
    assert [each.id for each in catalogue.entries() if each.kind == "pyannote"] == pipelines
    assert entry("pyannote/speaker-diarization-3.1").parts == (
        ("segmentation", "pyannote/segmentation-3.0"),
        ("embedding", "pyannote/wespeaker-voxceleb-resnet34-LM"),
    )
    assert entry("small.en-tdrz").repo == "akashmjn/tinydiarize-whisper.cpp"
    assert {each.licence for each in catalogue.entries() if each.kind != "pyannote"} == {"mit"}


def test_memory_needed() -> None:
    """whisper.cpp's README says 273 MB, 388 MB, 852 MB, 2.1 GB, 3.9 GB."""
    needed = [entry(name).memory / 2**20 for name in ("tiny", "base", "small", "medium", "large-v3")]
    assert needed == pytest.approx([273, 388, 852, 2.1 * 1024, 3.9 * 1024], rel=0.05)
    for each in catalogue.entries():
        assert each.size < each.memory < 5e9 or each.kind
        assert each.size / 2 < each.memory < 5e9
    assert entry("large-v3-q5_0").memory < entry("large-v3").memory


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("tiny", "ggml-tiny"),
        ("ggml-tiny", "ggml-tiny"),
        ("ggml-tiny.bin", "ggml-tiny"),
        ("large-v3-turbo.bin", "ggml-large-v3-turbo"),
        ("turbo", "ggml-large-v3-turbo"),
        ("large", "ggml-large-v3"),
        ("faster-whisper-tiny", "faster-whisper-tiny"),
        ("Systran/faster-whisper-large-v3", "faster-whisper-large-v3"),
        ("mobiuslabsgmbh/faster-whisper-large-v3-turbo", "faster-whisper-large-v3-turbo"),
    ],
)
def test_find(name: str, id: str) -> None:
    assert entry(name).id == id


@pytest.mark.parametrize("name", ["", "ggml-", "tin", "TINY", "whisper-1", "demo", "../ggml-tiny", "\0"])
def test_find_nothing(name: str) -> None:
    assert catalogue.find(name) is None


def test_those_of_faster_whisper_are_those_that_it_knows() -> None:
    from faster_whisper.utils import _MODELS

    known = {repo for repo in _MODELS.values() if "ct2" not in repo and repo != "distil-whisper"}
    mine = {each.repo: each for each in catalogue.entries() if each.kind == "ctranslate2"}
    assert known - mine.keys() == {"Systran/faster-distil-whisper-large-v2"}
    for repo, each in mine.items():
        assert each.id == repo.partition("/")[2]
        assert each.multilingual == (not repo.endswith(".en") and "distil" not in repo)
        assert ("translate" in each.capabilities) == (each.multilingual and "turbo" not in repo)
    assert len(mine["Systran/faster-whisper-large-v3"].languages) == 100


def test_near() -> None:
    assert catalogue.near("large-v3-turbp")[0] == "ggml-large-v3-turbo"
    assert catalogue.near("ggml-tinny.bin")[0] == "ggml-tiny"
    assert catalogue.near("zzzzzz") == ()
    assert catalogue.nearest("b", ["ggml-a.bin", "ggml-b.bin"]) == ("ggml-b.bin",)
