"""/v1/models for both of its clients, and what a model cannot do."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import Server, serving
from tests.speech import SENTENCES, say, wav
from tests.test_ggml import Shape, write_model

CLIP = wav(say(SENTENCES[0]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose folder has an English-only model and half of one."""
    data = tmp_path_factory.mktemp("data")
    models = data / "models"
    models.mkdir()
    write_model(models / "ggml-tiny.en.bin", Shape(vocab=51864))
    demo = Path(__file__).parent.parent.parent / "models" / "ggml-demo.bin"
    (models / "ggml-half.bin").write_bytes(demo.read_bytes()[: 5 << 20])
    with serving(data) as running:
        yield running


def test_the_list_has_both_keys_and_whole_seconds(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    assert answer["data"] == answer["models"]
    models = {model["id"]: model for model in answer["data"]}
    assert list(models) == ["ggml-demo", "ggml-half", "ggml-tiny.en"]
    demo = models["ggml-demo"]
    assert (demo["object"], demo["path"], demo["owned_by"]) == ("model", "ggml-demo.bin", "whisperd")
    assert isinstance(demo["created"], int)
    assert demo["languages"] == ["en", "de", "es", "fr"]
    assert models["ggml-tiny.en"]["languages"] == ["en"]
    assert "breaks off" in models["ggml-half"]["broken"]


def test_one_model_by_its_names(client: httpx.Client) -> None:
    for name in ("ggml-demo", "demo", "ggml-demo.bin"):
        assert client.get(f"/v1/models/{name}").json()["id"] == "ggml-demo"
        assert client.get(f"/api/v1/models/{name}").json()["id"] == "ggml-demo"


@pytest.mark.parametrize("name", ["nope", "a/b", "a%2Fb", "..%2f..%2fetc%2fpasswd", "%00"])
def test_an_unknown_model(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/v1/models/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_an_english_model_translates_nothing_and_knows_english_only(client: httpx.Client) -> None:
    fields = {"model": "tiny.en"}
    translated = client.post("/v1/audio/translations", files={"file": ("a.wav", CLIP)}, data=fields)
    assert (translated.status_code, translated.json()["error"]["param"]) == (400, "model")
    assert "knows English only and cannot translate" in translated.json()["reason"]
    german = client.post(
        "/v1/audio/transcriptions", files={"file": ("a.wav", CLIP)}, data={**fields, "language": "de"}
    )
    assert (german.status_code, german.json()["error"]["code"]) == (400, "unsupported_language")


def test_a_broken_model_is_never_loaded(client: httpx.Client, server: Server) -> None:
    answer = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", CLIP)}, data={"model": "half"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_broken")
    assert answer.headers["x-should-retry"] == "false"
    assert not [child for child in server.children() if "ggml-half" in " ".join(child.cmdline())]


def test_a_model_that_is_copied_in_is_there_at_once(client: httpx.Client, server: Server) -> None:
    file = server.data / "models" / "ggml-new.bin"
    write_model(file, Shape())
    assert client.get("/v1/models/new").json()["id"] == "ggml-new"
    file.unlink()
    assert client.get("/v1/models/new").status_code == 404


@pytest.mark.parametrize("path", ["/v1/ping", "/v1/health", "/api/v1/ping", "/api/v1/health"])
def test_it_is_up(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
