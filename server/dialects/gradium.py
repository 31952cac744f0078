"""Gradium's one-shot calls. Transcription: a raw body in, lines of JSON out while it is still arriving.
Speech: a text in, its sound out while it is being made.

Before the first line every failure is a 500 with a sentence, as Gradium's document has it: the proxy's as it
is, the worker's behind `error from server <code>: `, where the code is one of WebSocket's (RFC 6455, 7.4).
"""

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, Field, Json, WithJsonSchema
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from typing_extensions import TypedDict

from server import deferred, errors, fields, sse, transcribe
from server.dialects import chunks, from_file, may_keep, notice, sees, services, telling
from server.openapi import Answer, Fields, Lines, Raw, answer, closed, operation
from server.spool import spooled
from server.types import (
    Audio,
    Done,
    Event,
    JobRequest,
    Listen,
    ModelInfo,
    RawSound,
    Segment,
    Sound,
    Speak,
    Transcript,
)

_PCM_RATES = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)

_FORMATS: dict[str, RawSound | None] = {
    "wav": None,
    "opus": None,
    "pcm": RawSound(24_000),
    **{f"pcm_{rate}": RawSound(rate) for rate in _PCM_RATES},
    "ulaw_8000": RawSound(8_000, "mulaw"),
    "alaw_8000": RawSound(8_000, "alaw"),
}
"""What `input_format` takes. What has a header is recognised by it."""

_SPEECH_RATE = 48_000

_SPOKEN: dict[str, tuple[Audio, int]] = {
    "wav": ("wav", _SPEECH_RATE),
    "pcm": ("pcm", _SPEECH_RATE),
    "opus": ("opus", _SPEECH_RATE),
    **{f"pcm_{rate}": ("pcm", rate) for rate in _PCM_RATES},
}
"""What `output_format` takes."""

_MEDIA_TYPES: dict[Audio, str] = {"wav": "audio/wav", "pcm": "audio/pcm", "opus": "audio/ogg"}

_CONTENT_TYPES = {
    "": "wav",
    # curl's own, where nobody has told it another.
    "application/x-www-form-urlencoded": "wav",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "audio/vnd.wave": "wav",
    "audio/pcm": "pcm",
    "audio/ogg": "opus",
    "audio/opus": "opus",
}

_CODES: dict[type[errors.SpeechError], int] = {
    errors.SpeechError: 1011,
    errors.Refused: 1008,
    errors.UnsupportedLanguage: 1008,
    errors.ModelNotFound: 1008,
    errors.VoiceNotFound: 1008,
    errors.TooSlow: 1008,
    errors.BadMedia: 1007,
    errors.TooLarge: 1009,
    errors.Busy: 1013,
}

_STREAM = 0
"""The only text stream of a one-shot transcription."""


def _format(value: object) -> object:
    if not (isinstance(value, str) and value in _FORMATS):
        raise ValueError(f'"{str(value)[:40]}" is not one of ' + ", ".join(_FORMATS))
    return value


class Config(BaseModel):
    """`json_config`; what else Gradium's models can be told is ignored."""

    language: fields.Language = Field(None, description="Language of the speech; absent: detected.")


class Asked(deferred.Query):
    """The query."""

    model: str = Field("default", description='An id of /v1/models; "default": the server\'s default model.')
    input_format: Annotated[
        str | None,
        BeforeValidator(_format),
        WithJsonSchema({"type": "string", "enum": list(_FORMATS)}),
    ] = Field(None, description="What the body is, whatever its Content-Type says.")
    json_config: Json[Config] = Field(Config(), description='A JSON object: {"language": "en"}.')


def _spoken(value: object) -> object:
    if not (isinstance(value, str) and value in _SPOKEN):
        raise ValueError(f'"{str(value)[:40]}" is not one of ' + ", ".join(_SPOKEN))
    return value


class Spoken(BaseModel):
    """The body of a request for speech; its other fields are ignored."""

    text: str = Field(description="The text.")
    voice_id: str = Field("default", description="A voice's name; \"default\": the server's default voice.")
    output_format: Annotated[
        str,
        BeforeValidator(_spoken),
        WithJsonSchema({"type": "string", "enum": list(_SPOKEN)}),
    ] = Field("wav", description="How the sound is encoded.")
    only_audio: bool = Field(False, description="Sound alone; else lines of JSON with the sound in base64.")


def refusal(error: errors.SpeechError) -> Response:
    """An error before the first line."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, errors.Busy) else {}
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), 1011)
    is_of_proxy = code == 1011 and isinstance(error, errors.BadRequest)
    text = str(error) if is_of_proxy else f"error from server {code}: {error}"
    return PlainTextResponse(text, 500, headers)


@closed
class Text(TypedDict):
    """A phrase and where it begins, in seconds."""

    type: Literal["text"]
    text: str
    start_s: float
    stream_id: int


@closed
class EndText(TypedDict):
    """Where the phrase before it ends."""

    type: Literal["end_text"]
    stop_s: float
    stream_id: int


@closed
class Told(TypedDict):
    """What is wrong with the media, or what ended the stream."""

    type: Literal["warning", "error"]
    message: str


@closed
class SoundTold(TypedDict):
    """More sound."""

    type: Literal["audio"]
    audio: str
    """Base64."""


@closed
class EndOfStream(TypedDict):
    """The last line."""

    type: Literal["end_of_stream"]


Line = Text | EndText | Told
SoundLine = SoundTold | EndOfStream | Told

_ACCEPTED = answer("the job that it has become", deferred.JobDocument, Location="the job's address")
_REFUSED = {500: Answer("a sentence; any failure before the first line", {"text/plain": str})}


@operation(
    "Write down what is said, while the body arrives",
    query=Asked,
    body=Raw(*filter(None, _CONTENT_TYPES)),
    headers=deferred.HEADERS,
    answers={200: Answer("lines of JSON", {"application/x-ndjson": Lines(Line)}), 202: _ACCEPTED},
    refusals=_REFUSED,
)
@telling(refusal)
async def transcription(request: Request) -> Response:
    serving = services(request)
    limits = serving.config
    asked = fields.query(request, Asked)
    listen = _listen(asked, request)
    deferral = deferred.wanted(request)
    if not deferral:
        serving.readers.refuse_if_full()
    model = serving.choose(listen)
    if model:
        transcribe.check(model, listen)
    async with AsyncExitStack() as stack:
        spool = await stack.enter_async_context(spooled(limits.spool_folder, limits.max_upload))
        arriving = fields.arriving(
            request, spool, largest=limits.max_upload, grace=limits.upload_grace, rate=limits.upload_rate
        )
        body = await stack.enter_async_context(arriving)
        if deferral:
            await body
        begun = await deferred.begin(request, deferral, JobRequest(listen, dialect="gradium"), spool)
        if isinstance(begun, Response):
            return begun
        events = await stack.enter_async_context(aclosing(begun.events))
        heard = await stack.enter_async_context(aclosing(sse.unless(body, events)))
        first = await stack.enter_async_context(sse.first(heard))
        stream = sse.lines(sse.resumed(first, heard), _lines(model), notice(model) | begun.headers)
        return sse.Held(stream, stack.pop_all())


@operation(
    "Speak a text",
    query=deferred.Query,
    headers=deferred.HEADERS,
    body=Fields(Spoken),
    answers={
        202: _ACCEPTED,
        200: Answer(
            "lines of JSON, or with `only_audio` the sound",
            {"application/x-ndjson": Lines(SoundLine), **dict.fromkeys(_MEDIA_TYPES.values(), bytes)},
        ),
    },
    refusals=_REFUSED,
)
@telling(refusal)
async def speech(request: Request) -> Response:
    serving = services(request)
    limits = serving.config
    deferral = deferred.wanted(request)
    asked = await fields.small(request, Spoken, grace=limits.upload_grace, rate=limits.upload_rate)
    if not asked.text.strip():
        raise errors.BadRequest("text: there is no text to speak")
    format, rate = _SPOKEN[asked.output_format]
    voice = "" if asked.voice_id == "default" else asked.voice_id
    spoken = await serving.prepare(
        Speak(
            asked.text,
            voice,
            format=format,
            sample_rate=rate,
            longest=limits.max_text,
            keep=may_keep(request),
        ),
        sees(request),
    )
    if deferral:
        kept = deferred.speaking(spoken, "gradium", only_audio=asked.only_audio)
        return await deferred.spoken(request, deferral, kept)
    async with AsyncExitStack() as stack:
        sound = await stack.enter_async_context(aclosing(serving.speak(spoken)))
        started = await sse.begun(sound)
        if asked.only_audio:
            answer: Response = StreamingResponse(started, media_type=_MEDIA_TYPES[format])
        else:
            answer = sse.lines(started, _audio)
        return sse.Held(answer, stack.pop_all())


def sounding(request: JobRequest, sound: Sound) -> Response:
    """What a job has spoken: the sound, or lines of JSON with it."""
    if request.asked["only_audio"]:
        return from_file(sound, _MEDIA_TYPES[sound.format])
    return sse.lines(chunks(sound.path), _audio)


def written(request: JobRequest, transcript: Transcript) -> tuple[Iterator[str], str]:
    """What a job has heard, as lines of JSON."""
    events: tuple[Event, ...] = (*transcript.segments, Done(transcript))
    lines = (line for event in events for line in _told(event, ""))
    return (msgspec.json.encode(line).decode() + "\n" for line in lines), "application/x-ndjson"


async def _audio(sound: AsyncIterator[bytes]) -> AsyncIterator[SoundLine]:
    try:
        async for data in sound:
            yield {"type": "audio", "audio": base64.b64encode(data).decode()}
        yield {"type": "end_of_stream"}
    except errors.SpeechError as error:
        yield {"type": "error", "message": str(error)}


ROUTES = [
    Route("/api/post/speech/asr", transcription, methods=["POST"]),
    Route("/api/post/speech/tts", speech, methods=["POST"]),
]


def _listen(asked: Asked, request: Request) -> Listen:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    format = asked.input_format or _CONTENT_TYPES.get(kind)
    if format is None:
        raise errors.BadRequest(f"unsupported content type for SST {kind[:80]!a}")
    return Listen(
        model="" if asked.model == "default" else asked.model,
        language=asked.json_config.language,
        raw=_FORMATS[format],
    )


def _lines(model: ModelInfo | None) -> Callable[[AsyncIterator[Event]], AsyncIterator[Line]]:
    """What the events are in lines; the model's notice stands in a header."""
    known = model.notice if model else ""

    async def write(events: AsyncIterator[Event]) -> AsyncIterator[Line]:
        try:
            async for event in events:
                for line in _told(event, known):
                    yield line
        except errors.SpeechError as error:
            yield {"type": "error", "message": str(error)}

    return write


def _told(event: Event, known: str) -> Iterator[Line]:
    """A `text` and an `end_text` for a segment; our own `warning` where the media has something wrong."""
    match event:
        case Segment(text=text, start=start, end=end):
            yield {"type": "text", "text": text.strip(), "start_s": start, "stream_id": _STREAM}
            yield {"type": "end_text", "stop_s": end, "stream_id": _STREAM}
        case Done(transcript):
            for warning in transcript.warnings:
                if warning != known:
                    yield {"type": "warning", "message": warning}
