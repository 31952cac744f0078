"""OpenAI's custom voices: a voice made of a sample, and the recorded consent that each is made with."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from server import errors, fields, samples
from server.custom_voices import Consent, CustomVoice
from server.dialects import SPEAKING, owner, refusals, sees, services, v1
from server.errors import BadMedia, MissingField
from server.files import digest
from server.openapi import Fields, Upload, answer, closed, operation
from server.spool import Spool, spooled

_LARGEST = 10 << 20
"""Bytes of a recording, as OpenAI takes."""

_MOST = 100

Name = Annotated[str, StringConstraints(max_length=200)]
Language = Annotated[str, StringConstraints(pattern=r"^([A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*)?$", max_length=40)]
"""BCP 47."""


class AskedConsent(BaseModel):
    """The form's fields, beside the file `recording`."""

    model_config = ConfigDict(validate_assignment=True, use_attribute_docstrings=True)

    name: Name = ""
    """What the recording is to be called. Required."""
    language: Language = ""
    """BCP 47: en-US. Required."""


class AskedVoice(BaseModel):
    """The form's fields, beside the file `audio_sample`."""

    model_config = ConfigDict(validate_assignment=True, use_attribute_docstrings=True)

    name: Name = ""
    """What the voice is to be called. Required."""
    consent: Annotated[str, StringConstraints(max_length=80)] = ""
    """Id of the consent that it is made with. Required."""


class Renamed(BaseModel):
    """What is to be changed of a consent."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """What it is to be called."""


class Wanted(BaseModel):
    """Which consents are listed."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    limit: int = Field(20, ge=1, le=_MOST)
    """How many at most."""
    after: str = ""
    """The id of the last one of the page before."""


@closed
class ConsentDocument(TypedDict):
    """A recorded consent."""

    object: Literal["audio.voice_consent"]
    id: str
    name: str
    language: str
    created_at: int


@closed
class ConsentList(TypedDict):
    """Consents, the newest first."""

    object: Literal["list"]
    data: list[ConsentDocument]
    first_id: str | None
    last_id: str | None
    has_more: bool


@closed
class ConsentDeleted(TypedDict):
    """A consent that is forgotten."""

    id: str
    object: Literal["audio.voice_consent"]
    deleted: Literal[True]


@closed
class VoiceDocument(TypedDict):
    """A voice made of a sample."""

    object: Literal["audio.voice"]
    id: str
    name: str
    created_at: int


@closed
class VoiceDeleted(TypedDict):
    """A voice that is forgotten."""

    id: str
    object: Literal["audio.voice"]
    deleted: Literal[True]


_CONSENT_ID = {"id": "the consent's id"}
_VOICE_ID = {"id": "the voice's id"}
_SENT = (errors.BadRequest, errors.BadMedia, errors.TooLarge, errors.TooSlow, errors.Busy, errors.NoSpace)


@operation(
    "Record a consent",
    body=Upload(AskedConsent, "recording", "somebody who agrees, in his own voice; at most 10 MiB"),
    answers={200: answer("the consent", ConsentDocument)},
    refusals=refusals(*_SENT),
)
@v1
async def create_consent(request: Request) -> Response:
    """Keep a recording in which somebody is heard to agree."""
    serving = services(request)
    async with _uploaded(request, AskedConsent(), "recording") as (asked, recording):
        _required(asked, "name", "language")
        async with spooled(serving.config.spool_folder) as decoded:
            try:
                await samples.take(recording, decoded.path, serving.readers)
            except BadMedia as error:
                raise _of_field(error, "recording") from error
        consent = await asyncio.to_thread(
            lambda: serving.custom.agree(
                asked.name, asked.language, recording.path, digest(recording.path), owner(request)
            )
        )
    return JSONResponse(_consent(consent))


@operation(
    "List consents",
    query=Wanted,
    answers={200: answer("consents", ConsentList)},
    refusals=refusals(errors.BadRequest, errors.NotFound),
)
@v1
async def list_consents(request: Request) -> Response:
    asked = fields.query(request, Wanted)
    custom, asker = services(request).custom, sees(request)
    every = await asyncio.to_thread(custom.consents, asker)
    if asked.after:
        every = every[every.index(custom.consent(asked.after, asker)) + 1 :]
    page = every[: asked.limit]
    return JSONResponse(_list(page, len(every) > len(page)))


@operation(
    "One consent",
    path=_CONSENT_ID,
    answers={200: answer("the consent", ConsentDocument)},
    refusals=refusals(errors.NotFound),
)
@v1
async def consent(request: Request) -> Response:
    return JSONResponse(_consent(services(request).custom.consent(_id(request), sees(request))))


@operation(
    "Rename a consent",
    path=_CONSENT_ID,
    body=Fields(Renamed),
    answers={200: answer("the consent", ConsentDocument)},
    refusals=refusals(errors.BadRequest, errors.TooLarge, errors.TooSlow, errors.NotFound),
)
@v1
async def rename_consent(request: Request) -> Response:
    serving = services(request)
    limits = serving.config
    asked = await fields.small(request, Renamed, grace=limits.upload_grace, rate=limits.upload_rate)
    return JSONResponse(_consent(serving.custom.rename(_id(request), asked.name, sees(request))))


@operation(
    "Forget a consent",
    path=_CONSENT_ID,
    answers={200: answer("that it is forgotten", ConsentDeleted)},
    refusals=refusals(errors.ConsentInUse, errors.NotFound),
)
@v1
async def delete_consent(request: Request) -> Response:
    id = _id(request)
    await asyncio.to_thread(services(request).custom.withdraw, id, sees(request))
    return JSONResponse({"id": id, "object": "audio.voice_consent", "deleted": True})


@operation(
    "Make a voice of a sample",
    body=Upload(AskedVoice, "audio_sample", "3 to 30 s of one speaker; at most 10 MiB"),
    answers={200: answer("the voice", VoiceDocument)},
    refusals=refusals(*_SENT, *SPEAKING, errors.NotFound),
)
@v1
async def create_voice(request: Request) -> Response:
    """A voice that speaks like the sample, from now on."""
    serving = services(request)
    async with _uploaded(request, AskedVoice(), "audio_sample") as (asked, sample):
        _required(asked, "name", "consent")
        consent = serving.custom.consent(asked.consent, sees(request))
        try:
            voice = await serving.make_voice(asked.name, consent, sample, owner(request))
        except BadMedia as error:
            raise _of_field(error, "audio_sample") from error
    return JSONResponse(_voice(voice))


@operation(
    "One voice that was made of a sample",
    path=_VOICE_ID,
    answers={200: answer("the voice", VoiceDocument)},
    refusals=refusals(errors.NotFound),
)
@v1
async def voice(request: Request) -> Response:
    return JSONResponse(_voice(services(request).custom.voice(_id(request), sees(request))))


@operation(
    "Forget a voice that was made of a sample",
    path=_VOICE_ID,
    answers={200: answer("that it is forgotten", VoiceDeleted)},
    refusals=refusals(errors.NotFound),
)
@v1
async def delete_voice(request: Request) -> Response:
    id = _id(request)
    await asyncio.to_thread(services(request).custom.remove, id, sees(request))
    return JSONResponse({"id": id, "object": "audio.voice", "deleted": True})


ROUTES = [
    Route("/v1/audio/voice_consents", create_consent, methods=["POST"]),
    Route("/v1/audio/voice_consents", list_consents, methods=["GET"]),
    Route("/v1/audio/voice_consents/{id}", consent, methods=["GET"]),
    Route("/v1/audio/voice_consents/{id}", rename_consent, methods=["POST"]),
    Route("/v1/audio/voice_consents/{id}", delete_consent, methods=["DELETE"]),
    Route("/v1/audio/voices", create_voice, methods=["POST"]),
    Route("/v1/audio/voices/{id}", voice, methods=["GET"]),
    Route("/v1/audio/voices/{id}", delete_voice, methods=["DELETE"]),
]

Asked = TypeVar("Asked", AskedConsent, AskedVoice)


@asynccontextmanager
async def _uploaded(request: Request, asked: Asked, file: str) -> AsyncIterator[tuple[Asked, Spool]]:
    """The form's fields and its file, which is removed afterwards."""
    limits = services(request).config
    async with spooled(limits.spool_folder, _LARGEST) as spool:
        form = fields.Form(asked, spool, lambda asked: None, file)
        pace = {"grace": limits.upload_grace, "rate": limits.upload_rate}
        yield await form.read(request, largest=_LARGEST, **pace), spool


def _required(asked: BaseModel, *names: str) -> None:
    for name in names:
        if not getattr(asked, name).strip():
            raise MissingField(f"{name}: Field required", name)


def _of_field(error: BadMedia, field: str) -> BadMedia:
    """The error, telling which of the form's fields it is about."""
    error.field = field
    return error


def _id(request: Request) -> str:
    return str(request.path_params["id"])


def _consent(consent: Consent) -> ConsentDocument:
    return {
        "object": "audio.voice_consent",
        "id": consent.id,
        "name": consent.name,
        "language": consent.language,
        "created_at": int(consent.created),
    }


def _voice(voice: CustomVoice) -> VoiceDocument:
    return {"object": "audio.voice", "id": voice.id, "name": voice.name, "created_at": int(voice.created)}


def _list(page: Sequence[Consent], more: bool) -> ConsentList:
    return {
        "object": "list",
        "data": [_consent(consent) for consent in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": more,
    }
