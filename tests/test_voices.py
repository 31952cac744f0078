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
from tests.speech import Pcm

SAID = "The weather is beautiful today. Peter lives in London."


@pytest.fixture(scope="module")
def piping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a Piper voice, two models of Kokoro's, and names of one's own."""
    data = tmp_path_factory.mktemp("data")
    tiny_voices.piper(data / "voices" / "downloads")
    tiny_voices.kokoro(data / "voices" / "kokoro")
    tiny_voices.kokoro(data / "voices" / "older", "kokoro-v1.0", hub=False)
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
    assert ask(client).headers["x-voice"] == "Piper.EN-US.tiny-x_low.low"
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
    listed = [voice["id"] for voice in client.get("/v1/audio/voices").json()["voices"]]
    assert listed.count("Siri") == listed.count("alloy") == 1
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


@pytest.mark.parametrize("voice", ["siri", "af_heart"])
def test_words_sound_as_they_are_given(client: httpx.Client, voice: str) -> None:
    def sound(ipa: str) -> bytes:
        text = f'<speak>A <phoneme ph="{ipa}">tomato</phoneme>.</speak>'
        return ask(client, input=text, voice=voice).content

    assert len(sound("tə")) < len(sound("təmɑːtoʊtəmɑːtoʊ"))


# Kokoro ------------------------------------------------------------------------------------------------


def sound(client: httpx.Client, voice: str, **fields: object) -> Pcm:
    answer = ask(client, voice=voice, **fields)
    return np.frombuffer(answer.raise_for_status().content, "<i2").astype(np.float32) / np.float32(32768)


def test_kokoros_voices_have_names_as_nvidias(client: httpx.Client) -> None:
    voices = [voice["id"] for voice in client.get("/v1/audio/voices").json()["voices"]]
    assert [voice for voice in voices if voice.startswith("Kokoro.EN-US") and voice.count(".") == 2] == [
        f"Kokoro.EN-US.{name}" for name in ("Heart", "Bella", "Nova", "Adam")
    ], "the best one first"
    for name in ("af_heart", "kokoro.en-us.heart", "Kokoro.EN-US.af_heart"):
        assert ask(client, voice=name).headers["x-voice"] == "Kokoro.EN-US.Heart"
    assert ask(client, model="kokoro").headers["x-voice"] == "Kokoro.EN-US.Heart"
    assert ask(client, model="kokoro", voice="nova").headers["x-voice"] == "Kokoro.EN-US.Nova", "no other's"
    assert ask(client, language="en-GB").headers["x-voice"] == "Kokoro.EN-GB.Emma"
    assert len(sound(client, "af_heart", speed=0.5)) > 1.5 * len(sound(client, "af_heart"))


def test_kokoros_voices_are_mixed(client: httpx.Client) -> None:
    low, high, between = (sound(client, voice) for voice in ("af_bella", "am_adam", "af_nova"))
    answer = ask(client, voice="af_bella+am_adam(2)")
    assert answer.headers["x-voice"] == "Kokoro.EN-US.Bella+Adam(2)"
    mixed = np.frombuffer(answer.content, "<i2").astype(np.float32) / np.float32(32768)
    # By their styles this mixture is just the third voice.
    assert np.abs(mixed - between).max() < 0.01
    assert min(np.abs(mixed - low).max(), np.abs(mixed - high).max()) > 0.05
    assert np.array_equal(sound(client, "Kokoro.EN-US.Bella+nova"), sound(client, "af_bella(2)+af_nova(2.0)"))


@pytest.mark.parametrize(
    "voice",
    [
        "af_bella+nobody",
        "af_bella+siri",
        "af_bella(0)+af_nova",
        "af_bella+",
        "af_bella(-1)+af_nova",
        "+".join(["af_bella"] * 9),
        "af_bella+Kokoro.EN-US.Nova.kokoro-v1_0",
    ],
)
def test_what_cannot_be_mixed(client: httpx.Client, voice: str) -> None:
    answer = ask(client, voice=voice)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "voice_not_found")


def test_kokoros_own_releases_are_as_good_as_the_hubs(client: httpx.Client) -> None:
    hubs, own = sound(client, "af_heart"), sound(client, "Kokoro.EN-US.Heart.kokoro-v1_0")
    assert np.array_equal(hubs, own)


def test_a_voice_speaks_its_language_as_the_text_has_it(client: httpx.Client) -> None:
    said = "She can't dance after the bath."
    american, british = (sound(client, "af_heart", input=said, language=f"en-{at}") for at in ("US", "GB"))
    assert len(american) != len(british) or not np.array_equal(american, british)
    answer = ask(client, voice="af_heart", language="fr", input="Bonjour.")
    assert answer.status_code == 400


def test_without_engines_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(VoiceNotFound, match="no speech engine is installed"):
        Voices(tmp_path).find("alloy")
