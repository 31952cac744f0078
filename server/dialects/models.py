"""/v1/models, for go-whisper (key `models`) and OpenAI (key `data`) at once: the same objects under both.

Models are listed, pulled, loaded, unloaded and deleted here.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, StringConstraints
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from server import catalogue, errors, fields, sse
from server.catalogue import Entry
from server.config import KeepAlive
from server.dialects import Admin, refusals, services, v1
from server.memory import Resident
from server.openapi import Answer, Events, Fields, answer, closed, operation
from server.pull import Pulling
from server.services import Services
from server.types import ModelInfo

log = logging.getLogger(__name__)

Pulled = Pulling | ModelInfo


# What is asked ----------------------------------------------------------------------------------------


class Available(BaseModel):
    """What is to be listed."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    available: bool | None = None
    """Also the models of the catalogue that are not installed."""


class Streamed(BaseModel):
    """How a pull is to be answered."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    stream: bool | None = None
    """Events while it goes on, as go-whisper sends them."""


class Wanted(BaseModel):
    """What is to be pulled."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    path: Annotated[str, StringConstraints(min_length=1)]
    """A model of the catalogue, or a file in `repo`."""
    repo: str | None = None
    """A repository of the hub, `owner/name`; with `@revision` if need be."""


class Keep(BaseModel):
    """How a model is to be loaded."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    keep_alive: KeepAlive | None = None
    """How long it stays after its last use: `10m`, seconds, 0, -1 for good."""


# What is answered -------------------------------------------------------------------------------------


@closed
class Capabilities(TypedDict):
    """What a model can do beside transcribing."""

    translate: bool
    """Into English."""
    diarize: bool
    """Tell turns of speakers."""
    words: bool
    """Tell times of words."""


@closed
class Model(TypedDict):
    """A model, or one of the catalogue that is not installed. Times are whole seconds, sizes bytes."""

    id: str
    object: Literal["model"]
    path: str
    """Name of the file."""
    created: int
    """Unix time; 0 where it is not installed."""
    owned_by: str
    installed: bool
    size: int
    converted: int
    """Bytes on the disk of the copies that it was converted into."""
    sha256: str | None
    """Null while nobody has computed it."""
    engine: str | None
    languages: Sequence[str]
    """ISO-639-1 codes."""
    capabilities: Capabilities
    loaded: bool
    memory: int | None
    """Bytes that its processes take now; null where it is not loaded."""
    broken: NotRequired[str]
    """Why it cannot be loaded."""
    memory_needed: NotRequired[int]
    """Bytes that it will take, about. This and what follows: for models that are not installed."""
    repo: NotRequired[str]
    licence: NotRequired[str]


@closed
class Models(TypedDict):
    """The same models under OpenAI's key and under go-whisper's."""

    object: Literal["list"]
    data: list[Model]
    models: list[Model]


@closed
class LoadedModel(TypedDict):
    """A model in memory."""

    id: str
    object: Literal["model"]
    engine: str
    since: int
    """Unix time."""
    memory: int
    """Bytes that its processes take now."""
    slots: int
    """Windows that it may work on at a time."""
    busy: int
    queued: int
    requests: int
    expires: int | None
    """Unix time at which it is unloaded if nobody uses it; null: it stays."""
    pinned: bool


@closed
class LoadedModels(TypedDict):
    """The models in memory."""

    object: Literal["list"]
    data: list[LoadedModel]
    models: list[LoadedModel]


@closed
class Unloaded(TypedDict):
    """A model that is not in memory any more."""

    id: str
    object: Literal["model"]
    loaded: Literal[False]


@closed
class Deleted(TypedDict):
    """A model that is gone."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


@closed
class PullProgress(TypedDict):
    """How far a pull is: bytes, bytes per second, seconds."""

    status: str
    total: int
    completed: int
    speed: int
    remaining: int | None


_EVENTS = Events({"ping": None, "progress": PullProgress, "ok": Model, "error": str})
_ID = {"id": "the model's id, with or without `ggml-` and `.bin`; slashes in it may be escaped"}
_READING = (errors.BadRequest, errors.TooLarge, errors.TooSlow)


# Listing ----------------------------------------------------------------------------------------------


@operation(
    "List the models",
    query=Available,
    answers={200: answer("the models", Models)},
    refusals=refusals(errors.BadRequest),
)
@v1
async def installed(request: Request) -> Response:
    serving = services(request)
    residents = _residents(serving)
    infos = serving.models.installed() + serving.pipelines.installed()
    models = [_told(serving, info, residents) for info in infos]
    if fields.query(request, Available).available:
        here = {model["id"] for model in models}
        models += [offer(entry) for entry in catalogue.entries() if entry.id not in here]
    return _list(models)


@operation(
    "One model",
    path=_ID,
    answers={200: answer("the model", Model)},
    refusals=refusals(errors.ModelNotFound),
)
@v1
async def one(request: Request) -> Response:
    serving = services(request)
    info = serving.named(_id(request))
    return JSONResponse(_told(serving, info, _residents(serving)))


@operation("The models in memory", answers={200: answer("the models", LoadedModels)}, refusals=refusals())
@v1
async def loaded(request: Request) -> Response:
    return _list([_resident(resident) for resident in services(request).memory.loaded()])


def _told(serving: Services, info: ModelInfo, residents: Mapping[str, Resident] | None = None) -> Model:
    return document(info, (residents or {}).get(info.id), serving.placement.disk(info))


def document(info: ModelInfo, resident: Resident | None = None, converted: int = 0) -> Model:
    """A model file as the API tells it. `created` is whole: go-whisper's client cannot read a fraction."""
    told: Model = {
        "id": info.id,
        "object": "model",
        "path": info.path.name,
        "created": info.created,
        "owned_by": "whisperd",
        "installed": True,
        "size": info.size,
        "converted": converted,
        "sha256": info.sha256 or None,
        "engine": info.engine or "auto",
        "languages": info.languages,
        "capabilities": _capabilities(info.capabilities),
        "loaded": resident is not None,
        "memory": resident.memory if resident else None,
    }
    if info.broken:
        told["broken"] = info.broken
    return told


def offer(entry: Entry) -> Model:
    """A model of the catalogue that is not here, in the same form."""
    return {
        "id": entry.id,
        "object": "model",
        "path": entry.path,
        "created": 0,
        "owned_by": entry.repo.partition("/")[0],
        "installed": False,
        "size": entry.size,
        "converted": 0,
        "sha256": None,
        "engine": None,
        "languages": entry.languages,
        "capabilities": _capabilities(entry.capabilities),
        "loaded": False,
        "memory": None,
        "memory_needed": entry.memory,
        "repo": entry.repo,
        "licence": entry.licence,
    }


def _capabilities(able: Collection[str]) -> Capabilities:
    return {"translate": "translate" in able, "diarize": "diarize" in able, "words": "words" in able}


def _resident(resident: Resident) -> LoadedModel:
    """Times are whole seconds, as in `created`."""
    return {
        "id": resident.model,
        "object": "model",
        "engine": resident.engine,
        "since": int(resident.since),
        "memory": resident.memory,
        "slots": resident.slots,
        "busy": resident.busy,
        "queued": resident.queued,
        "requests": resident.requests,
        "expires": None if resident.expires is None else int(resident.expires),
        "pinned": resident.pinned,
    }


def _residents(serving: Services) -> dict[str, Resident]:
    return {resident.model: resident for resident in serving.memory.loaded()}


def _list(objects: list[Model] | list[LoadedModel]) -> Response:
    return JSONResponse({"object": "list", "data": objects, "models": objects})


def _id(request: Request) -> str:
    """The model's name in the path; an empty one would mean the default model."""
    if name := request.path_params["id"]:
        return str(name)
    raise errors.ModelNotFound("the address ends before the model's id")


# Loading ----------------------------------------------------------------------------------------------


@operation(
    "Load a model now",
    path=_ID,
    body=Fields(Keep, required=False),
    answers={200: answer("the model, loaded", Model)},
    refusals=refusals(*_READING, errors.ModelNotFound, errors.ModelBroken, errors.Leaving, errors.NoMemory),
)
@v1
async def load(request: Request) -> Response:
    serving = services(request)
    keep = await _small(request, Keep)
    info = serving.find(_id(request))
    await serving.memory.load(info, keep.keep_alive)
    return JSONResponse(_told(serving, info, _residents(serving)))


@operation(
    "Unload a model when its running requests have ended",
    path=_ID,
    answers={200: answer("the model is not in memory any more", Unloaded)},
    refusals=refusals(errors.ModelNotFound, errors.ModelBroken),
)
@v1
async def unload(request: Request) -> Response:
    """A model that is loaded goes also where its file has gone before it."""
    serving = services(request)
    id = _id(request)
    if id not in _residents(serving):
        id = serving.find(id).id
    await serving.memory.unload(id)
    return JSONResponse(Unloaded(id=id, object="model", loaded=False))


async def _small(request: Request, asked: type[fields.Asked]) -> fields.Asked:
    limits = services(request).config
    return await fields.small(request, asked, grace=limits.upload_grace, rate=limits.upload_rate)


# Pulling ----------------------------------------------------------------------------------------------


@operation(
    "Pull a model from the hub",
    query=Streamed,
    body=Fields(Wanted),
    answers={
        200: Answer(
            "the model was here already; or the events of a pull",
            {"application/json": Model, "text/event-stream": _EVENTS},
        ),
        201: answer("the model, pulled", Model),
    },
    refusals=refusals(
        *_READING,
        errors.HubUnreachable,
        errors.Gated,
        errors.NotAtSource,
        errors.ChecksumMismatch,
        errors.NotAModel,
        errors.NoSpace,
        errors.NotWritable,
    ),
)
@v1
async def pull(request: Request) -> Response:
    """Leaving does not stop a download: other clients may wait for it, and nobody wants half of one."""
    serving = services(request)
    streamed = fields.query(request, Streamed).stream
    wanted = await _small(request, Wanted)
    here = serving.pulls.find(wanted.path, wanted.repo)
    async with AsyncExitStack() as stack:
        pulled: AsyncGenerator[Pulled] = _only(here) if here else serving.pulls.pull(wanted.path, wanted.repo)
        await stack.enter_async_context(aclosing(pulled))
        if streamed:
            begun = await stack.enter_async_context(aclosing(_begun(pulled)))
            first = await stack.enter_async_context(sse.first(begun))
            stream = sse.stream(sse.resumed(first, begun), partial(_events, serving), go_whisper=True)
            return sse.Held(stream, stack.pop_all())
        return JSONResponse(_told(serving, await _last(pulled)), 200 if here else 201)


async def _only(info: ModelInfo) -> AsyncGenerator[Pulled]:
    yield info


async def _begun(pulled: AsyncIterator[Pulled]) -> AsyncGenerator[Pulled]:
    """From where the hub has told how large the file is: what it refuses, it has refused by then."""
    async for item in pulled:
        if isinstance(item, ModelInfo) or item.total:
            yield item


async def _last(pulled: AsyncIterator[Pulled]) -> ModelInfo:
    async for item in pulled:
        if isinstance(item, ModelInfo):
            return item
    raise AssertionError("a pull ends with its model")


async def _events(serving: Services, pulled: AsyncIterator[Pulled]) -> AsyncIterator[ServerSentEvent]:
    """ping, progress…, ok or error."""
    yield sse.event("ping")
    try:
        async for item in pulled:
            match item:
                case Pulling():
                    yield sse.event("progress", _progress(item))
                case ModelInfo():
                    yield sse.event("ok", _told(serving, item))
    except errors.SpeechError as error:
        yield sse.event("error", str(error))


def _progress(pulling: Pulling) -> PullProgress:
    """Bytes, bytes per second, seconds; whole ones, for clients that read integers."""
    return {
        "status": pulling.status,
        "total": pulling.total,
        "completed": pulling.completed,
        "speed": round(pulling.speed),
        "remaining": None if pulling.remaining is None else round(pulling.remaining),
    }


# Deleting ---------------------------------------------------------------------------------------------


@operation(
    "Delete a model",
    path=_ID,
    answers={200: answer("the model is gone", Deleted)},
    refusals=refusals(errors.ModelNotFound, errors.BadRequest, errors.NotWritable),
)
@v1
async def delete(request: Request) -> Response:
    """New requests are refused at once; those that run keep the file until they end, and so does our answer.

    A client that leaves meanwhile has the model deleted all the same.
    """
    serving = services(request)
    id = serving.named(_id(request), aliases=False).id
    await asyncio.shield(_kept(_delete(serving, id)))
    return JSONResponse(Deleted(id=id, object="model", deleted=True))


async def _delete(serving: Services, id: str) -> None:
    if voice := serving.pulled_voice(id):
        await serving.delete_voice(voice)
        return
    await serving.memory.unload(id)
    delete = serving.pipelines.delete if serving.pipelines.named(id) else serving.models.delete
    await asyncio.to_thread(delete, id)
    # A request may have come in between.
    await serving.memory.retire(id)


_DELETING: set[asyncio.Task[None]] = set()
"""Deletions on their way; the event loop itself would forget them."""


def _kept(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    _DELETING.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(deletion: asyncio.Task[None]) -> None:
    _DELETING.discard(deletion)
    if not deletion.cancelled() and (error := deletion.exception()):
        # Its client may have left.
        log.warning("a model could not be deleted: %s", error)


ROUTES = [
    Route("/v1/models", installed),
    Admin("/v1/models", pull, methods=["POST"]),
    Route("/v1/models/loaded", loaded),
    Admin("/v1/models/{id:path}/load", load, methods=["POST"]),
    Admin("/v1/models/{id:path}/unload", unload, methods=["POST"]),
    Route("/v1/models/{id:path}", one),
    Admin("/v1/models/{id:path}", delete, methods=["DELETE"]),
]
