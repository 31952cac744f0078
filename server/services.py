"""What the server does, in one value that every request is handed."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

from server import catalogue, models, spool, transcribe
from server.config import Config
from server.errors import ModelNotFound
from server.memory import Memory, megabytes
from server.pull import Pulling, Pulls
from server.reader import Readers
from server.runners import Runner, local
from server.spool import Spool
from server.types import Event, Listen, ModelInfo, Waiting


@dataclass(frozen=True, slots=True)
class Services:
    config: Config
    models: models.Models
    pulls: Pulls
    readers: Readers
    runner: Runner
    memory: Memory

    def find(self, name: str) -> ModelInfo | None:
        """The model of that name; None where it is not here and will be pulled at its first use.

        Raises ModelNotFound and ModelBroken.
        """
        try:
            return self.models.find(name)
        except ModelNotFound:
            if self.config.auto_pull and catalogue.find(name):
                return None
            raise

    async def transcribe(self, listen: Listen, media: Spool) -> AsyncGenerator[Event]:
        """Events of one media; see transcribe.py. A model that is to be pulled is pulled first."""
        if self.find(listen.model) is None:
            async for waiting in self._pulled(listen.model):
                yield waiting
        events = transcribe.transcribe(listen, media, self.models, self.readers, self.memory, self.runner)
        async with aclosing(events):
            async for event in events:
                yield event

    async def detect(self, listen: Listen, media: Spool) -> dict[str, float]:
        """Probability of each language by the first speech of a media; see transcribe.py."""
        if self.find(listen.model) is None:
            async for _ in self._pulled(listen.model):
                pass
        return await transcribe.detect(listen, media, self.models, self.readers, self.memory, self.runner)

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
    )


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Services]:
    """The services, started; all their processes and files are gone at the end."""
    spool.sweep(config.spool_folder)
    services = _made(config)
    try:
        # Headers of all models are read once, here, rather than in the first request.
        await asyncio.gather(services.readers.start(), asyncio.to_thread(services.models.installed))
        for name in dict.fromkeys(config.pinned + config.preload):
            await services.memory.load(services.models.find(name))
        with _digesting(services.models):
            yield services
    finally:
        await services.pulls.stop()
        await services.readers.stop()
        await services.memory.stop()


def _made(config: Config) -> Services:
    empty = config.data / "empty"
    found = store(config)
    readers = Readers(
        empty,
        warm=config.readers,
        streams=config.streams,
        queue=config.queue,
        memory=config.reader_memory,
        longest=config.max_duration,
    )
    runner = local.Runner(
        empty,
        slots=config.slots,
        threads=config.threads,
        timeout=config.window_timeout,
        recycle=config.recycle,
    )
    memory = Memory(
        runner,
        budget=config.memory,
        keep_alive=config.keep_alive,
        keep_alive_of=config.keep_alive_of,
        pinned=config.pinned,
    )
    pulls = Pulls(found, go_on=config.pull_goes_on, trusted=config.trusted_repos)
    return Services(config, found, pulls, readers, runner, memory)


@contextmanager
def _digesting(found: models.Models) -> Iterator[None]:
    """In the background, learn the hashes of models that people copied in."""
    stopped = threading.Event()
    thread = threading.Thread(target=found.digest_all, args=(stopped.is_set,), name="digests")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
