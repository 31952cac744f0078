"""Is it up: /v1/ping of go-whisper's document, /v1/health of its client. Open to all."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server import __version__
from server.dialects import Open


async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok", "version": __version__})


ROUTES = [Open("/v1/ping", health), Open("/v1/health", health)]
