"""What the server does, in one value that every request is handed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server import models, spool, transcribe
from server.config import Config
from server.reader import Readers
from server.runners import Runner, local
from server.spool import Spool
from server.types import Event, Listen


@dataclass(frozen=True, slots=True)
class Services:
    config: Config
    models: models.Models
    readers: Readers
    runner: Runner

    def transcribe(self, listen: Listen, media: Spool) -> AsyncGenerator[Event]:
        """Events of one media; see transcribe.py."""
        return transcribe.transcribe(listen, media, self.models, self.readers, self.runner)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Services]:
    """The services, started; all their processes and files are gone at the end."""
    spool.sweep(config.spool_folder)
    empty = config.data / "empty"
    store = models.Models(
        config.model_folder, models.bundled(), default=config.default_model, demo=config.demo
    )
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
    try:
        # Headers of all models are read once, here, rather than in the first request.
        await asyncio.gather(readers.start(), asyncio.to_thread(store.installed))
        for name in config.preload:
            await runner.load(store.find(name))
        yield Services(config, store, readers, runner)
    finally:
        await readers.stop()
        await runner.stop()
