"""A transcription by another whisperd: the same events, over HTTP."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx
import httpx_sse
import msgspec

from server.errors import SpeechError, WorkFailed
from server.types import Done, Event, Listen, Segment, Started, Transcript, Word


async def transcribe(url: str, media: Path | BinaryIO, listen: Listen) -> AsyncGenerator[Event]:
    """Events of the server at `url` (`http://host:port`). Raises SpeechError with its own sentence."""
    transcript = Transcript(listen.task, "", 0.0, (), listen.model)
    async with contextlib.AsyncExitStack() as stack:
        file = stack.enter_context(media.open("rb")) if isinstance(media, Path) else _Pipe(media)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=httpx.Timeout(30, read=600)))
        name = media.name if isinstance(media, Path) else "media"
        try:
            answer = await stack.enter_async_context(
                httpx_sse.aconnect_sse(
                    http,
                    "POST",
                    f"{url.rstrip('/')}/v1/audio/{_PATHS[listen.task]}",
                    params={"stream": "true"},
                    data=_form(listen),
                    files={"file": (name, cast(BinaryIO, file))},
                )
            )
            await _check(answer.response)
            async for event in answer.aiter_sse():
                made = _event(event)
                if made is not None:
                    transcript = _with(transcript, made)
                    yield made
                elif event.event == "ok":
                    yield Done(transcript)
                    return
        except httpx.HTTPError as error:
            raise WorkFailed(f"{url}: {error or type(error).__name__}") from error
        raise WorkFailed(f"{url}: the stream broke off")


class _Pipe:
    """A file of unknown length: all that httpx may do is read it, so it sends it in chunks."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read


_PATHS = {"transcribe": "transcriptions", "translate": "translations"}


def _form(listen: Listen) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": listen.model,
        "language": listen.language or "",
        "prompt": listen.prompt,
        "temperature": str(listen.temperature),
        "audio_track": listen.audio_track or "",
        "response_format": "verbose_json",
    }
    words = {"timestamp_granularities[]": ["segment", "word"]} if listen.words else {}
    return {key: value for key, value in fields.items() if value} | words


async def _check(response: httpx.Response) -> None:
    if response.is_error:
        await response.aread()
        try:
            sentence = response.json()["reason"]
        except (ValueError, KeyError, TypeError):
            sentence = f"{response.url} answered {response.status_code}"
        raise SpeechError(sentence)


def _event(event: httpx_sse.ServerSentEvent) -> Started | Segment | None:
    match event.event:
        case "task":
            return msgspec.json.decode(event.data, type=Started)
        case "segment":
            fields = event.json()
            words = tuple(
                Word(word["word"], word["start"], word["end"], word["probability"])
                for word in fields.pop("words", ())
            )
            return msgspec.convert(fields | {"words": words, "seek": fields["seek"] / 100}, Segment)
        case "error":
            raise SpeechError(event.json())
    return None


def _with(transcript: Transcript, event: Started | Segment) -> Transcript:
    if isinstance(event, Started):
        return replace(transcript, language=event.language, duration=event.duration or 0.0)
    return replace(
        transcript,
        segments=(*transcript.segments, event),
        duration=max(transcript.duration, event.end),
    )
