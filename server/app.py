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

from server import dialects
from server.counting import Counting
from server.guard import Guard
from server.hangup import Hangup
from server.services import Services

log = logging.getLogger(__name__)


def build(services: Services) -> Starlette:
    """The application over running services."""
    config = services.config

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        hear = functools.partial(services.transcribe, background=True)
        async with services.jobs.running(hear, dialects.payload, services.warm):
            yield {"services": services}

    return Starlette(
        routes=dialects.routes(),
        middleware=[
            Middleware(Counting, metrics=services.metrics),
            Middleware(Hangup),
            Middleware(Guard, hosts=(config.host, *config.allowed_hosts), keys=services.keys),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=lifespan,
    )


async def _refused(request: Request, error: Exception) -> Response:
    """No such path or method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    headers = {"Allow": ", ".join(dialects.methods(request.scope))} if error.status_code == 405 else None
    return JSONResponse(dialects.body(error.status_code, message), error.status_code, headers)


async def _failed(request: Request, error: Exception) -> Response:
    """Our own mistake; what it was goes into the log, not to the client."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse(dialects.body(500, "the server failed; its log says why"), 500)
