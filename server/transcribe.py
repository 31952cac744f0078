"""Speech to text: a media and what is asked of it become events, the first after its first window.

Windows of one media run on all free workers; their segments leave in order. Where the language is not given,
the first windows vote (vote.py). What they heard is guarded (guards.py), cut into phrases (segments.py) and
put one window after the other (stitching.py).
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from server import guards, prompts, segments
from server.channels import Merging
from server.errors import BadField, BadRequest, UnsupportedLanguage
from server.memory import Memory
from server.models import Models
from server.reader import Position, Readers, Reading, Recording
from server.runners import Runner, Unit
from server.spool import Spool
from server.stitching import Stitcher
from server.types import (
    Decode,
    Diarized,
    Done,
    Event,
    Guard,
    Heard,
    Listen,
    MediaEnd,
    MediaInfo,
    ModelInfo,
    Progress,
    Segment,
    Started,
    Transcript,
    Waiting,
    Window,
    WindowShape,
)
from server.vote import VOTERS, Vote, probabilities

log = logging.getLogger(__name__)

_AHEAD = 2
"""Windows that wait at the workers beyond those that run, so that no worker idles."""

_PATIENCE = 1.0
"""Seconds that a model may take to load before it is told."""

_REMEMBERED = 400
"""Characters of the window before that a conditioned one is told."""

_SLACK = 3.0
"""Seconds by which a window may be given later than its shape says: padding, frames, a block."""

_MIXED = 0.4
"""Seconds of silence that end a window where languages are mixed: speakers pause before they change."""

Result = TypeVar("Result")

_Step = tuple[Window, asyncio.Task[guards.Guarded]] | Position | MediaEnd | MediaInfo


def check(model: ModelInfo, listen: Listen) -> None:
    """Raises UnsupportedLanguage or BadField for what the model cannot do."""
    if listen.turns and not hears_turns(model):
        raise BadField(
            f"the model {model.id} was not trained to hear where somebody else begins to speak; "
            "ggml-small.en-tdrz is",
            "model",
        )
    if listen.task == "translate" and not model.multilingual:
        raise BadField(f"the model {model.id} knows English only and cannot translate", "model")
    if listen.task == "translate" and "translate" not in model.capabilities:
        raise BadField(f"the model {model.id} cannot translate: it was trained without translations", "model")
    given = {"language": (listen.language,) if listen.language else (), "languages": listen.languages}
    for field, codes in given.items():
        if unknown := [code for code in codes if code not in model.languages]:
            raise UnsupportedLanguage(
                f'the model {model.id} does not know the language "{unknown[0]}"; it knows '
                + ", ".join(model.languages),
                field,
            )


def hears_turns(model: ModelInfo) -> bool:
    """Whether it can tell by itself where somebody else begins to speak."""
    return "diarize" in model.capabilities and not model.engine


def choose(models: Models, listen: Listen) -> ModelInfo:
    """The model that is to hear this. Where no single one is named, it is one that can.

    Raises ModelNotFound and ModelBroken; `check` tells whether the one that was named can.
    """

    def able(model: ModelInfo) -> bool:
        try:
            check(model, listen)
        except BadRequest:
            return False
        return True

    return models.find(listen.model, able)


async def transcribe(
    listen: Listen,
    model: ModelInfo,
    spool: Spool,
    readers: Readers,
    memory: Memory,
    runner: Runner,
    *,
    background: bool = False,
    recording: Recording | None = None,
) -> AsyncGenerator[Event]:
    """Started, then Segments and Progress in order, then Done; Waiting before, where `model` has to load.

    `recording`: where the media's whole sound is to go meanwhile.
    Raises what `errors` lists: bad requests before anything is read, BadMedia and failures
    of the machinery whenever they show. Closing the iterator stops all work for this media.
    """
    check(model, listen)
    hearing = _Hearing(listen, model, memory, runner, background)
    async with aclosing(hearing.events(readers, spool, recording)) as events:
        async for event in events:
            yield event


async def detect(
    listen: Listen, spool: Spool, models: Models, readers: Readers, memory: Memory, runner: Runner
) -> dict[str, float]:
    """Probability of each language by its code, by a vote of the first windows; empty without speech.

    Raises as `transcribe`.
    """
    model = models.find(listen.model, lambda model: model.multilingual)
    request = uuid4().hex
    vote = Vote(patience=None)
    reading = readers.read(
        spool, model.shape, listen.audio_track, listen.raw, start=listen.start, end=listen.end
    )
    async with memory.using(model, listen.keep_alive), aclosing(reading):
        decode = Decode(languages=listen.languages, only_language=True, short_context=model.short_context)
        async for item in reading:
            if not isinstance(item, Window):
                continue
            vote.send()
            vote.cast((await runner.run(Unit(model, item, decode, request))).languages, item.duration)
            if not vote.open:
                break
    return vote.probabilities


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

    def __init__(
        self, listen: Listen, model: ModelInfo, memory: Memory, runner: Runner, background: bool
    ) -> None:
        self._listen = listen
        self._model = model
        self._memory = memory
        self._runner = runner
        self._background = background
        self._has_model = asyncio.Event()
        self._request = uuid4().hex
        self._steps: asyncio.Queue[_Step | BaseException] = asyncio.Queue(runner.ahead + _AHEAD)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._votes: dict[int | None, Vote] = defaultdict(lambda: Vote(1 if listen.conditioned else VOTERS))
        """Of each channel: people on the telephone may speak two languages."""
        self._latest: asyncio.Task[guards.Guarded] | None = None
        self._said = ""
        """By the window that was heard last."""
        self._stitchers: dict[int | None, Stitcher] = defaultdict(Stitcher)
        self._merging = Merging(self._shape.longest + self._shape.gap + _SLACK) if listen.by_channel else None
        self._prompt, self._warnings = prompts.prompt(listen)
        self._segments: list[Segment] = []
        self._guards: list[Guard] = []
        self._engine = ""
        self._turn_ended = False
        """Whether somebody else speaks after the last segment."""

    async def events(
        self, readers: Readers, spool: Spool, recording: Recording | None = None
    ) -> AsyncGenerator[Event]:
        self._begin(self._feed(readers, spool, recording))
        try:
            info = await self._next()
            assert isinstance(info, MediaInfo), "a reading begins with the media's info"
            # At once: whoever waits for a first event learns that the media is good.
            yield Progress(0.0, info.duration)
            async for waiting in self._loaded():
                yield waiting
            async for event in self._heard(info):
                yield event
        finally:
            await self._stop()

    async def _loaded(self) -> AsyncIterator[Event]:
        """Until the model is there; it is ours from then until the end."""
        holding = self._begin(self._hold())
        ready = self._begin(self._has_model.wait())
        for patience in (_PATIENCE, None):
            await asyncio.wait({holding, ready}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if holding.done():
                holding.result()
            if ready.done():
                return
            yield Waiting(f"the model {self._model.id} is being loaded")

    async def _hold(self) -> None:
        async with self._memory.using(self._model, self._listen.keep_alive):
            self._has_model.set()
            await asyncio.Event().wait()

    async def _heard(self, info: MediaInfo) -> AsyncIterator[Event]:
        """What the windows say, in order, as they are done."""
        started = self._language is not None
        if started:
            yield self._started(info)
        while not isinstance(step := await self._next(), MediaEnd):
            events = await self._told(step, info)
            if not started and self._language:
                started = True
                yield self._started(info)
            for event in events:
                yield event
        if not started:
            yield self._started(info)
        for segment in self._rest():
            yield segment
        yield Done(self._transcript(step))

    async def _told(self, step: _Step, info: MediaInfo) -> list[Event]:
        if isinstance(step, Position):
            earlier = self._merging.before(step.at) if self._merging else iter(())
            return [*self._kept(earlier), Progress(step.at, info.duration)]
        assert isinstance(step, tuple), "only windows and positions lie between info and end"
        window, task = step
        guarded = await task
        self._guards += (guards.placed(guard, window) for guard in guarded.guards)
        found = self._stitchers[window.channel].add(guarded.heard.segments, window)
        if self._merging:
            self._merging.add(found)
            return [Progress(window.end, info.duration)]
        return [*self._kept(found), Progress(window.end, info.duration)]

    def _rest(self) -> Iterator[Segment]:
        """What waited for a later window, or another channel."""
        for stitcher in self._stitchers.values():
            if self._merging:
                self._merging.add(stitcher.finish())
            else:
                yield from self._kept(stitcher.finish())
        if self._merging:
            yield from self._kept(self._merging.finish())

    def _kept(self, found: Iterator[Segment]) -> Iterator[Segment]:
        """With what the client asked for."""
        for segment in found:
            words = segment.words if self._listen.words else ()
            logprobs = segment.logprobs if self._listen.logprobs else ()
            turn = self._turn_ended if self._listen.turns else segment.turn
            self._turn_ended = any(word.ends_turn for word in segment.words[-1:])
            kept = replace(segment, id=len(self._segments), words=words, logprobs=logprobs, turn=turn)
            self._segments.append(kept)
            yield kept

    async def _next(self) -> _Step:
        step = await self._steps.get()
        if isinstance(step, BaseException):
            raise step
        return step

    async def _feed(self, readers: Readers, spool: Spool, recording: Recording | None) -> None:
        """Hand the windows to the runner as they come, at most a few ahead of what has been heard."""
        try:
            listen = self._listen
            reading = readers.read(
                spool,
                self._shape,
                listen.audio_track,
                listen.raw,
                start=listen.start,
                end=listen.end,
                by_channel=listen.by_channel,
                recording=recording,
            )
            async with aclosing(reading):
                async for item in reading:
                    await self._steps.put(await self._step(item))
        except Exception as error:
            await self._steps.put(error)

    async def _step(self, item: Reading) -> _Step:
        if isinstance(item, MediaEnd):
            for vote in self._votes.values():
                vote.close()
        if not isinstance(item, Window):
            return item
        if self._listen.conditioned and self._latest:
            await asyncio.wait({self._latest})
        self._latest = self._begin(await self._hearing(item))
        return item, self._latest

    async def _hearing(self, window: Window) -> Coroutine[Any, Any, guards.Guarded]:
        """The work of hearing a window, in the language that it is to be heard in."""
        if self._listen.language:
            return self._hear(window, self._listen.language)
        if self._listen.multilingual:
            return self._hear_by_itself(window)
        vote = self._votes[window.channel]
        if vote.open:
            vote.send()
            return self._hear_and_vote(window, vote)
        return self._hear(window, await vote.decided())

    async def _hear_by_itself(self, window: Window) -> guards.Guarded:
        """Hear a window in its own language."""
        heard = await self._run(self._unit(window, None))
        self._votes[None].cast(heard.languages if heard.segments else {}, window.duration)
        return await self._guarded(heard, window, heard.language)

    async def _hear_and_vote(self, window: Window, vote: Vote) -> guards.Guarded:
        """Hear a window in its own language, and once more where all of them together tell another one."""
        heard = await self._run(self._unit(window, None))
        vote.cast(heard.languages if heard.segments else {}, window.duration)
        language = await vote.decided()
        if heard.segments and language != heard.language:
            return await self._hear(window, language)
        return await self._guarded(heard, window, language)

    async def _hear(self, window: Window, language: str | None) -> guards.Guarded:
        return await self._guarded(await self._run(self._unit(window, language)), window, language)

    async def _guarded(self, heard: Heard, window: Window, language: str | None) -> guards.Guarded:
        """What is believed of a window, as phrases; a window that loops is heard once more."""
        found = guards.Guarded(heard)
        if why := guards.suspicion(heard):
            unit = self._unit(window, language)
            second = await self._run(replace(unit, decode=guards.other_settings(unit.decode)))
            found = guards.settled(heard, second, window, why)
        spoken = (
            replace(phrase, language=heard.language) for phrase in segments.phrases(found.heard.segments)
        )
        kept = guards.guarded(replace(found.heard, segments=tuple(spoken)), window)
        said = "".join(segment.text for segment in kept.heard.segments)
        # What has looped once would loop on.
        self._said = "" if why else said.strip()[-_REMEMBERED:]
        return guards.Guarded(kept.heard, found.guards + kept.guards)

    async def _run(self, unit: Unit) -> Heard:
        await self._has_model.wait()
        heard = await self._runner.run(unit)
        self._engine = heard.engine
        return heard

    def _unit(self, window: Window, language: str | None) -> Unit:
        decode = Decode(
            task=self._listen.task,
            language=language,
            languages=self._listen.languages,
            prompt=f"{self._prompt} {self._said}".strip() if self._listen.conditioned else self._prompt,
            temperature=self._listen.temperature,
            words=True,
            aligned=self._needs_alignment(window),
            logprobs=self._listen.logprobs,
            short_context=self._model.short_context,
            turns=self._listen.turns,
        )
        return Unit(self._model, window, decode, self._request, self._background)

    def _needs_alignment(self, window: Window) -> bool:
        """Whether times are seen, or tell which of two channels speaks first, or which words two windows
        have in common."""
        listen = self._listen
        seen = listen.times or listen.words or listen.by_channel
        return seen or window.overlap > 0 or window.overlapped > 0

    @property
    def _language(self) -> str | None:
        """Of the speech, as far as it is known."""
        return self._listen.language or max(self._languages, key=self._languages.__getitem__, default=None)

    @property
    def _languages(self) -> dict[str, float]:
        """What the votes say so far."""
        return probabilities(self._votes.values())

    @property
    def _shape(self) -> WindowShape:
        shape, activity = self._model.shape, self._listen.activity
        if self._listen.multilingual:
            shape = replace(shape, gap=min(shape.gap, _MIXED))
        return shape.heard_by(activity) if activity else shape

    def _begin(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Work that ends with this hearing at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # one failure ends the hearing; those of its other windows are no news

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _started(self, info: MediaInfo) -> Started:
        return Started(self._listen.task, self._written, info.duration)

    @property
    def _written(self) -> str:
        """The language of the text: a translation is English."""
        return "en" if self._listen.task == "translate" else self._language or ""

    def _transcript(self, end: MediaEnd) -> Transcript:
        notice = (self._model.notice,) if self._model.notice else ()
        for level, said in ((logging.WARNING, end.warnings), (logging.INFO, self._warnings + notice)):
            for warning in said:
                log.log(level, "%s: %s", self._model.id, warning)
        return Transcript(
            task=self._listen.task,
            language=self._written,
            duration=end.duration,
            segments=tuple(self._segments),
            model=self._model.id,
            warnings=end.warnings + self._warnings + notice,
            guards=tuple(self._guards),
            languages=self._languages,
            engine=self._engine,
            diarized=Diarized((), ()) if self._listen.turns else None,
        )
