"""/v1/audio/transcriptions and /translations: one route that OpenAI's and go-whisper's clients share.

The query `?stream=` asks for go-whisper's events, the form field `stream` for OpenAI's; the query wins. The
format is chosen by `response_format` alone, never by Accept, which real clients fill with anything.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Annotated, Literal

import anyio
import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from server import errors, fields, formats, languages, transcribe
from server.dialects import problem, services, v1
from server.spool import spooled
from server.types import Done, Event, Listen, ModelInfo, Segment, Started, Task, Transcript

_BEAT = 10
"""Seconds between signs of life in a stream."""

_FIRST = 5.0
"""Seconds for which a stream's status waits for its first event, so that bad media gets a real one."""

_FAREWELL = 2.0
"""Seconds that a stream has to say that the server is being stopped."""

_CHUNK = 1 << 16

_LINE = "\n"

_TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
"""What Go's ParseBool takes, any case."""


def _format(value: object) -> object:
    if value not in formats.names():
        raise ValueError(f'"{str(value)[:40]}" is not one of ' + ", ".join(formats.names()))
    return value


def _language(value: object) -> str | None:
    return languages.code(str(value or ""))


class Asked(BaseModel):
    """The form's fields; others are ignored, as OpenAI's clients send more than Whisper can use."""

    model_config = ConfigDict(validate_assignment=True)

    model: str = ""
    language: Annotated[str | None, BeforeValidator(_language)] = None
    response_format: Annotated[str, BeforeValidator(_format)] = "json"
    prompt: str = ""
    temperature: float = Field(0.0, ge=0.0, le=1.0)
    timestamp_granularities: tuple[Literal["segment", "word"], ...] = ()
    stream: bool = False
    audio_track: str | None = None


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
    config = serving.config
    events_wanted = _query_flag(request, "stream")
    serving.readers.refuse_if_full()  # before gigabytes are sent for nothing

    def check(asked: Asked) -> None:
        if asked.model:
            transcribe.check(serving.models.find(asked.model), _listen(asked, task))

    async with AsyncExitStack() as stack:
        spool = await stack.enter_async_context(spooled(config.spool_folder, config.max_upload))
        form = fields.Form(Asked(), spool, check)
        asked = await form.read(
            request, largest=config.max_upload, grace=config.upload_grace, rate=config.upload_rate
        )
        model = serving.models.find(asked.model)
        events = serving.transcribe(_listen(asked, task), spool)
        await stack.enter_async_context(aclosing(events))
        if events_wanted or (events_wanted is None and asked.stream):
            first = await stack.enter_async_context(_first(events))
            stream = _stream(_resumed(first, events), asked, bool(events_wanted), model)
            return _Held(stream, stack.pop_all())
        return _document(await transcribe.whole(events), asked, model)


@asynccontextmanager
async def _first(events: AsyncIterator[Event]) -> AsyncIterator[asyncio.Future[Event]]:
    """The first event, once it or its error is there, or a while has passed."""
    first = asyncio.ensure_future(anext(events))
    try:
        await asyncio.wait({first}, timeout=_FIRST)
        if first.done():
            first.result()
        yield first
    finally:
        first.cancel()
        await asyncio.wait({first})


def _query_flag(request: Request, name: str) -> bool | None:
    value = request.query_params.get(name)
    if value is None:
        return None
    if value.lower() not in _TRUTH:
        raise errors.BadField(f'{name}: "{value[:40]}" is neither true nor false', name)
    return _TRUTH[value.lower()]


def _listen(asked: Asked, task: Task) -> Listen:
    return Listen(
        model=asked.model,
        task=task,
        language=asked.language,
        prompt=asked.prompt,
        temperature=asked.temperature,
        words="word" in asked.timestamp_granularities,
        audio_track=asked.audio_track,
    )


def _notice(model: ModelInfo) -> dict[str, str]:
    return {"X-Whisperd-Notice": model.notice} if model.notice else {}


# Whole answers ----------------------------------------------------------------------------------------


def _document(transcript: Transcript, asked: Asked, model: ModelInfo) -> Response:
    """The transcript in its format; a long one in chunks, so that it is never whole in memory twice."""
    format = formats.find(asked.response_format)
    chunks = format.write(transcript, "word" in asked.timestamp_granularities)
    body = "".join(chunk for chunk in _up_to(chunks, _CHUNK))
    rest = next(chunks, None)
    if rest is None:
        return Response(body, media_type=format.MEDIA_TYPE, headers=_notice(model))

    async def pieces() -> AsyncIterator[str]:
        yield body + rest
        while piece := "".join(_up_to(chunks, _CHUNK)):
            yield piece

    return StreamingResponse(pieces(), media_type=format.MEDIA_TYPE, headers=_notice(model))


def _up_to(chunks: Iterator[str], size: int) -> Iterator[str]:
    """Chunks until they make `size` characters."""
    taken = 0
    while taken < size and (chunk := next(chunks, None)) is not None:
        taken += len(chunk)
        yield chunk


# Streams ----------------------------------------------------------------------------------------------


def _stream(events: AsyncIterator[Event], asked: Asked, go_whisper: bool, model: ModelInfo) -> Response:
    stopping = anyio.Event()
    return EventSourceResponse(
        (_go_whisper if go_whisper else _openai)(_until(stopping, events), asked, model.notice),
        headers={"Cache-Control": "no-cache, no-transform", **_notice(model)},
        ping=_BEAT,
        # A named event without data breaks OpenAI's and fal's clients; a comment is for everybody else.
        ping_message_factory=_ping if go_whisper else _comment,
        shutdown_event=stopping,
        shutdown_grace_period=_FAREWELL,
    )


async def _go_whisper(
    events: AsyncIterator[Event], asked: Asked, notice: str
) -> AsyncIterator[ServerSentEvent]:
    """ping, task, segment…, ok or error. A segment is an object, in formats of text a JSON string."""
    yield _event("ping")
    format = formats.find(asked.response_format)
    try:
        async for event in events:
            match event:
                case Started(task, language, duration):
                    yield _event("task", {"task": task, "language": language, "duration": duration})
                case Segment():
                    yield _event("segment", format.piece(event))
                case Done(transcript):
                    for warning in transcript.warnings:
                        if warning != notice:
                            yield _event("warning", warning)
                    yield _event("ok")
    except errors.SpeechError as error:
        yield _event("error", str(error))


async def _openai(events: AsyncIterator[Event], asked: Asked, notice: str) -> AsyncIterator[ServerSentEvent]:
    """transcript.text.delta…, transcript.text.done, [DONE]; an error is data with the key `error`.

    The deltas, joined, are the text of `done`.
    """
    try:
        async for event in events:
            match event:
                case Segment(id=0, text=text):
                    yield _data({"type": "transcript.text.delta", "delta": text.lstrip()})
                case Segment(text=text):
                    yield _data({"type": "transcript.text.delta", "delta": text})
                case Done(transcript):
                    yield _data(_done(transcript))
                    yield ServerSentEvent(data="[DONE]", sep=_LINE)
    except errors.SpeechError as error:
        yield _data(problem(error))


def _done(transcript: Transcript) -> dict[str, object]:
    done: dict[str, object] = {"type": "transcript.text.done", "text": transcript.text}
    done["usage"] = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    warnings: dict[str, object] = {"warnings": transcript.warnings} if transcript.warnings else {}
    return done | warnings


def _event(name: str, data: object = None) -> ServerSentEvent:
    text = None if data is None else msgspec.json.encode(data).decode()
    return ServerSentEvent(event=name, data=text, sep=_LINE)


def _data(data: object) -> ServerSentEvent:
    return ServerSentEvent(data=msgspec.json.encode(data).decode(), sep=_LINE)


def _ping() -> ServerSentEvent:
    return _event("ping")


def _comment() -> ServerSentEvent:
    return ServerSentEvent(comment="still working", sep=_LINE)


async def _resumed(first: asyncio.Future[Event], events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The events again, the first of which somebody already waited for."""
    yield await first
    async for event in events:
        yield event


async def _until(stopping: anyio.Event, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The events; an error as soon as the server is being stopped, for no stream ends without a word."""
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        while True:
            event = asyncio.ensure_future(anext(events, None))
            try:
                await asyncio.wait({event, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not event.done():
                    event.cancel()
                    await asyncio.wait({event})
            if event.cancelled():
                raise errors.Stopping
            if (found := event.result()) is None:
                return
            yield found
    finally:
        stopped.cancel()


class _Held(Response):
    """An answer that holds the request's spool and work until it has been sent, however that ends."""

    def __init__(self, answer: Response, stack: AsyncExitStack) -> None:
        self._answer = answer
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await self._answer(scope, receive, send)
