"""/v1/audio/transcriptions, /translations and /diarize: routes that OpenAI's and go-whisper's clients share.

The query `?stream=` asks for go-whisper's events, the form field `stream` for OpenAI's; the query wins. The
format is chosen by `response_format` alone, never by Accept, which real clients fill with anything.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NotRequired

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import TypedDict

from server import config, deferred, enrolled, errors, fields, formats, languages, prompts, sse, transcribe
from server.config import KeepAlive
from server.dialects import (
    HEARING,
    Problem,
    document,
    notice,
    problem,
    refusals,
    services,
    speaker_count,
    v1,
)
from server.formats import diarized_json, verbose_json
from server.formats import json as json_format
from server.formats.diarized_json import DiarizedJson, DiarizedSegment
from server.openapi import Answer, Events, Upload, answer, closed, operation
from server.services import Services
from server.spool import spooled
from server.types import (
    Activity,
    Diarize,
    Done,
    Event,
    JobRequest,
    KnownVoice,
    Listen,
    ModelInfo,
    Segment,
    Started,
    Style,
    Task,
    TellingApart,
    Transcript,
    Waiting,
)

_SHORTEST = 5.0
"""Seconds of go-whisper's `segment_size`: less counts as this, as in its own server."""

_TELLS_LANGUAGES = "gpt-transcribe"
"""The model of OpenAI's whose json has the languages that were heard."""

_COUNTS_TOKENS = "gpt-"
"""How the names of OpenAI's models begin whose usage is told in tokens."""

_GO = "multipart/form-data"
"""What go-whisper's client sends as `Accept`, and nobody else. No other Accept says what is wanted."""

_FORMATS = {"type": "string", "enum": list(formats.names())}

_LARGEST_SAMPLE = 1 << 22
"""Bytes of a voice's sample as it is sent: ten seconds of any sound, encoded."""

_LONGEST_NAME = 64

_MOST_KNOWN = 4
"""Known speakers: OpenAI's bound."""

_MOST_SPEAKERS = 20

_NUMBERED = re.compile(r"SPEAKER_\d+")

_DATA_URL = re.compile(r"data:[^,;]*(?:;[^,;]+)*?;base64,(?P<data>.*)", re.DOTALL)


def _format(value: object) -> object:
    if value not in formats.names():
        raise ValueError(f'"{str(value)[:40]}" is not one of ' + ", ".join(formats.names()))
    return value


def _sample(value: object) -> bytes:
    """The bytes of a data URL."""
    if isinstance(value, bytes):
        return value
    if not (found := _DATA_URL.fullmatch(str(value).strip())):
        raise ValueError("a sample must be a data URL (data:audio/wav;base64,…)")
    try:
        return base64.b64decode(found["data"], validate=True)
    except ValueError as error:
        raise ValueError("the data URL has no valid base64") from error


def _speaker_name(value: object) -> str:
    name = " ".join(str(value).split())
    if not name or len(name) > _LONGEST_NAME or _NUMBERED.fullmatch(name):
        raise ValueError(f"a speaker's name has 1 to {_LONGEST_NAME} characters and is none of SPEAKER_00 …")
    return name


def _code(value: object) -> str:
    if code := languages.code(str(value)):
        return code
    raise ValueError(f'"{str(value)[:40]}" is not a language; leave the field out to have it detected')


def _language(value: object) -> str | None:
    text = str(value or "")
    return languages.MULTI if text.strip().lower() == languages.MULTI else languages.code(text)


def _strategy(value: object) -> object:
    """An object may come as JSON, or key by key: chunking_strategy[threshold]."""
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)
    if value == "auto" or not isinstance(value, str):
        return value
    raise ValueError(f'"{value[:40]}" is neither "auto" nor an object of type "server_vad"')


_Name = Annotated[str, BeforeValidator(_speaker_name)]
_Sample = Annotated[bytes, BeforeValidator(_sample), WithJsonSchema({"type": "string"})]


class ServerVad(BaseModel):
    """How speech is told from silence; what is left out is as the server does by itself."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Literal["server_vad"] = "server_vad"
    threshold: float | None = Field(None, ge=0, le=1)
    """Probability of voice from which sound is speech."""
    prefix_padding_ms: int | None = Field(None, ge=0, le=3000)
    """Sound kept before speech."""
    silence_duration_ms: int | None = Field(None, ge=20, le=10_000)
    """Silence that ends a chunk."""


class Asked(BaseModel):
    """The form's fields; others are ignored."""

    model_config = ConfigDict(validate_assignment=True, use_attribute_docstrings=True)

    model: str = ""
    """An id of /v1/models, or a name such as whisper-1 for the best installed one."""
    language: Annotated[str | None, BeforeValidator(_language)] = None
    """Language of the speech; absent or "auto": detected; "multi": several, each stretch in its own."""
    multilingual: bool = False
    """Whether several languages are spoken; `language=multi` says the same."""
    multichannel: bool = False
    """Whether each channel is transcribed by itself; segments then tell theirs."""
    condition_on_previous_text: bool = False
    """Whether each window is told what the one before it said; windows then wait for each other."""
    languages: tuple[Annotated[str, BeforeValidator(_code)], ...] = ()
    """Languages among which it is detected; `language` wins."""
    response_format: Annotated[str, BeforeValidator(_format), WithJsonSchema(_FORMATS)] = "json"
    """How the transcript is written."""
    prompt: str = ""
    """Text that precedes the sound: names, spelling, style."""
    keywords: tuple[str, ...] = ()
    """Words and phrases to expect."""
    hotwords: str = ""
    """The same in one text, with commas between them, as faster-whisper has it."""
    temperature: float = Field(0.0, ge=0.0, le=1.0)
    """Of sampling; 0 is greedy, and raised by itself where the result is poor."""
    timestamp_granularities: tuple[Literal["segment", "word"], ...] = ()
    """`word` adds the times of words to verbose_json."""
    include: tuple[Literal["logprobs", "embeddings"], ...] = ()
    """`logprobs` adds the probabilities of tokens to json, verbose_json and OpenAI's events; `embeddings` the
    vectors of voices to `speakers`."""
    chunking_strategy: Annotated[ServerVad | Literal["auto"] | None, BeforeValidator(_strategy)] = None
    """How the sound is cut: "auto", or an object of type server_vad."""
    segment_size: Annotated[float | None, BeforeValidator(config.seconds)] = Field(None, ge=0)
    """go-whisper's: the longest stretch that is heard at once, as a duration of Go ("10s")."""
    stream: bool = False
    """Whether OpenAI's events are wanted."""
    diarize: bool = False
    """Whether it is to be told who speaks; diarized_json and rttm ask for it by themselves."""
    diarize_model: str = ""
    """The pipeline that tells speakers apart, an id of /v1/models; empty: the newest."""
    num_speakers: int | None = Field(None, ge=1, le=_MOST_SPEAKERS)
    """How many people speak, if that is known."""
    min_speakers: int | None = Field(None, ge=1, le=_MOST_SPEAKERS)
    """At least so many."""
    max_speakers: int | None = Field(None, ge=1, le=_MOST_SPEAKERS)
    """At most so many."""
    known_speaker_names: Annotated[tuple[_Name, ...], Field(max_length=_MOST_KNOWN)] = ()
    """Names of people whose voices are sent along, in the same order."""
    known_speaker_references: Annotated[tuple[_Sample, ...], Field(max_length=_MOST_KNOWN)] = ()
    """A sample of 2 to 10 s of each one's voice, as a data URL."""
    known_speakers: Annotated[tuple[_Name, ...], Field(max_length=_MOST_SPEAKERS)] = ()
    """Names of people whose voices are enrolled at this server; `*`: all of them."""
    threshold: float | None = Field(None, ge=-1, le=1)
    """Likeness from which a speaker is one of those; as configured where it is left out."""
    keep_alive: KeepAlive | None = None
    """How long the model stays loaded afterwards."""
    audio_track: str | None = None
    """A track of a film: its number among the audio tracks, or its language."""
    url: str = ""
    """Where the media is, instead of a file."""
    max_line_width: int | None = Field(None, ge=1)
    """Columns of a line of subtitles; Chinese and Japanese characters count two."""
    max_line_count: int | None = Field(None, ge=1)
    """Lines of a cue."""
    highlight_words: bool = False
    """Each word is marked while it is spoken, in vtt, srt and lrc."""
    min_cue_duration: float = Field(0.0, ge=0, le=60)
    """Seconds for which a cue stands at least."""
    max_cue_duration: float | None = Field(None, gt=0)
    """Seconds for which a cue stands at most."""
    max_reading_speed: float | None = Field(None, ge=1)
    """Characters a second; a cue that is spoken faster stays longer."""


def _english(value: object) -> str:
    if languages.code(str(value)) not in (None, "en"):
        raise ValueError(f'Whisper translates into English alone, not into "{str(value)[:40]}"')
    return "en"


class AskedToTranslate(Asked):
    """The fields of a translation."""

    target_language: Annotated[str, BeforeValidator(_english)] = "en"
    """NVIDIA's: the language of the text; Whisper can English alone."""


class AskedToDiarize(Asked):
    """The fields of who said what."""

    diarize: bool = True
    """It is told in any case."""


class Streamed(deferred.Query):
    """The query."""

    stream: bool | None = None
    """go-whisper's events; it wins over the field."""


@closed
class Began(TypedDict):
    """go-whisper's event `task`."""

    task: Task
    language: str
    duration: float | None
    """Seconds; null where the media does not say."""


@closed
class Summary(TypedDict):
    """What is only known at the end, with verbose_json and where speakers were told apart."""

    language: str
    duration: float
    model: str
    warnings: Sequence[str]
    segments: NotRequired[Sequence[verbose_json.BriefSegment | verbose_json.FullSegment | DiarizedSegment]]
    """All of them again with their speakers, in formats of JSON. Text formats come as segments before it."""
    speakers: NotRequired[list[verbose_json.Speaker]]


@closed
class Delta(TypedDict):
    """More text."""

    type: Literal["transcript.text.delta"]
    delta: str
    logprobs: NotRequired[list[verbose_json.LogProb]]
    segment_id: NotRequired[str]
    """With verbose_json, where nobody asks for speakers: with them segments are other ones."""


@closed
class SegmentTold(TypedDict):
    """A segment, with verbose_json."""

    type: Literal["transcript.text.segment"]
    id: str
    start: float
    end: float
    text: str
    speaker: str | None
    seek: int
    tokens: Sequence[int]
    temperature: float | None
    avg_logprob: float | None
    compression_ratio: float | None
    no_speech_prob: float | None
    language: str | None
    words: NotRequired[list[verbose_json.SpokenWord]]
    speaker_certain: NotRequired[bool]
    overlap: NotRequired[bool]
    speaker_turn: NotRequired[bool]


@closed
class Finished(TypedDict):
    """All of the text."""

    type: Literal["transcript.text.done"]
    text: str
    languages: list[json_format.Language]
    logprobs: NotRequired[list[verbose_json.LogProb]]
    usage: json_format.TokenUsage
    duration: NotRequired[float]
    """With verbose_json, as the next."""
    model: NotRequired[str]
    warnings: NotRequired[Sequence[str]]
    speakers: NotRequired[list[verbose_json.Speaker]]
    """Where they were told apart."""


@closed
class GoSegment(TypedDict):
    """A phrase with its times in nanoseconds."""

    id: int
    start: int
    end: int
    text: str
    speaker_turn: NotRequired[bool]
    """Where speakers were told apart, as the next."""
    speaker: NotRequired[str | None]


@closed
class GoDocument(TypedDict):
    """A transcript as go-whisper's client decodes it: all numbers are whole, times are nanoseconds."""

    task: Task
    language: str
    duration: int
    text: str
    segments: list[GoSegment]


_EVENTS = Events(
    {
        "": Delta | SegmentTold | DiarizedSegment | Finished | Problem,
        "ping": None,
        "task": Began,
        "segment": verbose_json.BriefSegment | verbose_json.FullSegment | DiarizedSegment | str,
        "warning": str,
        "ok": Summary | None,
        "error": str,
    },
    last="[DONE]",
)
_HEARD = Answer(
    "the transcript in its format, or its events",
    {
        "application/json": json_format.Json | verbose_json.VerboseJson | DiarizedJson | GoDocument,
        "text/plain": str,
        "text/vtt": str,
        "text/tab-separated-values": str,
        "text/event-stream": _EVENTS,
    },
    {"X-Whisperd-Notice": "what every answer of this model must say"},
)
_ACCEPTED = answer("the job that it has become", deferred.JobDocument, Location="the job's address")
_REFUSED = refusals(*HEARING, errors.KeyReused, errors.JobCancelled)


@operation(
    "Write down what is said",
    query=Streamed,
    headers=deferred.HEADERS,
    body=Upload(Asked, instead="url"),
    answers={200: _HEARD, 202: _ACCEPTED},
    refusals=_REFUSED,
)
@v1
async def transcriptions(request: Request) -> Response:
    return await _answer(request, "transcribe", Asked())


@operation(
    "Write down in English what is said",
    query=Streamed,
    headers=deferred.HEADERS,
    body=Upload(AskedToTranslate, instead="url"),
    answers={200: _HEARD, 202: _ACCEPTED},
    refusals=_REFUSED,
)
@v1
async def translations(request: Request) -> Response:
    return await _answer(request, "translate", AskedToTranslate())


@operation(
    "Write down who says what",
    query=Streamed,
    headers=deferred.HEADERS,
    body=Upload(AskedToDiarize, instead="url"),
    answers={200: _HEARD, 202: _ACCEPTED},
    refusals=_REFUSED,
)
@v1
async def diarize(request: Request) -> Response:
    return await _answer(request, "transcribe", AskedToDiarize())


ROUTES = [
    Route("/v1/audio/diarize", diarize, methods=["POST"]),
    Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
    Route("/v1/audio/translations", translations, methods=["POST"]),
]


async def _answer(request: Request, task: Task, empty: Asked) -> Response:
    serving = services(request)
    limits = serving.config
    events_wanted = fields.query(request, Streamed).stream
    deferral = deferred.wanted(request)
    if not deferral:
        serving.readers.refuse_if_full()  # before gigabytes are sent for nothing

    def check(asked: Asked) -> None:
        listen = _listen(asked, task)
        serving.check_speakers(listen)
        if asked.model and (model := _model(serving, listen)):
            transcribe.check(model, listen)

    async with AsyncExitStack() as stack:
        spool = await stack.enter_async_context(spooled(limits.spool_folder, limits.max_upload))
        sizes = {"known_speaker_references": _LARGEST_SAMPLE}
        form = fields.Form(empty, spool, check, instead="url", sizes=sizes)
        asked = await form.read(
            request, largest=limits.max_upload, grace=limits.upload_grace, rate=limits.upload_rate
        )
        _check_known(asked)
        check(asked)
        style = replace(_style(asked), name=Path(form.file_name).stem or Style().name)
        streamed = events_wanted or (events_wanted is None and asked.stream)
        go = request.headers.get("accept") == _GO
        times = bool(deferral or streamed or go) or formats.has_times(asked.response_format)
        heard = replace(_listen(asked, task), times=times)
        listen = await _enrolled(asked, heard, limits.known_speaker_folder)
        model = _model(serving, listen)
        begun = await deferred.begin(request, deferral, _job(asked, listen, model, style), spool)
        if isinstance(begun, Response):
            return begun
        headers = notice(model) | begun.headers
        events = await stack.enter_async_context(aclosing(begun.events))
        if streamed:
            first = await stack.enter_async_context(sse.first(events))
            stream = _stream(sse.resumed(first, events), asked, style, bool(events_wanted), model, headers)
            return sse.Held(stream, stack.pop_all())
        transcript = await transcribe.whole(events)
        if go:
            return document(_for_go(transcript), "application/json", headers)
        return _document(transcript, asked.response_format, style, model, headers)


def _model(serving: Services, listen: Listen) -> ModelInfo | None:
    """The model for it. The NIM's sentence stands for a server that has no default."""
    try:
        return serving.choose(listen)
    except errors.ModelNotFound as error:
        if listen.model or listen.language or listen.languages:
            raise
        raise errors.BadRequest(f"Bad Request, need model or language; {error}", "model") from error


def _listen(asked: Asked, task: Task) -> Listen:
    multilingual = asked.multilingual or asked.language == languages.MULTI
    return Listen(
        model=asked.model,
        task=task,
        language=None if multilingual else asked.language,
        languages=() if asked.language and not multilingual else tuple(dict.fromkeys(asked.languages)),
        multilingual=multilingual,
        by_channel=asked.multichannel,
        conditioned=asked.condition_on_previous_text,
        prompt=asked.prompt,
        keywords=(*asked.keywords, *prompts.listed(asked.hotwords)),
        temperature=asked.temperature,
        words=_style(asked).needs_words,
        logprobs=_style(asked).logprobs,
        diarize=_diarize(asked),
        activity=_activity(asked),
        keep_alive=asked.keep_alive,
        audio_track=asked.audio_track,
    )


def _tells_speakers(asked: Asked) -> bool:
    return asked.diarize or formats.needs_speakers(asked.response_format)


def _diarize(asked: Asked) -> Diarize | None:
    if not _tells_speakers(asked):
        return None
    known = zip(asked.known_speaker_names, asked.known_speaker_references, strict=False)
    return Diarize(
        model=asked.diarize_model,
        speakers=speaker_count(asked.num_speakers, asked.min_speakers, asked.max_speakers),
        embeddings="embeddings" in asked.include,
        known=tuple(KnownVoice(name, sample) for name, sample in known),
        threshold=asked.threshold,
        names=bool(asked.known_speakers) or formats.needs_speakers(asked.response_format),
    )


async def _enrolled(asked: Asked, listen: Listen, folder: Path) -> Listen:
    """The same with the enrolled voices that are named. Raises BadField."""
    if not asked.known_speakers or not listen.diarize:
        return listen
    sent = listen.diarize.known
    known = await asyncio.to_thread(enrolled.voices, folder, asked.known_speakers, _MOST_SPEAKERS)
    if twice := {voice.name for voice in sent} & {voice.name for voice in known}:
        raise errors.BadField(f"known_speakers: {min(twice)} was also sent as a sample", "known_speakers")
    return replace(listen, diarize=replace(listen.diarize, known=sent + known))


def _check_known(asked: Asked) -> None:
    """What can be told only once all fields are here. Raises BadField."""
    names = asked.known_speaker_names
    if len(names) != len(asked.known_speaker_references):
        raise errors.BadField(
            f"known_speaker_references: {len(asked.known_speaker_references)} samples were sent for "
            f"{len(names)} names of known_speaker_names",
            "known_speaker_references",
        )
    if len(set(names)) < len(names):
        raise errors.BadField("known_speaker_names: a name was sent twice", "known_speaker_names")
    if asked.multichannel and _tells_speakers(asked):
        raise errors.BadField(
            "multichannel: each channel is heard by itself, and speakers are told apart in all of them "
            "together; send one of both",
            "multichannel",
        )


def _job(asked: Asked, listen: Listen, model: ModelInfo | None, style: Style) -> JobRequest:
    listen = replace(listen, model=model.id) if model else listen
    return JobRequest(listen, url=asked.url, response_format=asked.response_format, style=style)


def _activity(asked: Asked) -> Activity | None:
    vad = asked.chunking_strategy if isinstance(asked.chunking_strategy, ServerVad) else ServerVad()
    activity = Activity(
        threshold=vad.threshold,
        padding=_seconds(vad.prefix_padding_ms),
        silence=_seconds(vad.silence_duration_ms),
        longest=max(asked.segment_size, _SHORTEST) if asked.segment_size else None,
    )
    return None if activity == Activity() else activity


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _style(asked: Asked) -> Style:
    return Style(
        logprobs="logprobs" in asked.include,
        languages=asked.model == _TELLS_LANGUAGES or bool(asked.languages),
        count_tokens=asked.model.startswith(_COUNTS_TOKENS),
        words="word" in asked.timestamp_granularities,
        speakers=_tells_speakers(asked),
        highlight_words=asked.highlight_words,
        max_line_width=asked.max_line_width,
        max_line_count=asked.max_line_count,
        min_cue_duration=asked.min_cue_duration,
        max_cue_duration=asked.max_cue_duration,
        max_reading_speed=asked.max_reading_speed,
    )


# Whole answers ----------------------------------------------------------------------------------------


def _document(
    transcript: Transcript, name: str, style: Style, model: ModelInfo | None, headers: Mapping[str, str]
) -> Response:
    format = formats.find(name)
    if name == "json" and model:
        # The header says it; what else there is to say stands in the body.
        others = tuple(warning for warning in transcript.warnings if warning != model.notice)
        transcript = replace(transcript, warnings=others)
    return document(format.write(transcript, style), format.MEDIA_TYPE, headers)


def _for_go(transcript: Transcript) -> Iterator[str]:
    """As go-whisper's client decodes it, whatever the format asked for: times are whole nanoseconds."""
    head = {
        "task": transcript.task,
        "language": transcript.language,
        "duration": _nanoseconds(transcript.duration),
        "text": transcript.text,
    }
    yield msgspec.json.encode(head).decode()[:-1] + ',"segments":['
    for segment in transcript.segments:
        fields: GoSegment = {
            "id": segment.id,
            "start": _nanoseconds(segment.start),
            "end": _nanoseconds(segment.end),
            "text": segment.text,
        }
        if segment.turn is not None:
            fields |= {"speaker_turn": segment.turn, "speaker": segment.speaker}
        yield "," * (segment.id > 0) + msgspec.json.encode(fields).decode()
    yield "]}"


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


# Streams ----------------------------------------------------------------------------------------------


def _stream(
    events: AsyncIterator[Event],
    asked: Asked,
    style: Style,
    go_whisper: bool,
    model: ModelInfo | None,
    headers: Mapping[str, str],
) -> Response:
    write = _go_whisper if go_whisper else _openai
    notice = model.notice if model else ""
    return sse.stream(
        events,
        lambda events: write(events, asked.response_format, style, notice),
        go_whisper=go_whisper,
        headers=headers,
    )


async def _go_whisper(
    events: AsyncIterator[Event], name: str, style: Style, notice: str
) -> AsyncIterator[ServerSentEvent]:
    """ping, task, segment…, ok or error. A segment is an object, in formats of text a JSON string.

    Where speakers are wanted, text waits until they are known, and `ok` has the segments of JSON with them.
    """
    yield sse.event("ping")
    format = formats.find(name)
    pieces = format.pieces(style)
    is_held = style.speakers and format.MEDIA_TYPE != "application/json"
    try:
        async for event in events:
            match event:
                case Waiting(reason):
                    yield sse.comment(reason)
                case TellingApart(share):
                    yield sse.comment(_telling(share))
                case Started(task, language, duration):
                    yield sse.event("task", Began(task=task, language=language, duration=duration))
                case Segment():
                    for piece in () if is_held else pieces.add(event):
                        yield sse.event("segment", piece)
                case Done(transcript):
                    for piece in format.write(transcript, style) if is_held else pieces.end():
                        yield sse.event("segment", piece)
                    for warning in transcript.warnings:
                        if warning != notice:
                            yield sse.event("warning", warning)
                    yield sse.event("ok", _summary(transcript, name, style))
    except errors.SpeechError as error:
        yield sse.event("error", str(error))


def _telling(share: float) -> str:
    return f"telling speakers apart: {share:.0%}"


def _summary(transcript: Transcript, name: str, style: Style) -> dict[str, object] | None:
    """What is only known at the end, a Summary, where there is room for it."""
    if name != "verbose_json" and not transcript.diarized:
        return None
    told: dict[str, object] = {
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "model": transcript.model,
        "warnings": transcript.warnings,
    }
    if transcript.diarized:
        format = formats.find(name)
        if format.MEDIA_TYPE == "application/json":
            pieces = format.pieces(style)
            told["segments"] = [piece for segment in transcript.segments for piece in pieces.add(segment)]
        speakers = diarized_json.speakers if name == "diarized_json" else verbose_json.speakers
        told["speakers"] = list(speakers(transcript.diarized))
    return told


async def _openai(
    events: AsyncIterator[Event], name: str, style: Style, notice: str
) -> AsyncIterator[ServerSentEvent]:
    """transcript.text.delta…, transcript.text.done, [DONE]; an error is data with the key `error`.

    The deltas, joined, are the text of `done`. In verbose_json a transcript.text.segment follows each delta;
    where speakers are wanted, all of them come when those are known, before `done`.
    """
    verbose = name == "verbose_json"
    try:
        async for event in events:
            match event:
                case Waiting(reason):
                    yield sse.comment(reason)
                case TellingApart(share):
                    yield sse.comment(_telling(share))
                case Segment():
                    yield sse.data(_delta(event, style, verbose))
                    if verbose and not style.speakers:
                        yield sse.data(_segment(event, style))
                case Done(transcript):
                    for segment in transcript.segments if style.speakers else ():
                        yield sse.data(
                            _segment(segment, style) if verbose else diarized_json.piece(segment, style)
                        )
                    yield sse.data(_done(transcript, style, verbose))
                    yield sse.text("[DONE]")
    except errors.SpeechError as error:
        yield sse.data(problem(error))


def _delta(segment: Segment, style: Style, verbose: bool) -> Delta:
    text = segment.text.lstrip() if segment.id == 0 else segment.text
    delta: Delta = {"type": "transcript.text.delta", "delta": text}
    if style.logprobs:
        delta["logprobs"] = list(verbose_json.logprobs(segment))
    if verbose and not style.speakers:
        delta["segment_id"] = _segment_id(segment)
    return delta


def _segment(segment: Segment, style: Style) -> dict[str, object]:
    """OpenAI's event, a SegmentTold, with all that verbose_json tells of a segment."""
    told: dict[str, object] = {
        "type": "transcript.text.segment",
        "id": _segment_id(segment),
        "speaker": segment.speaker,
    }
    return {**verbose_json.piece(segment, replace(style, logprobs=False)), **told}


def _segment_id(segment: Segment) -> str:
    return f"seg_{segment.id}"


def _done(transcript: Transcript, style: Style, verbose: bool) -> Finished:
    done: Finished = {
        "type": "transcript.text.done",
        "text": transcript.text,
        "languages": json_format.languages(transcript),
        "usage": json_format.tokens(transcript),
    }
    if style.logprobs:
        scores = (score for segment in transcript.segments for score in verbose_json.logprobs(segment))
        done["logprobs"] = list(scores)
    if verbose:
        done["duration"] = round(transcript.duration, 3)
        done["model"] = transcript.model
    if transcript.warnings:
        done["warnings"] = transcript.warnings
    if transcript.diarized:
        speakers = verbose_json.speakers if verbose else diarized_json.speakers
        done["speakers"] = list(speakers(transcript.diarized))
    return done
