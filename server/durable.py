"""Work that is done to its end over any crash: DBOS on a database of its own.

A job has two steps: its work, and telling its webhook until somebody takes it, with waits of hours between.
Each step that was done is recorded; after a crash the rest is done, from the first step without a record.
DBOS runs on a thread and an event loop of its own, and is imported with the first job: a server without jobs
pays nothing. It opens no port and asks nobody.
"""

import asyncio
import itertools
import logging
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from server import garbage

Result = TypeVar("Result")

_VERSION = "1"
"""Of the workflow below; those of another version are never taken up again, so it stays."""

_THREADS = 4
"""Threads for DBOS's database calls."""

_NOTICES = 0.1
"""Seconds between two looks for notices, of which we have none: to end takes as long."""

_STATES = ("PENDING", "ENQUEUED", "DELAYED")

_ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

_SILENT = logging.NullHandler()
"""Instead of DBOS's own handlers, which would write to the terminal, past our log."""

_GARBAGE = 1000
"""Ended workflows that are forgotten at a time."""

Work = Callable[[str], Coroutine[Any, Any, None]]

Tell = Callable[[str, int], Coroutine[Any, Any, float | None]]


class Durable:
    """Runs `work(id)`, then `tell(id, try)` until it gives None; else it is the seconds until the next try.

    Both run on the loop that made this. Neither raises: what goes wrong is theirs to keep.
    """

    def __init__(self, path: Path, work: Work, tell: Tell) -> None:
        self._path = path
        self._work = work
        self._tell = tell
        self._ours = asyncio.get_running_loop()
        # A loop of its own: its database calls set the thread pool of whatever loop they run on, and its
        # own calls for other threads hold a thread for as long as a workflow lasts.
        self._theirs = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._theirs.run_forever, name="durable", daemon=True)
        self._begun: Callable[[str], Coroutine[Any, Any, object]] | None = None

    async def start(self) -> set[str]:
        """Take up what a crash left; ids of what is being done."""
        self._thread.start()
        return await self._on_theirs(self._start())

    async def begin(self, id: str, run: int) -> None:
        """Do the job, from now on. `run` tells this beginning from others of the same job."""
        await self._on_theirs(self._begin(f"{id}/{run}"))

    async def tidy(self) -> None:
        """Forget what has ended; our own records tell of it."""
        await self._on_theirs(_tidy())

    async def stop(self) -> None:
        """What is being done stays undone, for the next start."""
        await self._on_theirs(_cancel_all())
        self._theirs.call_soon_threadsafe(self._theirs.stop)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(_destroy)
        self._theirs.close()

    async def _on_theirs(self, call: Coroutine[Any, Any, Result]) -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._theirs))

    # On DBOS's loop -----------------------------------------------------------------------------------

    async def _on_ours(self, call: Coroutine[Any, Any, Result]) -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._ours))

    async def _start(self) -> set[str]:
        # Only here, with the first job: the import alone takes half a second.
        garbage.load("dbos")
        from dbos import DBOS

        _prepare(self._path)
        logging.getLogger("dbos").addHandler(_SILENT)

        async def work(id: str) -> None:
            await self._on_ours(self._work(id))

        async def tell(id: str, tries: int) -> float | None:
            return await self._on_ours(self._tell(id, tries))

        # How often a job may take the server down with it is our own count.
        @DBOS.workflow(name="job", max_recovery_attempts=None)
        async def job(id: str) -> None:
            await DBOS.run_step_async({"name": "work"}, work, id)
            for tries in itertools.count():
                wait = await DBOS.run_step_async({"name": "tell"}, tell, id, tries)
                if wait is None:
                    return
                await DBOS.sleep_async(wait)

        DBOS(
            config={
                "name": "whisperd",
                "system_database_url": f"sqlite:///{self._path}",
                "application_version": _VERSION,
                "executor_id": "whisperd",
                "max_executor_threads": _THREADS,
                "notification_listener_polling_interval_sec": _NOTICES,
                "log_level": "WARNING",
                "enable_otlp": False,
            }
        )
        DBOS.launch()
        self._begun = lambda id: DBOS.start_workflow_async(job, id)
        underway = await DBOS.list_workflows_async(status=list(_STATES), load_input=False)
        return {workflow.workflow_id.partition("/")[0] for workflow in underway}

    async def _begin(self, workflow: str) -> None:
        from dbos import SetWorkflowID

        assert self._begun, "started"
        with SetWorkflowID(workflow):
            await self._begun(workflow.partition("/")[0])


async def _tidy() -> None:
    from dbos import DBOS

    ended = await DBOS.list_workflows_async(
        status=list(_ENDED), limit=_GARBAGE, load_input=False, load_output=False
    )
    if ended:
        await DBOS.delete_workflows_async([workflow.workflow_id for workflow in ended])


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _destroy() -> None:
    from dbos import DBOS

    DBOS.destroy(destroy_registry=True)


def _prepare(path: Path) -> None:
    """Writers that need not wait for readers; the database remembers it."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
    database.close()
