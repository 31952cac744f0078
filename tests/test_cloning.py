"""Voices of samples, on a tiny Pocket TTS: OpenAI's custom voices with its client, the NIM's audio_prompt."""

import io
import os
import socket
import wave
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from server import keys
from server.custom_voices import CustomVoices
from tests import tiny_voices
from tests.serving import Server, serving, until
from tests.speech import SENTENCES, Pcm, silence, talk, wav

pytestmark = pytest.mark.slow

ALICE, BOB, ADMIN = "key-of-alice-0123456789", "key-of-bob-0123456789", "key-of-admin-0123456789"

SAID = "Deploy and run speech synthesis."


@lru_cache
def sample(voice: str = "en-us", sentences: int = 3) -> bytes:
    """Some seconds of somebody's speech."""
    return wav(talk(SENTENCES[:sentences], 0.2, voice))


@pytest.fixture(scope="module")
def cloning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose Pocket TTS clones, that wants keys."""
    data = tmp_path_factory.mktemp("data")
    tiny_voices.pocket(data / "voices")
    lines = {
        "alice": keys.line(ALICE, "use"),
        "bob": keys.line(BOB, "use"),
        "boss": keys.line(ADMIN, "admin"),
    }
    known = ",".join(f"{name}={line}" for name, line in lines.items())
    with serving(data, environment={"WHISPERD_KEYS": known, "WHISPERD_CUSTOM_VOICES": "4"}) as server:
        yield server


def client(server: Server, key: str = ALICE) -> httpx.Client:
    made = server.client()
    made.headers["Authorization"] = f"Bearer {key}"
    return made


def official(server: Server, key: str = ALICE) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def alice(cloning: Server) -> Iterator[httpx.Client]:
    with client(cloning) as made:
        yield made


@pytest.fixture
def consent(cloning: Server) -> Iterator[str]:
    """The id of a consent of Alice's; all that was made with it is gone afterwards."""
    with official(cloning) as alice:
        made = alice.audio.voice_consents.create(name="Ann", recording=("a.wav", sample()), language="en-US")
        yield made.id
    with client(cloning) as http:
        for voice in http.get("/v1/audio/voices").json()["voices"]:
            if voice["id"].startswith("voice_"):
                http.delete(f"/v1/audio/voices/{voice['id']}")
        http.delete(f"/v1/audio/voice_consents/{made.id}")


def pcm(data: bytes) -> Pcm:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def speech(http: httpx.Client, voice: str, **fields: object) -> httpx.Response:
    asked = {"input": SAID, "voice": voice, "response_format": "pcm"} | fields
    return http.post("/v1/audio/speech", json=asked)


# Pocket's own voices ------------------------------------------------------------------------------------


def test_its_own_voices_speak(alice: httpx.Client) -> None:
    low, high = (speech(alice, f"pocket.en-us.tiny.{name}") for name in ("low", "high"))
    assert low.headers["x-voice"] == "Pocket.EN-US.tiny.low"
    assert len(low.content) == len(high.content) > 2 * 24_000
    assert np.abs(pcm(low.content) - pcm(high.content)).mean() > 0.01
    assert np.abs(pcm(low.content) - pcm(speech(alice, "Pocket.EN-US.tiny.low").content)).max() < 0.01


@pytest.mark.slow
def test_its_process_may_die_and_the_sound_goes_on(cloning: Server, alice: httpx.Client) -> None:
    whole = pcm(speech(alice, "Pocket.EN-US.tiny.low").content)
    with alice.stream("POST", "/v1/audio/speech", json={
        "input": SAID, "voice": "Pocket.EN-US.tiny.low", "response_format": "pcm"
    }) as answer:  # fmt: skip
        chunks = answer.iter_bytes()
        parts = [next(chunks)]
        for process in cloning.children("server.speaker"):
            process.kill()
        parts += chunks
    assert np.abs(whole - pcm(b"".join(parts))).max() < 0.01


# OpenAI's custom voices ---------------------------------------------------------------------------------


def test_a_voice_is_made_used_listed_and_deleted(cloning: Server, consent: str) -> None:
    with official(cloning) as alice, client(cloning) as http:
        voice = alice.audio.voices.create(name="Mine", audio_sample=("s.wav", sample()), consent=consent)
        assert (voice.object, voice.name) == ("audio.voice", "Mine")
        assert voice.id.startswith("voice_")
        spoken = alice.audio.speech.create(
            model="tts-1", input=SAID, voice={"id": voice.id}, response_format="pcm"
        )
        assert spoken.response.headers["x-voice"] == voice.id
        mine = pcm(spoken.content)
        assert np.abs(mine - pcm(speech(http, "Pocket.EN-US.tiny.low").content)).mean() > 0.01
        assert np.abs(mine - pcm(speech(http, voice.id).content)).max() < 0.01
        listed = http.get("/v1/audio/voices").json()["voices"]
        assert {"id": voice.id, "name": "Mine", "language": "en-US"} in listed
        told = http.get(f"/v1/audio/voices/{voice.id}").json()
        assert told == {
            "object": "audio.voice", "id": voice.id, "name": "Mine", "created_at": voice.created_at
        }  # fmt: skip
        gone = http.delete(f"/v1/audio/voices/{voice.id}").json()
        assert gone == {"id": voice.id, "object": "audio.voice", "deleted": True}
        refused = speech(http, voice.id)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "voice_not_found")
        assert http.delete(f"/v1/audio/voices/{voice.id}").status_code == 404


def test_voices_of_other_keys_are_not_there(cloning: Server, consent: str) -> None:
    with official(cloning) as alice, client(cloning, BOB) as bob, client(cloning, ADMIN) as boss:
        voice = alice.audio.voices.create(name="Mine", audio_sample=("s.wav", sample()), consent=consent).id
        for http, there in ((bob, False), (boss, True)):
            assert speech(http, voice).is_success is there
            assert (voice in http.get("/v1/audio/voices").text) is there
            assert http.get(f"/v1/audio/voices/{voice}").is_success is there
            assert http.get(f"/v1/audio/voice_consents/{consent}").is_success is there
            assert (consent in http.get("/v1/audio/voice_consents").text) is there
        form = {"name": "Stolen", "consent": consent}
        stolen = bob.post("/v1/audio/voices", data=form, files={"audio_sample": ("s.wav", sample())})
        assert (stolen.status_code, stolen.json()["error"]["code"]) == (404, "consent_not_found")
        assert bob.delete(f"/v1/audio/voices/{voice}").status_code == 404
        assert bob.delete(f"/v1/audio/voice_consents/{consent}").status_code == 404
        nim = {"text": SAID, "language": "en-US", "voice": voice}
        assert bob.post("/v1/audio/synthesize", data=nim).status_code == 400
    with cloning.client() as nobody:
        assert voice not in nobody.get("/v1/audio/voices").text


def test_consents(cloning: Server, consent: str) -> None:
    with official(cloning) as alice, client(cloning) as http:
        consents = alice.audio.voice_consents
        second = consents.create(name="Two", recording=("a.wav", sample()), language="en-GB")
        assert consents.retrieve(second.id).language == "en-GB"
        assert consents.update(consent, name="Anna").name == "Anna"
        assert consents.retrieve(consent).name == "Anna"
        first = http.get("/v1/audio/voice_consents", params={"limit": 1}).json()
        assert (first["data"][0]["id"], first["has_more"]) == (second.id, True)
        rest = http.get("/v1/audio/voice_consents", params={"after": second.id}).json()
        assert [one["id"] for one in rest["data"]] == [consent]
        assert (rest["first_id"], rest["last_id"], rest["has_more"]) == (consent, consent, False)
        assert [one.id for one in consents.list(limit=1)] == [second.id, consent], "the client turns pages"
        assert consents.delete(second.id).deleted
        with pytest.raises(openai.NotFoundError):
            consents.retrieve(second.id)


def test_a_consent_stays_while_a_voice_needs_it(cloning: Server, consent: str) -> None:
    with official(cloning) as alice, client(cloning) as http:
        voice = alice.audio.voices.create(name="Mine", audio_sample=("s.wav", sample()), consent=consent)
        kept = http.delete(f"/v1/audio/voice_consents/{consent}")
        assert (kept.status_code, kept.json()["error"]["code"]) == (400, "consent_in_use")
        assert voice.id in kept.json()["error"]["message"]
        assert http.delete(f"/v1/audio/voices/{voice.id}").is_success
        assert http.delete(f"/v1/audio/voice_consents/{consent}").is_success


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"this is no sound at all" * 99, 400, "invalid_media"),
        (b"", 400, "invalid_media"),
        (sample("en-us", 1)[:60_000], 400, "audio_too_short"),
        (wav(silence(5)), 400, "audio_too_short"),
        (wav(np.tile(talk(SENTENCES[:6], 0.2), 3)), 400, "audio_too_long"),
        (bytes(11 << 20), 413, "too_large"),
    ],
    ids=["garbage", "nothing", "short", "silent", "long", "huge"],
)
def test_recordings_that_are_no_samples(
    cloning: Server, alice: httpx.Client, consent: str, sent: bytes, status: int, code: str
) -> None:
    before = alice.get("/v1/audio/voices").text
    for path, file, fields in (
        ("voices", "audio_sample", {"name": "x", "consent": consent}),
        ("voice_consents", "recording", {"name": "x", "language": "en"}),
    ):
        answer = alice.post(f"/v1/audio/{path}", data=fields, files={file: ("a.wav", sent)})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code), answer.text
        assert error["param"] in (file, None)
    assert alice.get("/v1/audio/voices").text == before
    assert not list((cloning.data / "spool").iterdir())


def test_what_a_form_lacks_is_told(alice: httpx.Client, consent: str) -> None:
    file = {"audio_sample": ("s.wav", sample())}
    for form, name in (
        ({"consent": consent}, "name"),
        ({"name": "x"}, "consent"),
    ):
        answer = alice.post("/v1/audio/voices", data=form, files=file)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    unknown = alice.post("/v1/audio/voices", data={"name": "x", "consent": "cons_../../etc"}, files=file)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "consent_not_found")
    language = {"name": "x", "language": "not a language"}
    answer = alice.post("/v1/audio/voice_consents", data=language, files={"recording": ("s.wav", sample())})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "language")
    other = alice.post("/v1/audio/voice_consents/" + consent, json={"name": ""})
    assert (other.status_code, other.json()["error"]["param"]) == (400, "name")


def test_a_key_keeps_no_more_than_its_number(alice: httpx.Client, consent: str) -> None:
    form, file = {"name": "x", "language": "en-US"}, {"recording": ("s.wav", sample())}
    made = [alice.post("/v1/audio/voice_consents", data=form, files=file) for _ in range(4)]
    assert [answer.status_code for answer in made] == [200, 200, 200, 507]
    for answer in made[:3]:
        assert alice.delete(f"/v1/audio/voice_consents/{answer.json()['id']}").is_success


def test_a_language_without_a_model(alice: httpx.Client) -> None:
    form, file = {"name": "x", "language": "fr-FR"}, {"recording": ("s.wav", sample())}
    french = alice.post("/v1/audio/voice_consents", data=form, files=file).json()["id"]
    asked = {"name": "x", "consent": french}
    answer = alice.post("/v1/audio/voices", data=asked, files={"audio_sample": ("s.wav", sample())})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "cannot_clone")
    assert "en-US" in answer.json()["error"]["message"]
    assert alice.delete(f"/v1/audio/voice_consents/{french}").is_success


def test_an_upload_that_breaks_off_leaves_nothing(cloning: Server, alice: httpx.Client) -> None:
    address = (cloning.url.split("/")[2].split(":")[0], int(cloning.url.rsplit(":", 1)[1]))
    with socket.create_connection(address) as connection:
        connection.sendall(
            b"POST /v1/audio/voice_consents HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
            b"Authorization: Bearer " + ALICE.encode() + b"\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            b'--b\r\nContent-Disposition: form-data; name="recording"; filename="a.wav"\r\n\r\n' + bytes(5000)
        )
        until(lambda: list((cloning.data / "spool").iterdir()))
    until(lambda: not list((cloning.data / "spool").iterdir()))
    assert alice.get("/v1/audio/voice_consents").json()["data"] == []


@pytest.mark.slow
def test_who_leaves_while_a_voice_is_made_leaves_nothing(
    cloning: Server, alice: httpx.Client, consent: str
) -> None:
    for process in cloning.children("server.speaker"):
        process.kill()  # another one takes seconds to load
    form, file = {"name": "x", "consent": consent}, {"audio_sample": ("s.wav", sample())}
    request = alice.build_request("POST", "/v1/audio/voices", data=form, files=file)
    body = request.read()
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    folder = cloning.data / "custom_voices" / "voices"
    with socket.create_connection((request.url.host, request.url.port or 80)) as connection:
        head = "\r\n".join(["POST /v1/audio/voices HTTP/1.1", *lines, "", ""])
        connection.sendall(head.encode() + body)
        until(lambda: list(folder.glob(".new-*")))
    until(lambda: not list(folder.iterdir()))
    until(lambda: not list((cloning.data / "spool").iterdir()))


@pytest.mark.slow
def test_a_worker_that_dies_while_it_clones_is_replaced(
    cloning: Server, alice: httpx.Client, consent: str
) -> None:
    for process in cloning.children("server.speaker"):
        process.kill()
    answer = alice.post(
        "/v1/audio/voices",
        data={"name": "x", "consent": consent},
        files={"audio_sample": ("s.wav", sample())},
    )
    assert answer.status_code == 200, answer.text
    voice = answer.json()["id"]
    kept = cloning.data / "custom_voices" / "voices" / voice
    assert len(list(kept.glob("*.safetensors"))) == 1, "what was made of the sample is kept"
    assert (kept.stat().st_mode & 0o777) == 0o700
    before = pcm(speech(alice, voice).content)
    for process in cloning.children("server.speaker"):
        process.kill()
    with client(cloning) as fresh:
        assert np.abs(before - pcm(speech(fresh, voice).content)).max() < 0.01


# The NIM's audio_prompt ---------------------------------------------------------------------------------


def synthesize(
    http: httpx.Client, prompt: bytes | None, path: str = "synthesize", **fields: str
) -> httpx.Response:
    form = {"text": SAID, "language": "en-US"} | fields
    files = {"audio_prompt": ("sample_audio_prompt.wav", prompt)} if prompt is not None else None
    return http.post(f"/v1/audio/{path}", data=form, files=files)


def frames(answer: httpx.Response) -> Pcm:
    assert answer.status_code == 200, answer.text
    with wave.open(io.BytesIO(answer.content)) as file:
        return pcm(file.readframes(file.getnframes()))


def test_a_prompt_is_spoken_like(cloning: Server, alice: httpx.Client) -> None:
    one = frames(synthesize(alice, sample(), audio_prompt_transcript=" ".join(SENTENCES[:3])))
    other = frames(synthesize(alice, sample("de")))
    assert np.abs(one - other).mean() > 0.01
    again = frames(synthesize(alice, sample(), prompt_quality="40", voice="Magpie-ZeroShot.Male-1"))
    assert len(one) == len(again)
    named = frames(synthesize(alice, sample(), voice="Pocket.EN-US.tiny.low", sample_rate_hz="24000"))
    assert len(named) == pytest.approx(len(one) * 24_000 / 22_050, rel=0.01)
    online = synthesize(alice, sample(), "synthesize_online")
    assert np.abs(one - pcm(online.content)).max() < 0.01
    assert "content-type" not in online.headers
    until(lambda: not list((cloning.data / "spool").iterdir()))


@pytest.mark.parametrize(
    ("prompt", "fields", "detail"),
    [
        (b"no sound at all" * 99, {}, "Bad Request, invalid audio_prompt: "),
        (b"", {}, "Bad Request, invalid audio_prompt: "),
        (sample("en-us", 1)[:60_000], {}, "at least 3 s are needed"),
        (wav(np.tile(talk(SENTENCES[:6], 0.2), 3)), {}, "the sample lasts longer than 30 s"),
        (wav(silence(5)), {}, "of speech are in the sample"),
        (sample(), {"voice": "Espeak.EN-US.default"}, "cannot speak in the voice of a sample"),
        (sample(), {"language": "fr-FR"}, "samples can be spoken like in en-US here"),
        (
            sample(),
            {"voice": "nobody"},
            "Model is not available on server: Voice nobody for language en-US not found. "
            "Please specify the voice name in your SynthesizeSpeechRequest.",
        ),
        (sample(), {"prompt_quality": "41"}, "Bad Request, prompt_quality must be from 1 to 40"),
        (sample(), {"text": ""}, "Bad Request, empty text input"),
        (sample(), {"language": ""}, "Bad Request, empty language code"),
        (sample(), {"encoding": "OGGOPUS"}, "Bad Request, invalid encoding"),
    ],
)
def test_a_prompt_that_is_refused(
    alice: httpx.Client, prompt: bytes, fields: dict[str, str], detail: str
) -> None:
    answer = synthesize(alice, prompt, **fields)
    assert answer.status_code == 400, answer.text
    assert detail in answer.json()["detail"]


def test_without_a_model_that_clones_it_is_told(server: Server, client: httpx.Client) -> None:
    answer = synthesize(client, sample())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "cannot_clone")
    assert "scripts/serve --with pocket" in answer.json()["detail"]
    file = {"recording": ("s.wav", sample())}
    agreed = client.post("/v1/audio/voice_consents", data={"name": "x", "language": "en"}, files=file).json()
    form = {"name": "x", "consent": agreed["id"]}
    made = client.post("/v1/audio/voices", data=form, files={"audio_sample": ("s.wav", sample())})
    assert (made.status_code, made.json()["error"]["code"]) == (400, "cannot_clone")
    assert client.delete(f"/v1/audio/voice_consents/{agreed['id']}").json()["deleted"]


def test_what_servers_that_were_killed_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "voices" / ".new-voice_0"
    left.mkdir(parents=True)
    fresh = tmp_path / "voices" / ".new-voice_1"
    fresh.mkdir()
    os.utime(left, (0, 0))
    CustomVoices(tmp_path, 9).sweep()
    assert not left.exists()
    assert fresh.exists()
