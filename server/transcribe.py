"""Speech to text: a media and what is asked of it become events, the first after its first window.

Windows of one media run on all free workers; their segments leave in order. Where the language is not given,
the first window tells it for all others.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from uuid import uuid4

from server.errors import BadField, UnsupportedLanguage
from server.models import Models
from server.reader import Position, Readers, Reading
from server.runners import Runner, Unit
from server.spool import Spool
from server.types import (
    Decode,
    Done,
    Event,
    Heard,
    Listen,
    MediaEnd,
    MediaInfo,
    ModelInfo,
    Progress,
    Segment,
    Started,
    Transcript,
    Window,
    Word,
)

log = logging.getLogger(__name__)

_AHEAD = 2
"""Windows that wait at the workers beyond those that run, so that no worker idles."""

_Step = tuple[Window, asyncio.Task[Heard]] | Position | MediaEnd | MediaInfo


def check(model: ModelInfo, listen: Listen) -> None:
    """Raises UnsupportedLanguage or BadField for what the model cannot do."""
    if listen.task == "translate" and not model.multilingual:
        raise BadField(f"the model {model.id} knows English only and cannot translate", "model")
    if listen.language and listen.language not in model.languages:
        raise UnsupportedLanguage(
            f'the model {model.id} does not know the language "{listen.language}"; it knows '
            + ", ".join(model.languages),
            "language",
        )


async def transcribe(
    listen: Listen, spool: Spool, models: Models, readers: Readers, runner: Runner
) -> AsyncGenerator[Event]:
    """Started, then Segments and Progress in order, then Done.

    Raises what `errors` lists: ModelNotFound and bad requests before anything is read, BadMedia and failures
    of the machinery whenever they show. Closing the iterator stops all work for this media.
    """
    model = models.find(listen.model)
    check(model, listen)
    async with aclosing(_Hearing(listen, model, runner).events(readers, spool)) as events:
        async for event in events:
            yield event


async def whole(events: AsyncIterator[Event]) -> Transcript:
    """All of it, at once."""
    transcript: Transcript | None = None
    async for event in events:
        if isinstance(event, Done):
            transcript = event.transcript
    assert transcript is not None, "events end with Done"
    return transcript


class _Hearing:
    """One media being transcribed."""

    def __init__(self, listen: Listen, model: ModelInfo, runner: Runner) -> None:
        self._listen = listen
        self._model = model
        self._runner = runner
        self._request = uuid4().hex
        self._steps: asyncio.Queue[_Step | BaseException] = asyncio.Queue(runner.slots + _AHEAD)
        self._tasks: set[asyncio.Task[Heard]] = set()
        self._language = listen.language
        self._segments: list[Segment] = []

    async def events(self, readers: Readers, spool: Spool) -> AsyncGenerator[Event]:
        feeding = asyncio.create_task(self._feed(readers, spool))
        try:
            info = await self._next()
            assert isinstance(info, MediaInfo), "a reading begins with the media's info"
            # At once: whoever waits for a first event learns that the media is good.
            yield Progress(0.0, info.duration)
            started = False
            if self._language:
                yield self._started(info)
                started = True
            while True:
                step = await self._next()
                if isinstance(step, tuple):
                    heard = await step[1]
                    if not started and heard.segments:
                        self._language = heard.language
                        yield self._started(info)
                        started = True
                    for segment in self._place(heard, step[0]):
                        yield segment
                    yield Progress(step[0].end, info.duration)
                elif isinstance(step, Position):
                    yield Progress(step.at, info.duration)
                elif isinstance(step, MediaEnd):
                    break
            if not started:
                yield self._started(info)
            yield Done(self._transcript(step))
        finally:
            await self._stop(feeding)

    async def _next(self) -> _Step:
        step = await self._steps.get()
        if isinstance(step, BaseException):
            raise step
        return step

    async def _feed(self, readers: Readers, spool: Spool) -> None:
        """Hand the windows to the runner as they come, at most a few ahead of what has been heard."""
        try:
            reading = readers.read(spool, self._model.shape, self._listen.audio_track)
            async with aclosing(reading):
                async for item in reading:
                    await self._steps.put(await self._step(item))
        except Exception as error:
            await self._steps.put(error)

    async def _step(self, item: Reading) -> _Step:
        if not isinstance(item, Window):
            return item
        task = asyncio.create_task(self._runner.run(self._unit(item)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._language is None:
            await asyncio.wait({task})
            if not task.exception() and task.result().segments:
                self._language = task.result().language
        return item, task

    def _unit(self, window: Window) -> Unit:
        decode = Decode(
            task=self._listen.task,
            language=self._language,
            prompt=self._listen.prompt,
            temperature=self._listen.temperature,
            words=self._listen.words,
            short_context=self._model.short_context,
        )
        return Unit(self._model, window, decode, self._request)

    async def _stop(self, feeding: asyncio.Task[None]) -> None:
        pending = {feeding, *self._tasks}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _started(self, info: MediaInfo) -> Started:
        return Started(self._listen.task, self._written, info.duration)

    @property
    def _written(self) -> str:
        """The language of the text: a translation is English."""
        return "en" if self._listen.task == "translate" else self._language or ""

    def _place(self, heard: Heard, window: Window) -> Iterator[Segment]:
        """The window's segments on the media's axis: numbered, in order, inside their window."""
        floor = max(window.start, self._segments[-1].end if self._segments else 0.0)
        for segment in heard.segments:
            placed = _shifted(segment, len(self._segments), window, floor)
            floor = placed.end
            self._segments.append(placed)
            yield placed

    def _transcript(self, end: MediaEnd) -> Transcript:
        warnings = end.warnings + ((self._model.notice,) if self._model.notice else ())
        for warning in warnings:
            log.warning("%s: %s", self._model.id, warning)
        return Transcript(
            task=self._listen.task,
            language=self._written,
            duration=end.duration,
            segments=tuple(self._segments),
            model=self._model.id,
            warnings=warnings,
        )


def _shifted(segment: Segment, number: int, window: Window, floor: float) -> Segment:
    def at(time: float, floor: float) -> float:
        return round(min(max(window.start + time, floor), max(window.end, floor)), 3)

    start = at(segment.start, floor)
    words: list[Word] = []
    for word in segment.words:
        word_floor = words[-1].end if words else start
        word_start = at(word.start, word_floor)
        words.append(replace(word, start=word_start, end=at(word.end, word_start)))
    return replace(
        segment, id=number, start=start, end=at(segment.end, start), words=tuple(words), seek=window.start
    )
