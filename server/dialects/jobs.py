"""/v1/jobs: work that outlives its request, seen, followed, fetched in any format, and cancelled."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from server import deferred, dialects, errors, fields, formats, sse
from server.dialects import HEARING, Problem, document, problem, refusals, sees, services, v1
from server.errors import BadField
from server.formats import verbose_json
from server.jobs import Numbered, Outcome
from server.openapi import Answer, Events, Lines, answer, closed, operation
from server.types import (
    Audio,
    Done,
    Job,
    JobRequest,
    JobState,
    Progress,
    Segment,
    Sound,
    Started,
    Style,
    Task,
    Transcript,
    Waiting,
)

_MOST = 100
_LAST = 10**11


@closed
class JobList(TypedDict):
    """Jobs, the newest first."""

    object: Literal["list"]
    data: list[deferred.JobDocument]
    has_more: bool


@closed
class JobDeleted(TypedDict):
    """A job that is forgotten."""

    id: str
    object: Literal["job"]
    deleted: Literal[True]


@closed
class JobBegan(TypedDict):
    """The event `started`."""

    task: Task
    language: str
    duration: float | None
    """Seconds; null where the media does not say."""


@closed
class JobSummary(TypedDict):
    """The event `done`."""

    text: str
    language: str
    duration: float
    model: str
    warnings: Sequence[str]


@closed
class SoundSummary(TypedDict):
    """The event `done` of a job that speaks."""

    voice: str
    format: Audio
    duration: float
    """Seconds."""
    size: int
    """Bytes of the result."""


def _states(text: str) -> str:
    known = get_args(JobState)
    if unknown := [state for state in text.split(",") if state and state not in known]:
        raise ValueError(f'"{unknown[0][:40]}" is not one of ' + ", ".join(known))
    return text


_STATES = {"type": "string", "pattern": f"^,*(({'|'.join(get_args(JobState))})(,+|$))*$"}


def _format(name: str) -> str:
    if name not in formats.names():
        raise ValueError(f'"{name[:40]}" is not one of ' + ", ".join(formats.names()))
    return name


class Wanted(BaseModel):
    """Which jobs are listed."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    limit: int = Field(20, ge=1, le=_MOST)
    """How many at most."""
    status: Annotated[str, AfterValidator(_states), WithJsonSchema(_STATES)] = ""
    """In these states, with commas between them."""
    model: str = ""
    """Of this model."""
    idempotency_key: str = ""
    """Submitted with this key."""
    after: str = ""
    """The id of the last job of the page before."""


class Written(BaseModel):
    """How a result is written."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    response_format: Annotated[
        str, AfterValidator(_format), WithJsonSchema({"type": "string", "enum": ["", *formats.names()]})
    ] = ""
    """Its format; absent: as the job was submitted."""
    words: bool | None = None
    """Times of words, in verbose_json."""


class Followed(Written):
    """How events are written."""

    last_event_id: int = Field(0, ge=0, lt=_LAST)
    """The number of the last event that was seen."""


_SOUNDS = (
    *("audio/mpeg", "audio/ogg", "audio/aac", "audio/flac", "audio/wav", "audio/pcm"),
    "application/octet-stream",
)
_ID = {"id": "the job's id"}
_JOB_EVENTS = Events(
    {
        "started": JobBegan,
        "progress": deferred.JobProgress,
        "segment": verbose_json.FullSegment | verbose_json.BriefSegment | str,
        "done": JobSummary | SoundSummary,
        "error": Problem,
    }
)
_FAILED = refusals(*HEARING, errors.NotFound, errors.JobCancelled)


@operation(
    "List jobs",
    query=Wanted,
    answers={200: answer("jobs", JobList)},
    refusals=refusals(errors.BadRequest),
)
@v1
async def listing(request: Request) -> Response:
    asked = fields.query(request, Wanted)
    found = await services(request).jobs.select(
        sees(request),
        states=tuple(state for state in get_args(JobState) if state in asked.status.split(",")),
        model=asked.model,
        key=asked.idempotency_key,
        before=asked.after,
        limit=asked.limit + 1,
    )
    data = [await deferred.document(request, job) for job in found[: asked.limit]]
    return JSONResponse({"object": "list", "data": data, "has_more": len(found) > asked.limit})


@operation(
    "One job",
    path=_ID,
    answers={200: answer("the job", deferred.JobDocument)},
    refusals=refusals(errors.NotFound),
)
@v1
async def job(request: Request) -> Response:
    found = await _find(request)
    told = await deferred.document(request, found)
    told["logs"] = deferred.logs(found)
    return JSONResponse(told)


@operation(
    "Cancel a job, or forget one that has ended",
    path=_ID,
    answers={200: answer("the job, cancelled, or that it is forgotten", deferred.JobDocument | JobDeleted)},
    refusals=refusals(errors.NotFound),
)
@v1
async def delete(request: Request) -> Response:
    """A job that has not ended is cancelled; one that has is forgotten, with its result."""
    jobs, found = services(request).jobs, await _find(request)
    if not found.is_finished:
        return JSONResponse(await deferred.document(request, await jobs.cancel(found.id)))
    await jobs.remove(found.id)
    return JSONResponse({"id": found.id, "object": "job", "deleted": True})


@operation(
    "A job's result",
    path=_ID,
    query=Written,
    answers={
        200: Answer(
            "what the request itself would have answered, or with `response_format` the transcript in it",
            {
                "application/json": Any,
                "text/plain": str,
                "text/vtt": str,
                "text/tab-separated-values": str,
                "application/x-subrip": str,
                "application/x-ndjson": Lines(Any),
                "text/event-stream": Events({"": Any}),
                **dict.fromkeys(_SOUNDS, bytes),
            },
        ),
        202: answer("the job, which has not ended", deferred.JobDocument, Retry_After="seconds"),
    },
    refusals=_FAILED,
)
@v1
async def result(request: Request) -> Response:
    jobs, found = services(request).jobs, await _find(request)
    if not found.is_finished:
        return JSONResponse(await deferred.document(request, found), 202, {"Retry-After": "1"})
    asked = fields.query(request, Written)
    try:
        outcome = await jobs.result(found.id)
    except errors.SpeechError:
        await jobs.told(found)
        raise
    return deferred.told(request, found, _answer(found, outcome, asked))


@operation(
    "A job's events",
    path=_ID,
    query=Followed,
    headers={"Last-Event-ID": "the number of the last event that was seen"},
    answers={
        200: Answer("its events, from where they are wanted", {"text/event-stream": _JOB_EVENTS}),
        204: Answer("the last one was seen; browsers ask no more", {}),
    },
    refusals=refusals(errors.BadRequest, errors.NotFound),
)
@v1
async def events(request: Request) -> Response:
    """The job's events; `Last-Event-ID` goes on where an earlier stream broke off."""
    jobs, found = services(request).jobs, await _find(request)
    asked = fields.query(request, Followed)
    name = asked.response_format or "verbose_json"
    style = _style(asked, found.request.style)
    header = request.headers.get("last-event-id")
    after = _number(header) if header else asked.last_event_id
    if after and found.state == "succeeded" and after >= _last(await jobs.result(found.id)):
        return Response(status_code=204)

    async with AsyncExitStack() as stack:
        items = await stack.enter_async_context(aclosing(jobs.follow(found.id)))
        stream = sse.stream(items, lambda items: _written(items, after, name, style), go_whisper=False)
        return sse.Held(stream, stack.pop_all())


def _answer(job: Job, outcome: Outcome, asked: Written) -> Response:
    """The result in the form that the request wanted, or a transcript in another one."""
    if isinstance(outcome, Sound):
        if asked.response_format:
            raise BadField(
                "response_format: what was spoken has the one that was asked for", "response_format"
            )
        return dialects.sounding(job, outcome)
    if not asked.response_format and asked.words is None:
        return document(*dialects.written(job, outcome), {})
    style = _style(asked, job.request.style)
    name = asked.response_format or job.request.response_format
    format = formats.find(name if name in formats.names() else "verbose_json")
    return document(format.write(outcome, style), format.MEDIA_TYPE, {})


ROUTES = [
    Route("/v1/jobs", listing, methods=["GET"]),
    Route("/v1/jobs/{id}", job, methods=["GET"]),
    Route("/v1/jobs/{id}", delete, methods=["DELETE"]),
    Route("/v1/jobs/{id}/result", result, methods=["GET"]),
    Route("/v1/jobs/{id}/events", events, methods=["GET"]),
]


def written(request: JobRequest, transcript: Transcript) -> tuple[Iterator[str], str]:
    """In the format that was asked for, as under /v1/audio."""
    format = formats.find(request.response_format)
    return format.write(transcript, request.style), format.MEDIA_TYPE


async def _find(request: Request) -> Job:
    return await services(request).jobs.find(request.path_params["id"], sees(request))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise BadField("Last-Event-ID: must be the number of an event of this job", "Last-Event-ID")
    return int(text)


def _last(outcome: Outcome) -> int:
    """The number of a job's last event: `started`, a segment each, `done`; where it spoke, `done` alone."""
    return 1 if isinstance(outcome, Sound) else len(outcome.segments) + 2


def _style(asked: Written, style: Style) -> Style:
    """The job's style, but for what the query changes."""
    return style if asked.words is None else replace(style, words=asked.words)


async def _written(
    items: AsyncIterator[Numbered], after: int, name: str, style: Style
) -> AsyncIterator[ServerSentEvent]:
    """started, segment…, done, each with its number; progress and comments between them; or error.

    Events up to `after` are not told, but a format may need them for those that follow.
    """
    pieces = formats.find(name).pieces(style)
    try:
        async for number, event in items:
            match event:
                case Waiting(reason):
                    yield sse.comment(reason)
                case Progress(done, total):
                    yield sse.event("progress", {"done": done, "total": total})
                case Started(task, language, duration) if number and number > after:
                    yield sse.event(
                        "started", {"task": task, "language": language, "duration": duration}, number
                    )
                case Segment():
                    for said in _numbered(pieces.add(event), number or 0, after):
                        yield said
                case Sound() if number and number > after:
                    yield sse.event("done", dialects.sound_document(event), number)
                case Done(transcript) if number and number > after:
                    for piece in pieces.end():
                        yield sse.event("segment", piece)
                    yield sse.event("done", _summary(transcript), number)
    except errors.SpeechError as error:
        yield sse.event("error", problem(error))


def _numbered(pieces: Iterable[formats.Piece], number: int, after: int) -> Iterator[ServerSentEvent]:
    """A segment's pieces. The last one has the number: who missed it, missed the segment."""
    found = list(pieces)
    told = found if number > after else []
    for place, piece in enumerate(told, 1):
        yield sse.event("segment", piece, number if place == len(told) else None)


def _summary(transcript: Transcript) -> dict[str, object]:
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "model": transcript.model,
        "warnings": transcript.warnings,
    }
