"""What the server does, in one value that every request is handed."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from server import (
    catalogue,
    custom_voices,
    diarize,
    folders,
    jobs,
    kinds,
    models,
    pipelines,
    samples,
    speak,
    spool,
    transcribe,
    voice_catalogue,
)
from server.config import Config
from server.conversions import Conversions
from server.custom_voices import Consent, CustomVoice, CustomVoices
from server.diarizers import Diarizers
from server.encoder import Encoder
from server.errors import BadField, CustomVoiceNotFound, ModelNotFound, SpeechError, Starting, VoiceNotFound
from server.keys import Keys
from server.memory import Loader, Memory, megabytes
from server.metrics import Metrics
from server.phrases import Phrases
from server.placement import Placement
from server.pull import Pulling, Pulls
from server.reader import Readers, Recording
from server.runners import Residence, Runner, local
from server.speaker import Speakers
from server.spool import Spool
from server.types import Done, Event, Listen, ModelInfo, Sound, Speak, Waiting
from server.voices import Voices, engines_here

if TYPE_CHECKING:
    from server.records import StoredFile


@dataclass(frozen=True, slots=True)
class Services:
    config: Config
    models: models.Models
    pulls: Pulls
    readers: Readers
    runner: Runner
    memory: Memory
    keys: Keys
    voices: Voices
    speakers: Speakers
    encoder: Encoder
    phrases: Phrases
    custom: CustomVoices
    pipelines: pipelines.Pipelines
    diarizers: Diarizers
    jobs: jobs.Jobs
    placement: Placement
    metrics: Metrics
    warm: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once readers are up and what is to be preloaded is loaded."""

    async def warm_up(self) -> None:
        """Start the readers and load what is to be loaded at the start. Raises what keeps it from that."""
        # Headers of all models are read once, here, rather than in the first request.
        await asyncio.gather(
            self.readers.start(),
            asyncio.to_thread(self.models.installed),
            asyncio.to_thread(self.voices.installed),
            asyncio.to_thread(self.phrases.open),
            self.encoder.start(),
        )
        for name in dict.fromkeys(self.config.pinned + self.config.preload):
            await self.memory.load(self.find(name))
        self.warm.set()

    def check_ready(self) -> None:
        """Raises Starting before `warm_up` is done, and ModelNotFound where the models cannot be read."""
        if not self.warm.is_set():
            raise Starting
        self.models.installed()

    def find(self, name: str) -> ModelInfo:
        """The model of that name that is to be loaded, be it one that hears or one that tells speakers apart.

        Raises ModelNotFound and ModelBroken.
        """
        return self.pipelines.find(name) if self.pipelines.named(name) else self.models.find(name)

    def named(self, name: str, *, aliases: bool = True) -> ModelInfo:
        """The same, also where it cannot be loaded, or a voice that was pulled. Raises ModelNotFound."""
        return (
            self.pipelines.named(name) or self.pulled_voice(name) or self.models.named(name, aliases=aliases)
        )

    def pulled_voice(self, name: str) -> ModelInfo | None:
        """A voice, or a model of several, by the name that it was pulled by."""
        entry = voice_catalogue.find(name)
        for folder in folders.visible(self.config.voice_folder):
            if folder.name in (name, entry and entry.id) and (found := kinds.read(folder)):
                return found[1]
        return None

    async def delete_voice(self, voice: ModelInfo) -> None:
        """Delete what was pulled with all its voices, once nobody is spoken to in them any more."""
        loaded = {
            speak.model_of(each).id
            for each in self.voices.installed()
            if each.model.is_relative_to(voice.path)
        }
        for model in loaded:
            await self.memory.unload(model)
        await asyncio.to_thread(folders.remove, voice.path)

    def choose(self, listen: Listen) -> ModelInfo | None:
        """The model that is to hear this; None where it is not here and will be pulled at its first use.

        Raises ModelNotFound and ModelBroken.
        """
        try:
            return transcribe.choose(self.models, self._by_turns(listen))
        except ModelNotFound:
            if self.config.auto_pull and catalogue.find(listen.model):
                return None
            raise

    def check_speakers(self, listen: Listen) -> None:
        """Raises ModelNotFound and ModelBroken where it is asked who speaks and nothing here can tell.

        BadField where turns alone are asked for, of a model whose engine cannot hear them.
        """
        listen = self._by_turns(listen)
        if listen.diarize:
            self.pipelines.find(listen.diarize.model)
        elif listen.turns and (model := self.choose(listen)):
            self._check_turns(model)

    def _check_turns(self, model: ModelInfo) -> None:
        if transcribe.hears_turns(model) and not self._hears_turns(model):
            raise BadField(
                f"{model.id} is run by CTranslate2 here, as set, which cannot hear where somebody "
                f"else begins to speak; whisper.cpp can: tuning: {{{model.id}: {{engine: whisper.cpp}}}}",
                "model",
            )

    def _hears_turns(self, model: ModelInfo) -> bool:
        """Whether it can, and what runs it here can too."""
        return transcribe.hears_turns(model) and self.placement.tuning(model).engine != "ctranslate2"

    def _by_turns(self, listen: Listen) -> Listen:
        """The same with turns told by the model that hears it, where that can and nothing more is asked.

        Where no pipeline can tell who speaks, such a model is preferred.
        """
        if not listen.diarize or not listen.diarize.by_turns:
            return listen
        by_turns = replace(listen, turns=True, diarize=None)
        try:
            model = transcribe.choose(self.models, listen if self.pipelines.ready() else by_turns)
        except ModelNotFound:
            entry = catalogue.find(listen.model)
            hears = entry and not entry.kind and "diarize" in entry.capabilities
            return by_turns if hears else listen
        return by_turns if self._hears_turns(model) else listen

    async def transcribe(
        self, listen: Listen, media: Spool, *, background: bool = False
    ) -> AsyncGenerator[Event]:
        """Events of one media; see transcribe.py and, where speakers are wanted, diarize.py.

        A model that is to be pulled is pulled first. `background`: nobody waits for it at the
        other end of a line, so its windows come after others'.
        """
        listen = self._by_turns(listen)
        model = self.choose(listen)
        if model is None:
            async for waiting in self._pulled(listen.model):
                yield waiting
            model = transcribe.choose(self.models, listen)
        if listen.turns:
            self._check_turns(model)
        hear = partial(self._hear, model, media, background=background)
        if listen.diarize:
            pipeline = self.pipelines.find(listen.diarize.model)
            folder = self.config.spool_folder
            threshold = self.config.speaker_threshold
            events = diarize.diarize(
                listen, pipeline, hear, self.readers, self.memory, self.diarizers, folder, threshold
            )
        else:
            events = hear(listen)
        async with aclosing(self.metrics.heard(model.id, events)) as events:
            async for event in events:
                yield event

    def _hear(
        self,
        model: ModelInfo,
        media: Spool,
        listen: Listen,
        recording: Recording | None = None,
        *,
        background: bool,
    ) -> AsyncGenerator[Event]:
        return transcribe.transcribe(
            listen,
            model,
            media,
            self.readers,
            self.memory,
            self.runner,
            background=background,
            recording=recording,
        )

    async def transcribe_url(self, listen: Listen, url: str) -> AsyncGenerator[Event]:
        """The same for a media that is fetched while it is heard, or that a client stored here."""
        if stored := await self.jobs.stored(url):
            events = self._transcribe_stored(listen, stored)
        else:
            events = jobs.from_url(url, self.config, self.jobs.rules, partial(self.transcribe, listen))
        async with aclosing(events):
            async for event in events:
                yield event

    async def _transcribe_stored(self, listen: Listen, file: "StoredFile") -> AsyncGenerator[Event]:
        events = self.transcribe(listen, spool.on_disk(self.jobs.blobs.path(file.sha256)))
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Done):
                    await self.jobs.used(file.owner, file.sha256)
                yield event

    async def detect(self, listen: Listen, media: Spool) -> dict[str, float]:
        """Probability of each language by the first speech of a media; see transcribe.py."""
        if self.choose(listen) is None:
            async for _ in self._pulled(listen.model):
                pass
        return await transcribe.detect(listen, media, self.models, self.readers, self.memory, self.runner)

    async def prepare(self, speak_this: Speak, asker: str | None) -> speak.Spoken:
        """A text with its voice, ready to be spoken; see speak.py.

        `asker`: whose custom voices it may be, by the name of his key; None: everybody's.
        """
        if not speak_this.voice.startswith(custom_voices.PREFIX):
            return await speak.prepare(speak_this, self.voices)
        try:
            custom = self.custom.voice(speak_this.voice, asker)
        except CustomVoiceNotFound as error:
            raise VoiceNotFound(str(error), "voice") from error
        language = speak_this.language or custom.language
        sample = self.custom.sample(custom)
        spoken = await speak.prepare(
            replace(speak_this, voice="", language=language, sample=sample), self.voices
        )
        spoken.voice = replace(spoken.voice, id=custom.id, title=custom.name)
        return spoken

    async def make_voice(self, name: str, consent: Consent, media: Spool, owner: str) -> CustomVoice:
        """A voice of a sample, tried once. Raises CannotClone, BadMedia, StorageFull, and as `speak`."""
        model = speak.model_of(self.voices.cloner(language=consent.language))
        async with spool.spooled(self.config.spool_folder) as decoded:
            sample = await samples.take(media, decoded.path, self.readers)
            with self.custom.making(name, consent, sample, owner) as (voice, kept):
                async with self.memory.using(model):
                    await self.speakers.clone(model, kept)
        return voice

    def speak(self, spoken: speak.Spoken) -> AsyncGenerator[bytes]:
        """The sound of a prepared text in its format; see speak.py."""
        sound = speak.sound(spoken, self.memory, self.speakers, self.encoder, self.phrases)
        return self.metrics.spoken(spoken.voice.engine, spoken.characters, sound)

    async def speak_into(self, path: Path, speak_this: Speak, tell: Callable[[float], None]) -> Sound:
        """Speak a text into a file; `tell` hears of the seconds there are. See speak.py."""
        # Who may speak in a custom voice was looked at when the job was submitted.
        spoken = await self.prepare(speak_this, None)
        async with aclosing(self.speak(spoken)) as sound:
            return await speak.into(path, spoken, sound, tell)

    async def _pulled(self, name: str) -> AsyncIterator[Waiting]:
        async with aclosing(self.pulls.pull(name)) as steps:
            async for step in steps:
                if isinstance(step, Pulling):
                    yield Waiting(f"{step.status}: {megabytes(step.completed)} of {megabytes(step.total)}")


def store(config: Config) -> models.Models:
    """The models of the configured folder and the bundled ones."""
    return models.Models(
        config.model_folder,
        models.bundled(),
        default=config.default_model,
        demo=config.demo,
        aliases=config.aliases,
        short_context={
            id: tuning.short_context
            for id, tuning in config.tuning.items()
            if tuning.short_context is not None
        },
        gone=conversions(config).remove,
    )


def placing(config: Config, found: models.Models) -> Placement:
    """How the models of this configuration are run."""
    return Placement(found, conversions(config), config.data / "empty", config.every, config.tuning)


def conversions(config: Config) -> Conversions:
    """The converted copies of models."""
    return Conversions(config.converted_folder, config.data / "empty")


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Services]:
    """The services, warm; all their processes and files are gone at the end."""
    async with starting(config) as services:
        await services.warm_up()
        yield services


@asynccontextmanager
async def starting(config: Config) -> AsyncIterator[Services]:
    """The services at once, for who warms them up himself. They work before that, only slower."""
    spool.sweep(config.spool_folder)
    services = _made(config)
    services.custom.sweep()
    try:
        async with _digesting(services):
            yield services
    finally:
        await services.pulls.stop()
        await services.readers.stop()
        await services.memory.stop()
        await services.encoder.stop()
        await services.placement.stop()


def _made(config: Config) -> Services:
    empty = config.data / "empty"
    found = store(config)
    metrics = Metrics()
    readers = Readers(
        empty,
        warm=config.readers,
        streams=config.streams,
        queue=config.queue,
        memory=config.reader_memory,
        longest=config.max_duration,
        on_death=metrics.died,
    )
    placement = placing(config, found)
    runner = local.Runner(
        empty,
        slots=config.slots,
        threads=config.threads,
        batch=config.batch or local.BATCH,
        prepare=placement.loading,
        timeout=config.window_timeout,
        recycle=config.recycle,
        on_window=metrics.window,
        on_death=metrics.died,
    )
    speakers = Speakers(empty, threads=config.threads, queue=config.queue, timeout=config.window_timeout)
    diarizers = Diarizers(empty, threads=config.threads)
    memory = Memory(
        _Every(runner, speakers, diarizers),
        budget=config.memory,
        keep_alive=config.keep_alive,
        keep_alive_of=config.keep_alive_of,
        pinned=config.pinned,
        card_budget=config.card_memory,
        devices=config.devices,
        on_card=placement.on_card,
        cost=placement.cost,
    )
    placement.converted, placement.memory = memory.renew, memory
    pulls = Pulls(
        found,
        go_on=config.pull_goes_on,
        trusted=config.trusted_repos,
        voices=config.voice_folder,
        prepare=placement.make,
        on_end=metrics.pulled,
    )
    voices = Voices(config.voice_folder, default=config.default_voice, aliases=config.voice_aliases)
    keys = Keys(config.keys)
    metrics.watch(memory, readers, pulls)
    return Services(
        config=config,
        models=found,
        pulls=pulls,
        readers=readers,
        runner=runner,
        memory=memory,
        keys=keys,
        voices=voices,
        speakers=speakers,
        encoder=Encoder(empty),
        phrases=Phrases(config.phrase_folder, config.speech_cache),
        custom=CustomVoices(config.custom_voice_folder, config.custom_voices),
        pipelines=pipelines.Pipelines(config.model_folder),
        diarizers=diarizers,
        jobs=jobs.Jobs(config, runner.slots, metrics.job_ended, metrics.webhook),
        placement=placement,
        metrics=metrics,
    )


class _Every:
    """What holds models in memory: those that hear, that speak, and that tell speakers apart."""

    def __init__(self, runner: Runner, speakers: Speakers, diarizers: Diarizers) -> None:
        self._runner = runner
        self._speakers = speakers
        self._diarizers = diarizers

    @property
    def slots(self) -> int:
        return self._runner.slots

    async def load(self, model: ModelInfo, slots: int | None = None) -> None:
        await self._holder(model).load(model, slots)

    async def unload(self, model: str) -> None:
        for holder in self._holders:
            await holder.unload(model)

    def loaded(self) -> tuple[Residence, ...]:
        return tuple(residence for holder in self._holders for residence in holder.loaded())

    async def stop(self) -> None:
        await asyncio.gather(*(holder.stop() for holder in self._holders))

    @property
    def _holders(self) -> tuple[Loader, ...]:
        return self._runner, self._speakers, self._diarizers

    def _holder(self, model: ModelInfo) -> Loader:
        if model.engine == pipelines.ENGINE:
            return self._diarizers
        return self._speakers if model.engine in engines_here() else self._runner


@asynccontextmanager
async def _digesting(services: Services) -> AsyncIterator[None]:
    """In the background, once the server is warm, learn the hashes of models that people copied in."""
    stopped = threading.Event()

    async def digest() -> None:
        await services.warm.wait()
        await asyncio.to_thread(services.models.digest_all, stopped.is_set)
        if not stopped.is_set():
            await asyncio.to_thread(services.placement.sweep)

    digesting = asyncio.create_task(digest())
    try:
        yield
    finally:
        stopped.set()
        if not services.warm.is_set():
            digesting.cancel()
        with suppress(asyncio.CancelledError, SpeechError):
            await digesting
