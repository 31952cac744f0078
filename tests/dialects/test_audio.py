"""/v1/audio over a real socket, with real media, the real demo model and the real clients."""

import io
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
import sseclient

from tests.serving import Server, until
from tests.speech import SENTENCES, say, silence, talk, wav

TEXT = " ".join(SENTENCES[:4])
PCM = talk(SENTENCES[:4])
WAV = wav(PCM)
TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"


def post(
    client: httpx.Client, path: str = TRANSCRIPTIONS, media: bytes = WAV, **fields: Any
) -> httpx.Response:
    return client.post(path, files={"file": ("talk.wav", media)}, data=fields)


def sse(text: str) -> list[tuple[str, str | None]]:
    """Events as (name, data); data is None where there was none."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines.get("event", ""), lines.get("data")))
    return found


@pytest.fixture
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# Whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/api" + TRANSCRIPTIONS])
def test_json_is_the_default(client: httpx.Client, path: str) -> None:
    answer = post(client, path, model="ggml-demo", language="en")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"text": TEXT, "usage": {"type": "duration", "seconds": 10}}


def test_verbose_json(client: httpx.Client) -> None:
    document = post(client, language="en", response_format="verbose_json").json()
    assert document["text"] == TEXT
    assert (document["task"], document["language"]) == ("transcribe", "english")
    assert document["duration"] == pytest.approx(len(PCM) / 16000, abs=0.01)
    assert [segment["text"].strip() for segment in document["segments"]] == list(SENTENCES[:4])
    assert [segment["id"] for segment in document["segments"]] == [0, 1, 2, 3]
    assert "words" not in document
    assert "demo model" in document["warnings"][0]


def test_times_lie_where_the_sentences_are(client: httpx.Client) -> None:
    segments = post(client, language="en", response_format="verbose_json").json()["segments"]
    at = 0.0
    for sentence, segment in zip(SENTENCES[:4], segments, strict=True):
        spoken = len(say(sentence)) / 16000
        assert segment["start"] == pytest.approx(at, abs=0.5)
        assert segment["end"] == pytest.approx(at + spoken, abs=0.6)
        at += spoken + 0.8
    times = [time for segment in segments for time in (segment["start"], segment["end"])]
    assert times == sorted(times)
    assert times[-1] <= len(PCM) / 16000


@pytest.mark.parametrize("field", ["timestamp_granularities[]", "timestamp_granularities"])
def test_words(client: httpx.Client, field: str) -> None:
    fields: dict[str, Any] = {field: ["segment", "word"]}
    document = post(client, language="en", response_format="verbose_json", **fields).json()
    assert [word["word"] for word in document["words"]] == TEXT.split()
    times = [time for word in document["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)


def test_text(client: httpx.Client) -> None:
    answer = post(client, language="en", response_format="text")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == TEXT + "\n"


def test_srt(client: httpx.Client) -> None:
    cues = post(client, language="en", response_format="srt").text.strip().split("\n\n")
    assert [cue.splitlines()[0] for cue in cues] == ["1", "2", "3", "4"]
    assert [cue.splitlines()[2] for cue in cues] == list(SENTENCES[:4])
    stamp = r"\d\d:\d\d:\d\d,\d{3}"
    assert all(re.fullmatch(f"{stamp} --> {stamp}", cue.splitlines()[1]) for cue in cues)


def test_vtt(client: httpx.Client) -> None:
    answer = post(client, language="en", response_format="vtt")
    assert answer.headers["content-type"] == "text/vtt; charset=utf-8"
    assert answer.text.startswith("WEBVTT\n\n00:00:0")
    assert answer.text.count("-->") == 4


def test_subtitles_of_short_lines_with_highlighted_words(client: httpx.Client) -> None:
    fields: Any = {"max_line_width": 20, "max_line_count": "2", "highlight_words": "true"}
    text = post(client, language="en", response_format="vtt", **fields).text
    shown = re.sub(r"<[^>]*>", "", text).split("\n\n")[1:-1]
    cues = [cue.splitlines()[1:] for cue in shown]
    assert " ".join(line for cue in cues for line in cue) == TEXT
    assert all(len(line) <= 20 for cue in cues for line in cue)
    assert all(len(cue) <= 2 for cue in cues)
    assert text.count("<c>") == len(TEXT.split())
    assert re.search(r" <00:00:0\d\.\d{3}><c>weather</c>", text)


def test_held_back_cues_end_a_stream(client: httpx.Client) -> None:
    fields: Any = {"response_format": "srt", "min_cue_duration": "1", "language": "en"}
    events = sse(post(client, TRANSCRIPTIONS + "?stream=1", **fields).text)
    pieces = [json.loads(data or "") for name, data in events if name == "segment"]
    assert "".join(pieces) == post(client, **fields).text
    assert events[-1][0] == "ok"


@pytest.mark.parametrize(
    ("sentence", "voice", "code", "name", "english"),
    [
        ("Das Wetter ist heute warm.", "de", "de", "german", "The weather is warm today."),
        ("Peter habite à Londres.", "fr-fr", "fr", "french", "Peter lives in London."),
        ("Mi color favorito es el verde.", "es", "es", "spanish", "My favorite color is green."),
    ],
)
def test_language_is_detected_and_translated(
    client: httpx.Client, sentence: str, voice: str, code: str, name: str, english: str
) -> None:
    media = wav(say(sentence, voice))
    document = post(client, media=media, response_format="verbose_json").json()
    assert (document["language"], document["text"]) == (name, sentence)
    translated = post(client, TRANSLATIONS, media, language=code, response_format="verbose_json").json()
    assert (translated["task"], translated["language"], translated["text"]) == (
        "translate",
        "english",
        english,
    )


@pytest.mark.parametrize("language", ["de", "de-DE", "DE_at", "german", "German", "auto", ""])
def test_languages_as_people_write_them(client: httpx.Client, language: str) -> None:
    media = wav(say("Das Wetter ist heute warm.", "de"))
    assert post(client, media=media, language=language).json()["text"] == "Das Wetter ist heute warm."


def test_silence_is_an_empty_text(client: httpx.Client) -> None:
    document = post(client, media=wav(silence(8)), response_format="verbose_json").json()
    assert (document["text"], document["segments"], document["duration"]) == ("", [], 8.0)


def test_speech_after_long_silence_keeps_its_time(client: httpx.Client) -> None:
    media = wav(np.concatenate([silence(40), say(SENTENCES[0]), silence(5)]))
    (segment,) = post(client, media=media, language="en", response_format="verbose_json").json()["segments"]
    assert segment["text"].strip() == SENTENCES[0]
    assert segment["start"] == pytest.approx(40, abs=0.5)
    assert segment["seek"] == pytest.approx(4000, abs=50)


def test_the_demo_says_what_it_is(client: httpx.Client) -> None:
    for fields in (dict[str, Any](), {"stream": "true"}):
        assert "few hundred words" in post(client, **fields).headers["x-whisperd-notice"]


def test_a_form_with_its_file_first(client: httpx.Client) -> None:
    parts: list[Any] = [
        ("file", (".", WAV)),
        ("language", (None, "en")),
        ("model", (None, "demo")),
        ("unknown", (None, "?")),
    ]
    assert client.post(TRANSCRIPTIONS, files=parts).json()["text"] == TEXT


def test_a_chunked_body_without_a_length(client: httpx.Client) -> None:
    request = client.build_request("POST", TRANSCRIPTIONS, files={"file": ("a.wav", WAV)})
    body = request.read()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    headers = {"content-type": request.headers["content-type"], "accept": "multipart/form-data"}
    assert client.post(TRANSCRIPTIONS, content=pieces(), headers=headers).json()["text"] == TEXT


def video() -> bytes:
    """MP4 with pictures and two audio tracks: German first, then English, marked so."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        pictures = container.add_stream("mpeg4", rate=5)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sounds = []
        for language, pcm in (("deu", say("Das Wetter ist heute warm.", "de")), ("eng", say(SENTENCES[0]))):
            stream = container.add_stream("aac", rate=16000, layout="mono")
            stream.metadata["language"] = language
            sounds.append((stream, pcm))
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        for stream, pcm in sounds:
            sound = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="fltp", layout="mono")
            sound.sample_rate = 16000
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("track", "text"),
    [("eng", SENTENCES[0]), ("1", SENTENCES[0]), ("de", "Das Wetter ist heute warm."), ("0", "Das Wetter")],
)
def test_video_and_its_tracks(client: httpx.Client, track: str, text: str) -> None:
    assert post(client, media=video(), audio_track=track).json()["text"].startswith(text)


def test_real_recordings_are_taken(client: httpx.Client, shared_audio: Any) -> None:
    for name in ("jfk.wav", "en-office.mp3"):
        document = post(
            client, media=(shared_audio / name).read_bytes(), response_format="verbose_json"
        ).json()
        assert document["segments"]
        assert all(segment["end"] <= document["duration"] for segment in document["segments"])


# Streams ----------------------------------------------------------------------------------------------


def test_go_whisper_events(client: httpx.Client) -> None:
    answer = post(client, TRANSCRIPTIONS + "?stream=true", language="en")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    events = sse(answer.text)
    assert [name for name, _ in events] == ["ping", "task", *["segment"] * 4, "ok"]
    assert events[0][1] is None
    assert events[-1][1] is None
    task = json.loads(events[1][1] or "")
    assert task == {
        "task": "transcribe",
        "language": "en",
        "duration": pytest.approx(len(PCM) / 16000, abs=0.01),
    }
    segment = json.loads(events[2][1] or "")
    assert list(segment) == ["id", "start", "end", "text"]
    assert segment["text"] == " " + SENTENCES[0]


@pytest.mark.parametrize("format", ["text", "srt", "vtt", "tsv", "lrc"])
def test_go_whisper_text_formats_carry_their_text(client: httpx.Client, format: str) -> None:
    events = sse(post(client, TRANSCRIPTIONS + "?stream=1", language="en", response_format=format).text)
    pieces = [json.loads(data or "") for name, data in events if name == "segment"]
    assert "".join(pieces).strip() == post(client, language="en", response_format=format).text.strip()


def test_go_whisper_translation_events(client: httpx.Client) -> None:
    answer = post(
        client, TRANSLATIONS + "?stream=true", wav(say("Peter habite à Londres.", "fr-fr")), language="fr"
    )
    events = sse(answer.text)
    assert json.loads(events[1][1] or "")["task"] == "translate"
    assert json.loads(events[1][1] or "")["language"] == "en"
    assert json.loads(events[2][1] or "")["text"] == " Peter lives in London."


def test_openai_events_join_to_the_text(client: httpx.Client) -> None:
    events = sse(post(client, language="en", stream="true").text)
    assert all(name == "" for name, _ in events)
    assert events[-1] == ("", "[DONE]")
    data = [json.loads(data or "") for _, data in events[:-1]]
    assert [event["type"] for event in data] == ["transcript.text.delta"] * 4 + ["transcript.text.done"]
    assert "".join(event["delta"] for event in data[:-1]) == data[-1]["text"] == TEXT


def test_the_query_wins_over_the_field(client: httpx.Client) -> None:
    assert sse(post(client, TRANSCRIPTIONS + "?stream=T", stream="true").text)[0][0] == "ping"
    whole = post(client, TRANSCRIPTIONS + "?stream=0", stream="true")
    assert whole.headers["content-type"] == "application/json"
    empty = post(client, TRANSCRIPTIONS + "?stream=", stream="true")
    assert "transcript.text.done" in empty.text


def test_segments_leave_as_soon_as_their_window_is_done(client: httpx.Client) -> None:
    """The first segment of a long talk is here while the server is still at work on the last."""
    media = wav(talk(SENTENCES * 8))
    with client.stream(
        "POST",
        TRANSCRIPTIONS + "?stream=1",
        files={"file": ("a.wav", media)},
        data={"language": "en"},
    ) as answer:
        lines = answer.iter_lines()
        assert any(line == "event: segment" for line in lines)
        with httpx.Client(base_url=client.base_url) as other:
            assert post(other, media=wav(say(SENTENCES[1])), language="en").json()["text"] == SENTENCES[1]
        assert sum(line == "event: segment" for line in lines) > 60


# Clients ----------------------------------------------------------------------------------------------


def test_openai_sdk_whole(sdk: openai.OpenAI) -> None:
    answer = sdk.audio.transcriptions.create(file=("a.wav", WAV), model="ggml-demo", language="en")
    assert answer.text == TEXT
    text = sdk.audio.transcriptions.create(
        file=("a.wav", WAV), model="ggml-demo", language="en", response_format="text"
    )
    assert text.strip() == TEXT


def test_openai_sdk_verbose(sdk: openai.OpenAI) -> None:
    answer = sdk.audio.transcriptions.create(
        file=WAV,
        model="ggml-demo",
        language="en",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert answer.segments
    assert answer.words
    assert answer.words[0].word == "The"
    assert answer.segments[0].avg_logprob > -1
    assert answer.language == "english"


def test_openai_sdk_stream(sdk: openai.OpenAI) -> None:
    stream = sdk.audio.transcriptions.create(
        file=("a.wav", WAV), model="ggml-demo", language="en", stream=True
    )
    events = list(stream)
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(deltas) == TEXT
    assert events[-1].type == "transcript.text.done"


def test_openai_sdk_translation(sdk: openai.OpenAI) -> None:
    media = wav(say("Das Wetter ist heute warm.", "de"))
    with pytest.deprecated_call():  # newer SDKs say so of the whole endpoint
        answer = sdk.audio.translations.create(file=("a.wav", media), model="ggml-demo")
    assert answer.text == "The weather is warm today."


def test_openai_sdk_models_and_errors(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["ggml-demo"]
    assert sdk.models.retrieve("ggml-demo").owned_by == "whisperd"
    with pytest.raises(openai.NotFoundError, match="there is no model 'nope/x'"):
        sdk.models.retrieve("nope/x")
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.audio.transcriptions.create(file=("a.wav", WAV), model="whisper-1")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="not of an audio or video format"):
        sdk.audio.transcriptions.create(file=("a.mp3", b"hello world " * 99), model="ggml-demo", stream=True)


def test_sseclient_sees_task_and_segments(server: Server) -> None:
    with httpx.stream(
        "POST",
        f"{server.url}{TRANSCRIPTIONS}?stream=true",
        files={"file": ("a.wav", WAV)},
        data={"language": "en"},
    ) as answer:
        events = [event.event for event in sseclient.SSEClient(answer.iter_bytes()).events()]
    assert events == ["task", *["segment"] * 4]


def test_curl(server: Server, tmp_path: Any) -> None:
    file = tmp_path / "talk.wav"
    file.write_bytes(WAV)
    url = f"{server.url}{TRANSCRIPTIONS}"
    said = subprocess.run(
        ["curl", "-s", url, "-F", f"file=@{file}", "-F", "response_format=text", "-F", "language=en"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert said == TEXT + "\n"


# Bad input --------------------------------------------------------------------------------------------

BAD = [
    ({"response_format": "xml"}, "response_format", '"xml" is not one of diarized_json, json, lrc'),
    ({"max_line_width": "0"}, "max_line_width", "max_line_width: Input should be greater"),
    ({"max_reading_speed": "0.001"}, "max_reading_speed", "max_reading_speed: Input should be"),
    ({"language": "klingon"}, "language", '"klingon" is not a language that Whisper knows'),
    ({"language": "pt"}, "language", 'ggml-demo does not know the language "pt"; it knows en, de, es, fr'),
    ({"temperature": "1.5"}, "temperature", "temperature: Input should be less than or equal to 1"),
    ({"temperature": "hot"}, "temperature", "temperature: Input should be a valid number"),
    ({"stream": "perhaps"}, "stream", "stream: Input should be a valid boolean"),
    ({"timestamp_granularities[]": "hour"}, "timestamp_granularities", "timestamp_granularities: Input"),
    ({"model": ["demo", "demo"]}, "model", "model: the field was sent twice"),
    ({"prompt": "x" * 70_000}, "prompt", "the field is larger than 65,536 bytes"),
]


@pytest.mark.parametrize("fields_first", [True, False])
@pytest.mark.parametrize(("fields", "param", "sentence"), BAD)
def test_bad_fields(
    client: httpx.Client, fields: dict[str, Any], param: str, sentence: str, fields_first: bool
) -> None:
    parts: list[Any] = [
        (name, (None, one))
        for name, value in {"model": "demo", **fields}.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    file = [("file", ("talk.wav", WAV))]
    answer = client.post(TRANSCRIPTIONS, files=parts + file if fields_first else file + parts)
    assert answer.status_code == 400
    body = answer.json()
    assert sentence in body["error"]["message"]
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == param
    assert body["detail"] == body["reason"] == body["error"]["message"]
    assert body["code"] == 400


def cut_mp4() -> bytes:
    whole = video()
    return whole[: len(whole) // 2]


def pictures_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        pictures = container.add_stream("mpeg4", rate=5)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
    return buffer.getvalue()


BAD_MEDIA = [
    (lambda: b"", "the file is empty", "invalid_media"),
    (lambda: b"this is not sound\n" * 1000, "not of an audio or video format", "invalid_media"),
    (cut_mp4, "moov", "invalid_media"),
    (pictures_only, "has no audio", "no_audio"),
    (lambda: wav(silence(0.05)), "0.1 s", "audio_too_short"),
]


@pytest.mark.parametrize("way", [TRANSCRIPTIONS, TRANSCRIPTIONS + "?stream=true"])
@pytest.mark.parametrize(("media", "sentence", "code"), BAD_MEDIA)
def test_bad_media(client: httpx.Client, way: str, media: Any, sentence: str, code: str) -> None:
    answer = post(client, way, media(), language="en")
    if answer.status_code == 200:
        # Too short is only known at the end; the stream has begun by then.
        assert code == "audio_too_short"
        name, data = sse(answer.text)[-1]
        assert name == "error"
        assert sentence in json.loads(data or "")
        return
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == code


def test_a_track_that_is_not_there(client: httpx.Client) -> None:
    for track in ("7", "fra"):
        answer = post(client, media=video(), audio_track=track)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "no_audio"


def test_no_file_is_told_as_the_nim_tells_it(client: httpx.Client) -> None:
    answer = client.post(TRANSCRIPTIONS, files={"model": (None, "demo")})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "file: Field required",
        "type": "BadRequestError",
        "param": "file",
        "code": 400,
    }


def test_other_bodies_are_refused(client: httpx.Client) -> None:
    for content, kind in (
        (b"", "multipart/form-data"),
        (b"{}", "application/json"),
        (WAV, "audio/wav"),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"nonsense", "multipart/form-data; boundary=x"),
        (
            b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nRIFF",
            "multipart/form-data; boundary=x",
        ),
    ):
        answer = client.post(TRANSCRIPTIONS, content=content, headers={"content-type": kind})
        assert answer.status_code == 400, kind
        assert "form" in answer.json()["reason"]


def test_two_files_and_a_file_that_is_text(client: httpx.Client) -> None:
    twice = client.post(TRANSCRIPTIONS, files=[("file", ("a.wav", WAV)), ("file", ("b.wav", WAV))])
    assert (twice.status_code, twice.json()["reason"]) == (400, "file: the field was sent twice")
    text = client.post(TRANSCRIPTIONS, files={"file": (None, "talk.wav"), "model": (None, "demo")})
    assert text.status_code == 400
    assert "must be a file" in text.json()["reason"]


def test_an_unknown_model_and_a_junk_stream_flag(client: httpx.Client) -> None:
    answer = post(client, model="ggml-demmo")
    assert answer.status_code == 404
    assert "near it: ggml-demo" in answer.json()["reason"]
    junk = post(client, TRANSCRIPTIONS + "?stream=junk")
    assert (junk.status_code, junk.json()["error"]["param"]) == (400, "stream")


def test_unknown_paths_and_methods_answer_in_the_same_form(client: httpx.Client) -> None:
    for answer, status in ((client.get("/v1/nothing"), 404), (client.get(TRANSCRIPTIONS), 405)):
        assert answer.status_code == answer.json()["code"] == status
        assert answer.json()["error"]["message"] == answer.json()["reason"]


def test_a_file_that_breaks_off_gives_what_there_is_and_says_so(client: httpx.Client) -> None:
    media = wav(talk(SENTENCES[:6]))
    document = post(
        client, media=media[: len(media) * 2 // 3], language="en", response_format="verbose_json"
    ).json()
    assert document["text"].startswith(TEXT[:60])
    assert any("breaks off" in warning for warning in document["warnings"])
    events = sse(post(client, TRANSCRIPTIONS + "?stream=1", media[: len(media) // 2], language="en").text)
    assert any(name == "warning" and "breaks off" in (data or "") for name, data in events)


def test_nothing_is_left_behind(server: Server, client: httpx.Client) -> None:
    for media in (b"", WAV, b"text"):
        post(client, media=media)
    until(lambda: not list((server.data / "spool").iterdir()))
    assert post(client, language="en").json()["text"] == TEXT
