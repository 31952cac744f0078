"""NVIDIA's TTS NIM: its voices, and a text as a WAV file or as raw samples while they are made.

Its sentences stand here word for word, since clients look for them. Health, version and metadata stand in
nim_asr.py, for both NIMs have the same.
"""

from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from typing_extensions import TypedDict

from server import deferred, fields, samples, sse
from server.dialects import DEFERRED, SPEAKING, from_file, may_keep, refusals, sees, services, v1
from server.errors import BadField, BadMedia, BadRequest, MissingField, TextTooLong, VoiceNotFound
from server.openapi import Answer, Upload, answer, closed, operation
from server.services import Services
from server.speak import SAMPLE_RATES, Spoken, wav_header
from server.spool import Spool, spooled
from server.types import Audio, JobRequest, Sample, Sound, Speak

LONGEST = 2000
"""Characters of a text when it is written out."""

_ENCODING = "LINEAR_PCM"
_QUALITIES = range(1, 41)

_PROMPT = "audio_prompt"
_LARGEST_PROMPT = 32 << 20
"""Bytes; far above half a minute of what anybody records."""

_NO_VOICE = (
    "Model is not available on server: Voice {voice} for language {language} not found. "
    "Please specify the voice name in your SynthesizeSpeechRequest."
)
_TOO_LONG = (
    "Error: Triton model failed during inference. Error message: ... "
    "Input text is larger than the maximum input length: {size} > {most}"
)


class Asked(BaseModel):
    """The form's fields, beside the file `audio_prompt`; others are ignored."""

    model_config = ConfigDict(validate_assignment=True)

    text: str = Field("", description="The text; at most 2,000 characters when it is written out.")
    language: str = Field("", description="BCP 47: en-US.")
    voice: str = Field("", description="A name of /v1/audio/list_voices; absent: the language's best.")
    sample_rate_hz: int = Field(22_050, description="Hz of the answer, 8,000 to 48,000.")
    encoding: str = Field(_ENCODING, description="LINEAR_PCM.")
    custom_dictionary: str = Field("", description="Words and their sounds in IPA: `word  ipa, word  ipa`.")
    audio_prompt_transcript: str = Field("", description="What audio_prompt says; not needed.")
    prompt_quality: int = Field(20, description="1 to 40: how much is done for a likeness.")


@closed
class VoiceNames(TypedDict):
    """Names of voices."""

    voices: list[str]


_ACCEPTED = answer("the job that it has become", deferred.JobDocument, Location="the job's address")
_BODY = Upload(Asked, _PROMPT, "a recording of 3 to 30 s whose voice is to be spoken in", needed=False)


@operation(
    "The voices",
    answers={200: answer("all voices, under one key: the locales that they speak", dict[str, VoiceNames])},
    refusals=refusals(),
)
@v1
async def list_voices(request: Request) -> Response:
    """All voices, under one key: the locales that they speak."""
    voices = services(request).voices
    installed = voices.installed()
    locales = ",".join(dict.fromkeys(voice.locale for voice in installed))
    return JSONResponse({locales: {"voices": [*(voice.id for voice in installed), *voices.aliases]}})


@operation(
    "Speak a text, whole",
    query=deferred.Query,
    headers=deferred.HEADERS,
    body=_BODY,
    answers={200: Answer("a WAV file", {"audio/wav": bytes}), 202: _ACCEPTED},
    refusals=refusals(*SPEAKING, *DEFERRED),
)
@v1
async def synthesize(request: Request) -> Response:
    """A whole WAV file."""
    serving = services(request)
    deferral = deferred.wanted(request)
    async with AsyncExitStack() as stack:
        spoken = await _prepared(request, "wav" if deferral else "pcm", stack)
        if deferral:
            kept = deferred.speaking(spoken, "nim_tts", is_wav=True)
            return await deferred.spoken(request, deferral, kept)
        sound = await stack.enter_async_context(aclosing(serving.speak(spoken)))
        pcm = b"".join([data async for data in sound])
    return Response(wav_header(spoken.sample_rate, len(pcm)) + pcm, media_type="audio/wav")


@operation(
    "Speak a text as it is made",
    query=deferred.Query,
    headers=deferred.HEADERS,
    body=_BODY,
    answers={
        200: Answer("raw samples, int16; without a content type", {"application/octet-stream": bytes}),
        202: _ACCEPTED,
    },
    refusals=refusals(*SPEAKING, *DEFERRED),
)
@v1
async def synthesize_online(request: Request) -> Response:
    """Raw samples, as they are made; without a content type, as NVIDIA's."""
    serving = services(request)
    deferral = deferred.wanted(request)
    async with AsyncExitStack() as stack:
        spoken = await _prepared(request, "pcm", stack)
        if deferral:
            kept = deferred.speaking(spoken, "nim_tts", is_wav=False)
            return await deferred.spoken(request, deferral, kept)
        sound = await stack.enter_async_context(aclosing(serving.speak(spoken)))
        return sse.Held(StreamingResponse(await sse.begun(sound)), stack.pop_all())


def sounding(request: JobRequest, sound: Sound) -> Response:
    """What a job has spoken: a WAV file, or raw samples without a content type."""
    return from_file(sound, "audio/wav" if request.asked["is_wav"] else None)


ROUTES = [
    Route("/v1/audio/list_voices", list_voices, methods=["GET"]),
    Route("/v1/audio/synthesize", synthesize, methods=["POST"]),
    Route("/v1/audio/synthesize_online", synthesize_online, methods=["POST"]),
]


async def _prepared(request: Request, format: Audio, stack: AsyncExitStack) -> Spoken:
    """The text with its voice, ready; `stack`: for how long. Raises BadRequest in NVIDIA's words."""
    serving = services(request)
    asked, prompt = await _read(request, stack)
    speak = Speak(
        text=asked.text,
        voice=asked.voice,
        language=asked.language,
        dictionary=asked.custom_dictionary,
        format=format,
        sample_rate=asked.sample_rate_hz,
        longest=LONGEST,
        keep=may_keep(request),
    )
    try:
        if prompt:
            speak = replace(speak, sample=await _sample(asked, prompt, serving, stack))
        return await serving.prepare(speak, sees(request))
    except VoiceNotFound as error:
        raise VoiceNotFound(
            _NO_VOICE.format(voice=asked.voice[:200], language=asked.language[:40]), "voice"
        ) from error
    except TextTooLong as error:
        raise BadField(_TOO_LONG.format(size=error.size, most=error.most), "text") from error


async def _sample(asked: Asked, prompt: Spool, serving: Services, stack: AsyncExitStack) -> Sample:
    """The recording as a sample. Raises CannotClone, and BadField in words like NVIDIA's."""
    serving.voices.cloner(asked.voice, asked.language)
    decoded = await stack.enter_async_context(spooled(serving.config.spool_folder))
    try:
        return await samples.take(prompt, decoded.path, serving.readers, asked.prompt_quality)
    except BadMedia as error:
        raise BadField(f"Bad Request, invalid audio_prompt: {error}", _PROMPT) from error


async def _read(request: Request, stack: AsyncExitStack) -> tuple[Asked, Spool | None]:
    """The fields, and the recording of a voice where one was sent."""
    limits = services(request).config
    pace = {"grace": limits.upload_grace, "rate": limits.upload_rate}
    if not request.headers.get("content-type", "").startswith("multipart/"):
        return _checked(await fields.small(request, Asked, **pace)), None
    spool = await stack.enter_async_context(spooled(limits.spool_folder, _LARGEST_PROMPT))
    form = fields.Form(Asked(), spool, lambda asked: None, _PROMPT, file_needed=False)
    asked = _checked(await form.read(request, largest=_LARGEST_PROMPT, **pace))
    return asked, spool if form.has_file else None


def _checked(asked: Asked) -> Asked:
    if not asked.text.strip():
        raise MissingField("Bad Request, empty text input", "text")
    if not asked.language.strip():
        raise MissingField("Bad Request, empty language code", "language")
    if asked.encoding != _ENCODING:
        raise BadField("Bad Request, invalid encoding", "encoding")
    if asked.sample_rate_hz not in SAMPLE_RATES:
        raise BadField("Bad Request, sample_rate_hz must be from 8000 to 48000", "sample_rate_hz")
    if asked.prompt_quality not in _QUALITIES:
        raise BadRequest("Bad Request, prompt_quality must be from 1 to 40", "prompt_quality")
    return asked
