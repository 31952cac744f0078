"""/v1/audio/speech: text to speech as OpenAI's clients ask for it, and the lists that some of them read."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from typing_extensions import TypedDict

from server import deferred, errors, fields, sse
from server.dialects import (
    DEFERRED,
    SPEAKING,
    Open,
    Problem,
    chunks,
    from_file,
    may_keep,
    problem,
    refusals,
    sees,
    services,
    v1,
)
from server.errors import MissingField, ModelNotFound
from server.openapi import Answer, Events, Fields, answer, closed, operation
from server.speak import Spoken
from server.types import Audio, JobRequest, Sound, Speak
from server.voices import OPENAI, engines_here

MEDIA_TYPES: dict[Audio, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}

SAMPLE_RATE = 24_000
"""Hz of all that OpenAI's API answers; its clients play pcm at that."""

_MODELS = re.compile(r"(tts-1(-hd)?|gpt-4o-mini-tts)(-\d{4}(-\d\d-\d\d)?)?")
"""OpenAI's names of models that speak: here they mean the voice's own engine."""

_TOKEN = re.compile(r"\w+|[^\w\s]")
_TOKEN_SECONDS = 0.05
"""In `usage`: a word or sign of the text is a token, and each twentieth of a second of sound."""


def _voice(value: object) -> object:
    """A voice's name, or OpenAI's object with its id."""
    return value.get("id") if isinstance(value, dict) else value


_VOICE = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    ]
}


NULL = fields.NullIsAbsent()


class Asked(BaseModel):
    """The body's fields; others are ignored, and what is null is as if it was not there."""

    model_config = ConfigDict(strict=False, use_attribute_docstrings=True)

    model: Annotated[str, NULL] = ""
    """`tts-1`, another of OpenAI's names, or an engine of /v1/audio/models; empty: the voice's own."""
    input: str
    """The text."""
    voice: Annotated[str, BeforeValidator(_voice), WithJsonSchema(_VOICE), NULL] = ""
    """A voice of /v1/audio/voices."""
    instructions: Annotated[str, NULL] = ""
    """Taken, and not followed: no engine here can."""
    response_format: Annotated[Audio, NULL] = "mp3"
    """How the sound is encoded."""
    speed: Annotated[float, Field(ge=0.25, le=4.0), NULL] = 1.0
    """1 is the voice's own."""
    stream_format: Annotated[Literal["audio", "sse"], NULL] = "audio"
    """`sse`: as OpenAI's events."""
    language: Annotated[str, Field(max_length=40), NULL] = ""
    """Of the text, where the voice does not say it."""


@closed
class Usage(TypedDict):
    """What was read and said, counted as tokens."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


@closed
class AudioDelta(TypedDict):
    """More sound."""

    type: Literal["speech.audio.delta"]
    audio: str
    """Base64."""


@closed
class AudioDone(TypedDict):
    """The last event."""

    type: Literal["speech.audio.done"]
    usage: Usage


@closed
class NamedVoice(TypedDict):
    """A voice."""

    id: str
    name: str
    language: NotRequired[str]
    """BCP-47; OpenAI's names have none."""


@closed
class NamedVoices(TypedDict):
    """What `voice` may be."""

    voices: list[NamedVoice]


@closed
class NamedModel(TypedDict):
    """What speaks."""

    id: str


@closed
class NamedModels(TypedDict):
    """What `model` may be."""

    models: list[NamedModel]


@operation(
    "Speak a text",
    query=deferred.Query,
    headers=deferred.HEADERS,
    body=Fields(Asked),
    answers={
        202: answer("the job that it has become", deferred.JobDocument, Location="the job's address"),
        200: Answer(
            "the sound, as it is made",
            {
                **dict.fromkeys(MEDIA_TYPES.values(), bytes),
                "text/event-stream": Events({"": AudioDelta | AudioDone | Problem}),
            },
            {"X-Voice": "the voice that speaks"},
        ),
    },
    refusals=refusals(*SPEAKING, *DEFERRED),
)
@v1
async def speech(request: Request) -> Response:
    """Speak a text."""
    serving = services(request)
    limits = serving.config
    deferral = deferred.wanted(request)
    asked = await fields.small(request, Asked, grace=limits.upload_grace, rate=limits.upload_rate)
    if not asked.input.strip():
        raise MissingField("input: there is no text to speak", "input")
    spoken = await serving.prepare(
        Speak(
            text=asked.input,
            voice=asked.voice,
            language=asked.language,
            engine=_engine(asked.model),
            speed=asked.speed,
            format=asked.response_format,
            sample_rate=SAMPLE_RATE,
            longest=limits.max_text,
            keep=may_keep(request),
        ),
        sees(request),
    )
    if deferral:
        form, tokens = asked.stream_format, _tokens(spoken)
        kept = deferred.speaking(spoken, "speech", stream_format=form, tokens=tokens)
        return await deferred.spoken(request, deferral, kept)

    def usage() -> Usage:
        return _usage(_tokens(spoken), spoken.seconds)

    async with AsyncExitStack() as stack:
        sound = await stack.enter_async_context(aclosing(serving.speak(spoken)))
        if asked.stream_format == "sse":
            first = await stack.enter_async_context(sse.first(sound))
            events = sse.stream(
                sse.resumed(first, sound), lambda sound: _events(sound, usage), go_whisper=False
            )
            return sse.Held(events, stack.pop_all())
        body = StreamingResponse(await sse.begun(sound), media_type=MEDIA_TYPES[asked.response_format])
        body.headers["X-Voice"] = spoken.voice.id
        return sse.Held(body, stack.pop_all())


def sounding(request: JobRequest, sound: Sound) -> Response:
    """What a job has spoken: the sound, or OpenAI's events of it."""
    if request.asked["stream_format"] == "audio":
        return from_file(sound, MEDIA_TYPES[sound.format])

    def usage() -> Usage:
        return _usage(request.asked["tokens"], sound.seconds)

    return sse.stream(chunks(sound.path), lambda data: _events(data, usage), go_whisper=False)


def _engine(model: str) -> str:
    """The engine that a model's name asks for, if any. Raises ModelNotFound."""
    if not model or _MODELS.fullmatch(model):
        return ""
    if model.lower() in engines_here():
        return model.lower()
    known = ", ".join(("tts-1", *engines_here()))
    raise ModelNotFound(f"there is no model {model[:80]!a} that speaks; there are {known}")


async def _events(sound: AsyncIterator[bytes], usage: Callable[[], Usage]) -> AsyncIterator[ServerSentEvent]:
    """speech.audio.delta…, speech.audio.done; an error is data with the key `error`."""
    try:
        async for data in sound:
            audio = base64.b64encode(data).decode()
            yield sse.data(AudioDelta(type="speech.audio.delta", audio=audio))
        yield sse.data(AudioDone(type="speech.audio.done", usage=usage()))
    except errors.SpeechError as error:
        yield sse.data(problem(error))


def _tokens(spoken: Spoken) -> int:
    return sum(len(_TOKEN.findall(piece.text)) for piece in spoken.pieces)


def _usage(read: int, seconds: float) -> Usage:
    said = round(seconds / _TOKEN_SECONDS)
    return {"input_tokens": read, "output_tokens": said, "total_tokens": read + said}


@operation("The voices", answers={200: answer("what `voice` may be", NamedVoices)}, refusals=refusals())
@v1
async def voices(request: Request) -> Response:
    """The voices: OpenAI's names for them, the server's own names, those that the asker made, and all."""
    serving = services(request)
    installed = serving.voices.installed()
    names = dict.fromkeys((*OPENAI, *serving.voices.aliases)) if installed else ()
    named = [{"id": name, "name": name} for name in names]
    custom = await asyncio.to_thread(serving.custom.voices, sees(request))
    made = [{"id": voice.id, "name": voice.name, "language": voice.language} for voice in custom]
    own = [{"id": voice.id, "name": voice.title, "language": voice.locale} for voice in installed]
    return JSONResponse({"voices": named + made + own})


@operation("What speaks", answers={200: answer("what `model` may be", NamedModels)}, refusals=refusals())
@v1
async def models(request: Request) -> Response:
    """What `model` may be."""
    installed = {voice.engine for voice in services(request).voices.installed()}
    names = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", *sorted(installed)) if installed else ()
    return JSONResponse({"models": [{"id": name} for name in names]})


ROUTES = [
    Route("/v1/audio/speech", speech, methods=["POST"]),
    # Open WebUI asks for these two without its key.
    Open("/v1/audio/voices", voices, methods=["GET"]),
    Open("/v1/audio/models", models, methods=["GET"]),
]
