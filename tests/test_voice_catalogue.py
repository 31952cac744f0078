"""Voices that are pulled by name: over HTTP and at the command line, spoken in at once, deleted again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from server import voice_catalogue
from tests import tiny_voices
from tests.dialects.test_audio import sse
from tests.hub import Hub
from tests.serving import Server, serving

pytestmark = pytest.mark.slow

PIPER = "rhasspy/piper-voices"
KOKORO = "onnx-community/Kokoro-82M-v1.0-ONNX"

NAME = "en_US-lessac-medium"
FOLDER = "en/en_US/lessac/medium"

CARD = b"# Model card for lessac (medium)\n\n* Language: en_US\n\n## Dataset\n\n* License: Blizzard 2013\n"


@cache
def _files() -> dict[str, dict[str, bytes]]:
    """What lies on the hub in both repositories, with more in it than is needed."""
    with TemporaryDirectory() as place:
        voice = tiny_voices.piper(Path(place) / FOLDER, NAME, speakers=False)
        tiny_voices.kokoro(Path(place) / "kokoro", "onnx/model")
        kokoro = Path(place) / "kokoro"
        return {
            PIPER: {
                f"{FOLDER}/{NAME}.onnx": voice.read_bytes(),
                f"{FOLDER}/{NAME}.onnx.json": voice.with_name(f"{NAME}.onnx.json").read_bytes(),
                f"{FOLDER}/MODEL_CARD": CARD,
                f"{FOLDER}/samples/speaker_0.mp3": b"sound",
                "en/en_US/lessac/high/en_US-lessac-high.onnx": b"another one",
            },
            KOKORO: {
                **{
                    file.relative_to(kokoro).as_posix(): file.read_bytes()
                    for file in kokoro.rglob("*")
                    if file.is_file()
                },
                "onnx/model_q4.onnx": b"a smaller one",
                "config.json": b"{}",
            },
        }


@pytest.fixture
def voices(hub: Hub) -> Hub:
    for repo, files in _files().items():
        for name, data in files.items():
            hub.add(repo, name, data)
    return hub


@pytest.fixture
def server(voices: Hub, tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, environment={"HF_ENDPOINT": voices.url}) as server:
        yield server


def whisperd(*arguments: str, data: Path, hub: Hub) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments, "--data", str(data)],
        env={**os.environ, "HF_ENDPOINT": hub.url},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_catalogue() -> None:
    entries = voice_catalogue.entries()
    assert len({entry.id for entry in entries}) == len(entries) == 177
    assert len({entry.locale for entry in entries}) > 50
    for name in (NAME, "Piper.EN-US.lessac-medium", "piper.en-us.LESSAC-medium"):
        found = voice_catalogue.find(name)
        assert found
        assert (found.id, found.repo, found.path) == (NAME, PIPER, f"{FOLDER}/")
        assert (found.locale, found.quality, found.speakers) == ("en-US", "medium", 1)
        assert 60_000_000 < found.size < 70_000_000
    for name in ("kokoro", "Kokoro.EN-US.Heart", "kokoro-82m-v1.0-onnx"):
        kokoro = voice_catalogue.find(name)
        assert kokoro
        assert (kokoro.repo, kokoro.path) == (KOKORO, "")
    assert voice_catalogue.find("nobody") is None
    assert NAME in voice_catalogue.near("en_US-lesac-medium")


def test_voices_are_pulled_spoken_in_and_deleted_over_http(voices: Hub, server: Server) -> None:
    def spoken(voice: str) -> httpx.Response:
        return client.post("/v1/audio/speech", json={"input": "Hello.", "voice": voice})

    with server.client() as client:
        assert spoken("Piper.EN-US.lessac-medium").status_code == 400
        answer = client.post("/v1/models", params={"stream": "true"}, json={"path": NAME})
        *events, last = sse(answer.text)
        taken = [f"{FOLDER}/{NAME}.onnx", f"{FOLDER}/{NAME}.onnx.json", f"{FOLDER}/MODEL_CARD"]
        size = sum(len(_files()[PIPER][name]) for name in taken)
        progress = [json.loads(data or "") for event, data in events if event == "progress"]
        assert (progress[-1]["total"], progress[-1]["completed"]) == (size, size)
        assert (last[0], json.loads(last[1] or "")["engine"]) == ("ok", "piper")
        folder = server.data / "voices" / NAME
        assert sorted(file.name for file in folder.iterdir() if file.suffix != ".json") == [
            "MODEL_CARD",
            f"{NAME}.onnx",
        ]
        assert spoken("Piper.EN-US.lessac-medium").headers["x-voice"] == "Piper.EN-US.lessac-medium"
        assert client.post("/v1/models", json={"path": "Piper.EN-US.lessac-medium"}).status_code == 200

        assert client.post("/v1/models", json={"path": "kokoro"}).status_code == 201
        assert spoken("af_heart+af_bella").headers["x-voice"] == "Kokoro.EN-US.Heart+Bella"
        kokoro = server.data / "voices" / KOKORO.partition("/")[2]
        assert [file.name for file in (kokoro / "onnx").iterdir()] == ["model.onnx"], "not all there are"

        assert client.get(f"/v1/models/{NAME}").json()["size"] == size
        for name, left in ((NAME, folder), (kokoro.name, kokoro)):
            assert client.delete(f"/v1/models/{name}").json()["deleted"] is True
            assert client.get(f"/v1/models/{name}").status_code == 404
            assert not left.exists()
        assert spoken("af_heart").status_code == 400
        assert "piper/" not in client.get("/v1/models/loaded").text
        unknown = client.post("/v1/models", json={"path": "en_US-lesac-medium"})
        assert unknown.status_code == 400
        assert NAME in unknown.json()["error"]["message"]


def test_voices_are_pulled_listed_and_deleted_at_the_command_line(voices: Hub, tmp_path: Path) -> None:
    listed = whisperd("voices", "list", "--available", "--language", "en-US", data=tmp_path, hub=voices)
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert all(word in lines[NAME] for word in ("en-US", "63", "MODEL_CARD", "can be pulled"))
    assert "Kokoro-82M-v1.0-ONNX" in lines
    assert "de_DE-thorsten-medium" not in lines

    pulled = whisperd("voices", "pull", "piper.en-us.lessac-medium", data=tmp_path, hub=voices)
    assert pulled.returncode == 0, pulled.stderr
    assert f"{NAME} is installed" in pulled.stdout
    assert "speak in it as Piper.EN-US.lessac-medium\nits licence: Blizzard 2013" in pulled.stdout
    listed = whisperd("voices", "list", "--available", "--language", "en-US", data=tmp_path, hub=voices)
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert NAME not in lines
    assert all(word in lines["Piper.EN-US.lessac-medium"] for word in ("Blizzard 2013", "installed"))

    assert whisperd("voices", "rm", NAME, data=tmp_path, hub=voices).returncode == 0
    assert not (tmp_path / "voices" / NAME).exists()
    wrong = whisperd("voices", "pull", "en_US-lesac-medium", data=tmp_path, hub=voices)
    assert wrong.returncode == 1
    assert "near it: " in wrong.stderr
    assert NAME in wrong.stderr
