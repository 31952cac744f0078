"""NVIDIA's ASR NIM: its document line by line, with curl as it stands there."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from server import __version__
from tests.serving import ROOT, Server, until
from tests.speech import SENTENCES, say, wav
from tests.test_ggml import Shape, write_model

GERMAN = "Das Wetter ist heute warm."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the document's lines name."""
    folder = tmp_path_factory.mktemp("nim")
    (folder / "recording.wav").write_bytes(wav(say(SENTENCES[0])))
    (folder / "french_audio.wav").write_bytes(wav(say("Peter habite à Londres.", "fr-fr")))
    (folder / "german.wav").write_bytes(wav(say(GERMAN, "de")))
    return folder


def curl(folder: Path, *words: str) -> tuple[int, str]:
    """Status and body."""
    said = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    body, _, status = said.rpartition("\n")
    return int(status), body


# Transcriptions and translations ----------------------------------------------------------------------


def test_the_default_answer_is_json(server: Server, folder: Path) -> None:
    status, body = curl(
        folder, f"{server.url}/v1/audio/transcriptions", "-F", "language=en-US", "-F", "file=@recording.wav"
    )
    assert status == 200
    assert json.loads(body)["text"] == SENTENCES[0]


def test_plain_text(server: Server, folder: Path) -> None:
    fields = ["-F", "language=en-US", "-F", "response_format=text", "-F", "file=@recording.wav"]
    assert curl(folder, f"{server.url}/v1/audio/transcriptions", *fields) == (200, SENTENCES[0] + "\n")


@pytest.mark.parametrize("language", ["de-DE", "de-AT", "multi"])
def test_languages_are_bcp_47(server: Server, folder: Path, language: str) -> None:
    fields = ["-F", f"language={language}", "-F", "file=@german.wav", "-F", "temperature=0"]
    status, body = curl(folder, f"{server.url}/v1/audio/transcriptions", *fields)
    assert (status, json.loads(body)["text"]) == (200, GERMAN)


@pytest.mark.parametrize("target", ["en-US", "en", "en-GB"])
def test_translations(server: Server, folder: Path, target: str) -> None:
    fields = ["-F", "language=fr-FR", "-F", f"target_language={target}", "-F", "file=@french_audio.wav"]
    status, body = curl(folder, f"{server.url}/v1/audio/translations", *fields)
    assert (status, json.loads(body)["text"]) == (200, "Peter lives in London.")


BAD: list[tuple[str, dict[str, str], str]] = [
    ("translations", {"language": "fr-FR", "target_language": "de-DE"}, "into English alone, not into"),
    ("translations", {"language": "fr-FR", "target_language": "xx"}, '"xx" is not a language'),
    ("translations", {"language": "pt-BR", "target_language": "en-US"}, 'does not know the language "pt"'),
    ("transcriptions", {"language": "pt-BR"}, 'does not know the language "pt"'),
    ("transcriptions", {"language": "xx-XX"}, '"xx-XX" is not a language'),
    ("transcriptions", {"language": "en-US", "response_format": "yaml"}, '"yaml" is not one of'),
    ("transcriptions", {"language": "en-US", "temperature": "2"}, "temperature"),
]


@pytest.mark.parametrize(("path", "fields", "sentence"), BAD)
def test_a_wrong_value_is_told_in_detail(
    client: httpx.Client, folder: Path, path: str, fields: dict[str, str], sentence: str
) -> None:
    media = {"file": ("a.wav", (folder / "french_audio.wav").read_bytes())}
    answer = client.post(f"/v1/audio/{path}", files=media, data=fields)
    assert answer.status_code == 400
    assert sentence in answer.json()["detail"]


def test_a_missing_file_is_told_in_error(server: Server, folder: Path) -> None:
    status, body = curl(folder, f"{server.url}/v1/audio/transcriptions", "-F", "language=en-US")
    error = json.loads(body)["error"]
    assert status == 400
    assert (error["message"], error["type"], error["code"]) == (
        "file: Field required",
        "BadRequestError",
        400,
    )


# What tells of the server -----------------------------------------------------------------------------


def test_ready_and_live(server: Server, folder: Path) -> None:
    for name in ("ready", "live"):
        status, body = curl(folder, f"{server.url}/v1/health/{name}")
        assert status == 200
        assert json.loads(body) == {"object": "health.response", "message": name, "status": name}


def test_models_version_and_metadata(server: Server, folder: Path) -> None:
    (model,) = json.loads(curl(folder, f"{server.url}/v1/models")[1])["data"]
    assert (model["id"], model["object"], type(model["created"])) == ("ggml-demo", "model", int)
    assert json.loads(curl(folder, f"{server.url}/v1/version")[1]) == {"release": __version__, "api": "3.1.0"}
    until(lambda: json.loads(curl(folder, f"{server.url}/v1/models/ggml-demo")[1])["sha256"])
    metadata = json.loads(curl(folder, f"{server.url}/v1/metadata")[1])
    assert metadata == {
        "version": __version__,
        "selectedModelProfileId": json.loads(curl(folder, f"{server.url}/v1/models/ggml-demo")[1])["sha256"],
        "modelInfo": [
            {"modelUrl": "ggml-demo.bin", "shortName": "ggml-demo"},
            {"modelUrl": "espeakng_loader", "shortName": "espeak"},
        ],
        "repository_override": "",
        "assetInfo": [],
        "licenseInfo": {},
    }


@contextmanager
def launched(data: Path, *flags: str) -> Iterator[Server]:
    """A server that has only just been started, on a port that is known beforehand."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "serve", "--port", str(port), "--data", str(data), *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "1000"},
    )
    server = Server(process, data)
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        server.stop()


def answer(client: httpx.Client, path: str) -> httpx.Response | None:
    with suppress(httpx.ConnectError):
        return client.get(path)
    return None


def test_not_ready_before_its_readers_are_up_and_then_language_alone_chooses_the_model(
    tmp_path: Path, folder: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_model(models / "ggml-tiny.en.bin", Shape(vocab=51864, tokens=50256))
    (models / "ggml-mine.bin").write_bytes((ROOT / "models" / "ggml-demo.bin").read_bytes())
    flags = ("--demo", "false", "--default-model", "tiny.en", "--preload", "mine", "--readers", "1")
    with launched(tmp_path, *flags) as server, server.client() as client:
        until(lambda: server.children())
        (reader, *_) = server.children()
        reader.suspend()
        try:
            until(lambda: answer(client, "/v1/health/live"))
            early = client.get("/v1/health/ready")
            assert (early.status_code, early.headers["retry-after"]) == (503, "2")
            assert early.json()["status"] == "not_ready"
            assert "being started" in early.json()["message"]
            assert client.get("/v1/health").status_code == 200
            assert client.get("/v1/models").json()["data"]
        finally:
            reader.resume()
        until(lambda: client.get("/v1/health/ready").status_code == 200)
        assert [model["id"] for model in client.get("/v1/models/loaded").json()["data"]] == ["ggml-mine"]

        german: dict[str, Any] = {"file": ("a.wav", (folder / "german.wav").read_bytes())}
        heard = client.post("/v1/audio/transcriptions", files=german, data={"language": "de-DE"})
        assert heard.json()["text"] == GERMAN
        named = client.post(
            "/v1/audio/transcriptions", files=german, data={"language": "de", "model": "tiny.en"}
        )
        assert named.status_code == 400
        assert "ggml-tiny.en does not know the language" in named.json()["detail"]
