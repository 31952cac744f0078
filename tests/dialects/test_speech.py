"""Speech as OpenAI's clients ask for it: over a real port, spoken by espeak-ng, heard by the demo model."""

import base64
import io
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import av
import httpx
import jiwer
import numpy as np
import openai
import pytest

from tests.serving import Server, until
from tests.speech import SENTENCES, Pcm, wav

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
RATE = 24_000


@pytest.fixture
def speaking(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: httpx.Client, **fields: object) -> httpx.Response:
    return client.post("/v1/audio/speech", json={"model": "tts-1", "voice": "alloy"} | fields)


def decoded(data: bytes, format: str = "wav") -> Pcm:
    """Sound of any format as mono at 24 kHz."""
    if format == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    with av.open(io.BytesIO(data), "r") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


def heard(client: httpx.Client, sound: bytes, language: str = "en") -> str:
    answer = client.post(
        "/v1/audio/transcriptions", files={"file": sound}, data={"language": language, "model": "ggml-demo"}
    )
    text: str = answer.raise_for_status().json()["text"]
    return text


# Every format ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_spoken_comes_back_as_words_in_every_format(
    server: Server, speaking: openai.OpenAI, client: httpx.Client, format: Any
) -> None:
    said = " ".join(SENTENCES[:4])
    sound = speaking.audio.speech.create(
        model="tts-1", voice="alloy", input=said, response_format=format
    ).read()
    if format == "pcm":
        sound = wav(decoded(sound, "pcm"), RATE)
    assert jiwer.wer(said, heard(client, sound)) == 0


def test_no_format_loses_the_beginning_or_the_end(client: httpx.Client) -> None:
    lengths = {}
    for format in FORMATS:
        sound = ask(client, input=SENTENCES[0] + " " + SENTENCES[1], response_format=format)
        pcm = decoded(sound.content, format)
        loud = np.flatnonzero(np.abs(pcm) > 0.02)
        lengths[format] = (loud[-1] - loud[0]) / RATE
    # espeak-ng is not deterministic to the sample; encoders add a frame of padding around the sound.
    assert max(lengths.values()) - min(lengths.values()) < 0.06, lengths


def test_the_answer_says_what_it_is(client: httpx.Client) -> None:
    types = {
        format: ask(client, input="Hi.", response_format=format).headers["content-type"] for format in FORMATS
    }
    assert types == {
        "mp3": "audio/mpeg",
        "opus": "audio/ogg",
        "aac": "audio/aac",
        "flac": "audio/flac",
        "wav": "audio/wav",
        "pcm": "audio/pcm",
    }
    answer = client.post("/v1/audio/speech", json={"input": "Hi."})
    assert answer.headers["content-type"] == "audio/mpeg", "Open WebUI stores what comes as mp3"
    assert answer.headers["x-voice"] == "Espeak.EN-US.default"
    assert answer.headers["transfer-encoding"] == "chunked"


def test_a_streamed_wav_has_the_header_of_a_stream(client: httpx.Client) -> None:
    sound = ask(client, input="Hi.", response_format="wav").content
    assert (sound[:4], sound[4:8], sound[36:40], sound[40:44]) == (b"RIFF", b"\xff" * 4, b"data", b"\xff" * 4)
    assert int.from_bytes(sound[24:28], "little") == RATE


# Streams -----------------------------------------------------------------------------------------------


def test_events_hold_the_same_sound_and_end_with_usage(speaking: openai.OpenAI, client: httpx.Client) -> None:
    said = f"{SENTENCES[0]} {SENTENCES[2]}"
    with speaking.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input=said, stream_format="sse", response_format="mp3"
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    *deltas, done = (json.loads(line.removeprefix("data: ")) for line in lines)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert heard(client, b"".join(base64.b64decode(delta["audio"]) for delta in deltas)) == said
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens"] == len(re.findall(r"\w+|[^\w\s]", said))
    assert 40 < usage["output_tokens"] < 200


def test_sound_leaves_while_the_rest_is_being_made(server: Server) -> None:
    """A book whose reader does not read on: nothing is made ahead without end, and leaving stops it."""
    book = "The weather is beautiful today. " * 120
    with server.client() as client:
        with client.stream(
            "POST", "/v1/audio/speech", json={"input": book, "response_format": "pcm", "voice": "alloy"}
        ) as answer:
            pieces = answer.iter_bytes(1000)
            assert next(pieces)
        assert ask(client, input="Hi.").status_code == 200
        until(lambda: all(not held["busy"] for held in client.get("/v1/models/loaded").json()["data"]))


def test_a_client_that_vanishes_leaves_nothing_behind(server: Server, client: httpx.Client) -> None:
    body = json.dumps({"input": "The weather is beautiful today. " * 120, "response_format": "wav"}).encode()
    for _ in range(5):
        with socket.create_connection(
            (server.url.split("/")[2].split(":")[0], int(server.url.split(":")[2]))
        ) as raw:
            raw.sendall(
                b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 200")
    until(lambda: all(not held["requests"] for held in client.get("/v1/models/loaded").json()["data"]))
    assert ask(client, input="Hi.").status_code == 200


# Fields ------------------------------------------------------------------------------------------------


def seconds(client: httpx.Client, **fields: object) -> float:
    return len(ask(client, response_format="pcm", **fields).content) / 2 / RATE


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
def test_speed(client: httpx.Client, speed: float) -> None:
    text = " ".join(SENTENCES[:3])
    assert seconds(client, input=text) / seconds(client, input=text, speed=speed) == pytest.approx(
        speed, rel=0.25
    )


def test_a_voice_is_found_by_any_of_its_names(client: httpx.Client) -> None:
    for name, id in {
        "Espeak.EN-US.default": "Espeak.EN-US.default",
        "espeak.de-de.DEFAULT": "Espeak.DE-DE.default",
        "Espeak.EN-GB.f3": "Espeak.EN-GB.f3",
        "espeak-fr-fr": "Espeak.FR-FR.default",
        "nova": "Espeak.EN-US.f3",
    }.items():
        assert ask(client, input="Hi.", voice=name).headers["x-voice"] == id
    assert ask(client, input="Hi.", voice={"id": "Espeak.EN-US.m1"}).headers["x-voice"] == "Espeak.EN-US.m1"
    assert ask(client, input="Hola.", language="es").headers["x-voice"] == "Espeak.ES-ES.default"
    assert ask(client, input="Hallo.", voice="nova", language="de").headers["x-voice"] == "Espeak.DE-DE.f3"


@pytest.mark.parametrize(
    ("said", "voice", "language"),
    [
        ("Das Wetter ist heute warm.", "Espeak.DE-DE.default", "de"),
        ("Mi color favorito es el verde.", "Espeak.ES-ES.default", "es"),
        ("Peter habite à Londres.", "Espeak.FR-FR.default", "fr"),
    ],
)
def test_other_languages_come_back_too(client: httpx.Client, said: str, voice: str, language: str) -> None:
    sound = ask(client, input=said, voice=voice, response_format="wav").content
    assert heard(client, sound, language) == said


def test_voices_sound_different(client: httpx.Client) -> None:
    def spectrum(voice: str) -> Pcm:
        pcm = decoded(ask(client, input=SENTENCES[0], voice=voice, response_format="pcm").content, "pcm")
        mean = np.abs(np.fft.rfft(pcm[: len(pcm) // 1024 * 1024].reshape(-1, 1024))).mean(axis=0)
        return np.asarray(mean / mean.sum(), np.float32)

    alloy = spectrum("alloy")
    again, other = (np.abs(alloy - spectrum(voice)).sum() for voice in ("alloy", "nova"))
    assert other > 3 * again


def test_lists_for_the_clients_that_ask(client: httpx.Client) -> None:
    voices = client.get("/v1/audio/voices").json()["voices"]
    names = {voice["id"] for voice in voices}
    assert {"alloy", "nova", "Espeak.EN-US.default", "Espeak.ZH-CN.default", "Espeak.JA-JP.default"} <= names
    assert len(names) == len(voices) > 110
    assert all(voice["name"] for voice in voices)
    models = [model["id"] for model in client.get("/api/v1/audio/models").json()["models"]]
    assert {"tts-1", "espeak"} <= set(models)
    for model in models:
        assert ask(client, input="Hi.", model=model).status_code == 200


# Text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["...", "🙂", "\0", "\u200b!?", "-"], ids=["dots", "emoji", "nul", "invisible", "dash"]
)
def test_a_text_without_a_word_is_silence(client: httpx.Client, text: str) -> None:
    for format in FORMATS:
        pcm = decoded(ask(client, input=text, response_format=format).content, format)
        assert 0.1 < len(pcm) / RATE < 0.6
        assert np.abs(pcm).max() < 0.01


def test_what_cannot_be_read_does_not_disturb(client: httpx.Client) -> None:
    said = "The\0 weather 🙂👍🏽 is\u200b beautiful\ttoday.\ufeff\n\n\n🎉 Peter lives in\r\nLondon."
    sound = ask(client, input=said, response_format="wav").content
    assert heard(client, sound) == "The weather is beautiful today. Peter lives in London."


def test_null_is_as_if_absent(client: httpx.Client) -> None:
    """As clients send it that write down each field they know."""
    optional = ("model", "voice", "instructions", "response_format", "speed", "stream_format", "language")
    answer = ask(client, input="Hi.", **dict.fromkeys(optional))
    assert answer.headers["content-type"] == "audio/mpeg"
    assert ask(client, input=None).json()["error"]["param"] == "input"


# Refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"input": ""}, 400, "input", 400),
        ({"input": "  \n"}, 400, "input", 400),
        ({}, 400, "input", 400),
        ({"input": "Hi.", "voice": "nobody"}, 400, "voice", "voice_not_found"),
        (
            {"input": "Hi.", "voice": "Espeak.DE-DE.default", "language": "fr"},
            400,
            "voice",
            "voice_not_found",
        ),
        ({"input": "Hi.", "language": "xx"}, 400, "voice", "voice_not_found"),
        ({"input": "Hi.", "response_format": "midi"}, 400, "response_format", "invalid_value"),
        ({"input": "Hi.", "speed": 5}, 400, "speed", "invalid_value"),
        ({"input": "Hi.", "speed": 0.2}, 400, "speed", "invalid_value"),
        ({"input": "Hi.", "speed": "fast"}, 400, "speed", "invalid_value"),
        ({"input": "Hi.", "stream_format": "smoke"}, 400, "stream_format", "invalid_value"),
        ({"input": "Hi.", "voice": 7}, 400, "voice", "invalid_value"),
        ({"input": "Hi.", "model": "whisper-1"}, 404, None, "model_not_found"),
        ({"input": "a " * 2049}, 400, "input", "text_too_long"),
    ],
)
def test_refusals(
    client: httpx.Client, fields: dict[str, object], status: int, param: str | None, code: object
) -> None:
    answer = ask(client, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)


def test_text_of_just_the_size_is_spoken(client: httpx.Client) -> None:
    text = ("a " * 2048)[:-1] + "."
    assert len(text) == 4096
    assert ask(client, input=text, speed=4, response_format="opus").status_code == 200


# Faults ------------------------------------------------------------------------------------------------


def test_a_voice_that_dies_in_the_middle_is_not_noticed(server: Server, client: httpx.Client) -> None:
    said = "The weather is beautiful today. Peter lives in London."
    ask(client, input="Hi.")
    with client.stream(
        "POST", "/v1/audio/speech", json={"input": said * 40, "response_format": "wav", "voice": "alloy"}
    ) as answer:
        pieces = answer.iter_raw()
        sound = next(pieces)
        for process in server.children("server.speaker"):
            process.kill()
        sound += b"".join(pieces)
    whole = ask(client, input=said * 40, response_format="wav").content
    assert len(sound) == pytest.approx(len(whole), rel=0.02)
    assert "died while it spoke" in server.log or len(sound) > 1 << 20


def test_the_process_that_writes_sound_is_replaced(server: Server, client: httpx.Client) -> None:
    for process in server.children("server.encoder"):
        process.kill()
    until(lambda: ask(client, input="Hi.").status_code == 200)
    assert decoded(ask(client, input="Hi.").content).size
