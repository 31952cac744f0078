"""POST /v1/models: a model comes from the hub, for go-whisper's client and everybody else's."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from server import convert, dialects, errors
from tests.dialects.test_audio import sse
from tests.hub import HOME, Hub, model, sha256
from tests.serving import Server, serving, until
from tests.speech import SENTENCES, say, wav

MODEL = model()

DEMO = Path(__file__).parent.parent.parent / "models" / "ggml-demo.bin"
"""The words it knows come out of it under any name."""


@pytest.fixture
def pulling(hub: Hub, tmp_path: Path) -> Iterator[Server]:
    """A server that pulls from the hub of the test."""
    with serving(tmp_path, environment={"HF_ENDPOINT": hub.url, "HF_TOKEN": ""}) as server:
        yield server


@pytest.fixture
def asking(pulling: Server) -> Iterator[httpx.Client]:
    with pulling.client() as client:
        yield client


@pytest.mark.parametrize(
    "body",
    [
        {"json": {"path": "ggml-tiny.bin"}},
        {"data": {"path": "ggml-tiny.bin"}},
        {"files": {"path": (None, "ggml-tiny.bin")}},
    ],
    ids=["json", "urlencoded", "multipart"],
)
def test_pull(hub: Hub, pulling: Server, asking: httpx.Client, body: dict[str, Any]) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    answer = asking.post("/v1/models", **body)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["id"], answer.json()["path"]) == ("ggml-tiny", "ggml-tiny.bin")
    assert answer.json()["sha256"] == sha256(MODEL)
    assert answer.json() == asking.get("/v1/models/ggml-tiny").json()
    assert (pulling.data / "models" / "ggml-tiny.bin").read_bytes() == MODEL
    again = asking.post("/v1/models", **body)
    assert (again.status_code, again.json()) == (200, answer.json())
    assert len(hub.bodies) == 1


def test_pull_from_another_repository_in_gos_way(hub: Hub, asking: httpx.Client) -> None:
    """go-whisper's client sends chunks without a length."""
    hub.add("someone/whispers", "mine.bin", MODEL)

    def chunks() -> Iterator[bytes]:
        yield b'{"path":"mine.bin",'
        yield b'"repo":"someone/whispers"}'

    answer = asking.post(
        "/api/v1/models", content=chunks(), headers={"content-type": "application/json; charset=utf-8"}
    )
    assert (answer.status_code, answer.json()["id"]) == (201, "mine")


@cache
def converted() -> dict[str, bytes]:
    """The demo model as a folder of CTranslate2's."""
    with TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        convert.convert(DEMO, made, "float16")
        # Those on the hub have no mel filters of their own.
        return {path.name: path.read_bytes() for path in made.iterdir() if path.suffix != ".npy"}


def test_a_model_of_several_files_is_pulled_heard_with_and_deleted(
    hub: Hub, pulling: Server, asking: httpx.Client
) -> None:
    repo, id = "Systran/faster-whisper-tiny", "faster-whisper-tiny"
    for name, data in converted().items():
        hub.add(repo, name, data)
    events = sse(asking.post("/v1/models", params={"stream": "true"}, json={"path": repo}).text)
    size = sum(map(len, converted().values()))
    progress = [json.loads(data or "") for event, data in events if event == "progress"]
    assert progress[-1] == {"status": f"installed {id}", "total": size, "completed": size} | {
        key: progress[-1][key] for key in ("speed", "remaining")
    }
    told = asking.get(f"/v1/models/{id}").json()
    assert (events[-1][0], json.loads(events[-1][1] or "")) == ("ok", told)
    assert (told["engine"], told["size"], told["path"]) == ("ctranslate2", size, id)
    assert told["capabilities"] == {"translate": True, "diarize": False, "words": True}
    assert asking.post("/v1/models", json={"path": id}).status_code == 200
    for name in id, repo:
        heard = asking.post(
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", wav(say(SENTENCES[0])))},
            data={"model": name, "language": "en"},
        )
        assert heard.status_code == 200, heard.text
        assert heard.json()["text"].strip() == SENTENCES[0]
    loaded = {model["id"]: model["engine"] for model in asking.get("/v1/models/loaded").json()["data"]}
    assert loaded[id].startswith("CTranslate2 ")
    assert asking.delete(f"/v1/models/{id}").json()["deleted"] is True
    assert asking.get(f"/v1/models/{id}").status_code == 404
    assert id not in asking.get("/v1/models/loaded").text
    assert not [path for path in (pulling.data / "models").iterdir() if id in path.name]


def test_a_model_is_converted_when_it_comes_and_the_copy_goes_with_it(
    hub: Hub, pulling: Server, asking: httpx.Client
) -> None:
    # Another file than the demo model, whose copy stays.
    data = DEMO.read_bytes()
    hub.add(HOME, "ggml-tiny.bin", data[:-1] + bytes([data[-1] ^ 1]))
    told = asking.post("/v1/models", json={"path": "tiny"}).json()
    assert told == asking.get("/v1/models/tiny").json()
    (copy,) = (pulling.data / "converted").glob(f"{told['sha256']}-*")
    assert told["converted"] == sum(file.stat().st_size for file in copy.iterdir())
    assert asking.delete("/v1/models/tiny").json()["deleted"] is True
    assert not copy.exists()


def test_a_deleted_model_can_be_pulled_again(hub: Hub, asking: httpx.Client) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    for _ in range(2):
        assert asking.post("/v1/models", json={"path": "tiny"}).status_code == 201
        assert asking.delete("/v1/models/tiny").json()["deleted"] is True
        assert asking.get("/v1/models/tiny").status_code == 404


# Bodies -----------------------------------------------------------------------------------------------


JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("kind", "body", "param", "sentence"),
    [
        (JSON, b"{}", "path", "path: Field required"),
        (JSON, b"", "path", "path: Field required"),
        (JSON, b'{"path": ""}', "path", "path: "),
        (JSON, b'{"path": 7}', "path", "path: "),
        (JSON, b'{"path": ["a"]}', "path", "path: "),
        (JSON, b'{"path": "a", "repo": {}}', "repo", "repo: "),
        (JSON, b'{"path": "a", "path": "b"}', "path", "sent twice"),
        (JSON, b'["path"]', None, "no JSON object"),
        (JSON, b'[["path", "a"]]', None, "no JSON object"),
        (JSON, b'"path"', None, "no JSON object"),
        (JSON, b"[" * 60_000, None, "cannot be read"),
        (JSON, b'{"path": "\xff"}', None, "cannot be read"),
        (JSON, b'{"path"', None, "cannot be read"),
        (FORM, b"repo=a", "path", "path: Field required"),
        (FORM, b"path=a&path=b", "path", "sent twice"),
        (FORM, b"path=%ff", None, "cannot be read"),
        (MULTIPART, b"--y\r\nnonsense", None, "cannot be read"),
        (MULTIPART, b"--x\r\nnonsense", None, "breaks off"),
        (
            MULTIPART,
            b'--x\r\nContent-Disposition: form-data; name="repo"\r\n\r\na\r\n--x--',
            "path",
            "path: Field",
        ),
        (
            MULTIPART,
            b'--x\r\nContent-Disposition: form-data; name="path"; filename="a"\r\n\r\na\r\n--x--',
            None,
            "cannot be read",
        ),
        ("multipart/form-data", b"--x--", None, "cannot be read"),
        ("text/plain", b"path=a", None, "'text/plain'"),
        ("", b"path=a", None, "unnamed"),
    ],
)
def test_bodies_that_are_none(
    client: httpx.Client, kind: str, body: bytes, param: str | None, sentence: str
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = client.post("/v1/models", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert sentence in answer.json()["reason"]


def test_a_body_that_is_too_large(client: httpx.Client) -> None:
    answer = client.post("/v1/models", json={"path": "a" * (1 << 16)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


# Events -----------------------------------------------------------------------------------------------


def events(answer: httpx.Response) -> list[tuple[str, str | None]]:
    """Of a stream that go-whisper's reader can read: it stops at lines without a colon and at 64 KiB."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert all(":" in line and len(line) < 1 << 16 for line in answer.text.splitlines() if line)
    return sse(answer.text)


def test_stream(hub: Hub, asking: httpx.Client) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.rate = len(MODEL)
    first, *progress, last = events(
        asking.post("/v1/models", params={"stream": "true"}, data={"path": "ggml-tiny.bin"})
    )
    assert first == ("ping", None)
    assert {name for name, _ in progress} == {"progress"}
    steps = [json.loads(data or "") for _, data in progress]
    # Once it is here it is converted, which counts on its own.
    told = [step for step in steps if not step["status"].startswith("converting")]
    for step in steps:
        assert set(step) == {"status", "total", "completed", "speed", "remaining"}
        assert 0 <= step["completed"] <= step["total"]
        assert step["total"] == len(MODEL) or step not in told
        assert isinstance(step["completed"], int)
        assert isinstance(step["speed"], int)
        assert "ggml-tiny.bin" in step["status"]
    completed = [step["completed"] for step in told]
    assert completed == sorted(completed)
    assert completed[0] < completed[-1] == len(MODEL)
    assert any(step["speed"] and isinstance(step["remaining"], int) for step in told)
    assert last[0] == "ok"
    assert json.loads(last[1] or "") == asking.get("/v1/models/tiny").json()
    again = asking.post("/v1/models", params={"stream": "1"}, data={"path": "ggml-tiny.bin"})
    assert events(again) == [("ping", None), last]


def test_a_stream_that_fails_says_so_in_a_string(hub: Hub, asking: httpx.Client) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.corrupt = len(MODEL) - 1
    hub.faults.rate = len(MODEL)
    told = events(asking.post("/v1/models?stream=true", json={"path": "ggml-tiny.bin"}))
    assert told[0] == ("ping", None)
    assert [name for name, _ in told].count("error") == 1
    name, data = told[-1]
    assert name == "error"
    sentence = json.loads(data or "")
    assert isinstance(sentence, str)
    assert "ggml-tiny.bin" in sentence
    assert asking.get("/v1/models/tiny").status_code == 404


def test_two_clients_share_a_download(hub: Hub, asking: httpx.Client) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.rate = len(MODEL)
    with ThreadPoolExecutor() as threads:
        both = [
            threads.submit(asking.post, "/v1/models?stream=true", json={"path": name})
            for name in ("ggml-tiny.bin", "tiny")
        ]
        answers = [events(answer.result()) for answer in both]
    for told in answers:
        assert [name for name, _ in told].count("progress") > 1
        assert told[-1][0] == "ok"
    assert hub.sent == len(MODEL)


def test_a_client_that_leaves_does_not_stop_it(hub: Hub, asking: httpx.Client) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.rate = len(MODEL)
    with asking.stream("POST", "/v1/models?stream=true", json={"path": "ggml-tiny.bin"}) as answer:
        assert next(line for line in answer.iter_lines() if "progress" in line)
    assert asking.get("/v1/models/tiny").status_code == 404
    until(lambda: asking.get("/v1/models/tiny").status_code == 200)
    assert hub.sent == len(MODEL)


def test_a_server_that_stops_says_so_and_the_next_one_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.stall_after = [len(MODEL) // 2]
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": ""}
    with serving(tmp_path, environment=environment) as server, server.client() as client:
        with client.stream("POST", "/v1/models?stream=true", json={"path": "tiny"}) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if f'"completed":{len(MODEL) // 2}' in line)
            server.process.terminate()
            rest = [line for line in lines if line]
    assert rest[-2] == "event: error"
    assert "being stopped" in json.loads(rest[-1].removeprefix("data: "))
    with serving(tmp_path, environment=environment) as server, server.client() as client:
        assert client.post("/v1/models", json={"path": "tiny"}).status_code == 201
    assert hub.sent == len(MODEL)


# Refusals ---------------------------------------------------------------------------------------------

STREAM = pytest.mark.parametrize("stream", ["", "?stream=true"], ids=["plain", "stream"])


@STREAM
def test_a_model_that_the_hub_does_not_have(hub: Hub, asking: httpx.Client, stream: str) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    answer = asking.post(f"/v1/models{stream}", json={"path": "ggml-tinny.bin"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "ggml-tiny" in answer.json()["reason"]


@STREAM
def test_a_gated_model_names_the_page_to_accept(hub: Hub, asking: httpx.Client, stream: str) -> None:
    hub.add("someone/gated", "ggml-tiny.bin", MODEL, gated=True, token="let me in")
    answer = asking.post(f"/v1/models{stream}", json={"path": "ggml-tiny.bin", "repo": "someone/gated"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "gated")
    assert f"{hub.url}/someone/gated" in answer.json()["reason"]


def test_bytes_that_are_wrong(hub: Hub, asking: httpx.Client) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.corrupt = len(MODEL) - 1
    answer = asking.post("/v1/models", json={"path": "ggml-tiny.bin"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "checksum_mismatch")
    assert answer.headers["x-should-retry"] == "false"


@STREAM
def test_what_is_no_model(hub: Hub, asking: httpx.Client, stream: str) -> None:
    hub.add("someone/other", "weights.bin", b"PK" + MODEL)
    answer = asking.post(f"/v1/models{stream}", json={"path": "weights.bin", "repo": "someone/other"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_a_model")
    kind = asking.post(f"/v1/models{stream}", json={"path": "model.safetensors", "repo": "someone/other"})
    assert (kind.status_code, kind.json()["error"]["param"]) == (400, "path")


def test_a_server_that_is_being_stopped_tells_those_who_wait_for_a_model(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with serving(tmp_path, environment=environment) as server, ThreadPoolExecutor() as pool:
            client = pool.submit(
                httpx.post, f"{server.url}/v1/models", json={"path": "ggml-tiny.bin"}, timeout=60
            )
            with silent.accept()[0]:
                server.process.terminate()
                answer = client.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_busy")
    assert "being stopped" in answer.json()["reason"]
    assert "graceful shutdown exceeded" not in server.log
    assert "Traceback" not in server.log


def test_a_hub_that_is_down(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with serving(tmp_path, environment={"HF_ENDPOINT": endpoint}) as server, server.client() as client:
            answer = client.post("/v1/models", json={"path": "ggml-tiny.bin"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "hub_unreachable")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.NoSpace("full"), 507, "disk_full"),
        (errors.NoMemory("full"), 507, "no_memory"),
        (errors.NotWritable("a read-only disk"), 500, "read_only"),
        (errors.PullFailed("it changes"), 502, None),
    ],
)
def test_what_else_can_be_said(error: errors.SpeechError, status: int, code: str | None) -> None:
    answer = dialects.refusal(error)
    assert answer.status_code == status
    assert json.loads(bytes(answer.body))["error"]["code"] == code
    assert (answer.headers["x-should-retry"], "retry-after" in answer.headers) == ("false", False)


@pytest.fixture
def lazy(hub: Hub, tmp_path: Path) -> Iterator[Server]:
    """A server that pulls what it is asked for."""
    settings = tmp_path / "c.yaml"
    settings.write_text("auto_pull: true\naliases: {house: ggml-tiny}\n")
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": ""}
    with serving(tmp_path / "data", "--config", str(settings), environment=environment) as server:
        yield server


def test_a_model_is_pulled_at_its_first_use(hub: Hub, lazy: Server) -> None:
    hub.add(HOME, "ggml-tiny.bin", DEMO.read_bytes())
    files = {"file": ("a.wav", wav(say(SENTENCES[0])))}
    fields = {"model": "tiny", "language": "en"}
    with lazy.client() as client:
        streamed = client.post("/v1/audio/transcriptions?stream=1", files=files, data=fields).text
        assert ": installed ggml-tiny.bin: 12 MB of 12 MB" in streamed
        assert SENTENCES[0] in streamed
        for name in ("tiny", "house"):
            answer = client.post("/v1/audio/transcriptions", files=files, data={**fields, "model": name})
            assert answer.json()["text"] == SENTENCES[0]
    assert len(hub.bodies) == 1


def test_what_cannot_be_pulled_at_its_first_use_is_told(hub: Hub, lazy: Server) -> None:
    files = {"file": ("a.wav", wav(say(SENTENCES[0])))}
    with lazy.client() as client:
        gone = client.post("/v1/audio/transcriptions", files=files, data={"model": "ggml-base"})
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
        other = client.post("/v1/audio/transcriptions", files=files, data={"model": "nonsense"})
        assert other.status_code == 404
    assert not hub.bodies


def test_without_auto_pull_the_line_that_pulls_is_told(asking: httpx.Client) -> None:
    files = {"file": ("a.wav", wav(say(SENTENCES[0])))}
    answer = asking.post("/v1/audio/transcriptions", files=files, data={"model": "large-v3-turbo"})
    assert answer.status_code == 404
    assert "whisperd models pull" in answer.json()["reason"]
