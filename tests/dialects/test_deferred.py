"""Every synchronous request can be a job, whose result is what the request would have been answered."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import av
import httpx
import httpx_sse
import pytest

from tests.dialects.test_jobs import ended
from tests.receiver import Receiver
from tests.serving import ROOT, Server, serving, until

pytestmark = pytest.mark.slow

MEDIA = (ROOT / "models" / "hello.ogg").read_bytes()
TEXT = "A short text, spoken as a job."

HEARD: dict[str, dict[str, Any]] = {
    "transcriptions": {
        "url": "/v1/audio/transcriptions",
        "files": {"file": ("a.ogg", MEDIA)},
        "data": {"response_format": "vtt"},
    },
    "translations": {
        "url": "/v1/audio/translations",
        "files": {"file": ("a.ogg", MEDIA)},
        "data": {"response_format": "verbose_json"},
    },
    "gradium": {
        "url": "/api/post/speech/asr",
        "content": MEDIA,
        "headers": {"Content-Type": "audio/ogg"},
    },
    "asr": {"url": "/asr", "params": {"output": "srt"}, "files": {"audio_file": ("a.ogg", MEDIA)}},
    "asr json": {"url": "/asr", "params": {"output": "json"}, "files": {"audio_file": ("a.ogg", MEDIA)}},
    "inference": {
        "url": "/inference",
        "files": {"file": ("a.ogg", MEDIA)},
        "data": {"response_format": "srt", "offset_n": "7"},
    },
    "inference json": {"url": "/inference", "files": {"file": ("a.ogg", MEDIA)}},
}

SPOKEN: dict[str, dict[str, Any]] = {
    "speech mp3": {"url": "/v1/audio/speech", "json": {"input": TEXT}},
    "speech wav": {"url": "/v1/audio/speech", "json": {"input": TEXT, "response_format": "wav"}},
    "synthesize": {"url": "/v1/audio/synthesize", "data": {"text": TEXT, "language": "en-US"}},
    "gradium sound": {"url": "/api/post/speech/tts", "json": {"text": TEXT, "only_audio": True}},
}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"WHISPERD_ALLOWED_URL_HOSTS": "localhost", "WHISPERD_WEBHOOK_WAIT": "0.2"}
    with serving(tmp_path_factory.mktemp("deferred"), environment=settings) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def asked(client: httpx.Client, request: dict[str, Any], **query: str) -> httpx.Response:
    given = request | {"params": request.get("params", {}) | query}
    return client.post(**given)


def keyed(client: httpx.Client, request: dict[str, Any], key: str) -> httpx.Response:
    given = request | {"headers": request.get("headers", {}) | {"Idempotency-Key": key}}
    return client.post(**given)


def submit(client: httpx.Client, request: dict[str, Any], **query: str) -> dict[str, Any]:
    answer = asked(client, request, **{"async": "true", **query})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == job["url"]
    return job


def result(client: httpx.Client, job: dict[str, Any], **query: str) -> httpx.Response:
    answer = client.get(f"/v1/jobs/{job['id']}/result", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-job-id"] == job["id"]
    return answer


@pytest.mark.parametrize("name", HEARD)
def test_what_is_heard_as_a_job_is_answered_as_ever(client: httpx.Client, name: str) -> None:
    at_once = asked(client, HEARD[name])
    job = ended(client, submit(client, HEARD[name]))
    assert job["status"] == "succeeded", job
    later = result(client, job)
    assert later.headers["content-type"] == at_once.headers["content-type"]
    expected, told = said(at_once), said(later)
    if name == "gradium":
        # The model's notice stands in a header, where there is one.
        told = [line for line in told if '"warning"' not in line]
    if name == "translations":
        # Measured anew each time.
        assert later.json()["segments"] == at_once.json()["segments"]
    else:
        assert told == expected
    assert result(client, job, response_format="text").text.startswith("The weather")
    once, again = keyed(client, HEARD[name], name), keyed(client, HEARD[name], name)
    assert once.headers["x-job-id"] == again.headers["x-job-id"]
    assert once.headers["content-type"] == again.headers["content-type"] == at_once.headers["content-type"]
    assert said(once) == said(again)


def said(answer: httpx.Response) -> list[str]:
    """Its lines, without the empty ones that keep a slow answer alive."""
    return [line for line in answer.text.splitlines() if line]


def length(sound: bytes) -> float:
    """Seconds, by decoding it."""
    with av.open(io.BytesIO(sound), mode="r") as media:
        frames = list(media.decode(audio=0))
    return float(sum(frame.samples for frame in frames) / frames[0].sample_rate)


@pytest.mark.parametrize("name", SPOKEN)
def test_what_is_spoken_as_a_job_is_answered_as_ever(client: httpx.Client, name: str) -> None:
    at_once = asked(client, SPOKEN[name])
    assert at_once.status_code == 200, at_once.text
    job = ended(client, submit(client, SPOKEN[name]))
    assert (job["status"], job["task"], job["model"]) == ("succeeded", "speak", "espeak")
    later = result(client, job)
    assert later.headers["content-type"] == at_once.headers["content-type"]
    assert int(later.headers["content-length"]) == len(later.content)
    # espeak-ng is not deterministic to the sample.
    assert length(later.content) == pytest.approx(length(at_once.content), abs=0.2)
    once, again = keyed(client, SPOKEN[name], name), keyed(client, SPOKEN[name], name)
    assert once.headers["x-job-id"] == again.headers["x-job-id"]
    assert once.content == again.content


def test_a_spoken_wav_says_how_long_it_is(client: httpx.Client) -> None:
    sound = result(client, ended(client, submit(client, SPOKEN["speech wav"]))).content
    assert int.from_bytes(sound[4:8], "little") == len(sound) - 8
    assert int.from_bytes(sound[40:44], "little") == len(sound) - 44


def test_raw_samples_have_no_content_type_as_ever(client: httpx.Client) -> None:
    request = {"url": "/v1/audio/synthesize_online", "data": {"text": TEXT, "language": "en-US"}}
    later = result(client, ended(client, submit(client, request)))
    assert "content-type" not in later.headers
    assert len(later.content) > 22_050


def test_streams_of_sound_come_from_a_job_too(client: httpx.Client) -> None:
    """OpenAI's events and Gradium's lines, of what a job has spoken."""
    openai = {"url": "/v1/audio/speech", "json": {"input": TEXT, "stream_format": "sse"}}
    later = result(client, ended(client, submit(client, openai)))
    *sounds, done = [json.loads(line[6:]) for line in later.text.splitlines() if line.startswith("data: ")]
    assert length(b"".join(base64.b64decode(one["audio"]) for one in sounds)) > 1
    assert done["usage"]["output_tokens"] > 20
    gradium = {"url": "/api/post/speech/tts", "json": {"text": TEXT}}
    later = result(client, ended(client, submit(client, gradium)))
    *lines, last = [json.loads(line) for line in later.text.splitlines() if line]
    assert last == {"type": "end_of_stream"}
    assert length(b"".join(base64.b64decode(one["audio"]) for one in lines)) > 1


def test_the_events_of_a_job_that_speaks(client: httpx.Client) -> None:
    job = submit(client, SPOKEN["speech mp3"])
    for after in ("", "0"):
        headers = {"Last-Event-ID": after} if after else {}
        with httpx_sse.connect_sse(client, "GET", f"/v1/jobs/{job['id']}/events", headers=headers) as source:
            events = [*source.iter_sse()]
        assert {event.event for event in events} <= {"progress", "done", ""}
        assert (events[-1].event, events[-1].id) == ("done", "1")
        told = events[-1].json()
        assert (told["format"], told["size"]) == ("mp3", len(result(client, job).content))
        assert told["duration"] > 1


def test_what_is_wrong_with_a_text_is_told_before_it_is_a_job(client: httpx.Client) -> None:
    request = SPOKEN["speech mp3"] | {"json": {"input": TEXT, "voice": "nobody"}}
    answer = asked(client, request, **{"async": "true"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "voice_not_found")
    job = ended(client, submit(client, SPOKEN["speech mp3"]))
    refused = client.get(f"/v1/jobs/{job['id']}/result", params={"response_format": "srt"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")


def test_a_refused_job_is_refused_in_the_form_of_its_api(client: httpx.Client) -> None:
    """Another request with a key that was used before."""
    for number, name in enumerate(("gradium", "asr", "inference", "transcriptions")):
        first = keyed(client, HEARD[name], f"refused {number}")
        assert first.status_code == 200, first.text
        given = HEARD[name] | {"headers": HEARD[name].get("headers", {})}
        if name == "gradium":
            given = given | {"params": {"json_config": '{"language": "en"}'}}
        elif name == "asr":
            given = given | {"params": {"output": "vtt"}}
        else:
            given = given | {"data": {"response_format": "text"}}
        second = keyed(client, given, f"refused {number}")
        match name:
            case "gradium":
                assert (second.status_code, "Idempotency-Key" in second.text) == (500, True)
            case "asr":
                assert (second.status_code, second.content) == (422, b"")
            case "inference":
                assert (second.status_code, second.json().keys()) == (422, {"error"})
            case _:
                assert second.json()["error"]["code"] == "idempotency_key_reused"


def test_webhooks_tell_in_the_form_of_the_request(client: httpx.Client, receiver: Receiver) -> None:
    heard = submit(client, HEARD["asr"], webhook=receiver.url)
    spoken = submit(client, SPOKEN["speech mp3"], webhook=receiver.url)
    until(lambda: receiver.of(heard["id"]) and receiver.of(spoken["id"]), 60)
    srt = json.loads(receiver.of(heard["id"])[0][1])["payload"]["text"]
    assert srt.startswith("1\n00:00:00,")
    payload = json.loads(receiver.of(spoken["id"])[0][1])["payload"]
    assert payload["result"] == f"/v1/jobs/{spoken['id']}/result"
    assert payload["size"] == len(result(client, spoken).content)
