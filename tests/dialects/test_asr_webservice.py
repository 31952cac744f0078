"""whisper-asr-webservice's routes, as Bazarr and others call them."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import requests

from tests.serving import Server, serving, until
from tests.speech import SENTENCES, say, silence, talk, wav

PCM = talk(SENTENCES[:3])
RAW = (PCM * 32767).astype("<i2").tobytes()
GERMAN = say("Das Wetter ist heute warm.", "de")
GERMAN_RAW = (GERMAN * 32767).astype("<i2").tobytes()
MEDIA = wav(PCM)


def post(
    client: httpx.Client, path: str = "/asr", media: bytes = MEDIA, name: str = "talk.wav", **query: Any
) -> httpx.Response:
    return client.post(path, params=query, files={"audio_file": (name, media)})


# Bazarr's own requests, one after the other, as its provider sends them


@pytest.fixture
def bazarr(server: Server) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["User-Agent"] = "Subliminal/2.1.0"
        yield session


@pytest.mark.parametrize("video_file", [None, "/films/Der Film (2001).mkv"])
def test_bazarr_detects_and_transcribes(
    server: Server, bazarr: requests.Session, video_file: str | None
) -> None:
    detected = bazarr.post(
        f"{server.url}/detect-language",
        params={"encode": "false", "video_file": video_file},
        files={"audio_file": GERMAN_RAW},
        timeout=(5, 60),
    ).json()
    assert (detected["detected_language"], detected["language_code"]) == ("german", "de")
    assert 0.9 < detected["confidence"] <= 1
    subtitle = bazarr.post(
        f"{server.url}/asr",
        params={
            "task": "transcribe",
            "language": detected["language_code"],
            "output": "srt",
            "encode": "false",
            "video_file": video_file,
        },
        files={"audio_file": GERMAN_RAW},
        timeout=(5, 60),
    )
    number, times, text = subtitle.content.decode().strip().split("\n")
    assert (number, text) == ("1", "Das Wetter ist heute warm.")
    assert re.fullmatch(r"00:00:0\d,\d{3} --> 00:00:0\d,\d{3}", times)


def test_bazarr_translates(server: Server, bazarr: requests.Session) -> None:
    subtitle = bazarr.post(
        f"{server.url}/asr",
        params={"task": "translate", "language": "de", "output": "srt", "encode": "false"},
        files={"audio_file": GERMAN_RAW},
        timeout=(5, 60),
    )
    assert subtitle.content.decode().splitlines()[2] == "The weather is warm today."


@pytest.mark.parametrize(
    ("query", "media", "status"),
    [
        ({"language": "ja"}, RAW, 400),
        ({"language": "xx"}, RAW, 400),
        ({"task": "dance"}, RAW, 400),
        ({"model": "nope"}, RAW, 404),
        ({}, b"", 400),
        ({}, b"ab", 400),
        ({"encode": "true"}, b"garbage" * 100, 400),
    ],
)
def test_what_bazarr_would_save_of_an_error_is_empty(
    server: Server, bazarr: requests.Session, query: dict[str, str], media: bytes, status: int
) -> None:
    answer = bazarr.post(
        f"{server.url}/asr",
        params={"task": "transcribe", "output": "srt", "encode": "false", **query},
        files={"audio_file": ("audio_file", media)},
        timeout=(5, 60),
    )
    assert (answer.status_code, answer.content) == (status, b"")
    assert len(answer.headers["X-Whisperd-Error"]) > 10


# Answers


def test_text_is_the_default(client: httpx.Client) -> None:
    answer = post(client)
    assert answer.text == "".join(f"{sentence}\n" for sentence in SENTENCES[:3])
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["asr-engine"] in ("whisper_cpp", "ctranslate2")
    assert answer.headers["content-disposition"] == 'attachment; filename="talk.wav.txt"'
    assert "few hundred words" in answer.headers["x-whisperd-notice"]


def test_a_file_name_cannot_break_out_of_its_header(client: httpx.Client) -> None:
    answer = post(client, name='Käse; "x"/1.wav', output="srt")
    assert answer.headers["content-disposition"].startswith('attachment; filename="K%C3%A4se%3B%20')
    assert answer.headers["content-disposition"].count('"') == 2


def test_vtt_and_tsv(client: httpx.Client) -> None:
    assert post(client, output="vtt").text.startswith("WEBVTT\n\n00:0")
    head, *rows = post(client, output="tsv").text.splitlines()
    assert head == "start\tend\ttext"
    assert [row.split("\t")[2] for row in rows] == list(SENTENCES[:3])
    times = [int(time) for row in rows for time in row.split("\t")[:2]]
    assert times == sorted(times)


def test_json(client: httpx.Client) -> None:
    answer = post(client, output="json", language="en")
    document = answer.json()
    assert list(document) == ["text", "segments", "language"]
    assert (document["text"], document["language"]) == (" ".join(SENTENCES[:3]), "en")
    assert [segment["text"] for segment in document["segments"]] == [f" {text}" for text in SENTENCES[:3]]
    segment = document["segments"][0]
    assert list(segment)[:4] == ["id", "start", "end", "text"]
    assert {"seek", "tokens", "temperature", "avg_logprob", "compression_ratio"} < set(segment)
    assert "words" not in segment


def test_words_have_their_spaces(client: httpx.Client) -> None:
    document = post(client, output="json", word_timestamps="true").json()
    for sentence, segment in zip(SENTENCES, document["segments"], strict=False):
        assert "".join(word["word"] for word in segment["words"]) == f" {sentence}"
        times = [time for word in segment["words"] for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert all(0 < word["probability"] <= 1 for word in segment["words"])


def test_a_curl_line_with_all_that_the_original_takes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(MEDIA)
    query = (
        "encode=true&task=transcribe&language=en&initial_prompt=Anna&vad_filter=true&word_timestamps=false"
        "&diarize=false&min_speakers=1&max_speakers=2&output=json"
    )
    words = ["curl", "-sS", "-F", "audio_file=@a.wav;type=audio/wav", f"{server.url}/asr?{query}"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(said.stdout)["text"] == " ".join(SENTENCES[:3])


def test_media_that_breaks_off_says_so_in_a_header(client: httpx.Client) -> None:
    answer = post(client, media=MEDIA[: len(MEDIA) // 2], output="srt")
    assert SENTENCES[0] in answer.text
    assert "breaks off" in answer.headers["x-whisperd-warning"]


def test_silence_has_no_subtitles(client: httpx.Client) -> None:
    answer = post(client, media=wav(silence(3)), output="srt")
    assert (answer.status_code, answer.text) == (200, "")


# The language


def test_the_language_of_media(client: httpx.Client) -> None:
    for pcm, code, name in ((GERMAN, "de", "german"), (PCM, "en", "english")):
        media = wav(np.concatenate([silence(20), pcm]))
        found = post(client, "/detect-language", media).json()
        assert (found["language_code"], found["detected_language"]) == (code, name)


def test_the_language_of_a_long_one_is_told_by_its_beginning(client: httpx.Client) -> None:
    media = wav(np.concatenate([GERMAN, silence(1), GERMAN, silence(1), talk(SENTENCES * 8)]))
    found = post(client, "/detect-language", media).json()
    assert found["language_code"] == "de"


def test_nothing_said_has_no_language(client: httpx.Client) -> None:
    found = post(client, "/detect-language", wav(silence(2))).json()
    assert found == {"detected_language": "unknown", "language_code": "", "confidence": 0.0}


@pytest.mark.parametrize(
    ("media", "query", "status", "detail"),
    [
        (b"", {}, 400, "the file is empty"),
        (b"garbage" * 100, {}, 400, "not of an audio or video format"),
        (MEDIA, {"encode": "perhaps"}, 400, "encode: "),
        (MEDIA, {"model": "nope"}, 404, "there is no model 'nope'"),
    ],
)
def test_errors_of_the_detection_are_told(
    client: httpx.Client, media: bytes, query: dict[str, str], status: int, detail: str
) -> None:
    answer = post(client, "/detect-language", media, "a.wav", **query)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


# Faults


def test_forms_that_are_wrong(client: httpx.Client) -> None:
    for files in ({"file": ("a.wav", MEDIA)}, {"audio_file": (None, "text")}):
        answer = client.post("/asr", files=files)
        assert (answer.status_code, answer.content) == (400, b"")
        assert answer.headers["x-whisperd-error"].startswith("audio_file: ")
    answer = client.get("/asr")
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (405, b"", "POST")
    assert "Not Allowed" in answer.headers["x-whisperd-error"]
    answer = client.post("/asr", content=MEDIA, headers={"Content-Type": "audio/wav"})
    assert (answer.status_code, answer.content) == (400, b"")
    assert "multipart" in answer.headers["x-whisperd-error"]


def test_a_cut_upload_and_one_that_is_too_large_leave_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, "--max-upload", "1MB") as own, own.client() as client:
        answer = post(client, media=bytes(1_000_001), encode="false")
        assert (answer.status_code, answer.content) == (413, b"")
        request = client.build_request("POST", "/asr", files={"audio_file": ("a.wav", MEDIA)})
        cut = request.read()[:-40]
        kind = request.headers["content-type"]
        answer = client.post("/asr", content=cut, headers={"content-type": kind})
        assert (answer.status_code, answer.content) == (400, b"")
        assert "breaks off" in answer.headers["x-whisperd-error"]
        until(lambda: not list((own.data / "spool").iterdir()))
        assert post(client).text.startswith(SENTENCES[0])
