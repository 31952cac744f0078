"""fal's own clients, for Node and for Python, against this server; webhooks and their signatures."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import pytest
from nacl.signing import VerifyKey

from server import languages
from server.files import Signer
from tests.node import fetched
from tests.receiver import Receiver
from tests.serving import Server, serving, until
from tests.speech import SENTENCES, talk, wav
from tests.terminator import Terminator

TWO = wav(talk(SENTENCES[:2]))
TEXT = " ".join(SENTENCES[:2])
APP = "nvidia/nemotron-asr-multilingual/asr"
KEY = "a-key-for-fal-and-nobody-else"
DATA_URI = f"data:audio/wav;base64,{base64.b64encode(TWO).decode()}"
LONGER = f"data:audio/wav;base64,{base64.b64encode(wav(talk(SENTENCES))).decode()}"
PACKAGE = "@fal-ai/client@1"
FALS = "queue.fal.run,fal.run,rest.fal.ai,v3.fal.media"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "WHISPERD_ALLOWED_URL_HOSTS": "localhost",
        "WHISPERD_ALLOWED_HOSTS": FALS,
        "WHISPERD_WEBHOOK_WAIT": "0.2",
        "WHISPERD_KEYS": f"fal={KEY}",
    }
    with serving(tmp_path_factory.mktemp("fal"), environment=settings) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        client.headers["Authorization"] = f"Key {KEY}"
        yield client


@pytest.fixture(scope="module")
def node(server: Server, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What fal's client for Node got; see fal.mjs."""
    folder = fetched(PACKAGE)
    sound = tmp_path_factory.mktemp("sound") / "two.wav"
    sound.write_bytes(TWO)
    script = Path(__file__).with_name("fal.mjs")
    command = ["node", str(script), str(folder), server.url, str(sound), receiver.url, KEY]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr + server.log
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def test_node_subscribes_to_an_uploaded_file(node: dict[str, Any], server: Server) -> None:
    assert node["address"].startswith(f"{server.url}/files/b/w")
    assert node["address"].endswith("/my_speech.wav")
    subscribed = node["subscribed"]
    assert subscribed["data"] == {"output": TEXT, "partial": False}
    assert subscribed["requestId"]
    assert subscribed["updates"][-1] == "COMPLETED"


def test_node_queues_a_data_uri(node: dict[str, Any]) -> None:
    queued = node["queued"]
    assert queued["data"]["output"] == TEXT
    assert queued["requestId"] == queued["expected"]
    assert "succeeded" in [line["message"] for line in queued["logs"]]


def test_node_follows_a_status(node: dict[str, Any]) -> None:
    assert node["statuses"][-1] == "COMPLETED"
    assert set(node["statuses"]) <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}


def test_node_streams(node: dict[str, Any]) -> None:
    events, done = node["streamed"]["events"], node["streamed"]["done"]
    assert done == events[-1] == {"output": TEXT, "partial": False}
    assert [event["partial"] for event in events[:-1]] == [True] * (len(events) - 1)
    assert events[0]["output"] == SENTENCES[0]


def test_node_runs_whisper(node: dict[str, Any]) -> None:
    assert node["ran"]["text"] == TEXT
    assert [chunk["text"] for chunk in node["ran"]["chunks"]] == TEXT.split()
    assert node["ran"]["inferred_languages"] == ["en"]


def test_node_is_told_what_is_wrong_with_its_input(node: dict[str, Any]) -> None:
    assert (node["refused"]["name"], node["refused"]["status"]) == ("ValidationError", 422)
    (detail, *_) = node["refused"]["body"]["detail"]
    assert detail["loc"] == ["body", "audio_url"]


def test_node_cancels(node: dict[str, Any]) -> None:
    assert node["cancelled"] in ("requested", 400)


def test_node_gets_its_webhook(node: dict[str, Any], receiver: Receiver) -> None:
    until(lambda: receiver.of(node["queued"]["expected"]))


# The Python client ------------------------------------------------------------------------------------


@pytest.fixture
def python(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    """fal's client for Python, which wants https by itself, over plain http."""
    for name, url in {
        "RUN_URL_FORMAT": f"{server.url}/fal/run/",
        "QUEUE_URL_FORMAT": f"{server.url}/fal/queue/",
        "REST_URL": server.url,
        "CDN_URL": server.url,
    }.items():
        monkeypatch.setattr(fal_client.client, name, url)
    client = fal_client.SyncClient(key=KEY)
    # It leaves those that it makes for uploads open.
    monkeypatch.setattr(fal_client.SyncClient, "_get_cdn_client", lambda self: self._client)
    yield client
    client._client.close()


def test_python_subscribes_with_logs(python: fal_client.SyncClient) -> None:
    updates: list[object] = []
    got = python.subscribe(
        APP, {"audio_url": DATA_URI, "language": "auto"}, with_logs=True, on_queue_update=updates.append
    )
    assert got == {"output": TEXT, "partial": False}
    last = updates[-1]
    assert isinstance(last, fal_client.Completed)
    assert last.logs
    assert last.logs[-1]["message"] == "succeeded"


def test_python_submits_and_asks_by_id(python: fal_client.SyncClient) -> None:
    handle = python.submit(APP, {"audio_url": DATA_URI, "acceleration": "full"})
    until(lambda: isinstance(python.status(APP, handle.request_id), fal_client.Completed))
    assert python.result(APP, handle.request_id)["output"]
    with pytest.raises(fal_client.FalClientHTTPError):
        python.cancel(APP, handle.request_id)


def test_python_uploads_and_runs(python: fal_client.SyncClient, tmp_path: Path) -> None:
    sound = tmp_path / "two.wav"
    sound.write_bytes(TWO)
    address = python.upload_file(sound)
    assert python.run("fal-ai/whisper", {"audio_url": address, "language": "en"})["text"] == TEXT


def test_python_uploads_a_large_file_in_parts(
    python: fal_client.SyncClient, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bound of 100 MB lowered, for the same calls with less to send."""
    monkeypatch.setattr(fal_client.client, "MULTIPART_THRESHOLD", 10_000)
    monkeypatch.setattr(fal_client.client, "MULTIPART_CHUNK_SIZE", 7_000)
    sound = tmp_path / "my large file.wav"
    sound.write_bytes(TWO)
    addresses = [python.upload_file(sound), python.upload(TWO, "audio/wav", file_name="two.wav")]
    assert [httpx.get(address).content for address in addresses] == [TWO] * 2
    assert python.run(APP, {"audio_url": addresses[0]})["output"] == TEXT
    assert not [*(server.data / "jobs" / "uploads").glob("*/*")]


@pytest.mark.slow
def test_node_uploads_a_large_file_in_parts(server: Server, tmp_path: Path) -> None:
    """Its bound is fixed: 90 MB. What follows the sound in the file is nothing to a reader of WAV."""
    sound = tmp_path / "two.wav"
    sound.write_bytes(TWO)
    script = Path(__file__).with_name("fal_large.mjs")
    command = ["node", str(script), str(fetched(PACKAGE)), server.url, str(sound), KEY]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr + server.log
    told = json.loads(ran.stdout)
    assert told["data"]["output"] == TEXT
    assert len(httpx.get(told["address"], timeout=60).content) == len(TWO) + (91 << 20)


def test_parts_are_put_by_whoever_was_allowed_to(client: httpx.Client) -> None:
    begun = client.post("/storage/upload/initiate-multipart", json={"file_name": "a.wav"}).json()
    address = begun["upload_url"]
    parts = [TWO[:5000], TWO[5000:]]
    marks = {}
    for number in (2, 1, 2):
        put = httpx.put(f"{address}/{number}", content=parts[number - 1])
        assert put.json() == {"partNumber": number, "etag": put.headers["etag"]}
        marks[number] = put.headers["etag"]
    other = "0" if address[-1] != "0" else "1"
    assert httpx.put(f"{address[:-1]}{other}/1", content=b"x").status_code == 403
    assert httpx.put(f"{address.replace('/a.wav/', '/b.wav/')}/1", content=b"x").status_code == 403
    assert httpx.put(f"{address}/0", content=b"x").status_code == 422
    assert httpx.get(begun["file_url"]).status_code == 404
    wrong = [{"partNumber": 1, "etag": marks[2]}]
    assert httpx.post(f"{address}/complete", json={"parts": wrong}).status_code == 422
    right = [{"partNumber": number, "etag": marks[number]} for number in (1, 2)]
    for _ in range(2):  # clients ask again where the line broke before the answer
        assert httpx.post(f"{address}/complete", json={"parts": right}).status_code == 200
        assert httpx.get(begun["file_url"]).content == TWO


def test_python_streams(python: fal_client.SyncClient) -> None:
    events = list(python.stream(APP, {"audio_url": DATA_URI}))
    assert events[-1] == {"output": TEXT, "partial": False}
    assert all(event["partial"] for event in events[:-1])


def test_a_key_that_is_not_known_is_refused_as_fal_does(
    python: fal_client.SyncClient, server: Server
) -> None:
    stranger = fal_client.SyncClient(key="a-key-that-nobody-knows")
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        stranger.submit(APP, {"audio_url": DATA_URI})
    stranger._client.close()
    assert refused.value.status_code == 401
    assert httpx.post(f"{server.url}/{APP}", json={}).json().keys() == {"detail"}


def test_python_works_as_it_comes_where_tls_ends_before_the_server(server: Server, tmp_path: Path) -> None:
    """Its addresses are fal's own; a proxy leads them here."""
    sound = tmp_path / "two.wav"
    sound.write_bytes(TWO)
    terminator = Terminator(int(server.url.rpartition(":")[2]), FALS.split(","), tmp_path)
    try:
        environment = {
            "PATH": os.environ["PATH"],
            "FAL_KEY": KEY,
            "HTTPS_PROXY": terminator.url,
            "SSL_CERT_FILE": str(terminator.certificate),
        }
        command = [sys.executable, str(Path(__file__).with_name("fal_unmodified.py")), APP, str(sound)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        terminator.close()
    assert ran.returncode == 0, ran.stderr + server.log
    told = json.loads(ran.stdout)
    whole = {"output": TEXT, "partial": False}
    assert told["address"].startswith("https://v3.fal.media/files/b/w")
    assert [told["subscribed"], told["ran"], told["streamed"][-1]] == [whole] * 3
    assert terminator.connections >= 3


# Hosts, files and webhooks ----------------------------------------------------------------------------


def test_the_host_tells_a_run_from_a_queue(client: httpx.Client) -> None:
    given = {"audio_url": DATA_URI}
    ran = client.post(f"/{APP}", json=given, headers={"Host": "fal.run"})
    assert ran.json() == {"output": TEXT, "partial": False}
    queued = client.post(f"/{APP}", json=given, headers={"Host": "queue.fal.run"}).json()
    assert queued["status_url"].startswith("https://queue.fal.run/nvidia/nemotron-asr-multilingual/requests/")
    bare = client.post(f"/{APP}", json=given).json()
    assert bare["status"] == "IN_QUEUE"
    assert str(client.base_url).rstrip("/") in bare["response_url"]
    behind = {"Host": "localhost", "X-Forwarded-Proto": "https"}
    prefixed = client.post(f"/fal/queue/{APP}", json=given, headers=behind).json()
    assert prefixed["status_url"].startswith("https://localhost/fal/queue/nvidia/")


def test_a_request_is_a_job_of_the_model_that_was_chosen(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "k" * 255, "X-Fal-Queue-Priority": "low"}
    first, again = (client.post(f"/{APP}", json={"audio_url": DATA_URI}, headers=key) for _ in range(2))
    id = first.json()["request_id"]
    assert again.json()["request_id"] == id
    listed = client.get("/v1/jobs", params={"model": "ggml-demo"}).json()["data"]
    assert [job["priority"] for job in listed if job["id"] == id] == ["low"]
    other = client.post(f"/{APP}", json={"audio_url": DATA_URI, "acceleration": "full"}, headers=key)
    assert (other.status_code, other.headers["x-fal-error-type"]) == (422, "KeyReused")
    longer = {"Idempotency-Key": "k" * 256}
    refused = client.post(f"/{APP}", json={"audio_url": DATA_URI}, headers=longer)
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "Idempotency-Key"])


def test_only_known_applications_answer(client: httpx.Client) -> None:
    assert client.post("/somebody/other/app", json={}).status_code == 404
    assert client.post("/v1/nothing", json={}).status_code == 404
    assert client.get("/nvidia/other/requests/1/status").status_code == 404


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, "audio_url"),
        ({"audio_url": "data:audio/wav;base64,***"}, "audio_url"),
        ({"audio_url": "data:audio/wav,raw"}, "audio_url"),
        ({"audio_url": "http://127.0.0.1/a.wav"}, "audio_url"),
        ({"audio_url": DATA_URI, "acceleration": "ludicrous"}, "acceleration"),
        ({"audio_url": DATA_URI, "language": "klingon"}, "language"),
        ([1], "body"),
    ],
)
def test_what_is_wrong_is_told_as_a_list(client: httpx.Client, given: object, place: str) -> None:
    answer = client.post(f"/{APP}", json=given)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == (["body", place] if place != "body" else ["body"])
    assert not detail["msg"].startswith("url:")
    assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/fal-ai/whisper", '{"audio_url": "https://example.com/a.wav", "prompt": "half a pair: \\ud800"}'),
        ("/v1/audio/speech?async=true", '{"input": "half a pair: \\ud800"}'),
        (f"/{APP}", '{"audio_url": "https://example.com/a.wav"'),
        (f"/{APP}", "[" * 100_000),
    ],
)
def test_what_is_no_text_is_refused(client: httpx.Client, path: str, text: str) -> None:
    """Half a surrogate pair is no text, and could be kept nowhere."""
    answer = client.post(path, content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert "cannot be read" in answer.text


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("http://[", 422, "must be an address of fal"),
        ("https://example.com/a", 422, "must be an address of fal"),
        ("https://queue.fal.run/somebody/other", 404, f"fal_apps has {APP}, fal-ai/whisper"),
    ],
)
def test_what_is_asked_through_the_proxy_must_be_here(
    client: httpx.Client, target: str, status: int, said: str
) -> None:
    answer = client.post("/api/fal/proxy", json={}, headers={"x-fal-target-url": target})
    assert answer.status_code == status
    assert said in str(answer.json()["detail"])


def test_acceleration_makes_windows_shorter(client: httpx.Client) -> None:
    def windows(acceleration: str) -> int:
        before = heard()
        given = {"audio_url": LONGER, "acceleration": acceleration}
        assert client.post(f"/fal/run/{APP}", json=given).json()["output"] == " ".join(SENTENCES)
        return heard() - before

    def heard() -> int:
        count = re.search(
            r"^whisperd_window_duration_seconds_count\S* (\d+)", client.get("/metrics").text, re.M
        )
        return int(count[1]) if count else 0

    assert windows("none") == windows("regular") < windows("full")


FALS_LANGUAGES = re.findall(
    r"\S+",
    """
    auto en-US en-GB es-US es-ES de-DE fr-FR fr-CA it-IT ar-AR ja-JP ko-KR pt-BR pt-PT ru-RU hi-IN zh-CN vi-VN
    he-IL nl-NL cs-CZ da-DK pl-PL nn-NO nb-NO sv-SE th-TH tr-TR bg-BG el-GR et-EE fi-FI hr-HR hu-HU lt-LT
    lv-LV ro-RO sk-SK uk-UA mt-MT sl-SI
    """,
)


def test_all_of_fals_languages_are_understood() -> None:
    others = {"auto": None, "nb-NO": "no"}
    told = {language: others.get(language, language[:2]) for language in FALS_LANGUAGES}
    assert {language: languages.code(language) for language in FALS_LANGUAGES} == told


def test_an_upload_address_is_good_for_its_file_alone(client: httpx.Client, server: Server) -> None:
    told = client.post("/storage/upload/initiate", json={"content_type": "audio/wav", "file_name": "a.wav"})
    address = told.json()["upload_url"]
    assert httpx.put(address.replace("/a.wav", "/b.wav"), content=b"x").status_code == 403
    assert httpx.put(address + "0", content=b"x").status_code == 403
    for body in (TWO[:-2000], TWO, TWO):  # as clients do where the line broke before the answer
        assert httpx.put(address, content=body).status_code == 200
    found = httpx.get(told.json()["file_url"])
    assert found.content == TWO
    assert found.headers["content-disposition"] == "attachment"
    job = client.post(f"/{APP}", json={"audio_url": told.json()["file_url"]}).json()
    until(lambda: client.get(httpx.URL(job["status_url"]).path).json()["status"] == "COMPLETED")
    assert httpx.get(f"{server.url}/files/b/w{'0' * 32}/a.wav").status_code == 404
    form = {"url": (None, told.json()["file_url"])}
    assert client.post("/v1/audio/transcriptions", files=form).json()["text"] == TEXT
    signer = Signer(server.data / "jobs" / "signing.key")
    past = str(int(time.time()) - 1)
    query = {"owner": "", "until": past, "signature": signer.sign("upload", "w1", "a.wav", "", past)}
    late = httpx.put(f"{server.url}/files/b/w1/a.wav", params=query, content=TWO)
    assert (late.status_code, "is over" in late.json()["detail"]) == (403, True)


def verified(headers: dict[str, str], body: bytes, server: Server) -> bool:
    """As fal's documentation has it done, by another library than the server's."""
    (key,) = httpx.get(f"{server.url}/.well-known/jwks.json").json()["keys"]
    signed = "\n".join(
        (
            headers["x-fal-webhook-request-id"],
            headers["x-fal-webhook-user-id"],
            headers["x-fal-webhook-timestamp"],
            hashlib.sha256(body).hexdigest(),
        )
    )
    public = base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
    return bool(VerifyKey(public).verify(signed.encode(), bytes.fromhex(headers["x-fal-webhook-signature"])))


def test_a_webhook_is_tried_until_it_is_taken_and_signed(
    client: httpx.Client, server: Server, receiver: Receiver
) -> None:
    receiver.refusing = 2
    job = client.post(f"/{APP}", json={"audio_url": DATA_URI}, params={"fal_webhook": receiver.url}).json()
    id = job["request_id"]
    until(lambda: receiver.of(id), 60)
    ((headers, body),) = receiver.of(id)
    assert json.loads(body) == {
        "request_id": id,
        "gateway_request_id": id,
        "status": "OK",
        "payload": {"output": TEXT, "partial": False},
        "error": None,
    }
    assert headers["x-fal-webhook-user-id"] == "fal"
    assert verified(headers, body, server)
    until(lambda: client.get(f"/v1/jobs/{id}").json()["webhook"]["state"] == "delivered")
    tries = client.get(f"/v1/jobs/{id}").json()["webhook"]["deliveries"]
    assert [one["status"] for one in tries] == [503, 503, 204]
    told = client.get("/metrics").text
    assert 'whisperd_webhooks_total{outcome="refused"} 2.0' in told
    assert re.search(r'^whisperd_webhooks_total{outcome="taken"} [1-9]', told, re.MULTILINE)


def test_a_failure_has_a_webhook_too(client: httpx.Client, receiver: Receiver) -> None:
    uri = "data:audio/wav;base64," + base64.b64encode(b"nothing to hear" * 50).decode()
    job = client.post(f"/{APP}", json={"audio_url": uri}, params={"fal_webhook": receiver.url}).json()
    until(lambda: receiver.of(job["request_id"]), 60)
    told = json.loads(receiver.of(job["request_id"])[0][1])
    assert told["status"] == "ERROR"
    assert told["error"]


def test_a_webhook_of_v1_has_the_result_in_its_format(client: httpx.Client, receiver: Receiver) -> None:
    job = client.post(
        "/v1/audio/transcriptions",
        params={"async": "true", "webhook": receiver.url},
        files={"file": ("a.wav", TWO)},
        data={"response_format": "verbose_json"},
    ).json()
    until(lambda: receiver.of(job["id"]), 60)
    assert len(json.loads(receiver.of(job["id"])[0][1])["payload"]["segments"]) == 2


def test_a_webhook_may_not_lie_inside(client: httpx.Client) -> None:
    refused = client.post(f"/{APP}", json={"audio_url": DATA_URI}, params={"fal_webhook": "http://10.0.0.1/"})
    assert refused.status_code == 422
    assert "private address" in refused.json()["detail"][0]["msg"]
