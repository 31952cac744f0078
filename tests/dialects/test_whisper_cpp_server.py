"""whisper.cpp's server, as its own document and its clients ask it."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serving import Server, serving, until
from tests.speech import SENTENCES, say, silence, talk, wav

PCM = talk(SENTENCES[:3])
MEDIA = wav(PCM)
LINES = "".join(f" {sentence}\n" for sentence in SENTENCES[:3])
GERMAN = wav(say("Das Wetter ist heute warm.", "de"))

CURL = """
curl {}/inference -H "Content-Type: multipart/form-data" -F file="@a.wav" -F temperature="0.0"
  -F temperature_inc="0.2" -F response_format="json"
"""
"""As it stands in whisper.cpp's README."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose choice of a model may be changed."""
    with serving(tmp_path_factory.mktemp("data"), "--max-upload", "1MB", demo="false") as running:
        yield running


def post(client: httpx.Client, media: bytes = MEDIA, **fields: Any) -> httpx.Response:
    return client.post("/inference", files={"file": ("a.wav", media)}, data=fields)


def test_its_own_curl_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(MEDIA)
    words = shlex.split(CURL.format(server.url))
    said = subprocess.run([*words, "-sS"], cwd=tmp_path, capture_output=True, timeout=60, check=True).stdout
    assert httpx.Response(200, content=said).json() == {"text": LINES}


# Answers


def test_json_is_the_default_and_what_is_unknown(client: httpx.Client) -> None:
    for fields in ({}, {"response_format": "json"}, {"response_format": "lrc"}):
        answer = post(client, MEDIA, **fields)
        assert (answer.json(), answer.headers["content-type"]) == ({"text": LINES}, "application/json")
        assert "few hundred words" in answer.headers["x-whisperd-notice"]


@pytest.mark.parametrize(
    ("format", "kind", "begin"),
    [
        ("text", "text/plain", f" {SENTENCES[0]}\n {SENTENCES[1]}\n"),
        ("srt", "application/x-subrip", "1\n00:00:00,"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:00."),
    ],
)
def test_texts(client: httpx.Client, format: str, kind: str, begin: str) -> None:
    answer = post(client, response_format=format, language="en")
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    assert answer.text.startswith(begin)
    assert all(sentence in answer.text for sentence in SENTENCES[:3])


def test_verbose_json(client: httpx.Client) -> None:
    document = post(client, response_format="verbose_json", language="auto").json()
    assert (document["task"], document["language"], document["text"]) == ("transcribe", "english", LINES)
    assert document["duration"] == pytest.approx(len(PCM) / 16000, abs=0.01)
    assert document["detected_language"] == "english"
    probability = document["detected_language_probability"]
    assert document["language_probabilities"]["en"] == probability > 0.9
    assert [segment["id"] for segment in document["segments"]] == [0, 1, 2]
    for sentence, segment in zip(SENTENCES, document["segments"], strict=False):
        assert segment["text"] == f" {sentence}"
        assert "".join(word["word"] for word in segment["words"]) == segment["text"]
        assert segment["start"] <= segment["words"][0]["start"]
        assert all(word["t_dtw"] == -1 and 0 < word["probability"] <= 1 for word in segment["words"])
        assert segment["tokens"]
        assert segment["avg_logprob"] < 0
        assert {"temperature", "no_speech_prob"} < set(segment)


def test_verbose_json_without_times(client: httpx.Client) -> None:
    fields = {"response_format": "verbose_json", "no_language_probabilities": "true"}
    document = post(client, MEDIA, no_timestamps="true", **fields).json()
    assert "detected_language" not in document
    assert document["language"] == "english"
    assert all("start" not in segment and "end" not in segment for segment in document["segments"])
    assert set(document["segments"][0]["words"][0]) == {"word", "probability"}
    document = post(client, MEDIA, token_timestamps="false", **fields).json()
    assert "start" in document["segments"][0]
    assert set(document["segments"][0]["words"][0]) == {"word", "probability"}


def test_translation(client: httpx.Client) -> None:
    assert post(client, GERMAN, translate="true").json()["text"] == " The weather is warm today.\n"
    document = post(client, GERMAN, translate="true", response_format="verbose_json").json()
    assert (document["task"], document["language"]) == ("translate", "german")


def test_the_language_only(client: httpx.Client) -> None:
    document = post(client, GERMAN, detect_language="true", response_format="verbose_json").json()
    assert (document["detected_language"], document["text"], document["segments"]) == ("german", "", [])
    assert post(client, GERMAN, detect_language="true").json() == {"text": ""}
    assert post(client, GERMAN, detect_language="true", response_format="srt").text == ""


def test_a_part_of_the_media(client: httpx.Client) -> None:
    second = len(say(SENTENCES[0])) / 16000 + 0.8
    fields = {"offset_t": round(second * 1000) - 200, "duration": round(len(say(SENTENCES[1])) / 16) + 500}
    document = post(client, MEDIA, response_format="verbose_json", **fields).json()
    (segment,) = document["segments"]
    assert segment["text"].strip() == SENTENCES[1]
    assert segment["start"] == pytest.approx(second, abs=0.3)
    assert post(client, offset_t=3_600_000).json() == {"text": ""}
    assert post(client, duration=round(second * 1000) - 400).json()["text"].strip() == SENTENCES[0]


def test_subtitles_are_counted_and_broken_as_asked(client: httpx.Client) -> None:
    assert post(client, response_format="srt", offset_n=10).text.startswith("11\n")
    cues = post(client, response_format="srt", max_len=1, split_on_word="true").text.strip().split("\n\n")
    assert [cue.split("\n")[2] for cue in cues] == " ".join(SENTENCES[:3]).split()
    cues = post(client, response_format="srt", max_len=16).text.strip().split("\n\n")
    assert all(len(cue.split("\n")[2]) <= 16 for cue in cues)
    assert " ".join(cue.split("\n")[2] for cue in cues) == " ".join(SENTENCES[:3])


def test_what_only_tunes_is_ignored(client: httpx.Client) -> None:
    tuning = {"best_of": 5, "beam_size": 5, "entropy_thold": 2.4, "vad": "true", "audio_ctx": 0}
    assert post(client, MEDIA, prompt="Anna", diarize="no", **tuning).json() == {"text": LINES}


def test_silence(client: httpx.Client) -> None:
    nothing = wav(silence(2))
    assert post(client, nothing).json() == {"text": ""}
    document = post(client, nothing, response_format="verbose_json").json()
    assert (document["segments"], document["duration"]) == ([], 2.0)


# Models


def test_a_model_is_loaded_and_then_used(own: Server) -> None:
    with own.client() as client:
        refused = post(client)
        assert refused.status_code == 404
        assert "no model but the demo" in refused.json()["error"]
        refused = client.post("/load", files={"model": (None, "models/ggml-nope.bin")})
        assert refused.status_code == 404
        assert "ggml-nope" in refused.json()["error"]
        loaded = client.post("/load", files={"model": (None, "/opt/models/ggml-demo.bin")})
        assert (loaded.status_code, loaded.text) == (200, "Load was successful!")
        assert [model["id"] for model in client.get("/v1/models/loaded").json()["models"]] == ["ggml-demo"]
        assert post(client).json() == {"text": LINES}


def test_load_without_a_model(client: httpx.Client) -> None:
    answer = client.post("/load", files={"other": (None, "x")})
    assert (answer.status_code, answer.json()) == (400, {"error": "no 'model' field in the request"})


def test_no_web_page_may_load(client: httpx.Client) -> None:
    answer = client.post("/load", data={"model": "ggml-demo"}, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert "evil.example" in answer.json()["error"]


def test_it_says_whether_it_is_up(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}


# Faults


@pytest.mark.parametrize(
    ("media", "fields", "status", "sentence"),
    [
        (b"", {}, 400, "the file is empty"),
        (b"garbage" * 100, {}, 400, "not of an audio or video format"),
        (MEDIA, {"language": "xx"}, 400, "xx"),
        (MEDIA, {"language": "ja"}, 400, "does not know the language"),
        (MEDIA, {"model": "nope"}, 404, "there is no model 'nope'"),
        (MEDIA, {"temperature": "hot"}, 400, "temperature: "),
        (MEDIA, {"offset_t": "-1"}, 400, "offset_t: "),
        (MEDIA, {"diarize": "true"}, 404, "no pipeline is installed"),
        (MEDIA, {"tinydiarize": "1"}, 400, "was not trained to hear where somebody else"),
    ],
)
def test_errors(
    client: httpx.Client, media: bytes, fields: dict[str, str], status: int, sentence: str
) -> None:
    answer = post(client, media, **fields)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert sentence in answer.json()["error"]


def test_no_file(client: httpx.Client) -> None:
    answer = client.post("/inference", files={"temperature": (None, "0")})
    assert (answer.status_code, answer.json()) == (400, {"error": "no 'file' field in the request"})


def test_a_cut_upload_and_one_that_is_too_large_leave_nothing(own: Server) -> None:
    with own.client() as client:
        request = client.build_request("POST", "/inference", files={"file": ("a.wav", MEDIA)})
        kind = {"content-type": request.headers["content-type"]}
        cut = client.post("/inference", content=request.read()[:-40], headers=kind)
        assert (cut.status_code, "breaks off" in cut.json()["error"]) == (400, True)
        large = post(client, wav(np.zeros(600_000, np.float32)))
        assert (large.status_code, "larger than" in large.json()["error"]) == (413, True)
        until(lambda: not list((own.data / "spool").iterdir()))
