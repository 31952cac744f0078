"""Processes that tell speakers apart, with a small real pipeline."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from server.diarizers import Diarizers
from server.errors import ModelBroken, TooShort
from server.pipelines import Pipelines
from server.types import SAMPLE_RATE, Diarized, ModelInfo, SpeakerCount, Turn
from tests.dialogue import AGGLOMERATIVE, PIPELINE, Dialogue, dialogue
from tests.serving import ROOT
from tests.speech import Pcm, silence

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = ModelInfo("talk", PIPELINE, size=0, created=0, engine="pyannote")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def diarizers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Diarizers]:
    running = Diarizers(tmp_path_factory.mktemp("diarizers") / "empty")
    yield running
    await running.stop()


@pytest.fixture(scope="module")
def talk() -> Dialogue:
    return dialogue()


def file(folder: Path, pcm: Pcm) -> Path:
    sound = folder / "sound.pcm"
    sound.write_bytes(pcm.astype("<f4").tobytes())
    return sound


async def diarize(
    diarizers: Diarizers, sound: Path, speakers: SpeakerCount | None = None, model: ModelInfo = MODEL
) -> Diarized:
    return await diarizers.diarize(model, sound, speakers or SpeakerCount(), lambda _: None)


async def test_two_voices_are_told_apart(diarizers: Diarizers, tmp_path: Path, talk: Dialogue) -> None:
    shares: list[float] = []
    found = await diarizers.diarize(MODEL, file(tmp_path, talk.pcm), SpeakerCount(), shares.append)
    assert len(found.speakers) == 2
    heard = [_speaker(found, turn) for turn in talk.turns]
    assert heard == [heard[0], heard[1]] * 4
    assert heard[0] != heard[1]
    assert set(found.embeddings) == set(found.speakers)
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1
    assert all(0 <= turn.start < turn.end <= len(talk.pcm) / SAMPLE_RATE for turn in found.turns)


async def test_the_number_of_speakers_can_be_told(
    diarizers: Diarizers, tmp_path: Path, talk: Dialogue
) -> None:
    sound = file(tmp_path, talk.pcm)
    assert len((await diarize(diarizers, sound, SpeakerCount(exactly=1))).speakers) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.03, 12.0])
async def test_silence_has_no_speakers(diarizers: Diarizers, tmp_path: Path, seconds: float) -> None:
    assert (await diarize(diarizers, file(tmp_path, silence(seconds)))).turns == ()


async def test_little_speech_has_turns_but_no_embedding(
    diarizers: Diarizers, tmp_path: Path, talk: Dialogue
) -> None:
    found = await diarize(diarizers, file(tmp_path, talk.pcm[: 2 * SAMPLE_RATE]))
    assert len(found.speakers) == 1
    assert found.embeddings == {}


async def test_a_cancelled_work_frees_the_process(
    diarizers: Diarizers, tmp_path: Path, talk: Dialogue
) -> None:
    sound = file(tmp_path, np.tile(talk.pcm, 10))
    at_work = asyncio.Event()
    task = asyncio.create_task(diarizers.diarize(MODEL, sound, SpeakerCount(), lambda _: at_work.set()))
    await asyncio.wait_for(at_work.wait(), 60)
    (before,) = diarizers.loaded()[0].processes
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await diarize(diarizers, file(tmp_path, silence(1.0)))).turns == ()
    assert diarizers.loaded()[0].processes == (before,)


async def test_a_killed_process_is_replaced_and_its_work_done_again(
    diarizers: Diarizers, tmp_path: Path, talk: Dialogue
) -> None:
    at_work = asyncio.Event()
    sound = file(tmp_path, talk.pcm)
    task = asyncio.create_task(diarizers.diarize(MODEL, sound, SpeakerCount(), lambda _: at_work.set()))
    await asyncio.wait_for(at_work.wait(), 60)
    (process,) = diarizers.loaded()[0].processes
    os.kill(process, signal.SIGKILL)
    assert len((await task).speakers) == 2


async def test_a_voice_has_an_embedding_if_enough_of_it_is_heard(
    diarizers: Diarizers, tmp_path: Path, talk: Dialogue
) -> None:
    first = talk.turns[0]
    alone = np.concatenate([talk.pcm[: int(first.end * SAMPLE_RATE)], silence(0.5)])
    vector = np.array(await diarizers.embed(MODEL, file(tmp_path, np.tile(alone, 2))))
    found = await diarize(diarizers, file(tmp_path, talk.pcm))
    scores = {
        speaker: float(vector @ np.array(other) / np.linalg.norm(vector) / np.linalg.norm(other))
        for speaker, other in found.embeddings.items()
    }
    same = _speaker(found, first)
    assert max(scores, key=lambda speaker: scores[speaker]) == same
    with pytest.raises(TooShort, match="2 speakers"):
        await diarizers.embed(MODEL, file(tmp_path, talk.pcm))
    with pytest.raises(TooShort, match="are needed"):
        await diarizers.embed(MODEL, file(tmp_path, talk.pcm[:SAMPLE_RATE]))


WATCHED = """
import json, socket, sys
from pathlib import Path

asked = []

def getaddrinfo(host, *rest, **more):
    asked.append(host)
    raise OSError("there is no network here")

socket.getaddrinfo = getaddrinfo
import numpy as np
from server.engines.pyannote import Diarizer
from server.types import SpeakerCount

noise = np.random.default_rng(1).standard_normal(3 * 16000).astype(np.float32) / 10
Diarizer(Path(sys.argv[1]), 1).diarize(noise, SpeakerCount(), lambda _: None, lambda: False)
from pyannote.audio.telemetry import metrics

metrics.provider.force_flush()
print(json.dumps(asked))
"""
"""Tells what hosts are looked up while a pipeline is loaded and used."""


@pytest.mark.slow
async def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """Not even where the environment asks for pyannote's telemetry, which is on by default."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", WATCHED, str(PIPELINE)],
        cwd=ROOT,
        env={**os.environ, "PYANNOTE_METRICS_ENABLED": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


async def test_a_folder_that_is_no_pipeline_says_so(diarizers: Diarizers, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(PIPELINE, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(
        config.replace("pyannote.audio.pipelines.SpeakerDiarization", "os.system")
    )
    other = ModelInfo("other", folder, size=0, created=0, engine="pyannote")
    with pytest.raises(ModelBroken, match="not a pipeline for speaker diarization"):
        await diarizers.load(other)


@pytest.mark.parametrize("places", ["inside", "beside"])
async def test_the_layout_of_3_1_names_other_repositories(
    tmp_path: Path, talk: Dialogue, places: str
) -> None:
    folder = tmp_path / "models" / "speaker-diarization-3.1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(AGGLOMERATIVE)
    at = {"segmentation": folder / "segmentation", "embedding": folder / "embedding"}
    if places == "beside":
        names = {"segmentation": "segmentation-3.0", "embedding": "wespeaker-voxceleb-resnet34-LM"}
        at = {part: folder.parent / name for part, name in names.items()}
    (model,) = Pipelines(folder.parent).installed()
    assert model.broken == "it lacks segmentation/pytorch_model.bin, embedding/pytorch_model.bin"
    for part, place in at.items():
        shutil.copytree(PIPELINE / part, place)
    (model,) = Pipelines(folder.parent).installed()
    assert not model.broken
    assert model.size > 3e6
    diarizers = Diarizers(tmp_path / "empty")
    try:
        found = await diarize(diarizers, file(tmp_path, talk.pcm), model=model)
    finally:
        await diarizers.stop()
    heard = [_speaker(found, turn) for turn in talk.turns]
    assert heard == [heard[0], heard[1]] * 4
    assert heard[0] != heard[1]


async def test_unloading_ends_the_process(tmp_path: Path) -> None:
    diarizers = Diarizers(tmp_path / "empty")
    await diarizers.load(MODEL)
    (process,) = diarizers.loaded()[0].processes
    await diarizers.unload("talk")
    assert diarizers.loaded() == ()
    assert not Path(f"/proc/{process}").exists()


def _speaker(found: Diarized, turn: Turn) -> str:
    """Who is heard most in a true turn."""
    shares: dict[str, float] = {}
    for other in found.exclusive:
        shared = min(turn.end, other.end) - max(turn.start, other.start)
        shares[other.speaker] = shares.get(other.speaker, 0.0) + max(0.0, shared)
    return max(shares, key=lambda speaker: shares[speaker])
