"""NVIDIA's TTS NIM, its document line by line: curl's commands as they stand there, and its sentences."""

import io
import re
import subprocess
import wave
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.serving import Server
from tests.speech import SENTENCES

SAID = "Deploy and run speech synthesis with NVIDIA TTS NIM."


def curl(server: Server, folder: Path, command: str) -> str:
    """What one of the document's commands prints, run against this server in a folder."""
    return subprocess.run(
        ["bash", "-c", command.replace("http://localhost:9000", server.url)],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


def ask(client: httpx.Client, path: str = "synthesize", /, **fields: object) -> httpx.Response:
    form = {"text": SAID, "language": "en-US"} | fields
    files = {name: (None, str(value)) for name, value in form.items() if value is not None}
    return client.post(f"/v1/audio/{path}", files=files)


def shape(data: bytes) -> tuple[int, int, int, int]:
    with wave.open(io.BytesIO(data)) as file:
        assert 44 + 2 * file.getnframes() == len(data), "the header tells the size"
        return file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()


# The document's commands -------------------------------------------------------------------------------


def test_list_voices(server: Server, client: httpx.Client, tmp_path: Path) -> None:
    assert '"voices"' in curl(server, tmp_path, "curl -s http://localhost:9000/v1/audio/list_voices")
    ((locales, value),) = client.get("/v1/audio/list_voices").json().items()
    assert {"en-US", "fr-FR", "de-DE", "zh-CN", "vi-VN", "it-IT", "hi-IN", "ja-JP"} <= set(locales.split(","))
    assert list(value) == ["voices"]
    assert all(re.fullmatch(r"\w+\.[A-Z0-9-]+\.[\w-]+(\.[\w-]+)?", voice) for voice in value["voices"])
    assert "Espeak.EN-US.default" in value["voices"]


def test_standard_synthesis(server: Server, tmp_path: Path) -> None:
    curl(
        server,
        tmp_path,
        """curl -sS http://localhost:9000/v1/audio/synthesize \
  -F language=en-US \
  -F text="Deploy and run speech synthesis with NVIDIA TTS NIM." \
  -F voice="Magpie-Multilingual.EN-US.Aria" \
  --output output.wav""",
    )
    channels, width, rate, frames = shape((tmp_path / "output.wav").read_bytes())
    assert (channels, width, rate) == (1, 2, 22_050)
    assert frames > 2 * rate


def test_with_sample_rate_and_emotion_voice(server: Server, tmp_path: Path) -> None:
    curl(
        server,
        tmp_path,
        """curl -sS http://localhost:9000/v1/audio/synthesize \
  -F language=en-US \
  -F text="I am delighted to help you today." \
  -F voice="Magpie-Multilingual.EN-US.Aria.Happy" \
  -F sample_rate_hz=44100 \
  --output output.wav""",
    )
    assert shape((tmp_path / "output.wav").read_bytes())[:3] == (1, 2, 44_100)


def test_online(server: Server, tmp_path: Path) -> None:
    curl(
        server,
        tmp_path,
        """curl -sS http://localhost:9000/v1/audio/synthesize_online \
  -F language=en-US \
  -F text="Deploy and run speech synthesis with NVIDIA TTS NIM." \
  -F voice="Magpie-Multilingual.EN-US.Aria" \
  -F sample_rate_hz=22050 \
  --output output.raw""",
    )
    pcm = np.frombuffer((tmp_path / "output.raw").read_bytes(), "<i2")
    assert len(pcm) > 2 * 22_050
    assert not (tmp_path / "output.raw").read_bytes().startswith(b"RIFF")
    assert np.abs(pcm).max() > 3000


def test_a_book_paragraph_by_paragraph(server: Server, tmp_path: Path) -> None:
    (tmp_path / "paragraphs.txt").write_text(f"{SENTENCES[0]}\n\n{SENTENCES[1]}\n")
    curl(
        server,
        tmp_path,
        """while IFS= read -r chunk; do
  [ -z "$chunk" ] && continue
  curl -sS http://localhost:9000/v1/audio/synthesize \
    -F language=en-US \
    -F text="$chunk" \
    -F voice="Magpie-Multilingual.EN-US.Aria" \
    --output "chunk_${RANDOM}.wav"
done < paragraphs.txt""",
    )
    written = list(tmp_path.glob("chunk_*.wav"))
    assert len(written) == 2
    for file in written:
        assert shape(file.read_bytes())[3] > 22_050


@pytest.mark.parametrize("path", ["health/ready", "health/live", "models", "version", "metadata"])
def test_the_rest_of_the_document_is_answered(client: httpx.Client, path: str) -> None:
    assert client.get(f"/v1/{path}").status_code == 200


def test_characters_are_counted(client: httpx.Client) -> None:
    def counted() -> float:
        return float(re.findall(r"^num_characters_tts_total (\S+)", client.get("/v1/metrics").text, re.M)[0])

    before = counted()
    assert ask(client, text="Chapter 5.").status_code == 200
    assert counted() - before == len("Chapter five.")


def test_metadata_names_what_speaks(client: httpx.Client) -> None:
    names = [model["shortName"] for model in client.get("/v1/metadata").json()["modelInfo"]]
    assert "espeak" in names


# Headers and sound -------------------------------------------------------------------------------------


def test_whole_answers_are_wav_and_have_a_length(client: httpx.Client) -> None:
    answer = ask(client)
    assert answer.headers["content-type"] == "audio/wav"
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_online_answers_are_chunked_and_without_a_type(client: httpx.Client) -> None:
    answer = ask(client, "synthesize_online")
    assert "content-type" not in answer.headers
    assert answer.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
def test_every_sample_rate_has_the_same_sound(client: httpx.Client, rate: int) -> None:
    whole = ask(client, text=SENTENCES[0], sample_rate_hz=rate).content
    online = ask(client, "synthesize_online", text=SENTENCES[0], sample_rate_hz=rate).content
    seconds = {shape(whole)[3] / rate, len(online) / 2 / rate}
    assert max(seconds) - min(seconds) < 0.03
    assert shape(whole)[2] == rate
    pcm = np.frombuffer(whole[44:], "<i2")
    assert np.abs(pcm[-rate // 3 :]).max() < 0.5 * np.abs(pcm).max(), "the sentence has come to its end"
    answer = client.post("/v1/audio/transcriptions", files={"file": whole}, data={"model": "ggml-demo"})
    assert rate == 8000 or answer.json()["text"] == SENTENCES[0]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en-US", "Hello."),
        ("es-US", "Hola."),
        ("fr-FR", "Bonjour."),
        ("de-DE", "Hallo."),
        ("zh-CN", "你好。"),
        ("vi-VN", "Xin chào."),
        ("it-IT", "Ciao."),
        ("hi-IN", "नमस्ते।"),
        ("ja-JP", "こんにちは。"),
    ],
)
def test_every_language_of_the_document(client: httpx.Client, language: str, text: str) -> None:
    for voice in (None, f"Magpie-Multilingual.{language.upper()}.Aria"):
        sound = ask(client, language=language, text=text, voice=voice).raise_for_status().content
        assert np.abs(np.frombuffer(sound[44:], "<i2")).max() > 3000


def test_words_of_the_dictionary_sound_as_given(client: httpx.Client) -> None:
    """ "green" is said as the dictionary has it: as "blue"."""
    text = "My favorite color is green."
    sound = ask(client, text=text, custom_dictionary="green  bluː").content
    answer = client.post("/v1/audio/transcriptions", files={"file": sound}, data={"model": "ggml-demo"})
    assert answer.json()["text"] == "My favorite color is blue."
    broken = ask(client, custom_dictionary="green")
    assert broken.status_code == 400
    assert "custom_dictionary" in broken.json()["detail"]


def test_ssml(client: httpx.Client) -> None:
    def seconds(text: str) -> float:
        return len(ask(client, "synthesize_online", text=text).content) / 2 / 22_050

    plain = seconds(SENTENCES[0])
    assert seconds(f"<speak>{SENTENCES[0]}</speak>") == pytest.approx(plain, abs=0.1)
    assert seconds(f'<speak><break time="2s"/>{SENTENCES[0]}</speak>') == pytest.approx(plain + 2, abs=0.1)
    slow = seconds(f'<speak><prosody rate="50%">{SENTENCES[0]}</prosody></speak>')
    assert slow == pytest.approx(2 * plain, rel=0.3)


def test_other_fields_of_the_document_are_taken(client: httpx.Client) -> None:
    fields: dict[str, object] = {
        "encoding": "LINEAR_PCM",
        "custom_dictionary": "NVIDIA  ɛnˈvɪdiə",
        "audio_prompt_transcript": "Hello.",
        "prompt_quality": 20,
    }
    assert ask(client, **fields).status_code == 200


# Errors ------------------------------------------------------------------------------------------------

NOT_FOUND = (
    "Model is not available on server: Voice {} for language {} not found. "
    "Please specify the voice name in your SynthesizeSpeechRequest."
)


@pytest.mark.parametrize("path", ["synthesize", "synthesize_online"])
@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"text": ""}, "Bad Request, empty text input"),
        ({"text": None}, "Bad Request, empty text input"),
        ({"language": ""}, "Bad Request, empty language code"),
        ({"language": None}, "Bad Request, empty language code"),
        ({"voice": "Nobody"}, NOT_FOUND.format("Nobody", "en-US")),
        (
            {"voice": "Magpie-Multilingual.EN-US.Nobody"},
            NOT_FOUND.format("Magpie-Multilingual.EN-US.Nobody", "en-US"),
        ),
        (
            {"voice": "Espeak.EN-US.default", "language": "de-DE"},
            NOT_FOUND.format("Espeak.EN-US.default", "de-DE"),
        ),
        (
            {"voice": "Magpie-Multilingual.EN-US.Aria", "language": "fr-FR"},
            NOT_FOUND.format("Magpie-Multilingual.EN-US.Aria", "fr-FR"),
        ),
        ({"encoding": "OPUS"}, "Bad Request, invalid encoding"),
        (
            {"text": "a " * 1000 + "b"},
            "Error: Triton model failed during inference. Error message: ... "
            "Input text is larger than the maximum input length: 2001 > 2000",
        ),
    ],
)
def test_errors_word_for_word(
    client: httpx.Client, path: str, fields: dict[str, object], detail: str
) -> None:
    answer = ask(client, path, **fields)
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


@pytest.mark.parametrize(
    "fields",
    [
        {"sample_rate_hz": 7999},
        {"sample_rate_hz": 48001},
        {"sample_rate_hz": "many"},
        {"prompt_quality": 0},
        {"prompt_quality": 41},
    ],
)
def test_values_out_of_range(client: httpx.Client, fields: dict[str, object]) -> None:
    answer = ask(client, **fields)
    assert answer.status_code == 400
    assert next(iter(fields)) in answer.json()["detail"]


def test_nothing_at_all_is_an_empty_text(client: httpx.Client) -> None:
    answer = client.post("/v1/audio/synthesize")
    assert (answer.status_code, answer.json()["detail"]) == (400, "Bad Request, empty text input")


def test_two_thousand_characters_are_not_too_many(client: httpx.Client) -> None:
    assert ask(client, text="a " * 999 + "b.").status_code == 200
