"""OpenAI's audio API, every field of it, spoken to by OpenAI's own Python client."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import numpy as np
import openai
import pytest
from openai.types.audio import (
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
    TranscriptionVerbose,
)

from tests.serving import Server, serving
from tests.speech import SENTENCES, say, silence, talk, wav

TEXT = " ".join(SENTENCES[:4])
PCM = talk(SENTENCES[:4])
WAV = wav(PCM)
GERMAN = "Das Wetter ist heute warm."
TRANSCRIPTIONS = "/v1/audio/transcriptions"


@pytest.fixture
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def hear(sdk: openai.OpenAI, media: bytes = WAV, **fields: Any) -> Any:
    return sdk.audio.transcriptions.create(
        **{"file": ("a.wav", media), "model": "ggml-demo", "language": "en", **fields}
    )


# Probabilities ----------------------------------------------------------------------------------------


def joined(logprobs: Any) -> str:
    return b"".join(bytes(map(int, token.bytes)) for token in logprobs).decode().strip()


def test_probabilities_of_tokens(sdk: openai.OpenAI) -> None:
    answer = hear(sdk, include=["logprobs"])
    assert joined(answer.logprobs) == answer.text == TEXT
    assert "".join(token.token for token in answer.logprobs).strip() == TEXT
    assert all(-20 < token.logprob <= 0 for token in answer.logprobs)
    assert hear(sdk).logprobs is None


def test_probabilities_are_lower_in_noise(sdk: openai.OpenAI) -> None:
    noise = np.random.default_rng(1).normal(0, 0.06, len(PCM)).astype(np.float32)
    clear, noisy = (
        np.mean([token.logprob for token in hear(sdk, wav(pcm), include=["logprobs"]).logprobs])
        for pcm in (PCM, PCM + noise)
    )
    assert noisy < clear < 0


def test_bytes_of_tokens_hold_characters_that_tokens_cut(sdk: openai.OpenAI) -> None:
    media = wav(say("Buenos días, ¿dónde está la cocina?", "es"))
    answer = hear(sdk, media, language="es", include=["logprobs"])
    assert joined(answer.logprobs) == answer.text
    assert not answer.text.isascii()


def test_silence_has_no_tokens(sdk: openai.OpenAI) -> None:
    answer = hear(sdk, wav(silence(3)), include=["logprobs"])
    assert (answer.text, answer.logprobs) == ("", [])


def test_scores_of_segments_tell_speech_from_noise(client: httpx.Client) -> None:
    """Each score is measured, or null: none is the same number whatever is heard.

    That of no speech is of a whole window.
    """
    noise = np.random.default_rng(1).normal(0, 0.08, len(PCM)).astype(np.float32)
    scores: dict[str, list[Any]] = {}
    for pcm in (PCM, PCM + noise):
        media = {"file": ("a.wav", wav(pcm))}
        fields = {"language": "en", "response_format": "verbose_json"}
        for segment in client.post(TRANSCRIPTIONS, files=media, data=fields).json()["segments"]:
            for name in ("avg_logprob", "compression_ratio", "no_speech_prob", "temperature"):
                scores.setdefault(name, []).append(segment[name])
            assert len(segment["tokens"]) > 2
    for name in ("avg_logprob", "compression_ratio"):
        assert len(set(scores[name])) > len(scores[name]) // 2, name
    assert scores["no_speech_prob"][0] is None or len(set(scores["no_speech_prob"])) > 1
    assert None not in scores["avg_logprob"]
    assert None not in scores["compression_ratio"]


# Usage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["ggml-demo", "demo"])
def test_usage_is_time(sdk: openai.OpenAI, model: str) -> None:
    answer = hear(sdk, model=model)
    assert (answer.usage.type, answer.usage.seconds) == ("duration", math.ceil(len(PCM) / 16000))


def test_a_model_of_openai_tells_tokens_and_languages(tmp_path: Path) -> None:
    with serving(tmp_path, "--aliases", "gpt-transcribe=ggml-demo") as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
            answer = hear(sdk, model="gpt-transcribe", include=["logprobs"])
            assert answer.usage.type == "tokens"
            assert answer.usage.output_tokens == len(answer.logprobs) > 10
            assert [language.code for language in answer.languages] == ["en"]
            quiet = hear(sdk, wav(silence(3)), model="gpt-transcribe", language=openai.omit)
            assert (quiet.languages, quiet.usage.output_tokens) == ([], 0)


def test_usage_of_a_stream_is_tokens(sdk: openai.OpenAI) -> None:
    done = list(hear(sdk, stream=True, include=["logprobs"]))[-1]
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert done.usage
    assert done.logprobs
    assert done.usage.output_tokens == len(done.logprobs)
    assert done.usage.input_tokens == math.ceil(len(PCM) / 16000 * 50)
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens


# Streams ----------------------------------------------------------------------------------------------


def test_a_stream_of_text(sdk: openai.OpenAI) -> None:
    *deltas, done = list(hear(sdk, stream=True, include=["logprobs"]))
    assert len(deltas) == 4
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert "".join(event.delta for event in deltas) == done.text == TEXT
    for event in deltas:
        assert isinstance(event, TranscriptionTextDeltaEvent)
        assert joined(event.logprobs) == event.delta.strip()
    assert joined(done.logprobs) == TEXT
    assert [language.code for language in done.languages or ()] == ["en"]


def test_a_stream_of_segments(sdk: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"response_format": "verbose_json", "timestamp_granularities": ["word"]}
    *events, done = list(hear(sdk, stream=True, **fields))
    deltas, segments = events[::2], events[1::2]
    whole = hear(sdk, **fields)
    assert isinstance(whole, TranscriptionVerbose)
    for delta, segment, same in zip(deltas, segments, whole.segments or (), strict=True):
        assert isinstance(segment, TranscriptionTextSegmentEvent)
        assert segment.id == delta.segment_id == f"seg_{same.id}"
        assert (segment.start, segment.end, segment.text) == (same.start, same.end, same.text)
        assert segment.speaker is None
    words = [word["word"] for segment in segments for word in (segment.model_extra or {})["words"]]
    assert words == TEXT.split()
    assert done.model_extra["duration"] == pytest.approx(whole.duration)


async def test_the_asynchronous_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        answer = await sdk.audio.transcriptions.create(file=WAV, model="ggml-demo", include=["logprobs"])
        assert joined(answer.logprobs) == TEXT
        stream = await sdk.audio.transcriptions.create(file=WAV, model="ggml-demo", stream=True)
        events = [event async for event in stream]
        assert events[-1].type == "transcript.text.done"
        assert [model.id async for model in sdk.models.list()] == ["ggml-demo"]
        with pytest.raises(openai.NotFoundError, match="no model 'nope'"):
            await sdk.audio.transcriptions.create(file=WAV, model="nope")


def test_httpx_sse_reads_both_kinds_of_streams(client: httpx.Client) -> None:
    def events(path: str, **fields: str) -> list[httpx_sse.ServerSentEvent]:
        media = {"file": ("a.wav", WAV)}
        with httpx_sse.connect_sse(client, "POST", path, files=media, data=fields) as source:
            return list(source.iter_sse())

    openai_events = events(TRANSCRIPTIONS, stream="true", language="en")
    assert openai_events[-1].data == "[DONE]"
    assert [event.json()["type"] for event in openai_events[:-1]][-1] == "transcript.text.done"
    go_whisper = [event.event for event in events(TRANSCRIPTIONS + "?stream=1", language="en")]
    assert [name for name in go_whisper if name != "ping"] == ["task", *["segment"] * 4, "ok"]


# Languages, keywords, chunks --------------------------------------------------------------------------


def test_hints_of_languages(sdk: openai.OpenAI, client: httpx.Client) -> None:
    media = wav(say(GERMAN, "de"))
    whole = hear(sdk, media, language=openai.omit, languages=["fr", "de"])
    assert whole.text == GERMAN
    assert [language.code for language in whole.languages or ()] == ["de"]
    among = client.post(
        TRANSCRIPTIONS,
        files={"file": ("a.wav", media)},
        data={"languages[]": ["en", "fr"], "response_format": "verbose_json"},
    ).json()
    assert among["language"] in ("english", "french")


def test_keywords_are_shown_to_the_model(sdk: openai.OpenAI) -> None:
    plain, hinted = (
        [token.logprob for token in hear(sdk, include=["logprobs"], **fields).logprobs]
        for fields in (dict[str, Any](), {"keywords": ["London", "kitchen"]})
    )
    assert plain != hinted
    answer = hear(sdk, include=["logprobs"], extra_body={"hotwords": "London, kitchen"})
    assert [token.logprob for token in answer.logprobs] == pytest.approx(hinted)


def test_keywords_without_room_are_told(sdk: openai.OpenAI) -> None:
    keywords = [f"keyword{number}" for number in range(60)]
    answer = hear(sdk, keywords=keywords)
    assert answer.text
    (warning,) = answer.model_extra["warnings"]
    assert "of 60 keywords were left out" in warning
    assert "warnings" not in (hear(sdk, keywords=keywords[:5]).model_extra or {})
    hot = hear(sdk, extra_body={"hotwords": ", ".join(keywords)})
    assert hot.model_extra["warnings"] == [warning]
    done = list(hear(sdk, keywords=keywords, stream=True))[-1]
    assert warning in done.model_extra["warnings"]


def starts(sdk: openai.OpenAI, **fields: Any) -> list[int]:
    """Where the chunks begin."""
    answer = hear(sdk, response_format="verbose_json", **fields)
    return list(dict.fromkeys(segment.seek for segment in answer.segments))


def test_silence_that_ends_a_chunk(sdk: openai.OpenAI) -> None:
    by_itself = starts(sdk)
    assert starts(sdk, chunking_strategy="auto") == starts(sdk, chunking_strategy={"type": "server_vad"})
    assert starts(sdk, chunking_strategy="auto") == by_itself
    short = starts(sdk, chunking_strategy={"type": "server_vad", "silence_duration_ms": 400})
    assert len(by_itself) < len(short) == 4


def test_sound_kept_before_speech(sdk: openai.OpenAI) -> None:
    media = wav(np.concatenate([silence(3), say(SENTENCES[0])]))
    short, long = (
        starts(sdk, media=media, chunking_strategy={"type": "server_vad", "prefix_padding_ms": milliseconds})
        for milliseconds in (100, 1100)
    )
    assert short[0] - long[0] == pytest.approx(100, abs=2)


def test_the_threshold_of_speech(sdk: openai.OpenAI) -> None:
    noise = np.random.default_rng(1).normal(0, 0.03, len(PCM)).astype(np.float32)
    heard = [
        hear(
            sdk,
            wav(PCM + noise),
            response_format="verbose_json",
            chunking_strategy={"type": "server_vad", "threshold": threshold},
        )
        for threshold in (0.999, 0.5)
    ]
    assert [len(answer.segments) for answer in heard] == [0, 4]


# Names and errors -------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"include": ["smells"]}, "include", "Input should be 'logprobs' or 'embeddings'"),
    ({"languages": ["klingon"]}, "languages", '"klingon" is not a language'),
    ({"languages": ["auto"]}, "languages", "leave the field out"),
    ({"language": openai.omit, "languages": ["en", "pt"]}, "languages", 'does not know the language "pt"'),
    ({"chunking_strategy": "client_vad"}, "chunking_strategy", 'neither "auto" nor an object'),
    ({"chunking_strategy": {"type": "semantic_vad"}}, "chunking_strategy", "[type]: Input should be"),
    (
        {"chunking_strategy": {"type": "server_vad", "threshold": 1.5}},
        "chunking_strategy",
        "[threshold]: Input should be less than or equal to 1",
    ),
    ({"chunking_strategy": {"type": "server_vad", "eager": 1}}, "chunking_strategy", "Extra inputs"),
    ({"temperature": -1}, "temperature", "greater than or equal to 0"),
    (
        {"timestamp_granularities": ["syllable"]},
        "timestamp_granularities",
        "Input should be 'segment' or 'word'",
    ),
]


@pytest.mark.parametrize(("fields", "param", "sentence"), BAD)
def test_wrong_values(sdk: openai.OpenAI, fields: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        hear(sdk, **fields)
    assert sentence in caught.value.message
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", param)
    assert caught.value.code in ("invalid_value", "unsupported_language")


def test_chunking_as_json(client: httpx.Client) -> None:
    media = {"file": ("a.wav", WAV)}
    for strategy, status in (
        ('{"type": "server_vad", "silence_duration_ms": 400}', 200),
        ('{"type": "server_vad"', 400),
        ('{"type": "server_vad", "silence_duration_ms": "soon"}', 400),
    ):
        answer = client.post(TRANSCRIPTIONS, files=media, data={"chunking_strategy": strategy})
        assert answer.status_code == status, strategy


def test_media_that_is_none(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        hear(sdk, b"no sound at all " * 100)
    assert (caught.value.code, caught.value.param) == ("invalid_media", "file")


def test_a_model_is_deleted_like_any(server: Server, sdk: openai.OpenAI) -> None:
    models = server.data / "models"
    models.mkdir(exist_ok=True)
    (models / "ggml-gone.bin").write_bytes(b"lmgg")
    assert sdk.models.retrieve("ggml-gone").id == "ggml-gone"
    assert sdk.models.delete("ggml-gone").deleted
    with pytest.raises(openai.NotFoundError):
        sdk.models.delete("ggml-gone")
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-4o-transcribe/none")
