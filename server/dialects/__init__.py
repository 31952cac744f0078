"""How people ask: one file a dialect, found by its name.

A dialect reads a request into our words, calls one service, and writes the answer in its words; it does no
speech work and imports no other dialect. What every route under /v1 shares, the body of its errors, stands
below. A module here offers:

ROUTES                  of Starlette's; an `Open` one wants no key, an `Admin` one a key of that scope, each
                        other one any key; their handlers declare what they take and answer (openapi.py)
refusal(error)          how this dialect tells an error, as an ASGI application (a Response is one); without
                        it as /v1 does
socket_refusal(error)   the same for WebSockets; without it they are closed before they open
written(request, transcript), sounding(request, sound)
                        the answer that a JobRequest of this dialect gets once it is done; where it makes jobs
"""

import asyncio
import functools
import logging
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection
from typing_extensions import TypedDict

from server import errors
from server.keys import Key, Scope
from server.openapi import Answer, closed
from server.services import Services
from server.types import Job, ModelInfo, Sound, SpeakerCount, Transcript

log = logging.getLogger(__name__)

_CHUNK = 1 << 16

Handler = Callable[[Request], Awaitable[Response]]

Refusal = Callable[[errors.SpeechError], ASGIApp]
"""An error, as a dialect tells it."""


class Open(Route):
    """A route that wants no key."""


class Admin(Route):
    """A route that wants a key of the scope `admin`: what it does changes the server."""


@dataclass(frozen=True, slots=True)
class Door:
    """A route, and how its dialect turns those away who may not come in."""

    route: BaseRoute
    refusal: Refusal
    socket_refusal: Refusal

    @property
    def scope(self) -> Scope | None:
        """What a key must be for; None where none is wanted."""
        if isinstance(self.route, Open):
            return None
        return "admin" if isinstance(self.route, Admin) else "use"

    def refuse(self, error: errors.SpeechError, connection: Connection) -> ASGIApp:
        is_socket = connection["type"] == "websocket"
        return (self.socket_refusal if is_socket else self.refusal)(error)


_NOBODY = "-"
"""Whose name no key can have: where doors are open, keys may be wanted all the same."""

_STATUS: dict[type[errors.SpeechError], int] = {
    errors.SpeechError: 500,
    errors.BadRequest: 400,
    errors.WrongMethod: 405,
    errors.Refused: 403,
    errors.NoKey: 401,
    errors.BadMedia: 400,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.ModelNotFound: 404,
    errors.ModelBroken: 500,
    errors.Busy: 503,
    errors.TooMany: 429,
    errors.NoMemory: 507,
    errors.NoSpace: 507,
    errors.NotWritable: 500,
    errors.KeyReused: 422,
    errors.NotFound: 404,
    errors.JobCancelled: 410,
    errors.PullFailed: 502,
    errors.Gated: 403,
    errors.NotAtSource: 404,
    errors.NotAModel: 400,
    errors.WorkFailed: 500,
}

_CODES: dict[type[errors.SpeechError], str] = {
    errors.BadField: "invalid_value",
    errors.ModelNotFound: "model_not_found",
    errors.NoKey: "invalid_api_key",
    errors.NoScope: "insufficient_permissions",
    errors.ForeignPage: "foreign_page",
    errors.NotMedia: "invalid_media",
    errors.NoAudio: "no_audio",
    errors.TooShort: "audio_too_short",
    errors.TooLong: "audio_too_long",
    errors.Undecodable: "undecodable_media",
    errors.TooLarge: "too_large",
    errors.TooSlow: "upload_too_slow",
    errors.UnsupportedLanguage: "unsupported_language",
    errors.VoiceNotFound: "voice_not_found",
    errors.CannotClone: "cannot_clone",
    errors.TextTooLong: "text_too_long",
    errors.ModelBroken: "model_broken",
    errors.Busy: "server_busy",
    errors.TooMany: "rate_limit_exceeded",
    errors.NoMemory: "no_memory",
    errors.NoSpace: "disk_full",
    errors.NotWritable: "read_only",
    errors.StorageFull: "storage_full",
    errors.BadUrl: "bad_url",
    errors.KeyReused: "idempotency_key_reused",
    errors.JobNotFound: "job_not_found",
    errors.FileNotFound: "file_not_found",
    errors.CustomVoiceNotFound: "voice_not_found",
    errors.ConsentNotFound: "consent_not_found",
    errors.ConsentInUse: "consent_in_use",
    errors.JobCancelled: "job_cancelled",
    errors.HubUnreachable: "hub_unreachable",
    errors.Gated: "gated",
    errors.NotAtSource: "model_not_found",
    errors.ChecksumMismatch: "checksum_mismatch",
    errors.NotAModel: "not_a_model",
}


@functools.cache
def doors() -> tuple[Door, ...]:
    """All that dialects answer. What lies under /v1 also answers under /api/v1, where go-whisper looks."""
    found: list[Door] = []
    for name in pkgutil.iter_modules(__path__):
        module = import_module(f"{__name__}.{name.name}")
        forms = getattr(module, "refusal", refusal), getattr(module, "socket_refusal", _closed)
        found += [Door(route, _form(route, forms[0]), forms[1]) for route in module.ROUTES]
    return (*found, *(replace(door, route=twin) for door in found if (twin := _twin(door.route))))


def _form(route: BaseRoute, usual: Refusal) -> Refusal:
    """How a route tells errors: as its handler does, or else as is usual in its dialect."""
    return getattr(getattr(route, "endpoint", None), "refusal", usual)


def _twin(route: BaseRoute) -> BaseRoute | None:
    if not isinstance(route, Route) or not route.path.startswith("/v1/"):
        return None
    return type(route)("/api" + route.path, route.endpoint, methods=list(route.methods or ()))


def routes() -> Sequence[BaseRoute]:
    """The routes of all dialects."""
    return [door.route for door in doors()]


def door(connection: Connection) -> Door:
    """The door that a connection comes to; of those that only want another method, the strictest."""
    near: list[Door] = []
    for each in doors():
        match, _ = each.route.matches(connection)
        if match is Match.FULL:
            return each
        if match is Match.PARTIAL:
            near.append(each)
    return next((each for each in near if each.scope == "admin"), near[0] if near else _WALL)


def methods(connection: Connection) -> list[str]:
    """All methods of the path that a request has, as its first route writes it."""
    near = [
        each.route
        for each in doors()
        if isinstance(each.route, Route) and each.route.matches(connection)[0] is not Match.NONE
    ]
    return sorted({method for route in near if route.path == near[0].path for method in route.methods or ()})


def public_base(request: Request) -> str:
    """Where this server is, for addresses in answers: as configured, or as it was asked."""
    return services(request).config.public_url.rstrip("/") or str(request.base_url).rstrip("/")


def payload(job: Job, outcome: Transcript | Sound | None) -> dict[str, object]:
    """The body of a job's webhook: fal's envelope, around the result as its dialect writes it.

    Sound does not travel along: it is told where it is.
    """
    told: object = {"detail": job.error.message} if job.error else None
    if isinstance(outcome, Transcript):
        chunks, media_type = written(job, outcome)
        text = "".join(chunks)
        told = msgspec.Raw(text.encode()) if media_type == "application/json" else {"text": text}
    elif outcome:
        told = sound_document(outcome) | {"result": f"/v1/jobs/{job.id}/result"}
    return {
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": "ERROR" if job.error else "OK",
        "payload": told,
        "error": job.error.message if job.error else None,
    }


def sound_document(sound: Sound) -> dict[str, object]:
    """What there is to say of a job's sound."""
    return {"voice": sound.voice, "format": sound.format, "duration": sound.seconds, "size": sound.size}


def written(job: Job, transcript: Transcript) -> tuple[Iterator[str], str]:
    """A job's transcript as the dialect answers it in which the job was submitted, and its content type."""
    told: tuple[Iterator[str], str] = _of(job).written(job.request, transcript)
    return told


def sounding(job: Job, sound: Sound) -> Response:
    """A job's sound as the dialect answers it in which the job was submitted."""
    answer: Response = _of(job).sounding(job.request, sound)
    return answer


def _of(job: Job) -> ModuleType:
    return import_module(f"{__name__}.{job.request.dialect}")


async def chunks(path: str) -> AsyncIterator[bytes]:
    """A file, piece by piece."""
    file = await asyncio.to_thread(open, path, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, _CHUNK):
            yield piece
    finally:
        file.close()


def from_file(sound: Sound, media_type: str | None) -> Response:
    """A job's sound as an answer."""
    headers = {"Content-Length": str(sound.size), "X-Voice": sound.voice}
    return StreamingResponse(chunks(sound.path), media_type=media_type, headers=headers)


def owner(request: Request) -> str:
    """Who asks, by the name of his key; "" where no key is wanted."""
    key: Key | None = getattr(request.state, "key", None)
    return key.name if key else ""


def may_keep(request: Request) -> bool:
    """Whether something of what is asked for may be kept on the disk."""
    return not services(request).config.is_private(owner(request))


def sees(request: Request) -> str | None:
    """Whose jobs, or voices, the asker may see: his own; None: everybody's."""
    key: Key | None = getattr(request.state, "key", None)
    if key is None:
        return _NOBODY if services(request).keys.needed else None
    return None if key.may("admin") else key.name


def services(request: Request) -> Services:
    """The services, as the application was started with them."""
    found: Services = request.state.services
    return found


def notice(model: ModelInfo | None) -> dict[str, str]:
    """The header in which every answer of a model says what people must know of it; None: no model yet."""
    return {"X-Whisperd-Notice": model.notice} if model and model.notice else {}


def document(chunks: Iterator[str], media_type: str, headers: Mapping[str, str]) -> Response:
    """A text as an answer; a long one in chunks, so that it is never whole in memory twice."""
    body = "".join(_up_to(chunks, _CHUNK))
    rest = next(chunks, None)
    if rest is None:
        return Response(body, media_type=media_type, headers=headers)

    async def pieces() -> AsyncIterator[str]:
        yield body + rest
        while piece := "".join(_up_to(chunks, _CHUNK)):
            yield piece

    return StreamingResponse(pieces(), media_type=media_type, headers=headers)


def _up_to(chunks: Iterator[str], size: int) -> Iterator[str]:
    """Chunks until they make `size` characters."""
    taken = 0
    while taken < size and (chunk := next(chunks, None)) is not None:
        taken += len(chunk)
        yield chunk


def status(error: errors.SpeechError) -> int:
    """The HTTP status of an error: its own, or that of the nearest branch of the tree."""
    return _status_of(type(error))


def _status_of(kind: type[errors.SpeechError]) -> int:
    return next(_STATUS[branch] for branch in kind.__mro__ if branch in _STATUS)


@closed
class Told(TypedDict):
    """An error as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    """The field that is wrong."""
    code: str | int | None


@closed
class Problem(TypedDict):
    """An error for OpenAI's clients (`error`), go-whisper's (`code`, `reason`) and NVIDIA's (`detail`)."""

    error: Told
    detail: str
    code: int
    """The status again."""
    reason: str


_PROBLEM = {"application/json": Problem}


HEARING = (
    errors.BadRequest,
    errors.BadMedia,
    errors.TooLarge,
    errors.TooSlow,
    errors.ModelNotFound,
    errors.ModelBroken,
    errors.Busy,
    errors.NoMemory,
    errors.NoSpace,
    errors.WorkFailed,
    errors.PullFailed,
)
"""What may become of a request to hear a media."""

SPEAKING = tuple(kind for kind in HEARING if kind not in (errors.BadMedia, errors.PullFailed))
"""What may become of a request to speak a text."""


DEFERRED = (errors.KeyReused, errors.JobCancelled)
"""What else may become of a request that is a job."""


def refusals(*kinds: type[errors.SpeechError], content: Mapping[str, object] = _PROBLEM) -> dict[int, Answer]:
    """The answers that tell these errors, and those that any route can meet. For declarations.

    `content`: the types of their bodies by content type, where the dialect does not tell them as /v1 does.
    """
    told: dict[int, list[str]] = {500: ["The server failed"]}
    always = (errors.NoKey, errors.NoScope, errors.ForeignPage, errors.TooMany, errors.Stopping)
    for kind in (*kinds, *always):
        sentence = " ".join((kind.__doc__ or "").partition("\n\n")[0].split()).rstrip(".")
        told.setdefault(_status_of(kind), []).append(sentence)
    when = {"Retry-After": "seconds after which to come back"}
    retry = {429: when, 503: when}
    return {
        status: Answer("; ".join(dict.fromkeys(why)), content, retry.get(status, {}))
        for status, why in told.items()
    }


def problem(error: errors.SpeechError) -> dict[str, object]:
    """An error's body under /v1: OpenAI's, go-whisper's and NVIDIA's in one, each reading its own keys."""
    return body(
        status(error),
        str(error),
        param=getattr(error, "field", None),
        code=next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None),
        missing=isinstance(error, errors.MissingField),
    )


def body(
    status: int, message: str, *, param: str | None = None, code: str | None = None, missing: bool = False
) -> dict[str, object]:
    """The superset body. A missing field is told as NVIDIA's NIM tells it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    inner: dict[str, object] = {"message": message, "type": kind, "param": param, "code": code}
    if missing:
        inner |= {"type": "BadRequestError", "code": status}
    return {"error": inner, "detail": message, "code": status, "reason": message}


def refusal(error: errors.SpeechError) -> JSONResponse:
    """An error as an answer of /v1."""
    headers = {}
    if isinstance(error, errors.NoKey):
        headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, errors.Busy):
        headers["Retry-After"] = str(error.retry_after)
    elif status(error) >= 500:
        # OpenAI's clients try every 5xx again; what fails here fails again.
        headers["x-should-retry"] = "false"
    return JSONResponse(problem(error), status(error), headers)


def _closed(error: errors.SpeechError) -> ASGIApp:
    async def close(connection: Connection, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:100]})

    return close


_WALL = Door(Route("/", lambda request: Response(status_code=404)), refusal, _closed)
"""Where there is no route: who may not come in is not told so."""


def telling(refusal: Callable[[errors.SpeechError], Response]) -> Callable[[Handler], Handler]:
    """A decorator for handlers: their errors become answers, as `refusal` makes them."""

    def decorated(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except errors.SpeechError as error:
                level = logging.WARNING if status(error) >= 500 else logging.INFO
                log.log(level, "%s %s refused: %s", request.method, request.url.path, error)
                return refusal(error)

        answer.refusal = refusal  # type: ignore[attr-defined]
        return answer

    return decorated


v1 = telling(refusal)
"""A handler of /v1."""


def speaker_count(exactly: int | None, least: int | None, most: int | None) -> SpeakerCount:
    """What a client knows of the number of speakers. Raises BadField where it contradicts itself."""
    if least and most and least > most:
        raise errors.BadField("min_speakers: more than max_speakers", "min_speakers")
    return SpeakerCount(exactly, least, most)
