"""How people ask: one file a dialect, found by its name.

A dialect reads a request into our words, calls one service, and writes the answer in its words; it does no
speech work and imports no other dialect. A module here offers `ROUTES`. What every route under /v1 shares,
the body of its errors, stands below.
"""

import functools
import logging
import pkgutil
from collections.abc import Awaitable, Callable
from importlib import import_module

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server import errors
from server.services import Services
from server.types import ModelInfo

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

_STATUS: dict[type[errors.SpeechError], int] = {
    errors.SpeechError: 500,
    errors.BadRequest: 400,
    errors.BadMedia: 400,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.ModelNotFound: 404,
    errors.ModelBroken: 500,
    errors.Busy: 503,
    errors.NoMemory: 507,
    errors.NoSpace: 507,
    errors.NotWritable: 500,
    errors.PullFailed: 502,
    errors.Gated: 403,
    errors.NotAtSource: 404,
    errors.NotAModel: 400,
    errors.WorkFailed: 500,
}

_CODES: dict[type[errors.SpeechError], str] = {
    errors.ModelNotFound: "model_not_found",
    errors.NotMedia: "invalid_media",
    errors.NoAudio: "no_audio",
    errors.TooShort: "audio_too_short",
    errors.Undecodable: "undecodable_media",
    errors.TooLarge: "too_large",
    errors.TooSlow: "upload_too_slow",
    errors.UnsupportedLanguage: "unsupported_language",
    errors.ModelBroken: "model_broken",
    errors.Busy: "server_busy",
    errors.NoMemory: "no_memory",
    errors.NoSpace: "disk_full",
    errors.NotWritable: "read_only",
    errors.HubUnreachable: "hub_unreachable",
    errors.Gated: "gated",
    errors.NotAtSource: "model_not_found",
    errors.ChecksumMismatch: "checksum_mismatch",
    errors.NotAModel: "not_a_model",
}


def routes() -> list[Route]:
    """The routes of all dialects. What lies under /v1 also answers under /api/v1, where go-whisper looks."""
    found: list[Route] = []
    for module in pkgutil.iter_modules(__path__):
        found += import_module(f"{__name__}.{module.name}").ROUTES
    twins = [
        Route("/api" + route.path, route.endpoint, methods=list(route.methods or ()))
        for route in found
        if route.path.startswith("/v1/")
    ]
    return found + twins


def services(request: Request) -> Services:
    """The services, as the application was started with them."""
    found: Services = request.state.services
    return found


def notice(model: ModelInfo | None) -> dict[str, str]:
    """The header in which every answer of a model says what people must know of it; None: no model yet."""
    return {"X-Whisperd-Notice": model.notice} if model and model.notice else {}


def status(error: errors.SpeechError) -> int:
    """The HTTP status of an error: its own, or that of the nearest branch of the tree."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


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
    if isinstance(error, errors.Busy):
        headers["Retry-After"] = str(error.retry_after)
    elif status(error) >= 500:
        # OpenAI's clients try every 5xx again; what fails here fails again.
        headers["x-should-retry"] = "false"
    return JSONResponse(problem(error), status(error), headers)


def v1(handler: Handler) -> Handler:
    """A handler of /v1 whose errors become answers."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except errors.SpeechError as error:
            level = logging.WARNING if status(error) >= 500 else logging.INFO
            log.log(level, "%s %s refused: %s", request.method, request.url.path, error)
            return refusal(error)

    return answer
