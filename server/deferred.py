"""Requests that become jobs: what their headers ask for, and how a job is shown to its client.

`Prefer: respond-async` (RFC 7240) or `?async=true` makes the answer a job. `Idempotency-Key` does so behind
the scenes: the answer waits, but what was asked for is done once, and can be had again if the line breaks.
`X-Request-ID` says nothing: proxies set it on everything.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import TypedDict

from server import fields
from server.custom_voices import PREFIX
from server.dialects import owner, public_base, services, sounding
from server.errors import BadField, JobNotFound, NotMedia, SpeechError
from server.jobs import Jobs
from server.openapi import closed
from server.speak import Spoken
from server.spool import Spool
from server.types import Event, Job, JobRequest, JobState, JobTask, Priority, Sound

_LONGEST_KEY = 255

_PREFERENCE = re.compile(r"(^|,)\s*respond-async\s*(;|,|$)", re.IGNORECASE)


class Query(BaseModel):
    """What of the query makes a request a job."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    as_job: bool | None = Field(None, alias="async")
    """The answer is a job (202), which outlives the request."""
    webhook: str = ""
    """Where the job's result is sent."""
    priority: Priority = "normal"
    """The job's."""


HEADERS = {
    "Prefer": "`respond-async`: the answer is a job (202), which outlives the request",
    "Idempotency-Key": "the same request with the same key is done once, and its result can be had again",
}
"""What of the headers makes a request a job."""


@closed
class JobProgress(TypedDict):
    """Seconds of the media, or of what was spoken."""

    done: float
    total: float | None


@closed
class JobError(TypedDict):
    """Why a job failed."""

    type: str
    message: str


@closed
class Delivery(TypedDict):
    """A try to call a webhook."""

    at: float
    """Unix time."""
    status: int | None
    """What it answered."""
    error: str | None
    seconds: float


@closed
class JobWebhook(TypedDict):
    """Where a job's result is sent, and how that went."""

    url: str
    state: Literal["delivered", "given up", "pending"]
    deliveries: list[Delivery]


@closed
class LogLine(TypedDict):
    """What has happened to a job."""

    at: float
    """Unix time."""
    level: str
    message: str


@closed
class JobDocument(TypedDict):
    """A job. Times are Unix times."""

    id: str
    object: Literal["job"]
    status: JobState
    task: JobTask
    model: str
    """The model that hears, or the engine that speaks."""
    response_format: str
    priority: Priority
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    """When it is forgotten."""
    position: int | None
    """How many are before it in the line."""
    progress: JobProgress | None
    attempts: int
    idempotency_key: str | None
    error: JobError | None
    webhook: JobWebhook | None
    url: str
    result_url: str
    events_url: str
    logs: NotRequired[list[LogLine]]
    """Where one job is asked for."""


@dataclass(frozen=True, slots=True)
class Deferral:
    """How a request wants to be a job."""

    is_async: bool
    """Whether the answer is the job rather than its result."""
    key: str
    priority: Priority
    webhook: str


def wanted(request: Request) -> Deferral | None:
    """What the request's headers and query ask for; None where it is no job. Raises BadField."""
    key = idempotency_key(request)
    asked = fields.query(request, Query)
    is_async = _preferred(request) if asked.as_job is None else asked.as_job
    if not (is_async or key):
        if asked.webhook:
            raise BadField("webhook: only a job has one; add async=true", "webhook")
        return None
    return Deferral(is_async, key, asked.priority, asked.webhook)


def idempotency_key(request: Request) -> str:
    """ "" where there is none. Raises BadField."""
    key = request.headers.get("idempotency-key", "")
    if len(key) > _LONGEST_KEY or not key.isprintable():
        raise BadField(f"Idempotency-Key: has at most {_LONGEST_KEY} printable characters", "Idempotency-Key")
    return key


def _preferred(request: Request) -> bool:
    return any(_PREFERENCE.search(header) for header in request.headers.getlist("prefer"))


@dataclass(frozen=True, slots=True)
class Begun:
    """A request's events, and what its answer's headers say of its job, if it is one."""

    events: AsyncGenerator[Event]
    headers: dict[str, str]


async def begin(
    request: Request, deferral: Deferral | None, wanted: JobRequest, spool: Spool
) -> Begun | JSONResponse:
    """Have a media heard, at once or as a job; the answer where that is the job itself.

    `spool`: the media, complete, unless it comes from an address.
    """
    serving = services(request)
    assert wanted.listen, "a media is to be heard"
    if deferral is None:
        if wanted.url:
            return Begun(serving.transcribe_url(wanted.listen, wanted.url), {})
        return Begun(serving.transcribe(wanted.listen, spool), {})
    if not (wanted.url or spool.size):
        raise NotMedia("the file is empty")
    job = await submit(request, deferral, wanted, None if wanted.url else spool)
    if deferral.is_async:
        return await accepted(request, deferral, job)
    return Begun(events(serving.jobs, job), headers(request, job))


def speaking(spoken: Spoken, dialect: str, **asked: Any) -> JobRequest:
    """A text that is ready to be spoken, as a job in the voice that was found for it now. Raises BadField."""
    speak, voice = spoken.speak, spoken.voice
    if speak.sample and not voice.id.startswith(PREFIX):
        raise BadField("audio_prompt: a job speaks in a voice that is kept here", "audio_prompt")
    kept = replace(speak, voice=voice.id, engine=voice.engine, sample=None)
    return JobRequest(speak=kept, dialect=dialect, response_format=speak.format, asked=asked)


async def spoken(request: Request, deferral: Deferral, wanted: JobRequest) -> Response:
    """Have a text spoken as a job: the answer is the job, or what became of it as its dialect writes it."""
    jobs = services(request).jobs
    job = await submit(request, deferral, wanted, None)
    if deferral.is_async:
        return await accepted(request, deferral, job)
    async with aclosing(_followed(jobs, job)) as following:
        async for event in following:
            if isinstance(event, Sound):
                return told(request, await jobs.find(job.id), sounding(job, event))
    raise AssertionError("a job that speaks ends with a sound")


def told(request: Request, job: Job, answer: Response) -> Response:
    """A job's result; of a private job nothing is kept once it has been sent."""
    answer.headers.update(headers(request, job))
    return _Told(answer, services(request).jobs, job)


class _Told(Response):
    """An answer before whose end its job is told to have been answered; not where the line breaks before."""

    def __init__(self, answer: Response, jobs: Jobs, job: Job) -> None:
        self._answer = answer
        self._jobs = jobs
        self._job = job
        self.raw_headers = answer.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await self._jobs.told(self._job)
            await send(message)

        await self._answer(scope, receive, sent)


async def submit(request: Request, deferral: Deferral, job: JobRequest, spool: Spool | None) -> Job:
    """The request's job, kept."""
    return await services(request).jobs.submit(
        job,
        spool=spool,
        owner=owner(request),
        key=deferral.key,
        priority=deferral.priority,
        webhook=deferral.webhook,
    )


async def events(jobs: Jobs, job: Job) -> AsyncGenerator[Event]:
    """A job's events as those of a request that is done at once."""
    async with aclosing(_followed(jobs, job)) as following:
        async for event in following:
            assert not isinstance(event, Sound), "nothing was to be spoken"
            yield event
    await jobs.told(await jobs.find(job.id))


async def _followed(jobs: Jobs, job: Job) -> AsyncGenerator[Event | Sound]:
    """A job's events; with a failure, all of it has been told."""
    try:
        async with aclosing(jobs.follow(job.id)) as following:
            async for _, event in following:
                yield event
    except SpeechError:
        with suppress(JobNotFound):
            await jobs.told(await jobs.find(job.id))
        raise


def headers(request: Request, job: Job) -> dict[str, str]:
    """Where the job of this answer is found, should the line break."""
    return {"Location": f"{public_base(request)}/v1/jobs/{job.id}", "X-Job-Id": job.id}


async def accepted(request: Request, deferral: Deferral, job: Job) -> JSONResponse:
    """The answer that is a job."""
    applied = {"Preference-Applied": "respond-async"} if _preferred(request) else {}
    return JSONResponse(await document(request, job), 202, headers(request, job) | applied)


async def document(request: Request, job: Job) -> JobDocument:
    """A job as /v1/jobs shows it."""
    jobs = services(request).jobs
    here = f"{public_base(request)}/v1/jobs/{job.id}"
    progress = jobs.progress(job)
    return {
        "id": job.id,
        "object": "job",
        "status": job.state,
        "task": job.request.task,
        "model": job.request.model,
        "response_format": job.request.response_format,
        "priority": job.priority,
        "created_at": job.created,
        "started_at": job.started,
        "finished_at": job.finished,
        "expires_at": jobs.expires(job),
        "position": await jobs.position(job),
        "progress": {"done": progress.done, "total": progress.total} if progress else None,
        "attempts": job.attempts,
        "idempotency_key": job.key or None,
        "error": {"type": job.error.kind, "message": job.error.message} if job.error else None,
        "webhook": _webhook(job),
        "url": here,
        "result_url": f"{here}/result",
        "events_url": f"{here}/events",
    }


def logs(job: Job) -> list[LogLine]:
    """What has happened to a job, line by line."""
    return [{"at": line.at, "level": line.level, "message": line.message} for line in job.logs]


def _webhook(job: Job) -> JobWebhook | None:
    if not job.webhook:
        return None
    tries: list[Delivery] = [
        {"at": tried.at, "status": tried.status, "error": tried.error or None, "seconds": tried.seconds}
        for tried in job.deliveries
    ]
    last = job.deliveries[-1].status if job.deliveries else None
    is_taken = last is not None and 200 <= last < 300
    state: Literal["delivered", "given up", "pending"]
    state = "delivered" if is_taken else "given up" if job.delivered else "pending"
    return {"url": job.webhook, "state": state, "deliveries": tries}
