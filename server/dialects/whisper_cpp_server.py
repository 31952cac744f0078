"""whisper.cpp's own server: /inference, /load and /health at the root, for clients that were made for it.

Source of fields and answers: examples/server of whisper.cpp 1.8. It has one model and we have many: /load
chooses the one that /inference takes from then on.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import NotRequired

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from server import deferred, errors, fields, formats, languages, transcribe
from server.dialects import (
    DEFERRED,
    HEARING,
    Admin,
    Open,
    document,
    notice,
    refusals,
    services,
    status,
    telling,
)
from server.openapi import Answer, Fields, Upload, answer, closed, operation
from server.spool import Spool, spooled
from server.types import Diarize, JobRequest, Listen, Segment, Style, Transcript, Word

_MEDIA_TYPES = {
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
"""By `response_format`; every other one is JSON there, and so here."""

_TURN = " [SPEAKER_TURN]"

_UNALIGNED = -1
"""What `t_dtw` is, there too, where no times were made by attention."""


class Asked(BaseModel):
    """The fields of /inference that change the answer; others are ignored."""

    model_config = ConfigDict(validate_assignment=True)

    language: fields.Language = Field(None, description="Language of the speech; absent or auto: detected.")
    translate: bool = Field(False, description="Into English.")
    prompt: str = Field("", description="Names and spellings to expect.")
    temperature: float = Field(0.0, ge=0.0, le=1.0, description="Of sampling; 0 is greedy.")
    response_format: str = Field("json", description="json, text, srt, vtt, verbose_json; any other is json.")
    offset_t: int = Field(0, ge=0, description="Milliseconds passed over at the start.")
    duration: int = Field(0, ge=0, description="Milliseconds heard after that; 0: all.")
    offset_n: int = Field(0, ge=0, description="Number before that of the first cue, in srt.")
    max_len: int = Field(0, ge=0, description="Longest cue in characters, in srt and vtt; 0: unlimited.")
    no_timestamps: bool = Field(False, description="No times, in verbose_json.")
    token_timestamps: bool | None = Field(None, description="Times of words, in verbose_json.")
    detect_language: bool = Field(False, description="Only that.")
    no_language_probabilities: bool = Field(False, description="In verbose_json: spares an encoder pass.")
    diarize: bool = Field(False, description="Who speaks.")
    tinydiarize: bool = Field(False, description="Where somebody else begins to, of a model that hears it.")
    model: str = Field("", description="An id of /v1/models; absent: what /load chose, or the default model.")

    @property
    def has_word_times(self) -> bool:
        return not self.no_timestamps and self.token_timestamps is not False


class AskedToLoad(BaseModel):
    """The fields of /load."""

    model: str = Field(description="An id of /v1/models, or a path whose last part is one.")


def refusal(error: errors.SpeechError) -> Response:
    """An error as it is told there."""
    sentence = str(error)
    if isinstance(error, errors.MissingField):
        sentence = f"no '{error.field}' field in the request"
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, errors.Busy) else {}
    return JSONResponse({"error": sentence}, status(error), headers)


@closed
class Text(TypedDict):
    """The text, a line for each segment."""

    text: str


@closed
class CppWord(TypedDict):
    """A word; times in seconds where they were not left out."""

    word: str
    start: NotRequired[float]
    end: NotRequired[float]
    t_dtw: NotRequired[int]
    """-1: nobody computed it."""
    probability: float | None


@closed
class CppSegment(TypedDict):
    """A phrase."""

    id: int
    text: str
    start: NotRequired[float]
    end: NotRequired[float]
    tokens: Sequence[int]
    words: list[CppWord]
    temperature: float | None
    avg_logprob: float | None
    no_speech_prob: float | None
    speaker: NotRequired[str | None]
    """Who says it, where that was asked."""
    speaker_turn_next: NotRequired[bool]
    """Whether somebody else speaks after it, where turns were asked for."""


@closed
class Verbose(TypedDict):
    """verbose_json as that server writes it."""

    task: str
    language: NotRequired[str]
    """English name."""
    duration: NotRequired[float]
    text: str
    detected_language: NotRequired[str]
    detected_language_probability: NotRequired[float]
    language_probabilities: NotRequired[dict[str, float]]
    segments: list[CppSegment]


@closed
class ErrorTold(TypedDict):
    """An error as that server tells it."""

    error: str


@closed
class Status(TypedDict):
    """Whether it is ready: `ok` or `loading model`."""

    status: str


_ERROR = {"application/json": ErrorTold}


@operation(
    "Write down what is said in a media file",
    query=deferred.Query,
    headers=deferred.HEADERS,
    body=Upload(Asked),
    answers={
        202: answer("the job that it has become", deferred.JobDocument, Location="the job's address"),
        200: Answer(
            "the transcript in its format",
            {
                "application/json": Text | Verbose,
                "text/plain": str,
                "application/x-subrip": str,
                "text/vtt": str,
            },
        ),
    },
    refusals=refusals(*HEARING, *DEFERRED, content=_ERROR),
)
@telling(refusal)
async def inference(request: Request) -> Response:
    serving = services(request)
    limits = serving.config
    loaded: str = getattr(request.app.state, "inference_model", "")
    deferral = deferred.wanted(request)
    if not deferral:
        serving.readers.refuse_if_full()

    def check(asked: Asked) -> None:
        listen = _listen(asked, loaded)
        serving.check_speakers(listen)
        if model := serving.choose(listen):
            transcribe.check(model, listen)

    async with spooled(limits.spool_folder, limits.max_upload) as spool:
        asked = await fields.Form(Asked(), spool, check).read(
            request, largest=limits.max_upload, grace=limits.upload_grace, rate=limits.upload_rate
        )
        listen = _listen(asked, loaded)
        if asked.detect_language:
            return await _only_language(request, asked, listen, spool)
        kept = JobRequest(
            listen,
            dialect="whisper_cpp_server",
            response_format=asked.response_format,
            asked=asked.model_dump(exclude_defaults=True),
        )
        begun = await deferred.begin(request, deferral, kept, spool)
        if isinstance(begun, Response):
            return begun
        async with aclosing(begun.events) as events:
            transcript = await transcribe.whole(events)
        headers = notice(serving.models.find(transcript.model)) | begun.headers
        found = {} if asked.no_language_probabilities else transcript.languages
        if asked.response_format == "verbose_json" and not (found or asked.no_language_probabilities):
            found = await serving.detect(listen, spool)
        return document(*_written(transcript, asked, found), headers)


@operation(
    "Choose the model that /inference takes from now on, and load it",
    body=Fields(AskedToLoad),
    answers={200: Answer("it is loaded", {"text/plain": str})},
    refusals=refusals(
        errors.BadRequest,
        errors.TooLarge,
        errors.TooSlow,
        errors.ModelNotFound,
        errors.ModelBroken,
        errors.Leaving,
        errors.NoMemory,
        content=_ERROR,
    ),
)
@telling(refusal)
async def load(request: Request) -> Response:
    serving = services(request)
    limits = serving.config
    asked = await fields.small(request, AskedToLoad, grace=limits.upload_grace, rate=limits.upload_rate)
    model = serving.models.find(re.split(r"[/\\]", asked.model)[-1])
    await serving.memory.load(model)
    request.app.state.inference_model = model.id
    return PlainTextResponse("Load was successful!")


@operation(
    "Whether it is ready",
    answers={200: answer("ready", Status), 503: answer("not yet", Status | ErrorTold)},
    refusals=refusals(content=_ERROR),
)
async def health(request: Request) -> Response:
    try:
        services(request).check_ready()
    except errors.SpeechError:
        return JSONResponse({"status": "loading model"}, 503)
    return JSONResponse({"status": "ok"})


ROUTES = [
    Route("/inference", inference, methods=["POST"]),
    Admin("/load", load, methods=["POST"]),
    Open("/health", health),
]


def _listen(asked: Asked, loaded: str) -> Listen:
    start = asked.offset_t / 1000
    return Listen(
        model=asked.model or loaded,
        task="translate" if asked.translate else "transcribe",
        language=asked.language,
        prompt=asked.prompt,
        temperature=asked.temperature,
        words=asked.response_format == "verbose_json" or _style(asked).needs_words,
        diarize=Diarize(names=True) if asked.diarize else None,
        turns=asked.tinydiarize and not asked.diarize,
        start=start,
        end=start + asked.duration / 1000 if asked.duration else None,
    )


def _style(asked: Asked) -> Style:
    return Style(
        max_line_width=asked.max_len or None,
        max_line_count=1 if asked.max_len else None,
        first_number=asked.offset_n + 1,
    )


async def _only_language(request: Request, asked: Asked, listen: Listen, spool: Spool) -> Response:
    if asked.response_format in _MEDIA_TYPES:
        return Response(media_type=_MEDIA_TYPES[asked.response_format])
    if asked.response_format != "verbose_json":
        return JSONResponse({"text": ""})
    found = await services(request).detect(listen, spool)
    return JSONResponse({"task": listen.task, "text": "", **_languages(found), "segments": []})


def _lines(transcript: Transcript) -> str:
    """A line for each segment; who speaks, and where somebody else goes on, as whisper.cpp writes it."""
    return "".join(
        (f"({segment.speaker})" if segment.speaker else "")
        + segment.text
        + (_TURN if goes_on and not segment.speaker else "")
        + "\n"
        for segment, goes_on in _followed(transcript)
    )


def _followed(transcript: Transcript) -> Iterator[tuple[Segment, bool]]:
    """Each segment, and whether somebody else goes on after it."""
    turns = [bool(segment.turn) for segment in transcript.segments[1:]]
    return zip(transcript.segments, [*turns, False], strict=False)


def written(request: JobRequest, transcript: Transcript) -> tuple[Iterator[str], str]:
    """What a job has heard. Its media is gone: languages have probabilities only where they were detected."""
    asked = Asked.model_validate(request.asked)
    return _written(transcript, asked, {} if asked.no_language_probabilities else transcript.languages)


def _written(transcript: Transcript, asked: Asked, found: dict[str, float]) -> tuple[Iterator[str], str]:
    """The answer and its content type; `found`: probabilities of languages, for verbose_json."""
    if media_type := _MEDIA_TYPES.get(asked.response_format):
        return _text(transcript, asked), media_type
    if asked.response_format == "verbose_json":
        return _verbose(transcript, asked, found), "application/json"
    return iter((msgspec.json.encode({"text": _lines(transcript)}).decode(),)), "application/json"


def _text(transcript: Transcript, asked: Asked) -> Iterator[str]:
    if asked.response_format == "text":
        return iter((_lines(transcript),))
    return formats.find(asked.response_format).write(transcript, _style(asked))


def _verbose(transcript: Transcript, asked: Asked, found: dict[str, float]) -> Iterator[str]:
    spoken = asked.language or ("" if asked.translate else transcript.language)
    head = {
        "task": transcript.task,
        "language": languages.name(spoken or max(found, key=found.__getitem__, default="")),
        "duration": round(transcript.duration, 3),
        "text": _lines(transcript),
        **_languages(found),
    }
    yield msgspec.json.encode(head).decode()[:-1] + ',"segments":['
    for index, (segment, goes_on) in enumerate(_followed(transcript)):
        told = _segment(segment, asked)
        if asked.diarize:
            told["speaker"] = segment.speaker
        elif asked.tinydiarize:
            told["speaker_turn_next"] = goes_on
        yield "," * (index > 0) + msgspec.json.encode(told).decode()
    yield "]}"


def _languages(found: dict[str, float]) -> dict[str, object]:
    """What the language may be, the improbable left out as there."""
    if not found:
        return {}
    best = max(found, key=found.__getitem__)
    return {
        "detected_language": languages.name(best),
        "detected_language_probability": found[best],
        "language_probabilities": {code: value for code, value in found.items() if value > 0.001},
    }


def _segment(segment: Segment, asked: Asked) -> dict[str, object]:
    times = {} if asked.no_timestamps else {"start": segment.start, "end": segment.end}
    return {
        "id": segment.id,
        "text": segment.text,
        **times,
        "tokens": segment.tokens,
        "words": [_word(word, asked) for word in segment.spaced_words()],
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "no_speech_prob": segment.no_speech_prob,
    }


def _word(word: Word, asked: Asked) -> dict[str, object]:
    times = {"start": word.start, "end": word.end, "t_dtw": _UNALIGNED} if asked.has_word_times else {}
    return {"word": word.text, **times, "probability": word.probability}
