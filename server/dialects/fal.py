"""fal's queue, run, stream and storage, as both of its clients speak them.

Which of fal's hosts is meant is told by the address that a proxy names, else by the Host header, else by the
path; bare paths are the queue's. Sources: fal's document of its queue; @fal-ai/client 1.10, fal-client 1.0.
"""

import asyncio
import base64
import binascii
import functools
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NotRequired
from urllib.parse import quote, urlsplit
from uuid import uuid4

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from server import deferred, errors, fields, sse, transcribe
from server.dialects import Open, Problem, notice, owner, public_base, sees, services, status
from server.files import UPLOAD_TIME
from server.jobs import Jobs
from server.openapi import Answer, Events, Fields, Raw, answer, closed, operation
from server.services import Services
from server.spool import Spool, on_disk, spooled
from server.types import (
    Activity,
    Diarize,
    Event,
    Job,
    JobRequest,
    Listen,
    Segment,
    SpeakerCount,
    Style,
    Transcript,
    Word,
)

log = logging.getLogger(__name__)

_LARGEST_INPUT = 64 << 20
"""Bytes of a JSON body: what a data URI may be."""

_PARSERS = asyncio.Semaphore(2)
"""Bodies that are in memory at a time; others lie on the disk."""

_WINDOWS = {"none": None, "regular": None, "high": 10.0, "full": 5.0}
"""Seconds of the longest window, by `acceleration`."""

_MOST_PARTS = 10_000
_PART_NAMED = 100
"""Bytes that a part takes where parts are named."""

_LOOK = 0.5
"""Seconds between two looks at a job whose status is streamed."""

_HOSTS = ("fal.run", "fal.ai", "fal.media")

_ID = r"w[0-9a-f]{32}"

_NAME = re.compile(r"[^\w.-]+", re.ASCII)

_NAMES = {"url": "audio_url", "file": "audio_url", "webhook": "fal_webhook"}
"""Fields, as this dialect calls them."""

_STATES = {
    "queued": "IN_QUEUE",
    "running": "IN_PROGRESS",
    "succeeded": "COMPLETED",
    "failed": "COMPLETED",
    "cancelled": "COMPLETED",
}


class Input(BaseModel):
    """What all applications take; a body's other fields are ignored."""

    audio_url: str
    language: fields.Language = None


class Nemotron(Input):
    """The input of nvidia/nemotron-asr-multilingual/asr."""

    acceleration: Literal["none", "regular", "high", "full"] = "regular"

    def request(self, app: str, model: str) -> JobRequest:
        activity = Activity(longest=_WINDOWS[self.acceleration])
        listen = Listen(model, language=self.language, activity=activity)
        return JobRequest(listen, dialect="fal", app=app)


class Whisper(Input):
    """The input of fal-ai/whisper."""

    task: Literal["transcribe", "translate"] = "transcribe"
    chunk_level: Literal["none", "segment", "word"] = "segment"
    prompt: str = ""
    diarize: bool = False
    num_speakers: int | None = Field(None, ge=1, le=20)

    def request(self, app: str, model: str) -> JobRequest:
        words = self.chunk_level == "word"
        who = Diarize(speakers=SpeakerCount(self.num_speakers), names=True) if self.diarize else None
        listen = Listen(model, self.task, self.language, prompt=self.prompt, words=words, diarize=who)
        kind = "text" if self.chunk_level == "none" else "verbose_json"
        return JobRequest(listen, dialect="fal", app=app, response_format=kind, style=Style(words=words))


def _is_whisper(app: str) -> bool:
    return "whisper" in app or "wizper" in app


# What is answered -------------------------------------------------------------------------------------


class Asked(Whisper, Nemotron):
    """What applications take, be it as JSON; each heeds the fields that are its own."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    audio_url: str
    """An http or https address, a data URI, or the address of a file that was uploaded here."""
    language: fields.Language = None
    """`auto`, one of fal's such as `en-US`, or any that the model knows."""
    acceleration: Literal["none", "regular", "high", "full"] = "regular"
    """How soon text is there in a stream, against how much a model hears around it; not whisper's."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Whisper's."""
    chunk_level: Literal["none", "segment", "word"] = "segment"
    """Whisper's: what its `chunks` are."""
    prompt: str = ""
    """Whisper's: names and spellings to expect."""
    diarize: bool = False
    """Whisper's: whether it is to be told who speaks."""
    num_speakers: int | None = Field(None, ge=1, le=20)
    """Whisper's: how many do, where that is known."""


class Submitted(BaseModel):
    """How a request is to be told of."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    fal_webhook: str = ""
    """Where the output is posted."""


class Upload(BaseModel):
    """What a client tells of a file before it sends it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    content_type: str = "application/octet-stream"
    """What it is; nobody here goes by it."""
    file_name: str = ""
    """As its client calls it."""


class Part(BaseModel):
    """A part of a file."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    partNumber: int
    """As it was put."""
    etag: str
    """As it was answered then."""


class Parts(BaseModel):
    """What a file is to be made of."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    parts: list[Part]
    """Its parts."""


class Logged(BaseModel):
    """How a status is to be told."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    logs: bool | None = None
    """With what happened so far."""


class Signed(BaseModel):
    """What an address to upload to has."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    owner: str = ""
    """Whose file it is."""
    until: int
    """Unix time until which the address is good."""
    signature: str
    """This server's."""


class Everything(Submitted, Logged, Upload):
    """What the calls behind the proxy read."""


@closed
class Output(TypedDict):
    """What the ASR applications give."""

    output: str
    partial: bool


@closed
class Chunk(TypedDict):
    """A segment, or a word."""

    timestamp: list[float]
    """Start and end in seconds."""
    text: str
    speaker: NotRequired[str | None]
    """Who says it, where that was asked."""


@closed
class DiarizationSegment(TypedDict):
    """A stretch in which somebody is heard."""

    timestamp: list[float]
    """Start and end in seconds."""
    speaker: str


@closed
class WhisperOutput(TypedDict):
    """What fal-ai/whisper gives."""

    text: str
    chunks: list[Chunk]
    inferred_languages: list[str]
    diarization_segments: list[DiarizationSegment]
    """Empty where nobody asked who speaks."""


@closed
class PartialText(TypedDict):
    """fal-ai/whisper's text so far."""

    text: str
    partial: bool


@closed
class Wrong(TypedDict):
    """What is wrong with a field."""

    loc: list[str]
    msg: str
    type: str


@closed
class Detail(TypedDict):
    """An error."""

    detail: str | list[Wrong]


@closed
class Broken(TypedDict):
    """An error in a stream."""

    error: dict[str, str]
    detail: str


@closed
class LogLine(TypedDict):
    """What happened to a request."""

    message: str
    level: str
    source: str
    timestamp: str


@closed
class StatusDocument(TypedDict):
    """Where a request stands."""

    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    request_id: str
    gateway_request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    logs: list[LogLine] | None
    queue_position: NotRequired[int]
    metrics: NotRequired[dict[str, float]]
    error: NotRequired[str]
    error_type: NotRequired[str]


@closed
class Cancelling(TypedDict):
    """What became of a cancellation."""

    status: Literal["CANCELLATION_REQUESTED", "ALREADY_COMPLETED"]


@closed
class Addresses(TypedDict):
    """Where a file is put, and where it is then."""

    upload_url: str
    file_url: str


@closed
class Put(TypedDict):
    """Where a file is."""

    file_url: str


@closed
class Stored(TypedDict):
    """Where a file is."""

    access_url: str


@closed
class Begun(TypedDict):
    """A file that comes in parts."""

    access_url: str
    uploadId: str


@closed
class PutPart(TypedDict):
    """A part that is here."""

    partNumber: int
    etag: str


@closed
class Token(TypedDict):
    """What uploads are made with."""

    token: str
    token_type: str
    base_url: str
    expires_at: str


@closed
class Jwks(TypedDict):
    """Public keys as RFC 7517 has them."""

    keys: list[dict[str, str]]


_REFUSED = {
    status: answer(told, Detail)
    for status, told in {
        400: "not as it should be",
        401: "no key, or none that is known here",
        403: "the key may not, or a web page sent it",
        404: "nothing here by that name",
        408: "the body came too slowly",
        410: "the request was cancelled",
        413: "too large",
        422: "the input is wrong",
        500: "the server failed",
        503: "busy, or being stopped",
        507: "no room",
    }.items()
}

_UNSERVED = _REFUSED | {404: answer("nothing here by that name, or no such application", Detail | Problem)}
"""Of what is an application's: where there is none, there is no route, and no dialect."""

_APP = {"app": "the application's id"}
_REQUEST = _APP | {"id": "the request's id"}
_FILE = {"id": "the file's id", "name": "its name"}
_PART = _FILE | {"upload": "the upload's id"}

_OUTPUT = answer("the output", Output | WhisperOutput)
_STREAM = Answer(
    "the text so far with each segment, then the output",
    {"text/event-stream": Events({"": Output | PartialText | WhisperOutput | Broken})},
)


# Answers ----------------------------------------------------------------------------------------------


def output(request: JobRequest, transcript: Transcript) -> dict[str, object]:
    """What an application gives: the document of fal-ai/whisper, or that of the ASR ones."""
    if not _is_whisper(request.app):
        return {"output": transcript.text, "partial": False}
    return {
        "text": transcript.text,
        "chunks": _chunks(request, transcript),
        "inferred_languages": [transcript.language] if transcript.language else [],
        "diarization_segments": _turns(transcript),
    }


def _turns(transcript: Transcript) -> list[DiarizationSegment]:
    turns = transcript.diarized.turns if transcript.diarized else ()
    return [{"timestamp": [turn.start, turn.end], "speaker": turn.speaker} for turn in turns]


def _chunks(request: JobRequest, transcript: Transcript) -> list[dict[str, object]]:
    if request.response_format == "text":
        return []
    said = transcript.words if request.style.words else transcript.segments
    return [_chunk(one, told=transcript.diarized is not None) for one in said]


def _chunk(said: Word | Segment, told: bool) -> dict[str, object]:
    speaker = {"speaker": said.speaker} if told else {}
    return {"timestamp": [said.start, said.end], "text": said.text.strip(), **speaker}


def written(request: JobRequest, transcript: Transcript) -> tuple[Iterator[str], str]:
    """The output, as its clients get it."""
    return iter((json.dumps(output(request, transcript), ensure_ascii=False),)), "application/json"


def refusal(error: errors.SpeechError) -> JSONResponse:
    """An error as fal tells it; what is wrong with the input is a list, as its clients show it."""
    is_input = isinstance(error, errors.BadRequest | errors.BadMedia)
    headers = {"x-fal-request-id": str(uuid4()), "x-fal-error-type": type(error).__name__}
    if isinstance(error, errors.Busy):
        headers["Retry-After"] = str(error.retry_after)
    detail = [_wrong(error)] if is_input else str(error)
    return JSONResponse({"detail": detail}, 422 if is_input else status(error), headers)


def _wrong(error: errors.SpeechError) -> Wrong:
    """What is wrong with the input, under fal's name of the field."""
    field: str = getattr(error, "field", None) or ""
    name = _NAMES.get(field, field)
    message = str(error).replace(f"{field}: ", f"{name}: ", 1)
    return {"loc": ["body", name] if name else ["body"], "msg": message, "type": "value_error"}


def _told(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            answer = await handler(request)
        except errors.SpeechError as error:
            log.info("%s %s refused: %s", request.method, request.url.path, error)
            answer = refusal(error)
        if "x-fal-request-id" not in answer.headers:
            answer.headers["x-fal-request-id"] = str(uuid4())
        return answer

    return answer


# Input ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _asked(request: Request) -> AsyncGenerator[tuple[JobRequest, Spool | None]]:
    """What is asked for, and its media where the body has it as a data URI."""
    serving = services(request)
    app = request.path_params["app"]
    async with AsyncExitStack() as stack:
        limits = serving.config
        body = await stack.enter_async_context(spooled(limits.spool_folder, _LARGEST_INPUT))
        media = await stack.enter_async_context(spooled(limits.spool_folder))
        async for chunk in fields.paced(request.stream(), limits.upload_grace, limits.upload_rate):
            await body.write(chunk)
        await body.finish()
        async with _PARSERS:
            found, is_here = await asyncio.to_thread(_parsed, body.path, media.path)
        job = _checked(Whisper if _is_whisper(app) else Nemotron, found).request(app, limits.fal_apps[app])
        listen = _listen(job)
        serving.check_speakers(listen)
        if model := serving.choose(listen):
            transcribe.check(model, listen)
            job = replace(job, listen=replace(listen, model=model.id))
        url = "" if is_here else found["audio_url"]
        yield replace(job, url=url), on_disk(media.path) if is_here else None


def _parsed(body: Path, media: Path) -> tuple[dict[str, Any], bool]:
    """The fields of a body, and whether the media was in it: then it lies in `media` now."""
    try:
        found = msgspec.json.decode(body.read_bytes() or b"{}")
    except (ValueError, RecursionError) as error:
        raise errors.BadRequest(f"the body cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise errors.BadRequest("the body must be a JSON object")
    address = found.get("audio_url")
    if not isinstance(address, str) or not address.startswith("data:"):
        return found, False
    media.write_bytes(_data(address))
    return found | {"audio_url": "data:"}, True


def _data(address: str) -> bytes:
    """What a data URI holds. Source: RFC 2397; nobody sends sound but as base64."""
    head, comma, data = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise errors.BadUrl("audio_url: a data URI must be data:TYPE;base64,DATA", "audio_url")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.BadUrl(f"audio_url: the data URI is no base64: {error}", "audio_url") from error


def _checked(kind: type[Nemotron] | type[Whisper], found: dict[str, Any]) -> Nemotron | Whisper:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise errors.MissingField(f"{name}: field required", name) from error
        raise errors.BadField(f"{name}: {reason}", name) from error


def _heard(serving: Services, job: JobRequest, media: Spool | None) -> AsyncGenerator[Event]:
    if media:
        return serving.transcribe(_listen(job), media)
    return serving.transcribe_url(_listen(job), job.url)


def _listen(job: JobRequest) -> Listen:
    assert job.listen, "applications hear"
    return job.listen


# Run, stream and the queue ----------------------------------------------------------------------------


@operation(
    "Submit a request to an application",
    path=_APP,
    query=Submitted,
    headers={
        "x-fal-queue-priority": "`low`: behind others",
        "Idempotency-Key": "done once",
    },
    body=Fields(Asked),
    answers={
        200: answer(
            "the request in line; on the host fal.run its output", StatusDocument | Output | WhisperOutput
        )
    },
    refusals=_UNSERVED,
)
@_told
async def submit(request: Request) -> Response:
    """POST on an application: a job on the queue's host, an answer on the other one."""
    if _host(request) in ("fal.run", "run"):
        return await _run(request)
    serving = services(request)
    webhook = fields.query(request, Submitted).fal_webhook
    key = deferred.idempotency_key(request)
    async with _asked(request) as (job, media):
        kept = await serving.jobs.submit(
            job,
            spool=media,
            owner=owner(request),
            key=key,
            priority="low" if request.headers.get("x-fal-queue-priority") == "low" else "normal",
            webhook=webhook,
        )
    return JSONResponse(await _status(request, kept, logs=False), headers=_id(kept))


@operation("Run an application", path=_APP, body=Fields(Asked), answers={200: _OUTPUT}, refusals=_UNSERVED)
@_told
async def run(request: Request) -> Response:
    return await _run(request)


async def _run(request: Request) -> Response:
    serving = services(request)
    serving.readers.refuse_if_full()
    async with _asked(request) as (job, media), aclosing(_heard(serving, job, media)) as events:
        transcript = await transcribe.whole(events)
    return JSONResponse(output(job, transcript), headers=notice(serving.choose(_listen(job))))


@operation(
    "Run an application, streamed", path=_APP, body=Fields(Asked), answers={200: _STREAM}, refusals=_UNSERVED
)
@_told
async def stream(request: Request) -> Response:
    """The text so far with each segment, then the whole output."""
    serving = services(request)
    serving.readers.refuse_if_full()
    async with AsyncExitStack() as stack:
        job, media = await stack.enter_async_context(_asked(request))
        events = await stack.enter_async_context(aclosing(_heard(serving, job, media)))
        first = await stack.enter_async_context(sse.first(events))
        answer = sse.stream(
            sse.resumed(first, events), lambda events: _partial(events, job), go_whisper=False
        )
        answer.headers["x-fal-request-id"] = str(uuid4())
        held = sse.Held(answer, stack.pop_all())
        held.raw_headers = answer.raw_headers
        return held


async def _partial(events: AsyncIterator[Event], job: JobRequest) -> AsyncIterator[ServerSentEvent]:
    text = ""
    key = "text" if _is_whisper(job.app) else "output"
    try:
        async for event in events:
            if isinstance(event, Segment):
                text += event.text
                yield sse.data({key: text.strip(), "partial": True})
            elif transcript := getattr(event, "transcript", None):
                yield sse.data(output(job, transcript))
    except errors.SpeechError as error:
        yield sse.data({"error": {"message": str(error)}, "detail": str(error)})


@operation(
    "Where a request stands",
    path=_REQUEST,
    query=Logged,
    answers={200: answer("it is done", StatusDocument), 202: answer("it is not done", StatusDocument)},
    refusals=_UNSERVED,
)
@_told
async def job_status(request: Request) -> Response:
    job = await _find(request)
    document = await _status(request, job, logs=_wants_logs(request))
    return JSONResponse(document, 200 if job.is_finished else 202, _id(job))


@operation(
    "Where a request stands, whenever it changes",
    path=_REQUEST,
    query=Logged,
    answers={200: Answer("statuses", {"text/event-stream": Events({"": StatusDocument | Broken})})},
    refusals=_UNSERVED,
)
@_told
async def status_stream(request: Request) -> Response:
    """A status whenever it changes, the last one COMPLETED."""
    job = await _find(request)
    logs = _wants_logs(request)

    async def changes() -> AsyncIterator[dict[str, object]]:
        found = job
        last: dict[str, object] = {}
        while True:
            document = await _status(request, found, logs)
            if document != last:
                last = document
                yield document
            if found.is_finished:
                return
            await asyncio.sleep(_LOOK)
            found = await _find(request)

    async def written(items: AsyncIterator[dict[str, object]]) -> AsyncIterator[ServerSentEvent]:
        try:
            async for item in items:
                yield sse.data(item)
        except errors.SpeechError as error:
            yield sse.data({"error": {"message": str(error)}, "detail": str(error)})

    return sse.stream(changes(), written, go_whisper=False, headers=_id(job))


@operation("A request's output", path=_REQUEST, answers={200: _OUTPUT}, refusals=_UNSERVED)
@_told
async def result(request: Request) -> Response:
    jobs, job = services(request).jobs, await _find(request)
    if not job.is_finished:
        return JSONResponse({"detail": "Request is still in progress"}, 400, _id(job))
    try:
        transcript = await jobs.result(job.id)
    except errors.SpeechError as error:
        await jobs.told(job)
        answer = refusal(error)
        answer.headers["x-fal-request-id"] = job.id
        return answer
    assert isinstance(transcript, Transcript), "applications hear"
    return deferred.told(request, job, JSONResponse(output(job.request, transcript), headers=_id(job)))


@operation(
    "Cancel a request",
    path=_REQUEST,
    answers={
        202: answer("it will end", Cancelling),
        400: answer("it has ended, or is not as it should be", Cancelling | Detail),
    },
    refusals=_UNSERVED,
)
@_told
async def cancel(request: Request) -> Response:
    jobs, job = services(request).jobs, await _find(request)
    if job.is_finished:
        return JSONResponse({"status": "ALREADY_COMPLETED"}, 400, _id(job))
    await jobs.cancel(job.id)
    return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202, _id(job))


async def _find(request: Request) -> Job:
    job = await services(request).jobs.find(request.path_params["id"], sees(request))
    if job.request.dialect != "fal" or not _belongs(job.request.app, request.path_params["app"]):
        raise errors.JobNotFound(f"there is no request {job.id} of this application")
    return job


def _belongs(app: str, asked: str) -> bool:
    """Clients leave out what follows the second part of an application's id, in all calls but the first."""
    return app == asked or app.split("/")[:2] == asked.split("/")


async def _status(request: Request, job: Job, logs: bool) -> dict[str, object]:
    jobs = services(request).jobs
    here = f"{_base(request)}/{'/'.join(job.request.app.split('/')[:2])}/requests/{job.id}"
    document: dict[str, object] = {
        "status": _STATES[job.state],
        "request_id": job.id,
        "gateway_request_id": job.id,
        "response_url": here,
        "status_url": f"{here}/status",
        "cancel_url": f"{here}/cancel",
        "logs": _logs(job) if logs else None,
    }
    if not job.is_finished:
        document["queue_position"] = await jobs.position(job) or 0
        return document
    document["metrics"] = {"inference_time": (job.finished or 0.0) - (job.started or job.finished or 0.0)}
    if job.error:
        document |= {"error": job.error.message, "error_type": job.error.kind}
    elif job.state == "cancelled":
        document |= {"error": "the request was cancelled", "error_type": "request_cancelled"}
    return document


def _wants_logs(request: Request) -> bool:
    return bool(fields.query(request, Logged).logs)


def _logs(job: Job) -> list[dict[str, object]]:
    return [
        {
            "message": line.message,
            "level": line.level,
            "source": "USER",
            "timestamp": datetime.fromtimestamp(line.at, UTC).isoformat(),
        }
        for line in job.logs
    ]


def _id(job: Job) -> dict[str, str]:
    return {"x-fal-request-id": job.id}


# Storage ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file is to be: its id and name. A signature is for both, its kind, its owner and a time."""

    id: str
    name: str

    def path(self) -> str:
        return f"/files/b/{self.id}/{self.name}"


@operation(
    "Where a file may be put",
    body=Fields(Upload, required=False),
    answers={200: answer("its addresses", Addresses)},
    refusals=_REFUSED,
)
@_told
async def initiate(request: Request) -> Response:
    """Where a file may be put, and where it is then; the first without a key, for a while."""
    serving = services(request)
    limits = serving.config
    asked = await fields.small(request, Upload, grace=limits.upload_grace, rate=limits.upload_rate)
    await serving.jobs.refuse_if_stored(1, owner(request))
    place = _new_place(asked.file_name)
    base = _base(request)
    until = str(int(time.time()) + UPLOAD_TIME)
    who = owner(request)
    mark = serving.jobs.signer.sign("upload", place.id, place.name, who, until)
    query = f"?owner={quote(who, safe='')}&until={until}&signature={mark}"
    return JSONResponse({"upload_url": base + place.path() + query, "file_url": base + place.path()})


def _new_place(name: str) -> _Place:
    return _Place("w" + secrets.token_hex(16), _NAME.sub("_", name)[-100:].strip(".") or "file")


@operation(
    "Put a file",
    path=_FILE,
    query=Signed,
    body=Raw("application/octet-stream"),
    answers={200: answer("where it is", Put)},
    refusals=_REFUSED,
)
@_told
async def put(request: Request) -> Response:
    """A file, at the address that it was given."""
    place, who = _signed(request)
    await _kept(request, place, who)
    return JSONResponse({"file_url": _base(request) + place.path()})


def _signed(request: Request) -> tuple[_Place, str]:
    """What an address of `initiate` is for, and whose it is. Raises Refused."""
    place = _Place(request.path_params["id"], request.path_params["name"])
    asked = fields.query(request, Signed)
    signer = services(request).jobs.signer
    if not signer.is_signed(asked.signature, "upload", place.id, place.name, asked.owner, str(asked.until)):
        raise errors.Refused("this address was not given by this server")
    if asked.until < time.time():
        raise errors.Refused("the time of this address is over; ask for another one")
    return place, asked.owner


async def _kept(request: Request, place: _Place, who: str) -> None:
    kind = request.headers.get("content-type") or "application/octet-stream"
    async with _taken(request, who) as spool:
        await services(request).jobs.keep_file(spool, place.name, kind[:100], who, place.id)


@asynccontextmanager
async def _taken(request: Request, who: str) -> AsyncGenerator[Spool]:
    """The body, complete."""
    serving = services(request)
    limits = serving.config
    declared = int(request.headers.get("content-length") or 0)
    if declared > limits.max_upload:
        raise errors.TooLarge(f"the body is larger than {limits.max_upload:,} bytes")
    await serving.jobs.refuse_if_stored(declared, who)
    async with spooled(limits.spool_folder, limits.max_upload) as spool:
        async for chunk in fields.paced(request.stream(), limits.upload_grace, limits.upload_rate):
            await spool.write(chunk)
        await spool.finish()
        if not spool.size:
            raise errors.BadRequest("the file is empty")
        yield spool


@operation(
    "Where a large file may be put, part by part",
    body=Fields(Upload, required=False),
    answers={200: answer("its addresses; parts go below the first", Addresses)},
    refusals=_REFUSED,
)
@_told
async def initiate_parts(request: Request) -> Response:
    """The same as `initiate`, as the Node client asks for it with large files."""
    limits = services(request).config
    asked = await fields.small(request, Upload, grace=limits.upload_grace, rate=limits.upload_rate)
    address, upload = await _begun(request, asked.file_name)
    return JSONResponse({"upload_url": f"{address}/multipart/{upload}", "file_url": address})


@operation(
    "Begin to store a large file, part by part",
    headers={"x-fal-file-name": "its name"},
    answers={200: answer("where it will be, and what its parts are put under", Begun)},
    refusals=_REFUSED,
)
@_told
async def begin_parts(request: Request) -> Response:
    """The same for the Python client."""
    address, upload = await _begun(request, request.headers.get("x-fal-file-name", ""))
    return JSONResponse({"access_url": address, "uploadId": upload})


async def _begun(request: Request, name: str) -> tuple[str, str]:
    """The address of a file that is to come in parts, and what allows to put them: owner and time, signed."""
    serving = services(request)
    await serving.jobs.refuse_if_stored(1, owner(request))
    place = _new_place(name)
    who = base64.urlsafe_b64encode(owner(request).encode()).decode().rstrip("=")
    until = str(int(time.time()) + UPLOAD_TIME)
    mark = serving.jobs.signer.sign("parts", place.id, place.name, who, until)
    return _base(request) + place.path(), f"{until}.{who}.{mark}"


@operation(
    "Put a part of a file",
    path=_PART | {"part": "its number, from 1"},
    body=Raw("application/octet-stream"),
    answers={200: answer("by what it is meant at the end", PutPart, ETag="the same")},
    refusals=_REFUSED,
)
@_told
async def put_part(request: Request) -> Response:
    """A part, in any order; the same one may be put again."""
    place, who = _allowed(request)
    number = request.path_params["part"]
    if not (number.isascii() and number.isdecimal() and 0 < int(number) <= _MOST_PARTS):
        raise errors.BadField(f"part: must be a number from 1 to {_MOST_PARTS}", "part")
    async with _taken(request, who) as spool:
        mark = await asyncio.to_thread(services(request).jobs.uploads.keep, spool.path, place.id, int(number))
    return JSONResponse({"partNumber": int(number), "etag": mark}, headers={"ETag": mark})


@operation(
    "Join the parts of a file",
    path=_PART,
    body=Fields(Parts),
    answers={200: answer("where it is", Put)},
    refusals=_REFUSED,
)
@_told
async def complete(request: Request) -> Response:
    """The file, of its parts in the order of their numbers: the Python client names them as they arrived."""
    jobs, limits = services(request).jobs, services(request).config
    place, who = _allowed(request)
    pace = {"grace": limits.upload_grace, "rate": limits.upload_rate}
    asked = await fields.small(request, Parts, **pace, largest=_MOST_PARTS * _PART_NAMED)
    if not asked.parts:
        raise errors.BadField("parts: there is none", "parts")
    parts = sorted((part.partNumber, part.etag.strip('"')) for part in asked.parts)
    if not await _is_stored(jobs, place):  # else the answer was lost, and its client asks again
        async with spooled(limits.spool_folder) as joined:
            await asyncio.to_thread(jobs.uploads.join, place.id, parts, joined.path)
            whole = on_disk(joined.path)
            if whole.size > limits.max_upload:
                raise errors.TooLarge(f"the file is larger than {limits.max_upload:,} bytes")
            await jobs.keep_file(whole, place.name, "application/octet-stream", who, place.id)
    await asyncio.to_thread(jobs.uploads.remove, place.id)
    return JSONResponse({"file_url": _base(request) + place.path()})


async def _is_stored(jobs: Jobs, place: _Place) -> bool:
    try:
        await jobs.file(place.id)
    except errors.FileNotFound:
        return False
    return True


def _allowed(request: Request) -> tuple[_Place, str]:
    """The file whose parts may be put by this address, and whose it is. Raises Refused."""
    place = _Place(request.path_params["id"], request.path_params["name"])
    until, _, rest = request.path_params["upload"].partition(".")
    who, _, mark = rest.partition(".")
    if not services(request).jobs.signer.is_signed(mark, "parts", place.id, place.name, who, until):
        raise errors.Refused("this address was not given by this server")
    if int(until) < time.time():
        raise errors.Refused("the time of this address is over; begin the upload again")
    return place, base64.urlsafe_b64decode(who + "=" * (-len(who) % 4)).decode()


@operation("A token for uploads", answers={200: answer("the token", Token)}, refusals=_REFUSED)
@_told
async def token(request: Request) -> Response:
    """A key for uploads, as the Python client asks for it."""
    serving = services(request)
    lent = serving.keys.lend(owner(request), "use", UPLOAD_TIME) if serving.keys.needed else "none-needed"
    expires = datetime.fromtimestamp(time.time() + UPLOAD_TIME, UTC).isoformat()
    base = _base(request, "v3.fal.media")
    return JSONResponse({"token": lent, "token_type": "Bearer", "base_url": base, "expires_at": expires})


@operation(
    "Store a file",
    headers={"x-fal-file-name": "its name"},
    body=Raw("application/octet-stream"),
    answers={200: answer("where it is", Stored)},
    refusals=_REFUSED,
)
@_told
async def upload(request: Request) -> Response:
    """A file, by whoever has a key."""
    place = _new_place(request.headers.get("x-fal-file-name", ""))
    await _kept(request, place, owner(request))
    return JSONResponse({"access_url": _base(request) + place.path()})


@operation(
    "A stored file",
    path=_FILE,
    answers={
        200: Answer("the file", {"application/octet-stream": bytes}),
        206: Answer("a part of it", {"application/octet-stream": bytes}),
    },
    refusals=_REFUSED,
)
@_told
async def file(request: Request) -> Response:
    """A stored file, for whoever has its address."""
    jobs = services(request).jobs
    found = await jobs.file(request.path_params["id"])
    return FileResponse(
        jobs.blobs.path(found.sha256),
        media_type="application/octet-stream",
        headers={"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment"},
    )


@operation(
    "The keys that webhooks are signed with", answers={200: answer("public keys", Jwks)}, refusals=_REFUSED
)
@_told
async def jwks(request: Request) -> Response:
    """The keys that webhooks are signed with."""
    keys = await asyncio.to_thread(services(request).jobs.jwks)
    return JSONResponse(keys, headers={"Cache-Control": "public, max-age=3600"})


# Which host, and which route --------------------------------------------------------------------------


def _host(request: Request) -> str:
    """The name of the host that the client means, without its port."""
    named: str = request.scope.get("fal_host") or request.headers.get("host", "")
    try:
        return (urlsplit(f"//{named}").hostname or "").lower()
    except ValueError:
        return ""


def _base(request: Request, other: str = "") -> str:
    """Where the client finds this server; under one of fal's names it came through a proxy with TLS."""
    host = _host(request)
    if "fal_host" not in request.scope and host.endswith(_HOSTS):
        return f"https://{other or request.headers['host']}"
    prefix = "/fal/queue" if request.url.path.startswith("/fal/queue/") else ""
    return public_base(request) + ("" if other else prefix)


class App(Route):
    """A route of the applications that are configured, and of nothing else that happens to look like one."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is Match.NONE:
            return match, child
        serving: Services | None = scope.get("state", {}).get("services")
        asked = child["path_params"]["app"]
        apps = serving.config.fal_apps if serving else {}
        is_known = any(_belongs(app, asked) if "id" in child["path_params"] else app == asked for app in apps)
        return (match, child) if is_known else (Match.NONE, {})


@operation(
    "Any of these calls, by the address that a header names",
    headers={"x-fal-target-url": "the address at fal that the call is for"},
    query=Everything,
    body=Raw("application/json"),
    answers={
        200: Answer("as the call itself", {"application/json": Any, "text/event-stream": Events({"": Any})}),
        202: answer("as the call itself", Any),
        204: Answer("as the call itself", {}),
        400: answer("as the call itself", Any),
    },
    refusals=_REFUSED,
)
@_told
async def proxy(request: Request) -> Response:
    """Every call of a client whose proxy this is; the address that it means is in a header."""
    try:
        target = urlsplit(request.headers.get("x-fal-target-url", ""))
        is_fals = (target.hostname or "").endswith(_HOSTS)
    except ValueError:
        is_fals = False
    if not is_fals:
        raise errors.BadField("x-fal-target-url: must be an address of fal", "x-fal-target-url")
    scope = dict(request.scope)
    for key in ("path_params", "endpoint", "route", "router"):
        scope.pop(key, None)
    scope |= {
        "path": target.path,
        "raw_path": target.path.encode(),
        "query_string": target.query.encode(),
        "fal_host": target.netloc,
        "root_path": "",
    }
    return _Forwarded(scope)


class _Forwarded(Response):
    """The answer that the same call gets without a proxy."""

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self._scope = scope

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        await _ROUTER(self._scope, receive, send)


def _apps(prefix: str) -> list[BaseRoute]:
    requests = prefix + "/{app:path}/requests/{id}"
    return [
        App(requests + "/status", job_status, methods=["GET"]),
        App(requests + "/status/stream", status_stream, methods=["GET"]),
        App(requests + "/cancel", cancel, methods=["PUT"]),
        App(requests, result, methods=["GET"]),
        App(prefix + "/{app:path}/stream", stream, methods=["POST"]),
        App(prefix + "/{app:path}", submit, methods=["POST"]),
    ]


_OPEN: list[BaseRoute] = [
    Open("/.well-known/jwks.json", jwks, methods=["GET"]),
    Open("/files/b/{id}/{name}", put, methods=["PUT"]),
    Open("/files/b/{id}/{name}", file, methods=["GET"]),
    Open("/files/b/{id}/{name}/multipart/{upload}/complete", complete, methods=["POST"]),
    Open("/files/b/{id}/{name}/multipart/{upload}/{part}", put_part, methods=["PUT"]),
]

_KEYED: list[BaseRoute] = [
    Route("/storage/upload/initiate", initiate, methods=["POST"]),
    Route("/storage/upload/initiate-multipart", initiate_parts, methods=["POST"]),
    Route("/storage/auth/token", token, methods=["POST"]),
    Route("/files/upload", upload, methods=["POST"]),
    Route("/files/upload/multipart", begin_parts, methods=["POST"]),
    App("/fal/run/{app:path}/stream", stream, methods=["POST"]),
    App("/fal/run/{app:path}", run, methods=["POST"]),
    *_apps("/fal/queue"),
    *_apps(""),
]

ROUTES: list[BaseRoute] = [
    *_OPEN,
    Route("/api/fal/proxy", proxy, methods=["GET", "POST", "PUT", "DELETE"]),
    *_KEYED,
]


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    """Who asks for an application that is not here is told which ones are."""
    serving: Services = scope["state"]["services"]
    known = ", ".join(serving.config.fal_apps) or "none"
    error = errors.NotFound(f"{scope['path']}: no such call, or no such application; fal_apps has {known}")
    await refusal(error)(scope, receive, send)


_ROUTER = Router([*_OPEN, *_KEYED], default=_unknown)
"""What a proxied call may lead to."""
