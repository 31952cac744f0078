"""Who has no key is told so in each dialect's own words, and clients bring theirs in their own headers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from tests.serving import Server, serving

KEY = "a-key-of-ones-own"
HELLO = (Path(__file__).parent.parent.parent / "models" / "hello.ogg").read_bytes()
SAID = "Peter lives in London."
WANTED = "this server wants an API key: send it as `Authorization: Bearer KEY`"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("locked")
    with serving(data, environment={"WHISPERD_API_KEY": KEY}) as running:
        yield running


@pytest.fixture
def client(locked: Server) -> Iterator[httpx.Client]:
    with locked.client() as client:
        yield client


def test_gradium(client: httpx.Client) -> None:
    path, kind = "/api/post/speech/asr", {"Content-Type": "audio/ogg"}
    for headers, reason in (({}, WANTED), ({"x-api-key": "revoked"}, "the API key is not known here")):
        answer = client.post(path, content=HELLO, headers=kind | headers)
        assert (answer.status_code, answer.text) == (500, f"error from server 1008: {reason}")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    answer = client.post(path, content=HELLO, headers={"x-api-key": KEY, **kind})
    assert json.loads(answer.text.splitlines()[2])["text"] == SAID


@pytest.mark.parametrize("path", ["/asr", "/detect-language"])
def test_whisper_asr_webservice(locked: Server, client: httpx.Client, path: str) -> None:
    files = {"audio_file": HELLO}
    answer = client.post(path, files=files)
    assert answer.status_code == 401
    assert answer.headers["x-whisperd-error"] == WANTED
    assert answer.content == b"" if path == "/asr" else answer.json() == {"detail": WANTED}
    # Bazarr has no setting for a key, only one for the address.
    address = locked.url.replace("http://", f"http://bazarr:{KEY}@")
    assert requests.post(f"{address}{path}", files=files, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("path", "form"), [("/inference", {"file": HELLO}), ("/load", {"model": (None, "ggml-demo")})]
)
def test_whisper_cpp(client: httpx.Client, path: str, form: dict[str, Any]) -> None:
    answer = client.post(path, files=form)
    assert (answer.status_code, answer.json()) == (401, {"error": WANTED})
    answer = client.post(path, files=form, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert client.get("/health").json() == {"status": "ok"}
