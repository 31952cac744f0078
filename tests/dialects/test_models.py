"""/v1/models for both of its clients: listed, loaded, unloaded and deleted; and what a model cannot do."""

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from server import config
from server.dialects.models import _delete
from server.services import running
from tests.serving import Server, serving, until
from tests.speech import SENTENCES, say, talk, wav
from tests.test_ggml import Shape, write_model

CLIP = wav(say(SENTENCES[0]))
DEMO = Path(__file__).parent.parent.parent / "models" / "ggml-demo.bin"
REPO = "ggerganov/whisper.cpp"
TRANSCRIPTIONS = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose folder has an English-only model and half of one."""
    data = tmp_path_factory.mktemp("data")
    models = data / "models"
    models.mkdir()
    write_model(models / "ggml-tiny.en.bin", Shape(vocab=51864))
    (models / "ggml-half.bin").write_bytes(DEMO.read_bytes()[: 5 << 20])
    with serving(data) as running:
        yield running


@pytest.fixture
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def transcribe(client: httpx.Client, model: str, media: bytes = CLIP, **fields: Any) -> httpx.Response:
    form = {"model": model, "language": "en", **fields}
    return client.post(TRANSCRIPTIONS, files={"file": ("a.wav", media)}, data=form)


# Listed -----------------------------------------------------------------------------------------------


def test_the_list_has_both_keys_and_whole_seconds(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    assert answer["data"] == answer["models"]
    models = {model["id"]: model for model in answer["data"]}
    assert list(models) == ["ggml-demo", "ggml-half", "ggml-tiny.en"]
    demo = models["ggml-demo"]
    assert (demo["object"], demo["path"], demo["owned_by"]) == ("model", "ggml-demo.bin", "whisperd")
    assert isinstance(demo["created"], int)
    assert (demo["size"], demo["engine"], demo["installed"]) == (DEMO.stat().st_size, "auto", True)
    assert demo["languages"] == ["en", "de", "es", "fr"]
    assert demo["capabilities"] == {"translate": True, "diarize": False, "words": True}
    assert models["ggml-tiny.en"]["languages"] == ["en"]
    assert models["ggml-tiny.en"]["capabilities"] == {"translate": False, "diarize": False, "words": True}
    assert "broken" not in demo
    assert "breaks off" in models["ggml-half"]["broken"]


def known(model: dict[str, Any]) -> bool:
    return "broken" in model or len(model["sha256"] or "") == 64


def test_what_the_catalogue_has_beyond_it(client: httpx.Client) -> None:
    # Hashes of files that people copied in are learned in the background.
    until(lambda: all(known(model) for model in client.get("/v1/models").json()["data"]))
    plain = client.get("/v1/models").json()["data"]
    assert client.get("/v1/models?available=0").json()["data"] == plain
    models = {model["id"]: model for model in client.get("/v1/models?available=T").json()["models"]}
    assert [model for model in models.values() if model["installed"]] == plain
    turbo = models["ggml-large-v3-turbo"]
    assert turbo["installed"] is False
    assert (turbo["path"], turbo["repo"], turbo["licence"]) == ("ggml-large-v3-turbo.bin", REPO, "mit")
    assert turbo["memory_needed"] > turbo["size"] > 1.6e9
    assert (turbo["loaded"], turbo["memory"], turbo["created"]) == (False, None, 0)
    assert models["ggml-small.en-tdrz"]["capabilities"]["diarize"] is True
    assert set(models["ggml-demo"]) <= set(turbo) | {"broken"}
    wrong = client.get("/v1/models?available=perhaps")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "available")


def test_one_model_by_its_names(client: httpx.Client) -> None:
    for name in ("ggml-demo", "demo", "ggml-demo.bin"):
        assert client.get(f"/v1/models/{name}").json()["id"] == "ggml-demo"
        assert client.get(f"/api/v1/models/{name}").json()["id"] == "ggml-demo"
    assert client.get("/v1/models/whisper-1").json()["id"] == "ggml-tiny.en"


def test_a_broken_one_is_shown_with_its_reason(client: httpx.Client) -> None:
    answer = client.get("/v1/models/half")
    assert (answer.status_code, answer.json()["id"]) == (200, "ggml-half")
    assert "breaks off" in answer.json()["broken"]


@pytest.mark.parametrize("name", ["nope", "a/b", "a%2Fb", "..%2f..%2fetc%2fpasswd", "%00", ""])
@pytest.mark.parametrize(
    ("method", "action"), [("GET", ""), ("DELETE", ""), ("POST", "/load"), ("POST", "/unload")]
)
def test_an_unknown_model(client: httpx.Client, name: str, method: str, action: str) -> None:
    answer = client.request(method, f"/v1/models/{name}{action}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_openais_client_lists_and_retrieves(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["ggml-demo", "ggml-half", "ggml-tiny.en"]
    model = sdk.models.retrieve("demo")
    assert (model.id, model.object, model.owned_by) == ("ggml-demo", "model", "whisperd")
    with pytest.raises(openai.NotFoundError, match="there is no model 'a/b'"):
        sdk.models.retrieve("a/b")


def test_an_english_model_translates_nothing_and_knows_english_only(client: httpx.Client) -> None:
    fields = {"model": "tiny.en"}
    translated = client.post("/v1/audio/translations", files={"file": ("a.wav", CLIP)}, data=fields)
    assert (translated.status_code, translated.json()["error"]["param"]) == (400, "model")
    assert "knows English only and cannot translate" in translated.json()["reason"]
    german = transcribe(client, "tiny.en", language="de")
    assert (german.status_code, german.json()["error"]["code"]) == (400, "unsupported_language")


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/v1/models/half/load"])
def test_a_broken_model_is_never_loaded(client: httpx.Client, server: Server, path: str) -> None:
    answer = client.post(path, files={"file": ("a.wav", CLIP)}, data={"model": "half"})
    if path != TRANSCRIPTIONS:
        answer = client.post(path)
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


# Loaded -----------------------------------------------------------------------------------------------


def workers(server: Server, id: str) -> list[int]:
    """Processes that have the model loaded."""
    return [child.pid for child in server.children("server.worker") if child.cmdline()[-1] == id]


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Server]:
    """A server with two copies of the demo model, to be loaded and deleted."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("one", "two"):
        shutil.copy(DEMO, models / f"my-{name}.bin")
    with serving(tmp_path, "--default-model", "my-one", demo="false") as server:
        yield server


def test_load_and_unload_by_hand(copies: Server) -> None:
    began = time.time()
    with copies.client() as client:
        assert client.post("/v1/models/my-two/load").json()["loaded"] is True
        (mine,) = [m for m in client.get("/v1/models/loaded").json()["data"] if m["id"] == "my-two"]
        assert (mine["object"], mine["busy"], mine["queued"], mine["requests"]) == ("model", 0, 0, 0)
        assert mine["memory"] > DEMO.stat().st_size
        assert mine["slots"] >= 1
        assert int(began) <= mine["since"] <= time.time()
        assert int(began + 300) <= mine["expires"] <= time.time() + 300
        assert mine["pinned"] is False
        assert "CTranslate2" in mine["engine"]
        listed = {model["id"]: model for model in client.get("/v1/models").json()["models"]}
        assert listed["my-two"]["loaded"] is True
        assert listed["my-two"]["memory"] > DEMO.stat().st_size
        assert (listed["ggml-demo"]["loaded"], listed["ggml-demo"]["memory"]) == (False, None)
        assert client.get("/v1/models/my-two").json()["loaded"] is True
        assert workers(copies, "my-two")
        unloaded = {"id": "my-two", "object": "model", "loaded": False}
        assert client.post("/v1/models/my-two/unload").json() == unloaded
        assert not workers(copies, "my-two")
        assert client.post("/v1/models/my-two/unload").json() == unloaded
        answer = client.get("/v1/models/loaded").json()
        assert answer["models"] == answer["data"]
        assert "my-two" not in [model["id"] for model in answer["data"]]


def test_a_loaded_model_goes_also_when_its_file_went_before(copies: Server) -> None:
    with copies.client() as client:
        assert client.post("/v1/models/my-two/load").status_code == 200
        (copies.data / "models" / "my-two.bin").unlink()
        assert client.post("/v1/models/my-two/unload").status_code == 200
        assert not workers(copies, "my-two")
        assert client.post("/v1/models/my-two/unload").status_code == 404


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ({"json": {"keep_alive": "10m"}}, 600),
        ({"json": {"keep_alive": 20}}, 20),
        ({"data": {"keep_alive": "2h"}}, 7200),
        ({"data": {"keep_alive": "-1"}}, None),
        ({"files": {"keep_alive": (None, "90s")}}, 90),
    ],
)
def test_how_long_a_model_stays(client: httpx.Client, body: dict[str, Any], left: int | None) -> None:
    began = time.time()
    assert client.post("/v1/models/demo/load", **body).status_code == 200
    (loaded,) = client.get("/v1/models/loaded").json()["data"]
    if left is None:
        assert loaded["expires"] is None
    else:
        assert int(began + left) <= loaded["expires"] <= time.time() + left


def test_a_model_that_need_not_stay_goes_at_once(client: httpx.Client) -> None:
    assert client.post("/v1/models/demo/load", json={"keep_alive": 0}).status_code == 200
    until(lambda: not client.get("/v1/models/loaded").json()["data"])


@pytest.mark.parametrize("keep_alive", ["soon", -2, "", None, [1], "5x"])
def test_a_keep_alive_that_is_none(client: httpx.Client, keep_alive: object) -> None:
    answer = client.post("/v1/models/demo/load", json={"keep_alive": keep_alive})
    if keep_alive is None:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "keep_alive")


# Deleted ----------------------------------------------------------------------------------------------


def test_delete_for_both_clients(copies: Server) -> None:
    with openai.OpenAI(base_url=f"{copies.url}/v1", api_key="none", max_retries=0) as sdk:
        deleted = sdk.models.delete("my-one")
        assert (deleted.id, deleted.object, deleted.deleted) == ("my-one", "model", True)
        with pytest.raises(openai.NotFoundError):
            sdk.models.delete("my-one")
    with copies.client() as client:
        # go-whisper's client sends this header with an empty body.
        answer = client.delete("/api/v1/models/my-two", headers={"content-type": "application/json"})
        assert answer.status_code == 200
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["ggml-demo"]
        assert not list((copies.data / "models").glob("*.bin"))


def test_the_bundled_model_can_go_stays_away_and_comes_back(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.client() as client:
        assert client.delete("/v1/models/demo").json()["id"] == "ggml-demo"
        assert client.get("/v1/models").json()["data"] == []
    with serving(tmp_path, demo="false") as server, server.client() as client:
        assert client.get("/v1/models").json()["data"] == []
        assert client.post("/v1/models", json={"path": "demo"}).status_code == 201
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["ggml-demo"]
    assert DEMO.is_file()


def test_a_broken_file_can_be_deleted(copies: Server) -> None:
    file = copies.data / "models" / "ggml-half.bin"
    file.write_bytes(DEMO.read_bytes()[: 1 << 20])
    with copies.client() as client:
        assert client.delete("/v1/models/half").json() == {
            "id": "ggml-half",
            "object": "model",
            "deleted": True,
        }
    assert not file.exists()


def test_a_name_that_means_any_model_deletes_none(copies: Server) -> None:
    with copies.client() as client:
        for name in ("whisper-1", ""):
            assert client.delete(f"/v1/models/{name}").status_code == 404
        assert len(client.get("/v1/models").json()["data"]) == 3


LONG = wav(talk(SENTENCES[:4] * 30))


def busy(client: httpx.Client, id: str) -> bool:
    return any(
        model["id"] == id and model["requests"] for model in client.get("/v1/models/loaded").json()["data"]
    )


@pytest.mark.parametrize("patient", [True, False])
def test_a_model_in_use_goes_when_its_requests_have_ended(copies: Server, patient: bool) -> None:
    """Also where the client that wants it deleted does not wait for that."""
    file = copies.data / "models" / "my-one.bin"
    with ThreadPoolExecutor() as threads, copies.client() as client:
        running = threads.submit(transcribe, client, "my-one", LONG)
        until(lambda: busy(client, "my-one"))
        deleting = threads.submit(
            client.delete, "/v1/models/my-one", timeout=httpx.Timeout(120 if patient else 0.5)
        )
        until(lambda: transcribe(client, "my-one").status_code == 503)
        refused = transcribe(client, "my-one")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_busy")
        assert "being unloaded" in refused.json()["reason"]
        assert int(refused.headers["retry-after"]) > 0
        assert file.exists()
        assert transcribe(client, "my-two").status_code == 200
        if not patient:
            with pytest.raises(httpx.ReadTimeout):
                deleting.result()
        assert running.result().json()["text"].count(SENTENCES[0]) > 20
        if patient:
            assert deleting.result().json()["deleted"] is True
        until(lambda: not file.exists())
        assert not workers(copies, "my-one")
        assert transcribe(client, "my-one").status_code == 404


async def test_a_request_that_comes_just_before_the_file_goes_does_not_keep_the_model(tmp_path: Path) -> None:
    """Between the unloading and the deleting of its file, somebody loads it again."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(DEMO, folder / "one.bin")
    settings = config.read(environment={"WHISPERD_DATA": str(tmp_path), "WHISPERD_READERS": "0"})
    async with running(settings) as services:
        loop, model = asyncio.get_running_loop(), services.models.find("one")

        class Late:
            """The store, on whose way to the file a request overtakes the deletion."""

            def delete(self, id: str) -> None:
                asyncio.run_coroutine_threadsafe(services.memory.load(model), loop).result(60)
                services.models.delete(id)

        await _delete(replace(services, models=Late()), "one")  # type: ignore[arg-type]
        assert services.memory.loaded() == ()
        assert not (folder / "one.bin").exists()
