"""/v1/audio/transcriptions and /translations: one route that OpenAI's and go-whisper's clients share.

The query `?stream=` asks for go-whisper's events, the form field `stream` for OpenAI's; the query wins. The
format is chosen by `response_format` alone, never by Accept, which real clients fill with anything.
"""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server import config, deferred, errors, fields, formats, languages, sse, transcribe
from server.dialects import document, notice, problem, services, v1
from server.services import Services
from server.spool import spooled
from server.types import (
    Done,
    Event,
    JobRequest,
    Listen,
    ModelInfo,
    Segment,
    Started,
    Style,
    Task,
    Transcript,
    Waiting,
)


def _format(value: object) -> object:
    if value not in formats.names():
        raise ValueError(f'"{str(value)[:40]}" is not one of ' + ", ".join(formats.names()))
    if formats.needs_speakers(str(value)):
        raise ValueError(f"{value} tells who speaks, and nobody here tells speakers apart")
    return value


class Asked(BaseModel):
    """The form's fields; others are ignored, as OpenAI's clients send more than Whisper can use."""

    model_config = ConfigDict(validate_assignment=True)

    model: str = ""
    language: fields.Language = None
    response_format: Annotated[str, BeforeValidator(_format)] = "json"
    prompt: str = ""
    temperature: float = Field(0.0, ge=0.0, le=1.0)
    timestamp_granularities: tuple[Literal["segment", "word"], ...] = ()
    stream: bool = False
    keep_alive: Annotated[float | None, BeforeValidator(config.seconds)] = Field(None, ge=-1)
    audio_track: str | None = None
    url: str = ""
    max_line_width: int | None = Field(None, ge=1)
    max_line_count: int | None = Field(None, ge=1)
    highlight_words: bool = False
    min_cue_duration: float = Field(0.0, ge=0, le=60)
    max_cue_duration: float | None = Field(None, gt=0)
    max_reading_speed: float | None = Field(None, gt=0)


def _english(value: object) -> str:
    if languages.code(str(value)) not in (None, "en"):
        raise ValueError(f'Whisper translates into English alone, not into "{str(value)[:40]}"')
    return "en"


class AskedToTranslate(Asked):
    """The fields of a translation."""

    target_language: Annotated[str, BeforeValidator(_english)] = "en"


@v1
async def transcriptions(request: Request) -> Response:
    return await _answer(request, "transcribe")


@v1
async def translations(request: Request) -> Response:
    return await _answer(request, "translate")


ROUTES = [
    Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
    Route("/v1/audio/translations", translations, methods=["POST"]),
]


async def _answer(request: Request, task: Task) -> Response:
    serving = services(request)
    limits = serving.config
    events_wanted = fields.query_flag(request, "stream")
    deferral = deferred.wanted(request)
    if not deferral:
        serving.readers.refuse_if_full()  # before gigabytes are sent for nothing

    def check(asked: Asked) -> None:
        listen = _listen(asked, task)
        if asked.model and (model := _model(serving, listen)):
            transcribe.check(model, listen)

    async with AsyncExitStack() as stack:
        spool = await stack.enter_async_context(spooled(limits.spool_folder, limits.max_upload))
        empty = Asked() if task == "transcribe" else AskedToTranslate()
        form = fields.Form(empty, spool, check, instead="url")
        asked = await form.read(
            request, largest=limits.max_upload, grace=limits.upload_grace, rate=limits.upload_rate
        )
        listen = _listen(asked, task)
        model = _model(serving, listen)
        headers = notice(model)
        if deferral:
            job = await deferred.submit(
                request, deferral, _job(asked, listen, model), None if asked.url else spool
            )
            if deferral.is_async:
                return await deferred.accepted(request, deferral, job)
            headers |= deferred.headers(request, job)
            events = deferred.events(serving.jobs, job)
        elif asked.url:
            events = serving.transcribe_url(listen, asked.url)
        else:
            events = serving.transcribe(listen, spool)
        await stack.enter_async_context(aclosing(events))
        if events_wanted or (events_wanted is None and asked.stream):
            first = await stack.enter_async_context(sse.first(events))
            stream = _stream(sse.resumed(first, events), asked, bool(events_wanted), model, headers)
            return sse.Held(stream, stack.pop_all())
        transcript = await transcribe.whole(events)
        return _document(transcript, asked, headers)


def _model(serving: Services, listen: Listen) -> ModelInfo | None:
    """The model for it. The NIM's sentence stands for a server that has no default."""
    try:
        return serving.choose(listen)
    except errors.ModelNotFound as error:
        if listen.model or listen.language:
            raise
        raise errors.BadRequest(f"Bad Request, need model or language; {error}", "model") from error


def _listen(asked: Asked, task: Task) -> Listen:
    return Listen(
        model=asked.model,
        task=task,
        language=asked.language,
        prompt=asked.prompt,
        temperature=asked.temperature,
        words=_style(asked).needs_words,
        keep_alive=asked.keep_alive,
        audio_track=asked.audio_track,
    )


def _job(asked: Asked, listen: Listen, model: ModelInfo | None) -> JobRequest:
    listen = replace(listen, model=model.id) if model else listen
    return JobRequest(listen, url=asked.url, response_format=asked.response_format, style=_style(asked))


def _style(asked: Asked) -> Style:
    return Style(
        words="word" in asked.timestamp_granularities,
        highlight_words=asked.highlight_words,
        max_line_width=asked.max_line_width,
        max_line_count=asked.max_line_count,
        min_cue_duration=asked.min_cue_duration,
        max_cue_duration=asked.max_cue_duration,
        max_reading_speed=asked.max_reading_speed,
    )


# Whole answers ----------------------------------------------------------------------------------------


def _document(transcript: Transcript, asked: Asked, headers: Mapping[str, str]) -> Response:
    format = formats.find(asked.response_format)
    return document(format.write(transcript, _style(asked)), format.MEDIA_TYPE, headers)


# Streams ----------------------------------------------------------------------------------------------


def _stream(
    events: AsyncIterator[Event],
    asked: Asked,
    go_whisper: bool,
    model: ModelInfo | None,
    headers: Mapping[str, str],
) -> Response:
    write = _go_whisper if go_whisper else _openai
    return sse.stream(
        events,
        lambda events: write(events, asked, model.notice if model else ""),
        go_whisper=go_whisper,
        headers=headers,
    )


async def _go_whisper(
    events: AsyncIterator[Event], asked: Asked, notice: str
) -> AsyncIterator[ServerSentEvent]:
    """ping, task, segment…, ok or error. A segment is an object, in formats of text a JSON string."""
    yield sse.event("ping")
    pieces = formats.find(asked.response_format).pieces(_style(asked))
    try:
        async for event in events:
            match event:
                case Waiting(reason):
                    yield sse.comment(reason)
                case Started(task, language, duration):
                    yield sse.event("task", {"task": task, "language": language, "duration": duration})
                case Segment():
                    for piece in pieces.add(event):
                        yield sse.event("segment", piece)
                case Done(transcript):
                    for piece in pieces.end():
                        yield sse.event("segment", piece)
                    for warning in transcript.warnings:
                        if warning != notice:
                            yield sse.event("warning", warning)
                    yield sse.event("ok", _summary(transcript, asked))
    except errors.SpeechError as error:
        yield sse.event("error", str(error))


def _summary(transcript: Transcript, asked: Asked) -> dict[str, object] | None:
    """What is only known at the end, in the one format that has room for it."""
    if asked.response_format != "verbose_json":
        return None
    return {
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "model": transcript.model,
        "warnings": transcript.warnings,
    }


async def _openai(events: AsyncIterator[Event], asked: Asked, notice: str) -> AsyncIterator[ServerSentEvent]:
    """transcript.text.delta…, transcript.text.done, [DONE]; an error is data with the key `error`.

    The deltas, joined, are the text of `done`.
    """
    try:
        async for event in events:
            match event:
                case Waiting(reason):
                    yield sse.comment(reason)
                case Segment(id=0, text=text):
                    yield sse.data({"type": "transcript.text.delta", "delta": text.lstrip()})
                case Segment(text=text):
                    yield sse.data({"type": "transcript.text.delta", "delta": text})
                case Done(transcript):
                    yield sse.data(_done(transcript))
                    yield sse.text("[DONE]")
    except errors.SpeechError as error:
        yield sse.data(problem(error))


def _done(transcript: Transcript) -> dict[str, object]:
    done: dict[str, object] = {"type": "transcript.text.done", "text": transcript.text}
    done["usage"] = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    warnings: dict[str, object] = {"warnings": transcript.warnings} if transcript.warnings else {}
    return done | warnings
