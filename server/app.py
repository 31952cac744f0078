"""Services in, ASGI application out. What this port answers is listed in `dialects/`, one file each."""

import contextlib
import functools
import logging
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server import dialects, errors, logs, naming
from server.counting import Counting
from server.guard import Guard
from server.hangup import Hangup
from server.headers import SAFE, Safe
from server.limits import Limits
from server.naming import Naming
from server.services import Services

log = logging.getLogger(__name__)

_WRONG_METHOD = 405

_SHOWN = 200
"""Characters of a path that nobody has."""


def build(services: Services) -> Starlette:
    """The application over running services."""
    config = services.config

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        hear = functools.partial(services.transcribe, background=True)
        async with services.jobs.running(hear, services.speak_into, dialects.payload, services.warm):
            yield {"services": services}

    return Starlette(
        routes=dialects.routes(),
        middleware=[
            Middleware(Naming),
            Middleware(Safe),
            Middleware(Counting, metrics=services.metrics),
            Middleware(Hangup),
            Middleware(
                Guard,
                hosts=(config.host, *config.allowed_hosts),
                keys=services.keys,
                limits=Limits(config.requests_of_key, config.rate_of_key),
            ),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=lifespan,
    )


async def _refused(request: Request, error: Exception) -> Response:
    """No such path or method; the second is told as the path's dialect tells its errors."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:_SHOWN]}: {error.detail}"
    if error.status_code != _WRONG_METHOD:
        return JSONResponse(dialects.body(error.status_code, message), error.status_code)
    told = dialects.door(request.scope).refuse(errors.WrongMethod(message), request.scope)
    assert isinstance(told, Response)
    told.status_code = _WRONG_METHOD  # whatever else the dialect makes of every error
    told.headers["Allow"] = ", ".join(dialects.methods(request.scope))
    return told


async def _failed(request: Request, error: Exception) -> Response:
    """Our own mistake; what it was goes into the log, not to the client."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    headers = {**SAFE, naming.HEADER: logs.REQUEST.get()}  # this is sent from outside of all middleware
    return JSONResponse(dialects.body(500, "the server failed; its log says why"), 500, headers)
