"""Gradium's one-shot transcription: its document's own lines, over a real socket."""

import base64
import json
import shlex
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import av
import httpx
import numpy as np
import pytest

from tests.serving import Server, serving, until
from tests.speech import SENTENCES, Pcm, say, talk, wav

PATH = "/api/post/speech/asr"
PCM = talk(SENTENCES[:3])
WAV = wav(PCM)
OGG = (Path(__file__).parent.parent.parent / "models" / "hello.ogg").read_bytes()
HELLO = list(SENTENCES[:2])
HURRIED = "4"
"""Seconds of grace that the servers of this module give a body that does not come."""

SCRIPT = """
import json
import requests

with open("input.wav", "rb") as f:
    audio = f.read()

with requests.post(
    "https://api.gradium.ai/api/post/speech/asr",
    data=audio,
    headers={
        "x-api-key": "your_api_key",
        "Content-Type": "audio/wav",
    },
    stream=True,
) as resp:
    resp.raise_for_status()
    transcript = []
    for line in resp.iter_lines(decode_unicode=True):
        if not line:
            continue
        msg = json.loads(line)
        if msg["type"] == "text":
            transcript.append(msg["text"])
        elif msg["type"] == "error":
            raise RuntimeError(msg["message"])
    print(" ".join(transcript))
"""
"""As it stands in Gradium's document."""

CURL = """
curl -L -X POST {} -H "x-api-key: your_api_key" -H "Content-Type: audio/wav" --data-binary @input.wav
"""
"""Its line, without the address, which has a language hint in the second."""

HINT = "?json_config=%7B%22language%22%3A%22en%22%7D"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has little patience."""
    flags = ("--upload-grace", HURRIED, "--max-upload", "2MB")
    with serving(tmp_path_factory.mktemp("data"), *flags) as running:
        yield running


def post(client: httpx.Client, media: bytes = WAV, kind: str = "audio/wav", **query: Any) -> httpx.Response:
    return client.post(PATH, content=media, headers={"Content-Type": kind}, params=query)


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines() if line]


def said(found: list[dict[str, Any]]) -> list[str]:
    return [line["text"] for line in found if line["type"] == "text"]


def s16(pcm: Pcm) -> bytes:
    return (np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()


def resampled(pcm: Pcm, rate: int) -> Pcm:
    frame = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="flt", layout="mono")
    frame.sample_rate = 16_000
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    frames = resampler.resample(frame) + resampler.resample(None)
    return np.concatenate([out.to_ndarray()[0] for out in frames])


# The document's own lines


def test_its_script(server: Server, tmp_path: Path) -> None:
    (tmp_path / "input.wav").write_bytes(WAV)
    script = SCRIPT.replace("https://api.gradium.ai", server.url)
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.strip() == " ".join(SENTENCES[:3]), run.stderr


@pytest.mark.parametrize("query", ["", HINT])
def test_its_curl_lines(server: Server, tmp_path: Path, query: str) -> None:
    (tmp_path / "input.wav").write_bytes(WAV)
    words = shlex.split(CURL.format(server.url + PATH + query))
    run = subprocess.run(
        [*words, "-sS"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert said([json.loads(one) for one in run.stdout.splitlines()]) == list(SENTENCES[:3])


# Answers


def test_lines_come_in_order_with_true_times(client: httpx.Client) -> None:
    answer = post(client)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "no-transform" in answer.headers["cache-control"]
    assert "few hundred words" in answer.headers["x-whisperd-notice"]
    found = lines(answer)
    assert [line["type"] for line in found] == ["text", "end_text"] * 3
    assert all(line["stream_id"] == 0 for line in found)
    at = 0.0
    for sentence, text, end in zip(SENTENCES[:3], found[::2], found[1::2], strict=True):
        spoken = len(say(sentence)) / 16000
        assert (text["text"], text["start_s"]) == (sentence, pytest.approx(at, abs=0.5))
        assert end["stop_s"] == pytest.approx(at + spoken, abs=0.6)
        at += spoken + 0.8


@pytest.mark.parametrize(
    ("media", "kind", "query"),
    [
        (OGG, "audio/ogg", {}),
        (OGG, "audio/opus; codecs=opus", {}),
        (OGG, "audio/wav", {"input_format": "opus"}),
        (OGG, "audio/mpeg", {"input_format": "opus", "model": "default"}),
        (OGG, "application/x-www-form-urlencoded", {"model": "ggml-demo"}),
    ],
)
def test_media_with_a_header(client: httpx.Client, media: bytes, kind: str, query: dict[str, str]) -> None:
    assert said(lines(post(client, media, kind, **query))) == HELLO


def test_no_content_type_is_wav(client: httpx.Client) -> None:
    assert said(lines(client.post(PATH, content=WAV))) == list(SENTENCES[:3])


@pytest.mark.parametrize(
    ("rate", "kind", "format"),
    [(24_000, "audio/pcm", None), (24_000, "audio/wav", "pcm"), (16_000, "audio/pcm", "pcm_16000")],
)
def test_samples_without_a_header(client: httpx.Client, rate: int, kind: str, format: str | None) -> None:
    query = {"input_format": format} if format else {}
    assert said(lines(post(client, s16(resampled(PCM, rate)), kind, **query))) == list(SENTENCES[:3])


def test_a_language_is_detected_or_told(client: httpx.Client) -> None:
    german = wav(say("Das Wetter ist heute warm.", "de"))
    assert said(lines(post(client, german))) == ["Das Wetter ist heute warm."]
    for language in ("de", "de-DE", "German", "auto"):
        config = json.dumps({"language": language, "temp": 0.5})
        assert said(lines(post(client, german, json_config=config))) == ["Das Wetter ist heute warm."]


def test_silence_has_no_lines(client: httpx.Client) -> None:
    assert lines(post(client, wav(np.zeros(16000, np.float32)))) == []


def test_media_that_breaks_off_says_so(client: httpx.Client) -> None:
    *heard, warning = lines(post(client, WAV[: len(WAV) // 2]))
    assert said(heard)[0] == SENTENCES[0]
    assert (warning["type"], "breaks off" in warning["message"]) == ("warning", True)


# While the body arrives


def connected(server: Server, query: str = "", length: int | None = None) -> tuple[socket.socket, BinaryIO]:
    """A request by hand, its body to be sent; in chunks where no length is given."""
    place = urllib.parse.urlsplit(server.url)
    connection = socket.create_connection((place.hostname, place.port), timeout=60)
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = f"POST {PATH}{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\n{size}\r\n\r\n"
    connection.sendall(head.encode())
    return connection, connection.makefile("rb")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def head(answer: BinaryIO) -> bytes:
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        line = answer.readline()
        assert line, found
        found += line
    return found


def unchunked(answer: BinaryIO) -> Iterator[dict[str, Any]]:
    """Lines of JSON as they come."""
    while size := int(answer.readline(), 16):
        for line in answer.read(size).splitlines():
            if line:
                yield json.loads(line)
        answer.readline()


def test_the_first_line_comes_before_the_body_has_ended(server: Server) -> None:
    media = wav(talk(SENTENCES[:8]))
    most = len(media) * 3 // 4
    connection, answer = connected(server, length=len(media))
    with connection, answer:
        connection.sendall(media[:most])
        assert b"200 OK" in head(answer)
        found = unchunked(answer)
        first = next(found)
        assert first["text"] == SENTENCES[0]
        connection.sendall(media[most:])
        assert said([first, *found]) == list(SENTENCES[:8])


def test_a_body_that_trickles_in_is_heard_whole(server: Server) -> None:
    connection, answer = connected(server, "?input_format=pcm_16000")
    with connection, answer:
        samples = s16(PCM)
        for start in range(0, len(samples), 4001):
            connection.sendall(chunk(samples[start : start + 4001]))
        connection.sendall(chunk(b""))
        assert b"200 OK" in head(answer)
        assert said(list(unchunked(answer))) == list(SENTENCES[:3])


@pytest.mark.parametrize("victim", ["server.reader", "server.worker"])
def test_a_child_killed_while_the_body_arrives_is_not_noticed(server: Server, victim: str) -> None:
    connection, answer = connected(server)
    media = wav(talk(SENTENCES[:8]))
    with connection, answer:
        connection.sendall(chunk(media[: len(media) // 2]))
        assert b"200 OK" in head(answer)
        found = unchunked(answer)
        first = next(found)
        for child in server.children(victim):
            child.kill()
        connection.sendall(chunk(media[len(media) // 2 :]) + chunk(b""))
        assert said([first, *found]) == list(SENTENCES[:8])


def test_a_body_that_stops_coming_ends_in_an_error_line(own: Server) -> None:
    connection, answer = connected(own)
    with connection, answer:
        connection.sendall(chunk(wav(talk(SENTENCES[:8]))[:-1000]))
        assert b"200 OK" in head(answer)
        *heard, error = unchunked(answer)
        assert said(heard)[0] == SENTENCES[0]
        assert error == {"type": "error", "message": f"nothing of the body came for {HURRIED} s"}
    until(lambda: not list((own.data / "spool").iterdir()))


@pytest.mark.parametrize("sent", [b"", b"RIFF"])
def test_a_body_that_does_not_come_is_a_500(own: Server, sent: bytes) -> None:
    connection, answer = connected(own, length=1000)
    with connection, answer:
        connection.sendall(sent)
        assert b"500 Internal Server Error" in head(answer)
        assert answer.read() == f"error from server 1008: nothing of the body came for {HURRIED} s".encode()


def test_a_body_that_is_too_large(own: Server) -> None:
    connection, answer = connected(own, length=2_000_001)
    with connection, answer:
        assert b"500 Internal Server Error" in head(answer)
        assert answer.read().startswith(b"error from server 1009: the body is larger than 2,000,000 bytes")
    connection, answer = connected(own)
    with connection, answer:
        media = wav(talk(SENTENCES[:8]))
        connection.sendall(chunk(media))
        assert b"200 OK" in head(answer)
        with suppress(OSError):
            connection.sendall(chunk(bytes(2_000_000 - len(media))) + chunk(b"x"))
        error = list(unchunked(answer))[-1]
        assert error["type"] == "error"
        assert "larger than 2,000,000 bytes" in error["message"]


def test_a_client_that_leaves_in_mid_body_leaves_nothing(own: Server) -> None:
    connection, answer = connected(own)
    with connection, answer:
        connection.sendall(chunk(WAV[: len(WAV) // 2]))
        until(lambda: list((own.data / "spool").iterdir()))
    until(lambda: not list((own.data / "spool").iterdir()))
    with own.client() as client:
        assert said(lines(post(client))) == list(SENTENCES[:3])


def test_a_stream_says_that_the_server_is_being_stopped(tmp_path: Path) -> None:
    with serving(tmp_path) as own:
        connection, answer = connected(own)
        with connection, answer:
            connection.sendall(chunk(wav(talk(SENTENCES[:8]))[:-1000]))
            assert b"200 OK" in head(answer)
            found = unchunked(answer)
            assert next(found)["type"] == "text"
            own.process.terminate()
            error = list(found)[-1]
            assert error["type"] == "error"
            assert "being stopped" in error["message"]


# Refusals


@pytest.mark.parametrize(
    ("kind", "query", "message"),
    [
        ("audio/mpeg", {}, "unsupported content type for SST 'audio/mpeg'"),
        ("text/plain; charset=utf-8", {}, "unsupported content type for SST 'text/plain'"),
        ("audio/wav", {"input_format": "mp3"}, 'input_format: "mp3" is not one of wav, opus, pcm'),
        ("audio/wav", {"json_config": "{"}, "json_config: Invalid JSON"),
        ("audio/wav", {"json_config": "[]"}, "json_config: Input should be a valid dict"),
        ("audio/wav", {"json_config": '{"language": "xx"}'}, 'json_config: "xx" is not a language'),
        ("audio/wav", {"model": "nope"}, "error from server 1008: there is no model 'nope'"),
        (
            "audio/wav",
            {"json_config": '{"language": "ja"}'},
            "error from server 1008: the model ggml-demo does",
        ),
    ],
)
def test_requests_that_are_wrong(
    client: httpx.Client, kind: str, query: dict[str, str], message: str
) -> None:
    answer = post(client, WAV, kind, **query)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "text/plain; charset=utf-8")
    assert answer.text.startswith(message)


@pytest.mark.parametrize(
    ("media", "message"),
    [
        (b"", "the file is empty"),
        (b"this is no sound" * 100, "the file is not of an audio"),
        (OGG[:40], "the Ogg is damaged or breaks off before its first sound"),
    ],
)
def test_bodies_that_are_no_sound(client: httpx.Client, media: bytes, message: str) -> None:
    answer = post(client, media)
    assert answer.status_code == 500
    assert answer.text.startswith(f"error from server 1007: {message}")


def test_sound_that_is_too_short_is_told_in_the_stream(client: httpx.Client) -> None:
    (error,) = lines(post(client, wav(np.zeros(800, np.float32))))
    assert (error["type"], error["message"][:26]) == ("error", "the media has 0.05 s of so")


# Speech ------------------------------------------------------------------------------------------------


def test_speech_as_sound_alone(client: httpx.Client) -> None:
    said = {"text": "The weather is beautiful today.", "voice_id": "default", "only_audio": True}
    answer = client.post("/api/post/speech/tts", json=said | {"output_format": "wav"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    assert int.from_bytes(answer.content[24:28], "little") == 48_000
    heard = client.post(
        "/v1/audio/transcriptions", files={"file": answer.content}, data={"model": "ggml-demo"}
    )
    assert heard.json()["text"] == said["text"]


def test_speech_as_lines(client: httpx.Client) -> None:
    body = {"text": "Hello.", "voice_id": "Espeak.EN-US.default", "output_format": "pcm_16000"}
    lines = client.post("/api/post/speech/tts", json=body).text.splitlines()
    *sounds, end = (json.loads(line) for line in lines if line)
    assert {sound["type"] for sound in sounds} == {"audio"}
    assert end == {"type": "end_of_stream"}
    assert 8_000 < sum(len(base64.b64decode(sound["audio"])) for sound in sounds) / 2 < 32_000


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text": "Hi.", "voice_id": "YTpq7expH9539ERJ"}, "error from server 1008: there is no voice"),
        ({"text": "Hi.", "output_format": "midi"}, 'output_format: "midi" is not one of wav'),
        ({"voice_id": "default"}, "text: Field required"),
        ({"text": " "}, "text: there is no text to speak"),
    ],
)
def test_speech_refused(client: httpx.Client, body: dict[str, object], said: str) -> None:
    answer = client.post("/api/post/speech/tts", json=body)
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.startswith(said)
