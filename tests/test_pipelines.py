"""Pipelines that tell speakers apart: pulled from a hub with their parts, in both layouts of pyannote's."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from server import catalogue, folders
from server.errors import BadField, ChecksumMismatch, Gated
from server.models import Models
from server.pipelines import Pipelines
from server.pull import Pulling, Pulls
from server.types import ModelInfo
from tests.dialogue import AGGLOMERATIVE, PIPELINE
from tests.hub import Hub
from tests.test_pull import all_of, pulled, refusal

COMMUNITY = "pyannote/speaker-diarization-community-1"
AGGLOMERATES = "pyannote/speaker-diarization-3.1"
SEGMENTATION = "pyannote/segmentation-3.0"
EMBEDDING = "pyannote/wespeaker-voxceleb-resnet34-LM"

Make = Callable[..., Pulls]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
async def make(hub: Hub, folder: Path) -> AsyncIterator[Make]:
    made = []

    def pulls(*trusted: str, token: str | None = None) -> Pulls:
        made.append(
            Pulls(
                Models(folder, None),
                endpoint=hub.url,
                stall=5.0,
                pause=0.001,
                tick=0.05,
                trusted=trusted,
                token=token,
            )
        )
        return made[-1]

    yield pulls
    for each in made:
        await each.stop()


def community(hub: Hub, *, token: str = "") -> str:
    """The repository of the fixture, and its pin."""
    hub.add(COMMUNITY, "README.md", b"for people", gated=bool(token), token=token)
    for file in folders.contents(PIPELINE):
        commit = hub.add(COMMUNITY, file.relative_to(PIPELINE).as_posix(), file.read_bytes())
    return f"{COMMUNITY}@{commit}"


def agglomerative(hub: Hub) -> dict[str, str]:
    """The three repositories of the layout of 3.1, each with its pin."""
    hub.add(AGGLOMERATES, "README.md", b"for people")
    commits = {AGGLOMERATES: hub.add(AGGLOMERATES, "config.yaml", AGGLOMERATIVE.encode())}
    for repo, part in ((SEGMENTATION, "segmentation"), (EMBEDDING, "embedding")):
        hub.add(repo, "config.yaml", b"task: {}")
        commits[repo] = hub.add(
            repo, "pytorch_model.bin", (PIPELINE / part / "pytorch_model.bin").read_bytes()
        )
    return {repo: f"{repo}@{commit}" for repo, commit in commits.items()}


async def test_a_pipeline_is_pulled_at_its_pinned_commit(make: Make, hub: Hub, folder: Path) -> None:
    pin = community(hub)
    hub.add(COMMUNITY, "embedding/pytorch_model.bin", b"another one, newer than the pin")
    reports = await all_of(make(pin), "speaker-diarization-community-1")
    info = reports.pop()
    assert isinstance(info, ModelInfo)
    assert (info.id, info.engine, info.capabilities) == (
        "speaker-diarization-community-1",
        "pyannote",
        ("diarize",),
    )
    for name in ("config.yaml", "embedding/pytorch_model.bin", "plda/plda.npz"):
        assert (folder / info.id / name).read_bytes() == (PIPELINE / name).read_bytes()
    assert not (folder / info.id / "README.md").exists()
    assert Pipelines(folder).find() == info == Pipelines(folder).find(COMMUNITY)
    told = [report for report in reports if isinstance(report, Pulling)]
    assert (told[-1].completed, told[-1].total) == (info.size, info.size)


async def test_the_parts_of_3_1_come_from_their_own_repositories(make: Make, hub: Hub, folder: Path) -> None:
    pins = agglomerative(hub)
    info = await pulled(make(*pins.values()), AGGLOMERATES)
    assert isinstance(info, ModelInfo)
    assert info == Pipelines(folder).find("speaker-diarization-3.1")
    found = {file.relative_to(info.path).as_posix() for file in folders.contents(info.path)}
    assert found == {
        "config.yaml",
        "embedding/config.yaml",
        "embedding/pytorch_model.bin",
        "segmentation/config.yaml",
        "segmentation/pytorch_model.bin",
    }
    for part in ("segmentation", "embedding"):
        name = f"{part}/pytorch_model.bin"
        assert (info.path / name).read_bytes() == (PIPELINE / name).read_bytes()
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == [info.id]


@pytest.mark.parametrize("missing", [AGGLOMERATES, SEGMENTATION, EMBEDDING])
async def test_each_repository_must_be_trusted(make: Make, hub: Hub, folder: Path, missing: str) -> None:
    pins = agglomerative(hub)
    trusted = [pin for repo, pin in pins.items() if repo != missing]
    words = await refusal(make(*trusted), BadField, "speaker-diarization-3.1")
    assert f"trusted_repos at a pinned commit: {missing}@COMMIT" in words
    words = await refusal(make(*trusted, f"{missing}@main"), BadField, "speaker-diarization-3.1")
    assert f"{missing} is pinned to main" in words
    assert not hub.sent
    assert not Pipelines(folder).installed()


async def test_a_part_of_another_hash_is_refused(make: Make, hub: Hub, folder: Path) -> None:
    pins = agglomerative(hub)
    wrong = f"{EMBEDDING}/pytorch_model.bin@sha256:{'0' * 64}"
    words = await refusal(make(*pins.values(), wrong), ChecksumMismatch, "speaker-diarization-3.1")
    assert f"pytorch_model.bin of {EMBEDDING} is pinned to the SHA-256 {'0' * 64}" in words
    assert not Pipelines(folder).installed()


async def test_a_gated_pipeline_names_the_page_and_the_token(make: Make, hub: Hub, folder: Path) -> None:
    pin = community(hub, token="hf_read")
    words = await refusal(make(pin), Gated, "speaker-diarization-community-1")
    assert f"accept its terms on {hub.url}/{COMMUNITY}" in words
    assert "read token" in words
    assert "HF_TOKEN" in words
    info = await pulled(make(pin, token="hf_read"), "speaker-diarization-community-1")
    assert isinstance(info, ModelInfo)
    assert not info.broken


def test_the_catalogue_knows_how_large_they_are() -> None:
    for name in (COMMUNITY, AGGLOMERATES):
        entry = catalogue.find(name)
        assert entry
        assert 3e7 < entry.size < 4e7
        assert entry.memory > entry.size
