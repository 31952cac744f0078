"""Is it up: /v1/ping of go-whisper's document, /v1/health of its client. Open to all."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server import __version__


async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok", "version": __version__})


ROUTES = [Route("/v1/ping", health), Route("/v1/health", health)]
