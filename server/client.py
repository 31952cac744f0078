"""Another whisperd, over HTTP: its transcriptions as the same events, and its models."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

import httpx
import httpx_sse
import msgspec

from server import keys
from server.errors import BadRequest, SpeechError, WorkFailed
from server.pull import Pulling
from server.types import Done, Event, Listen, Segment, Speak, Started, Transcript, Word

Document = Mapping[str, Any]
"""A model as the API tells it."""

Sound = AsyncIterator[bytes]

_TIMEOUT = httpx.Timeout(30, read=600)

_BUSY = 503

_AWAY = 600.0
_AGAIN = 1.0
"""Seconds for which a server may be away whose job is waited for, and between two looks for it."""


async def transcribe(
    url: str, media: Path | BinaryIO, listen: Listen, key: str | None = None
) -> AsyncGenerator[Event]:
    """Events of the server at `url` (`http://host:port`). Raises SpeechError with its own sentence."""
    transcript = Transcript(listen.task, "", 0.0, (), listen.model)
    async with contextlib.AsyncExitStack() as stack:
        file = stack.enter_context(media.open("rb")) if isinstance(media, Path) else _Pipe(media)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=_TIMEOUT, headers=_credentials(key)))
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
                    yield Done(_summed_up(transcript, event.json()))
                    return
        except httpx.HTTPError as error:
            raise WorkFailed(f"{url}: {error or type(error).__name__}") from error
        raise WorkFailed(f"{url}: the stream broke off")


def _summed_up(transcript: Transcript, summary: dict[str, Any]) -> Transcript:
    return replace(
        transcript,
        language=summary["language"],
        duration=summary["duration"],
        model=summary["model"],
        warnings=tuple(summary["warnings"]),
    )


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
    keywords = {"keywords[]": list(listen.keywords)} if listen.keywords else {}
    return {key: value for key, value in fields.items() if value} | words | keywords


def _credentials(key: str | None) -> dict[str, str]:
    if key and not keys.sendable(key):
        raise BadRequest("the API key has characters that no key has")
    return {"Authorization": f"Bearer {key}"} if key else {}


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


@contextlib.asynccontextmanager
async def speech(url: str, speak: Speak, key: str | None = None) -> AsyncIterator[tuple[str, Sound]]:
    """The name of the voice, and its sound in the format asked for, at 24 kHz, from the server at `url`.

    Raises SpeechError with the server's own sentence, and WorkFailed where the sound breaks off.
    """
    fields = {
        "input": speak.text,
        "voice": speak.voice,
        "language": speak.language,
        "speed": speak.speed,
        "response_format": speak.format,
    }
    async with _session(url, key) as http:
        async with http.stream("POST", f"{url.rstrip('/')}/v1/audio/speech", json=fields) as answer:
            await _check(answer)
            yield answer.headers.get("x-voice", ""), answer.aiter_bytes()


class _Asking:
    """What is asked of the server at `url` (`http://host:port`) by small calls."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._key = key

    async def _ask(self, method: str, path: str, query: dict[str, str] | None = None) -> Document:
        async with _session(self._url, self._key) as http:
            answer = await http.request(method, self._url + path, params=query)
            await _check(answer)
            try:
                return cast(Document, answer.json())
            except ValueError as error:
                raise WorkFailed(f"{self._url}: the answer is no JSON; is this a whisperd?") from error


class Jobs(_Asking):
    """The jobs of a server, as objects of its /v1/jobs."""

    async def all(self, status: str, limit: int) -> Sequence[Document]:
        """Newest first; `status`: of those states alone, with commas between them."""
        answer = await self._ask("GET", "/v1/jobs", {"status": status, "limit": str(limit)})
        return cast(Sequence[Document], answer["data"])

    async def one(self, id: str) -> Document:
        return await self._ask("GET", _job(id))

    async def cancel(self, id: str) -> Document:
        """The job; one that has ended stays as it is."""
        job = await self.one(id)
        return job if job["finished_at"] else await self._ask("DELETE", _job(id))

    async def follow(self, id: str) -> AsyncGenerator[tuple[float, float | None]]:
        """Seconds done and in all, to the job's end, over restarts of its server. Raises why it failed."""
        await self.one(id)
        seen = time.monotonic()
        while True:
            try:
                async with contextlib.aclosing(self._steps(id)) as steps:
                    async for step in steps:
                        seen = time.monotonic()
                        yield step
                return
            except WorkFailed:
                if time.monotonic() - seen > _AWAY:
                    raise
                await asyncio.sleep(_AGAIN)

    async def _steps(self, id: str) -> AsyncGenerator[tuple[float, float | None]]:
        """The same for as long as the server is there; then raises WorkFailed."""
        async with _session(self._url, self._key) as http:
            async with httpx_sse.aconnect_sse(http, "GET", self._url + _job(id) + "/events") as source:
                if source.response.status_code == _BUSY:
                    raise WorkFailed(f"{self._url}: the server is busy")
                await _check(source.response)
                async for event in source.aiter_sse():
                    match event.event:
                        case "progress":
                            yield event.json()["done"], event.json()["total"]
                        case "done":
                            return
                        case "error" if event.json()["code"] != _BUSY:
                            raise SpeechError(event.json()["reason"])
        raise WorkFailed(f"{self._url}: the stream broke off; the job goes on")

    async def result(self, id: str, response_format: str) -> bytes:
        """The result in that format; "": as the request itself would have been answered."""
        query = {"response_format": response_format} if response_format else {}
        async with _session(self._url, self._key) as http:
            answer = await http.get(self._url + _job(id) + "/result", params=query)
            await _check(answer)
            return answer.content


def _job(id: str) -> str:
    return f"/v1/jobs/{quote(id, safe='')}"


class Models(_Asking):
    """The models of the server at `url` (`http://host:port`), as objects of its /v1/models."""

    async def all(self, available: bool) -> Sequence[Document]:
        """What is installed, and with `available` also what the catalogue has beyond it."""
        answer = await self._ask("GET", "/v1/models", {"available": str(available).lower()})
        return cast(Sequence[Document], answer["data"])

    async def one(self, id: str) -> Document:
        return await self._ask("GET", _path(id))

    async def delete(self, id: str) -> str:
        """The id of the model, which is gone, when it is."""
        return str((await self._ask("DELETE", _path(id)))["id"])

    async def pull(self, path: str, repo: str | None) -> AsyncGenerator[Pulling | Document]:
        """How far the download is, then the model."""
        wanted = {"path": path, "repo": repo}
        async with _session(self._url, self._key) as http:
            answer = httpx_sse.aconnect_sse(
                http, "POST", self._url + "/v1/models", params={"stream": "true"}, json=wanted
            )
            async with answer as source:
                await _check(source.response)
                async for event in source.aiter_sse():
                    match event.event:
                        case "progress":
                            yield msgspec.convert({"path": path, **event.json()}, Pulling)
                        case "ok":
                            yield event.json()
                            return
                        case "error":
                            raise SpeechError(event.json())
        raise WorkFailed(f"{self._url}: the stream broke off")


def _path(id: str) -> str:
    return f"/v1/models/{quote(id, safe='')}"


@contextlib.asynccontextmanager
async def _session(url: str, key: str | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server at `url` whose failures have a sentence."""
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, headers=_credentials(key)) as http:
            yield http
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WorkFailed(f"{url}: {error or type(error).__name__}") from error
