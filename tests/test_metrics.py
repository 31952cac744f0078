"""/metrics: it parses, tells what happened, and is what docs/metrics.md and the dashboard say."""

import json
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import Metrics
from server.types import Done, Event, Guard, Transcript
from tests.serving import ROOT, Server, serving, until
from tests.speech import SENTENCES, talk, wav

WAV = wav(talk(SENTENCES[:2]))
TRANSCRIPTIONS = "/v1/audio/transcriptions"
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana.json").read_text())

Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def http(own: Server) -> Iterator[httpx.Client]:
    with own.client() as client:
        yield client


def samples(http: httpx.Client, path: str = "/metrics") -> Samples:
    answer = http.get(path)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(http: httpx.Client, name: str, **labels: str) -> float:
    """Sum of what has those labels."""
    told = samples(http).get(name, [])
    return sum(number for has, number in told if labels.items() <= has.items())


def post(http: httpx.Client, media: bytes = WAV, query: str = "", **fields: str) -> httpx.Response:
    return http.post(TRANSCRIPTIONS + query, files={"file": ("a.wav", media)}, data=fields)


def test_a_transcription_is_counted(http: httpx.Client) -> None:
    before = value(http, "num_requests_asr_total")
    assert post(http, model="ggml-demo", language="en").status_code == 200
    assert post(http, query="?stream=true", language="en").status_code == 200
    assert value(http, "num_requests_asr_total") == before + 2
    until(lambda: value(http, "num_requests_asr_success_total") == value(http, "num_requests_asr_total"))
    assert value(http, "num_requests_asr_running") == 0
    assert value(http, "request_duration_seconds_asr_total") > 0
    labels = {"kind": "asr", "dialect": "audio", "model": "ggml-demo"}
    assert value(http, "whisperd_requests_total", **labels, outcome="ok") == before + 2
    assert value(http, "whisperd_time_to_first_segment_seconds_count", model="ggml-demo") >= 2
    assert value(http, "whisperd_real_time_factor_count", model="ggml-demo") >= 2
    assert value(http, "whisperd_audio_seconds_total", model="ggml-demo") > 5
    assert value(http, "whisperd_queue_wait_seconds_count", model="ggml-demo") >= 2
    assert value(http, "whisperd_http_requests_total", route=TRANSCRIPTIONS, status="200") >= 2
    assert value(http, "whisperd_model_loaded", model="ggml-demo") == 1
    assert value(http, "whisperd_model_memory_bytes", model="ggml-demo") > 10_000_000
    assert value(http, "whisperd_memory_budget_bytes") > 0
    assert value(http, "whisperd_readers") > 0


def test_both_addresses_tell_the_same_names(http: httpx.Client) -> None:
    assert set(samples(http)) == set(samples(http, "/v1/metrics"))


def test_what_fails_is_told_apart(http: httpx.Client) -> None:
    labels = {"kind": "asr", "model": "ggml-demo"}
    refused = value(http, "whisperd_requests_total", **labels, outcome="refused")
    assert post(http, media=b"no sound").status_code == 400
    assert value(http, "whisperd_requests_total", **labels, outcome="refused") == refused + 1
    failed = value(http, "num_requests_asr_total") - value(http, "num_requests_asr_success_total")
    assert failed >= 1


def test_names_that_clients_make_up_are_no_labels(http: httpx.Client) -> None:
    assert post(http, model="made-up-model").status_code == 404
    assert http.get("/made/up/path").status_code == 404
    assert http.get("/v1/models/made-up-id").status_code == 404
    text = http.get("/metrics").text
    assert "made" not in text
    assert value(http, "whisperd_http_requests_total", dialect="none", status="404") >= 1
    assert value(http, "whisperd_http_requests_total", route="/v1/models/{id:path}", status="404") >= 1


def test_jobs_and_their_webhooks_are_counted(http: httpx.Client) -> None:
    for media in (WAV, b"no sound" * 50):
        assert post(http, media, "?async=true").status_code == 202
    until(lambda: value(http, "whisperd_jobs_total", outcome="succeeded") == 1, 60)
    until(lambda: value(http, "whisperd_jobs_total", outcome="failed") == 1, 60)
    film = wav(talk(SENTENCES * 10))
    jobs = [post(http, film, "?async=true").json()["id"] for _ in range(8)]
    until(lambda: value(http, "whisperd_jobs_running") > 0, 60)
    assert value(http, "whisperd_job_queue_length") > 0
    told = [http.delete(f"/v1/jobs/{job}").json().get("status") for job in jobs]
    assert value(http, "whisperd_jobs_total", outcome="cancelled") == told.count("cancelled") > 0
    assert value(http, "whisperd_jobs_running") == value(http, "whisperd_job_queue_length") == 0


def test_a_worker_that_dies_is_counted(own: Server, http: httpx.Client) -> None:
    before = value(http, "whisperd_workers_restarted_total", process="worker")
    media = wav(talk(SENTENCES * 6))
    with http.stream(
        "POST", TRANSCRIPTIONS + "?stream=1", files={"file": ("a.wav", media)}, data={"language": "en"}
    ) as answer:
        lines = answer.iter_lines()
        assert any(line == "event: segment" for line in lines)
        for worker in own.children("server.worker"):
            worker.kill()
        assert any(line == "event: ok" for line in lines)
    until(lambda: value(http, "whisperd_workers_restarted_total", process="worker") > before)


async def test_guards_are_counted_by_their_reason() -> None:
    metrics = Metrics()
    cut = Guard("loop", "cut", 1.0, 2.0, "and then and then", "")
    guards = (cut, cut, replace(cut, kind="time"))
    transcript = Transcript("transcribe", "en", 3.0, (), "small", guards=guards)

    async def events() -> AsyncGenerator[Event]:
        yield Done(transcript)

    assert [event async for event in metrics.heard("small", events())] == [Done(transcript)]
    assert b'whisperd_guards_total{action="cut",kind="loop",model="small"} 2.0' in metrics.text()
    assert b'whisperd_guards_total{action="cut",kind="time",model="small"} 1.0' in metrics.text()
    assert b'whisperd_guards_total{action="dropped",kind="phantom",model="small"} 0.0' in metrics.text()


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.died("reader")
    assert b'restarted_total{process="reader"} 1.0' in one.text()
    assert b'restarted_total{process="reader"} 0.0' in other.text()


def documented() -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE))


def told(http: httpx.Client) -> set[str]:
    """Names, the parts of a histogram taken together."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in samples(http)}


def test_the_document_lists_exactly_what_is_told(http: httpx.Client) -> None:
    assert post(http, language="en").status_code == 200
    speech = http.post("/v1/audio/speech", json={"input": "Hello.", "response_format": "wav"})
    assert speech.status_code == 200
    assert told(http) == documented()


def test_the_dashboard_asks_for_what_is_told() -> None:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len(panels) > 10
    for panel in panels:
        assert panel["title"]
        assert panel["gridPos"].keys() == {"h", "w", "x", "y"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            names = re.findall(r"\b(?:whisperd|num_requests|request_duration)_\w+", target["expr"])
            assert names, panel["title"]
            for name in names:
                assert re.sub(r"_(bucket|count|sum)$", "", name) in documented(), name
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert DASHBOARD["schemaVersion"] >= 39
    assert {"title", "uid", "templating", "time"} <= DASHBOARD.keys()
