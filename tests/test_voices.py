"""Voices of files: put into the folder of a running server, spoken by the engine's own code, taken out."""

import io
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from server.errors import VoiceNotFound
from server.voices import Voices
from tests import tiny_voices
from tests.serving import Server, serving, until

SAID = "The weather is beautiful today. Peter lives in London."


@pytest.fixture(scope="module")
def piping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a Piper voice, and names of one's own."""
    data = tmp_path_factory.mktemp("data")
    tiny_voices.piper(data / "voices" / "downloads")
    aliases = "Siri=Piper.EN-US.tiny-x_low.high,Magpie-Multilingual.EN-US.Aria=Espeak.EN-GB.default"
    with serving(data, environment={"WHISPERD_VOICE_ALIASES": aliases}) as server:
        yield server


@pytest.fixture
def client(piping: Server) -> Iterator[httpx.Client]:
    with piping.client() as client:
        yield client


def ask(client: httpx.Client, **fields: object) -> httpx.Response:
    return client.post("/v1/audio/speech", json={"input": SAID, "response_format": "pcm"} | fields)


def test_a_neural_voice_speaks_before_espeak(client: httpx.Client) -> None:
    assert ask(client).headers["x-voice"] == "Piper.EN-US.tiny-x_low.high"
    assert ask(client, model="espeak").headers["x-voice"].startswith("Espeak.EN-US")
    assert ask(client, language="de").headers["x-voice"].startswith("Espeak.DE-DE")
    sound = np.frombuffer(ask(client, voice="en_US-tiny-x_low").content, "<i2")
    assert 5 < len(sound) / 24_000 < 15
    assert np.abs(sound).max() > 3000


def test_sentences_are_of_one_loudness(client: httpx.Client) -> None:
    def loudness(text: str) -> float:
        sound = np.frombuffer(ask(client, input=text).content, "<i2") / 32768
        return float(np.sqrt(np.mean(np.square(sound[np.abs(sound) > 0.01]))))

    assert loudness("The weather is beautiful today.") == pytest.approx(loudness("Sissy hisses."), rel=0.1)


def test_names_of_ones_own(client: httpx.Client) -> None:
    assert ask(client, voice="siri").headers["x-voice"] == "Piper.EN-US.tiny-x_low.high"
    (value,) = client.get("/v1/audio/list_voices").json().values()
    assert {"Siri", "Piper.EN-US.tiny-x_low.low"} <= set(value["voices"])
    form = {"text": SAID, "language": "en-GB", "voice": "Magpie-Multilingual.EN-US.Aria"}
    answer = client.post("/v1/audio/synthesize", data=form)
    with wave.open(io.BytesIO(answer.content)) as file:
        assert file.getframerate() == 22_050, "resampled from 16 kHz, if it were Piper's"


def test_speakers_of_one_voice_share_a_process(piping: Server, client: httpx.Client) -> None:
    low, high = (ask(client, voice=f"Piper.EN-US.tiny-x_low.{name}").content for name in ("low", "high"))
    assert low != high
    loaded = {model["id"] for model in client.get("/v1/models/loaded").json()["data"]}
    assert "piper/en_US-tiny-x_low" in loaded


def test_files_put_in_and_taken_out_are_seen_at_once(piping: Server, client: httpx.Client) -> None:
    file = tiny_voices.piper(piping.data / "voices", "de_DE-neu-x_low", "de", speakers=False)
    voices = [voice["id"] for voice in client.get("/v1/audio/voices").json()["voices"]]
    assert "Piper.DE-DE.neu-x_low" in voices
    assert ask(client, language="de-DE", input="Hallo.").headers["x-voice"] == "Piper.DE-DE.neu-x_low"
    file.with_name(file.name + ".json").unlink()
    assert ask(client, language="de-DE", input="Hallo.").headers["x-voice"] == "Espeak.DE-DE.default"


def test_a_broken_file_is_an_error_of_its_own(piping: Server, client: httpx.Client) -> None:
    file = tiny_voices.piper(piping.data / "voices", "fr_FR-kaputt-x_low", "fr", speakers=False)
    file.write_bytes(b"this is no graph" * 50)
    answer = ask(client, voice="fr_FR-kaputt-x_low")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_broken")
    assert "fr_FR-kaputt-x_low.onnx" in answer.json()["error"]["message"]
    file.unlink()
    assert ask(client).status_code == 200


def test_its_process_may_die(piping: Server, client: httpx.Client) -> None:
    assert ask(client, voice="siri").status_code == 200
    for process in piping.children("server.speaker"):
        process.kill()
    with piping.client() as fresh:  # the other one's connection may be too old by now
        until(lambda: ask(fresh, voice="siri").status_code == 200)


def test_words_sound_as_they_are_given(client: httpx.Client) -> None:
    def sound(ipa: str) -> bytes:
        text = f'<speak>A <phoneme ph="{ipa}">tomato</phoneme>.</speak>'
        return ask(client, input=text, voice="siri").content

    assert len(sound("tə")) < len(sound("təmɑːtoʊtəmɑːtoʊ"))


def test_without_engines_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(VoiceNotFound, match="no speech engine is installed"):
        Voices(tmp_path).find("alloy")
