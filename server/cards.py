"""NVIDIA's cards: how much memory they have and how much of it processes take, by the driver's nvidia-smi."""

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Collection
from dataclasses import dataclass

from server.child import environment

_TIMEOUT = 20.0
"""Seconds; a driver that has nothing to keep it awake takes a few to wake up."""

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Card:
    number: int
    name: str
    total: int
    """Bytes."""
    free: int


async def found() -> tuple[Card, ...]:
    """The cards; none where there is no driver, or it does not answer."""
    rows = await _asked("--query-gpu=index,name,memory.total,memory.free")
    return tuple(
        Card(int(number), name, int(total) * _MEBIBYTE, int(free) * _MEBIBYTE)
        for number, name, total, free in rows
        if number.isdecimal() and total.isdecimal() and free.isdecimal()
    )


async def taken(processes: Collection[int]) -> int:
    """Bytes that these processes take of all cards together; 0 where the driver does not tell, as it does in
    containers that have process ids of their own."""
    rows = await _asked("--query-compute-apps=pid,used_memory")
    return sum(
        int(used) * _MEBIBYTE
        for process, used in rows
        if process.isdecimal() and int(process) in processes and used.isdecimal()
    )


async def _asked(query: str) -> list[list[str]]:
    tool = shutil.which("nvidia-smi")
    told = await _output(tool, query, "--format=csv,noheader,nounits") if tool else ""
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines()]
    return [row for row in rows if len(row) == query.count(",") + 1]


async def _output(*command: str) -> str:
    """What a command prints; nothing where it fails, or takes too long."""
    running = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=environment()
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            told, _ = await running.communicate()
    except TimeoutError:
        return ""
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    return "" if running.returncode else told.decode("utf-8", "replace")
