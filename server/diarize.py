"""Who said what: a media is transcribed while its speakers are told apart, over one decode.

Segments leave as they are heard, without speakers; those are known only when the whole sound has been
compared, so the last event has all segments again, cut where the speaker changes, each with its speaker.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from server import enrolled
from server.diarizers import Diarizers
from server.errors import BadField, BadMedia
from server.memory import Memory
from server.reader import Readers, Recording
from server.spool import spooled
from server.turns import laid_over, numbered, recognised
from server.types import (
    Diarize,
    Diarized,
    Done,
    Event,
    KnownVoice,
    Listen,
    MediaEnd,
    ModelInfo,
    Segment,
    TellingApart,
    Transcript,
    WindowShape,
)

_TICK = 1.0
"""Seconds between two reports of progress after the last segment."""

_SAMPLES = "known_speaker_references"
"""What clients call the samples of voices."""

_BRIEFEST, _LONGEST = 2.0, 10.0
"""Seconds of a sample: OpenAI's bounds."""

_ROUNDED = 0.1
"""Seconds by which a codec may miss them."""

_SHAPE = WindowShape(target=22.0, longest=29.0, gap=2.0)
"""Samples are not cut."""

Hear = Callable[[Listen, Recording], AsyncGenerator[Event]]
"""Transcribes, and records the sound meanwhile."""


def heard(listen: Listen) -> Listen:
    """What must be heard so that words can be given to speakers."""
    return replace(listen, words=True, logprobs=True, diarize=None)


async def diarize(
    listen: Listen,
    pipeline: ModelInfo,
    hear: Hear,
    readers: Readers,
    memory: Memory,
    diarizers: Diarizers,
    folder: Path,
    threshold: float,
) -> AsyncGenerator[Event]:
    """The events of `hear`, TellingApart among them, and Done with speakers on all segments and words.

    `folder` takes the sound while it is needed; `threshold` is that of known voices where the client has
    none. Raises what either work raises, and BadField for a known voice that is of no use;
    closing ends both.
    """
    assert listen.diarize
    async with AsyncExitStack() as stack:
        sound = await stack.enter_async_context(spooled(folder))
        # Before the media is read: who reads two at a time could wait for himself.
        known = [
            (voice, await stack.enter_async_context(_decoded(voice, readers, folder)))
            for voice in listen.diarize.known
        ]
        recording = Recording(sound.path)
        wanted = listen.diarize
        if wanted.threshold is None:
            wanted = replace(wanted, threshold=threshold)
        apart = _Apart(wanted, pipeline, recording, known, memory, diarizers)
        async with apart.beside() as work, aclosing(hear(heard(listen), recording)) as events:
            async for event in events:
                if work.done():
                    work.result()  # what failed there fails all, now
                if not isinstance(event, Done):
                    yield _bare(event, listen) if isinstance(event, Segment) else event
                    continue
                async for report in apart.reports(work):
                    yield report
                diarized, names = work.result(), apart.recognised
                yield Done(await asyncio.to_thread(_told, event.transcript, diarized, names, listen))


@asynccontextmanager
async def _decoded(voice: KnownVoice, readers: Readers, folder: Path) -> AsyncIterator[Path]:
    """The sound of a known voice as a file of samples, for as long as the block lasts."""
    async with spooled(folder) as media, spooled(folder) as sound:
        await media.write(voice.sample)
        await media.finish()
        recording = Recording(sound.path)
        seconds = 0.0
        try:
            async with aclosing(readers.read(media, _SHAPE, recording=recording)) as reading:
                async for item in reading:
                    if isinstance(item, MediaEnd):
                        seconds = item.duration
        except BadMedia as error:
            raise _of_no_use(voice, error) from error
        if not _BRIEFEST - _ROUNDED <= seconds <= _LONGEST + _ROUNDED:
            raise _of_no_use(voice, f"it is {seconds:.1f} s long, and must have 2 to 10 s")
        yield recording.path


def _of_no_use(voice: KnownVoice, why: object) -> BadField:
    field, whose = (enrolled.FIELD, "enrolled for") if voice.enrolled else (_SAMPLES, "of")
    return BadField(f"{field}: the sample {whose} {voice.name[:80]} is of no use: {why}", field)


class _Apart:
    """The work on speakers of one media."""

    def __init__(
        self,
        wanted: Diarize,
        pipeline: ModelInfo,
        recording: Recording,
        known: Sequence[tuple[KnownVoice, Path]],
        memory: Memory,
        diarizers: Diarizers,
    ) -> None:
        self._wanted = wanted
        self._pipeline = pipeline
        self._recording = recording
        self._known = known
        self._memory = memory
        self._diarizers = diarizers
        self._share = 0.0
        self.recognised: frozenset[str] = frozenset()
        """Names of known voices that are heard, once the work is done."""

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[asyncio.Task[Diarized]]:
        """The work under way, for as long as the block lasts."""
        work = asyncio.create_task(self._work())
        try:
            yield work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def reports(self, work: asyncio.Task[Diarized]) -> AsyncIterator[TellingApart]:
        """How far it is, until it is done."""
        while not (await asyncio.wait({work}, timeout=_TICK))[0]:
            yield TellingApart(self._share)

    async def _work(self) -> Diarized:
        # While the media is being decoded the pipeline loads.
        async with self._memory.using(self._pipeline):
            known = {voice.name: await self._embedding(voice, sample) for voice, sample in self._known}
            await self._recording.whole.wait()
            diarized = await self._diarizers.diarize(
                self._pipeline, self._recording.path, self._wanted.speakers, self._report
            )
        diarized, self.recognised = recognised(diarized, known, self._wanted.threshold or 0.0)
        return diarized

    async def _embedding(self, voice: KnownVoice, sample: Path) -> tuple[float, ...]:
        try:
            return await self._diarizers.embed(self._pipeline, sample)
        except BadMedia as error:
            raise _of_no_use(voice, error) from error

    def _report(self, share: float) -> None:
        self._share = share


def _told(transcript: Transcript, diarized: Diarized, known: frozenset[str], listen: Listen) -> Transcript:
    """The transcript with speakers; who is not known is named by his first word."""
    assert listen.diarize
    diarized, segments = numbered(diarized, laid_over(transcript.segments, diarized), known)
    kept = diarized if listen.diarize.embeddings else replace(diarized, embeddings={})
    return replace(transcript, segments=tuple(_bare(segment, listen) for segment in segments), diarized=kept)


def _bare(segment: Segment, listen: Listen) -> Segment:
    """Without what only the work on speakers needed."""
    return replace(
        segment,
        words=segment.words if listen.words else (),
        logprobs=segment.logprobs if listen.logprobs else (),
    )
