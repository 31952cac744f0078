"""What NVIDIA's ASR NIM has and no other: readiness and liveness, version and metadata.

Its transcriptions and translations stand in audio.py, its models in models.py. Readiness is open to all.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from server import __version__, errors, speak
from server.dialects import Open, Problem, refusals, services, v1
from server.openapi import answer, closed, operation
from server.services import Services
from server.types import ModelInfo

API = "3.1.0"
"""The version of the NIM's HTTP API whose routes and answers these are."""


@closed
class Probe(TypedDict):
    """The NIM's answer to a probe."""

    object: str
    message: str
    status: str
    """`ready`, `not_ready` or `live`."""


@closed
class Version(TypedDict):
    """What runs here."""

    release: str
    """whisperd's version."""
    api: str
    """The NIM's API that it speaks."""


@closed
class NimModel(TypedDict):
    """A model that can be loaded."""

    modelUrl: str
    shortName: str


@closed
class Metadata(TypedDict):
    """What the NIM tells of itself."""

    version: str
    selectedModelProfileId: str
    """SHA-256 of the model for requests that name none; empty where there is none."""
    modelInfo: list[NimModel]
    repository_override: str
    assetInfo: list[str]
    licenseInfo: dict[str, str]


@operation(
    "Whether requests are answered without waiting for the start",
    answers={
        200: answer("ready", Probe),
        503: answer("the server is being started or stopped", Probe | Problem, Retry_After="seconds"),
    },
    refusals=refusals(),
)
async def ready(request: Request) -> Response:
    """200 once readers are up and what is to be preloaded is loaded; other models load at their first use."""
    try:
        services(request).check_ready()
    except errors.Busy as error:
        return JSONResponse(_health(str(error), "not_ready"), 503, {"Retry-After": str(error.retry_after)})
    except errors.SpeechError as error:
        return JSONResponse(_health(str(error), "not_ready"), 503)
    return JSONResponse(_health("ready", "ready"))


@operation("Whether it is up", answers={200: answer("live", Probe)}, refusals=refusals())
async def live(request: Request) -> Response:
    return JSONResponse(_health("live", "live"))


def _health(message: str, status: str) -> Probe:
    return {"object": "health.response", "message": message, "status": status}


@operation("The versions", answers={200: answer("the versions", Version)}, refusals=refusals())
async def version(request: Request) -> Response:
    return JSONResponse(Version(release=__version__, api=API))


@operation("What can be loaded", answers={200: answer("the models", Metadata)}, refusals=refusals())
@v1
async def metadata(request: Request) -> Response:
    """The models that can be loaded; the profile is the SHA-256 of the one for requests that name none."""
    serving = services(request)
    told: Metadata = {
        "version": __version__,
        "selectedModelProfileId": _selected(serving),
        "modelInfo": [
            *(_model(serving, info) for info in serving.models.installed() if not info.broken),
            *_that_speak(serving),
        ],
        "repository_override": "",
        "assetInfo": [],
        "licenseInfo": {},
    }
    return JSONResponse(told)


def _selected(serving: Services) -> str:
    try:
        return serving.models.find(None).sha256
    except errors.SpeechError:
        return ""


def _model(serving: Services, info: ModelInfo) -> NimModel:
    note = serving.models.origin(info)
    url = f"hf://{note.repo}/{note.path}" if note and note.repo else info.path.name
    return {"modelUrl": url, "shortName": info.id}


def _that_speak(serving: Services) -> list[NimModel]:
    models = {info.id: info for info in map(speak.model_of, serving.voices.installed())}
    return [{"modelUrl": info.path.name, "shortName": id} for id, info in models.items()]


ROUTES = [
    Open("/v1/health/ready", ready),
    Open("/v1/health/live", live),
    Route("/v1/version", version),
    Route("/v1/metadata", metadata),
]
