"""whisper-asr-webservice's two routes at the root, which Bazarr and other media servers call.

Bazarr saves whatever /asr answers as a subtitle, without looking at the status: an error has no body there,
its sentence stands in a header.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Literal
from urllib.parse import quote

import msgspec
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from server import deferred, errors, fields, formats, languages, prompts, transcribe
from server.dialects import (
    DEFERRED,
    HEARING,
    document,
    notice,
    refusals,
    services,
    speaker_count,
    status,
    telling,
)
from server.formats import verbose_json
from server.openapi import Answer, Upload, answer, closed, operation
from server.spool import Spool, spooled
from server.types import Diarize, JobRequest, Listen, ModelInfo, RawSound, Segment, Style, Task, Transcript

_RAW = RawSound(16_000)
"""What `encode=false` promises."""

_UNKNOWN: "Detected" = {"detected_language": "unknown", "language_code": "", "confidence": 0.0}
"""Where nothing is said. Bazarr takes an empty code as unknown."""


_NOBODY = "whisperd"
"""The engine of an answer for which no model had to work, since nothing is said."""


class AskedOfAll(BaseModel):
    """What both queries know; others are ignored, `video_file` of Bazarr for one."""

    encode: bool = Field(True, description="false: the file is headerless PCM, s16le 16 kHz mono.")
    model: str = Field("", description="An id of /v1/models; absent: the server's default model.")


class Asked(AskedOfAll, deferred.Query):
    """The query of /asr."""

    task: Task = Field("transcribe", description="translate: into English.")
    language: fields.Language = Field(None, description="Language of the speech; absent: detected.")
    initial_prompt: str = Field("", description="Names and spellings to expect.")
    hotwords: str = Field("", description="Words to expect, with commas between them.")
    word_timestamps: bool = Field(False, description="Times of words, in json.")
    output: Literal["txt", "vtt", "srt", "tsv", "json"] = Field("txt", description="How it is written.")
    diarize: bool = Field(False, description="Who speaks.")
    min_speakers: int | None = Field(None, ge=1, le=20, description="With diarize: at least so many do.")
    max_speakers: int | None = Field(None, ge=1, le=20, description="With diarize: at most so many do.")


class NoFields(BaseModel):
    """The form has nothing but the file."""


def refusal(error: errors.SpeechError) -> Response:
    """An error that nobody can take for a subtitle."""
    return Response(status_code=status(error), headers=_sentence(error))


def detailed(error: errors.SpeechError) -> Response:
    """An error as the original's framework tells it."""
    return JSONResponse(Detail(detail=str(error)), status(error), _sentence(error))


def _sentence(error: errors.SpeechError) -> dict[str, str]:
    text = " ".join(str(error).split()).encode("ascii", "replace").decode()
    retry = {"Retry-After": str(error.retry_after)} if isinstance(error, errors.Busy) else {}
    return {"X-Whisperd-Error": text, **retry}


@closed
class Detected(TypedDict):
    """The language of a media."""

    detected_language: str
    """Its English name; `unknown` where nothing is said."""
    language_code: str
    """ISO-639-1; empty where nothing is said."""
    confidence: float
    """0 to 1."""


@closed
class Detail(TypedDict):
    """An error as the original's framework tells it."""

    detail: str


@operation(
    "Write down what is said in a media file",
    query=Asked,
    headers=deferred.HEADERS,
    body=Upload(NoFields, file="audio_file"),
    answers={
        202: answer("the job that it has become", deferred.JobDocument, Location="the job's address"),
        200: Answer(
            "the transcript, in the form that `output` names; its content type is always the same",
            {"text/plain": str},
            {"X-Whisperd-Warning": "what is wrong with the media", "Asr-Engine": "the engine"},
        ),
    },
    refusals=refusals(*HEARING, *DEFERRED, content={}),
    description="An error has no body, since clients would save it as a subtitle: the header "
    "`X-Whisperd-Error` says what it is.",
)
@telling(refusal)
async def asr(request: Request) -> Response:
    asked = fields.query(request, Asked)
    listen = Listen(
        model=asked.model,
        task=asked.task,
        language=asked.language,
        prompt=asked.initial_prompt,
        keywords=prompts.listed(asked.hotwords),
        words=asked.word_timestamps,
        diarize=_diarize(asked),
        raw=None if asked.encode else _RAW,
    )
    serving = services(request)
    deferral = deferred.wanted(request)
    style = Style(speakers=asked.diarize)
    kept = JobRequest(listen, dialect="asr_webservice", response_format=asked.output, style=style)
    async with _uploaded(request, listen, is_job=deferral is not None) as (spool, name):
        begun = await deferred.begin(request, deferral, kept, spool)
        if isinstance(begun, Response):
            return begun
        async with aclosing(begun.events) as events:
            transcript = await transcribe.whole(events)
    model = serving.models.find(transcript.model)
    headers = {
        "Asr-Engine": transcript.engine or _NOBODY,
        "Content-Disposition": f'attachment; filename="{quote(name)}.{asked.output}"',
        **_remarks(transcript, model),
        **begun.headers,
    }
    return document(_written(transcript, asked.output, style), "text/plain", headers)


@operation(
    "Tell which language is spoken",
    query=AskedOfAll,
    body=Upload(NoFields, file="audio_file"),
    answers={200: answer("the language", Detected)},
    refusals=refusals(*HEARING, content={"application/json": Detail}),
)
@telling(detailed)
async def detect_language(request: Request) -> Response:
    asked = fields.query(request, AskedOfAll)
    listen = Listen(model=asked.model, raw=None if asked.encode else _RAW)
    async with _uploaded(request, listen) as (spool, _):
        found = await services(request).detect(listen, spool)
    if not found:
        return JSONResponse(_UNKNOWN)
    code = max(found, key=found.__getitem__)
    told = Detected(detected_language=languages.name(code), language_code=code, confidence=found[code])
    return JSONResponse(told)


ROUTES = [
    Route("/asr", asr, methods=["POST"]),
    Route("/detect-language", detect_language, methods=["POST"]),
]


def _diarize(asked: Asked) -> Diarize | None:
    if not asked.diarize:
        return None
    count = speaker_count(None, asked.min_speakers, asked.max_speakers)
    return Diarize(speakers=count, names=True)


def written(request: JobRequest, transcript: Transcript) -> tuple[Iterator[str], str]:
    """What a job has heard."""
    return _written(transcript, request.response_format, request.style), "text/plain"


@asynccontextmanager
async def _uploaded(
    request: Request, listen: Listen, *, is_job: bool = False
) -> AsyncIterator[tuple[Spool, str]]:
    """The file and its name, once it is here; a request that cannot be done is refused before."""
    serving = services(request)
    limits = serving.config
    if not is_job:
        serving.readers.refuse_if_full()
    serving.check_speakers(listen)
    if model := serving.choose(listen):
        transcribe.check(model, listen)
    async with spooled(limits.spool_folder, limits.max_upload) as spool:
        form = fields.Form(NoFields(), spool, lambda asked: None, file_field="audio_file")
        await form.read(
            request, largest=limits.max_upload, grace=limits.upload_grace, rate=limits.upload_rate
        )
        yield spool, form.file_name


def _remarks(transcript: Transcript, model: ModelInfo) -> dict[str, str]:
    """What subtitles have no place for."""
    warnings = "; ".join(warning for warning in transcript.warnings if warning != model.notice)
    return notice(model) | ({"X-Whisperd-Warning": warnings} if warnings else {})


def _written(transcript: Transcript, output: str, style: Style) -> Iterator[str]:
    if output == "txt":
        return (_line(segment) for segment in transcript.segments)
    if output == "json":
        return _json(transcript)
    return formats.find(output).write(transcript, style)


def _line(segment: Segment) -> str:
    """As WhisperX writes it, who speaks included."""
    return (f"[{segment.speaker}]: " if segment.speaker else "") + segment.text.strip() + "\n"


def _json(transcript: Transcript) -> Iterator[str]:
    """As OpenAI's whisper writes it: text, segments with their words, the language's code."""
    yield f'{{"text":{_encoded(transcript.text)},"segments":['
    for index, segment in enumerate(transcript.segments):
        yield "," * (index > 0) + _encoded(_segment(segment))
    yield f'],"language":{_encoded(transcript.language)}}}'


def _segment(segment: Segment) -> verbose_json.FullSegment:
    told = verbose_json.full(segment)
    if words := [verbose_json.word_fields(word) for word in segment.spaced_words()]:
        told["words"] = words
    return told


def _encoded(value: object) -> str:
    return msgspec.json.encode(value).decode()
