"""Is it up: /v1/ping of go-whisper's document, /v1/health of its client. Open to all."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from server import __version__
from server.dialects import Open, refusals
from server.openapi import answer, closed, operation


@closed
class Health(TypedDict):
    """That it is up."""

    status: str
    version: str


@operation("Whether it is up", answers={200: answer("it is", Health)}, refusals=refusals())
async def health(request: Request) -> Response:
    return JSONResponse(Health(status="ok", version=__version__))


ROUTES = [Open("/v1/ping", health), Open("/v1/health", health)]
