"""go-whisper: its document line by line with curl, and what its Go client can decode."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import Server, serving
from tests.speech import SENTENCES, say, talk, wav

TEXT = " ".join(SENTENCES[:4])
PCM = talk(SENTENCES[:4])
WAV = wav(PCM)
BASE = "/api/v1"
"""Where its client looks unless told otherwise."""

INTEGERS = frozenset({"created", "duration", "start", "end"})


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose models may be deleted."""
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "talk.wav").write_bytes(WAV)
    (tmp_path / "french.wav").write_bytes(wav(say("Peter habite à Londres.", "fr-fr")))
    return tmp_path


def curl(folder: Path, *words: str) -> tuple[int, str]:
    said = subprocess.run(
        ["curl", "-sN", "-w", "\n%{http_code}", *words],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    body, _, status = said.rpartition("\n")
    return int(status), body


def events(text: str) -> list[tuple[str, Any]]:
    """Name and data of each event, as its client's scanner reads them: no line without a colon."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = [line.partition(":") for line in block.splitlines()]
        assert all(colon for _, colon, _ in lines)
        fields = {name: value.strip() for name, _, value in lines if name}
        if fields:
            found.append((fields["event"], json.loads(fields["data"]) if "data" in fields else None))
    return [event for event in found if event[0] != "ping"]


# The document -----------------------------------------------------------------------------------------


def test_ping_and_models(server: Server, folder: Path) -> None:
    assert curl(folder, f"{server.url}/v1/ping")[0] == 200
    listing = json.loads(curl(folder, f"{server.url}/v1/models")[1])
    (model,) = listing["models"]
    assert listing["object"] == "list"
    assert (model["id"], model["object"], model["path"]) == ("ggml-demo", "model", "ggml-demo.bin")


@pytest.mark.parametrize(
    "fields",
    [
        ["-H", "Content-Type: application/json", "-d", '{"path": "ggml-demo.bin"}'],
        ["-F", "path=ggml-demo.bin"],
        ["-d", "path=ggml-demo.bin"],
    ],
)
def test_a_model_that_is_there(server: Server, folder: Path, fields: list[str]) -> None:
    status, body = curl(folder, f"{server.url}/v1/models", *fields)
    assert (status, json.loads(body)["id"]) == (200, "ggml-demo")
    told = events(curl(folder, f"{server.url}/v1/models?stream=true", *fields)[1])
    assert [(name, data["id"]) for name, data in told] == [("ok", "ggml-demo")]


def test_delete(own: Server, folder: Path) -> None:
    assert curl(folder, "-X", "DELETE", f"{own.url}/v1/models/ggml-demo")[0] == 200
    status, body = curl(folder, "-X", "DELETE", f"{own.url}/v1/models/ggml-demo")
    assert status == json.loads(body)["code"] == 404
    assert "no model" in json.loads(body)["reason"]


def test_transcription(server: Server, folder: Path) -> None:
    fields = [
        "-F",
        "file=@talk.wav",
        "-F",
        "model=ggml-demo",
        "-F",
        "language=en",
        "-F",
        "response_format=json",
    ]
    status, body = curl(folder, f"{server.url}/v1/audio/transcriptions", *fields)
    assert (status, json.loads(body)["text"]) == (200, TEXT)
    (task, *segments, ok) = events(
        curl(folder, f"{server.url}/v1/audio/transcriptions?stream=true", *fields)[1]
    )
    assert (task[0], task[1]["task"], task[1]["language"]) == ("task", "transcribe", "en")
    assert [(name, data["id"]) for name, data in segments] == [("segment", number) for number in range(4)]
    assert "".join(data["text"] for _, data in segments).strip() == TEXT
    assert ok == ("ok", None)


def test_translation(server: Server, folder: Path) -> None:
    fields = ["-F", "file=@french.wav", "-F", "model=ggml-demo"]
    told = events(curl(folder, f"{server.url}/v1/audio/translations?stream=true", *fields)[1])
    assert (told[0][1]["task"], told[0][1]["language"]) == ("translate", "en")
    assert told[1][1]["text"].strip() == "Peter lives in London."


# Its client -------------------------------------------------------------------------------------------


def integers(value: Any, key: str = "") -> None:
    """Go's decoder refuses a fraction where its struct has an integer, and nothing else here."""
    if isinstance(value, dict):
        for name, inner in value.items():
            integers(inner, name)
    elif isinstance(value, list):
        for inner in value:
            integers(inner, key)
    elif key in INTEGERS:
        assert type(value) is int, key


def go(client: httpx.Client, path: str, media: bytes = WAV, **fields: str) -> httpx.Response:
    """As its client sends it: chunked, the file first, with an Accept that means nothing."""
    request = client.build_request(
        "POST",
        BASE + path,
        files=[("file", (".", media)), *((name, (None, value)) for name, value in fields.items())],
        headers={"accept": "multipart/form-data", "user-agent": "Go-http-client/1.1"},
    )
    body = request.read()
    headers = {name: value for name, value in request.headers.items() if name != "content-length"}
    pieces = (body[start : start + 32768] for start in range(0, len(body), 32768))
    return client.post(BASE + path, content=pieces, headers=headers)


def test_health_and_models_of_its_client(client: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    assert client.get(BASE + "/health", headers=headers).status_code == 200
    listing = client.get(BASE + "/models", headers=headers).json()
    integers(listing["models"])
    assert listing["models"][0]["id"] == "ggml-demo"


@pytest.mark.parametrize("format", ["", "json", "text", "verbose_json"])
def test_its_client_gets_all_that_it_can_decode(client: httpx.Client, format: str) -> None:
    fields = {"response_format": format} if format else {}
    answer = go(client, "/audio/transcriptions", WAV, model="ggml-demo", language="en", **fields)
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    integers(told)
    assert list(told) == ["task", "language", "duration", "text", "segments"]
    assert (told["task"], told["language"], told["text"]) == ("transcribe", "en", TEXT)
    assert told["duration"] / 1e9 == pytest.approx(len(PCM) / 16000, abs=0.01)
    assert [list(segment) for segment in told["segments"]] == [["id", "start", "end", "text"]] * 4
    assert all(segment["end"] <= told["duration"] for segment in told["segments"])


def test_its_client_gets_a_translation(client: httpx.Client) -> None:
    told = go(
        client, "/audio/translations", wav(say("Peter habite à Londres.", "fr-fr")), model="demo"
    ).json()
    assert (told["task"], told["language"], told["text"]) == ("translate", "en", "Peter lives in London.")


@pytest.mark.parametrize(("size", "chunks"), [("5s", 2), ("1s", 2), ("1m30s", 1), ("", 1)])
def test_segment_size_bounds_what_is_heard_at_once(client: httpx.Client, size: str, chunks: int) -> None:
    media = {"file": ("a.wav", wav(talk(SENTENCES[:4], pause=0.4)[: 16000 * 9]))}
    fields = {"language": "en", "response_format": "verbose_json", "segment_size": size}
    segments = client.post(BASE + "/audio/transcriptions", files=media, data=fields).json()["segments"]
    starts = {segment["seek"] for segment in segments}
    assert len(starts) >= chunks if chunks > 1 else len(starts) <= 2


@pytest.mark.parametrize("size", ["soon", "-5s"])
def test_a_segment_size_that_is_none(client: httpx.Client, size: str) -> None:
    answer = client.post(
        BASE + "/audio/transcriptions", files={"file": ("a.wav", WAV)}, data={"segment_size": size}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "segment_size")


def test_its_errors_have_code_and_reason(client: httpx.Client) -> None:
    for answer, status in (
        (go(client, "/audio/transcriptions", model="nope"), 404),
        (client.get(BASE + "/models/nope"), 404),
        (client.post(BASE + "/audio/transcriptions?stream=perhaps", files={"file": ("a", WAV)}), 400),
        (client.put(BASE + "/models"), 405),
    ):
        told = answer.json()
        assert answer.status_code == told["code"] == status
        assert told["reason"]
