"""Throws damaged media at the readers and counts what becomes of each: see docs/reliability.md.

Each input is known by its number (tests/mutants.py), so that whatever is found can be had again. They are
read as a server reads uploads: in reader processes with their bounds on memory and time.
"""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import track

from server.errors import SpeechError
from server.reader import Readers
from server.spool import on_disk
from server.types import MediaEnd, WindowShape
from tests.mutants import mutant, seeds

out = Console(width=None if sys.stdout.isatty() else 120)

SHAPE = WindowShape(target=22.0, longest=29.0, gap=2.0)
MEMORY = 1 << 30
"""Bytes that a reader may take, as in a server."""
_NUMBER = re.compile(r"(number \S+|[0-9][0-9,.:]*)")
"""What differs between two errors of the same kind."""
STALL = 20.0
"""Seconds without a sign of life after which a reader is given up."""


@dataclass
class Found:
    """What became of the inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    deaths: list[int] = field(default_factory=list)
    """Inputs of which a reader died."""
    faults: dict[int, str] = field(default_factory=dict)
    """Inputs that ended otherwise than with sound or an error that a client understands."""
    slowest: tuple[float, int] = (0.0, 0)
    """Seconds, and the input that took them."""
    largest: int = 0
    """Most resident bytes of a reader, seen after each input."""


def main(
    count: Annotated[int, typer.Option(min=1, help="Inputs to read.")] = 20_000,
    first: Annotated[int, typer.Option(help="Number of the first one.")] = 0,
    write: Annotated[Path | None, typer.Option(help="JSON file to write the counts to.")] = None,
) -> None:
    """Read damaged media of every container; nothing but sound or a clear error may come of it."""
    with TemporaryDirectory(prefix="whisperd-fuzz-") as folder:
        found = asyncio.run(read(range(first, first + count), Path(folder)))
    told = {
        "first": first,
        "count": count,
        "containers": sorted(seeds()),
        "outcomes": dict(found.outcomes.most_common()),
        "readers that died, by input": found.deaths,
        "faults": found.faults,
        "slowest": {"seconds": round(found.slowest[0], 2), "input": found.slowest[1]},
        "largest reader in bytes": found.largest,
    }
    text = json.dumps(told, indent=2) + "\n"
    out.print_json(text)
    if write:
        write.write_text(text)
    if found.faults:
        raise typer.Exit(1)


async def read(numbers: range, folder: Path) -> Found:
    """Read the inputs of these numbers, two at a time."""
    found = Found()
    todo = iter(track(numbers, console=out, disable=not out.is_terminal))
    await asyncio.gather(*(_work(todo, folder / name, found) for name in ("one", "other")))
    return found


async def _work(todo: Iterator[int], folder: Path, found: Found) -> None:
    folder.mkdir()
    file = folder / "media"
    died: list[str] = []
    readers = Readers(
        folder / "empty",
        warm=1,
        streams=1,
        queue=1,
        memory=MEMORY,
        longest=3600,
        stall=STALL,
        on_death=died.append,
    )
    await readers.start()
    try:
        for number in todo:
            file.write_bytes(mutant(number)[1])
            began = time.monotonic()
            found.outcomes[await _outcome(readers, file, number, found)] += 1
            found.slowest = max(found.slowest, (time.monotonic() - began, number))
            found.largest = max(found.largest, *(_size(process) for process in readers.processes), 0)
            found.deaths += [number] * bool(died)
            died.clear()
    finally:
        await readers.stop()


async def _outcome(readers: Readers, file: Path, number: int, found: Found) -> str:
    """What became of one input, in the words that a client is told."""
    last: object = None
    try:
        async with asyncio.timeout(2 * STALL + 10), aclosing(readers.read(on_disk(file), SHAPE)) as reading:
            async for item in reading:
                last = item
        if not isinstance(last, MediaEnd):
            found.faults[number] = f"ended with {last!r}"
        return "heard, with a warning" if isinstance(last, MediaEnd) and last.warnings else "heard"
    except SpeechError as error:
        return f"{type(error).__name__}: {_NUMBER.sub('#', str(error))[:80]}"
    except Exception as error:  # which is what is looked for
        found.faults[number] = repr(error)
        return type(error).__name__


def _size(process: int) -> int:
    try:
        size: int = psutil.Process(process).memory_info().rss
        return size
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    typer.run(main)
