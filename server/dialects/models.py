"""/v1/models, for go-whisper (key `models`) and OpenAI (key `data`) at once: the same objects under both."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.dialects import services, v1
from server.types import ModelInfo


@v1
async def installed(request: Request) -> Response:
    models = [_model(info) for info in services(request).models.installed()]
    return JSONResponse({"object": "list", "data": models, "models": models})


@v1
async def one(request: Request) -> Response:
    return JSONResponse(_model(services(request).models.find(request.path_params["id"])))


def _model(info: ModelInfo) -> dict[str, Any]:
    """`created` is an integer: go-whisper's client cannot read a fraction."""
    fields: dict[str, Any] = {
        "id": info.id,
        "object": "model",
        "created": info.created,
        "owned_by": "whisperd",
        "path": info.path.name,
        "size": info.size,
        "languages": info.languages,
    }
    return fields | ({"broken": info.broken} if info.broken else {})


ROUTES = [Route("/v1/models", installed), Route("/v1/models/{id:path}", one)]
