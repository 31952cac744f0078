"""Readers on real files: windows in order, growing bodies, deaths, limits."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from server import errors
from server.reader import Position, Readers, Reading, clock
from server.spool import Spool, on_disk, spooled, sweep
from server.types import MediaEnd, MediaInfo, Window, WindowShape
from tests.speech import SENTENCES, talk, wav

SHAPE = WindowShape(target=2.0, longest=10.0, gap=1.0)
MEDIA = wav(talk(SENTENCES))


def make(folder: Path, **changes: int) -> Readers:
    settings: dict[str, Any] = {
        "warm": 1,
        "streams": 2,
        "queue": 1,
        "memory": 1 << 30,
        "longest": 3600,
    } | changes
    return Readers(folder / "empty", **settings)


@pytest.fixture
async def readers(tmp_path: Path) -> AsyncIterator[Readers]:
    made = make(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def media(tmp_path: Path) -> Spool:
    file = tmp_path / "talk.wav"
    file.write_bytes(MEDIA)
    return on_disk(file)


async def read(readers: Readers, spool: Spool, shape: WindowShape = SHAPE) -> list[Reading]:
    async with aclosing(readers.read(spool, shape)) as reading:
        return [item async for item in reading]


def windows(items: list[Reading]) -> list[Window]:
    return [item for item in items if isinstance(item, Window)]


async def test_info_windows_and_end_in_order(readers: Readers, media: Spool) -> None:
    items = await read(readers, media)
    assert isinstance(items[0], MediaInfo)
    assert isinstance(items[-1], MediaEnd)
    assert [window.index for window in windows(items)] == list(range(len(windows(items))))
    starts = [window.start for window in windows(items)]
    assert starts == sorted(starts)
    assert len(starts) >= 5
    assert any(isinstance(item, Position) for item in items)


async def test_a_reader_is_used_again(readers: Readers, media: Spool) -> None:
    (first,) = readers.processes
    for _ in range(3):
        assert windows(await read(readers, media))
    assert first in readers.processes


async def test_a_killed_reader_is_not_noticed(readers: Readers, media: Spool) -> None:
    whole = windows(await read(readers, media))
    found = []
    async with aclosing(readers.read(media, SHAPE)) as reading:
        async for item in reading:
            found.append(item)
            if isinstance(item, Window) and item.index == 1:
                for process in readers.processes:
                    os.kill(process, signal.SIGKILL)
    assert [window.index for window in windows(found)] == [window.index for window in whole]
    for again, before in zip(windows(found), whole, strict=True):
        assert again.start == pytest.approx(before.start, abs=0.3)
        assert again.duration == pytest.approx(before.duration, abs=0.6)
    assert sum(isinstance(item, MediaInfo) for item in found) == 1


async def test_a_media_that_kills_two_readers_is_refused_with_its_place(
    readers: Readers, tmp_path: Path
) -> None:
    file = tmp_path / "long.wav"
    file.write_bytes(wav(talk(SENTENCES * 6)))
    with pytest.raises(errors.Undecodable, match=r"could not be decoded at 0:\d\d"):
        async with aclosing(readers.read(on_disk(file), SHAPE)) as reading:
            async for item in reading:
                if isinstance(item, Window) and item.index in (0, 3):
                    for process in readers.processes:
                        os.kill(process, signal.SIGKILL)
    assert windows(await read(readers, on_disk(file)))


async def test_leaving_early_ends_the_reader(readers: Readers, media: Spool) -> None:
    before = readers.processes
    async with aclosing(readers.read(media, SHAPE)) as reading:
        async for item in reading:
            if isinstance(item, Window):
                break
    assert not set(before) & set(readers.processes)
    assert windows(await read(readers, media))
    assert not any(psutil.pid_exists(process) for process in before)


async def test_a_body_is_read_while_it_arrives(readers: Readers, tmp_path: Path) -> None:
    """The first windows are here before the second half of the body is."""
    sweep(tmp_path / "spool")
    async with spooled(tmp_path / "spool") as spool:
        half = len(MEDIA) // 2
        await spool.write(MEDIA[:half])
        await spool.flush()
        found: list[Reading] = []
        async with aclosing(readers.read(spool, SHAPE)) as reading:
            async for item in reading:
                found.append(item)
                if len(windows(found)) == 2 and not spool.complete:
                    await spool.write(MEDIA[half:])
                    await spool.finish()
    assert len(windows(found)) == len(windows(await read(readers, _saved(tmp_path))))
    assert not list((tmp_path / "spool").iterdir())


def _saved(folder: Path) -> Spool:
    file = folder / "saved.wav"
    file.write_bytes(MEDIA)
    return on_disk(file)


async def test_more_streams_wait_in_line_and_then_are_refused(readers: Readers, media: Spool) -> None:
    async with aclosing(readers.read(media, SHAPE)) as one, aclosing(readers.read(media, SHAPE)) as two:
        await anext(one)
        await anext(two)
        waiting = asyncio.create_task(read(readers, media))
        await asyncio.sleep(0.05)
        assert readers.waiting == 1
        with pytest.raises(errors.Busy) as caught:
            await read(readers, media)
        assert caught.value.retry_after > 0
    assert windows(await waiting)
    assert readers.waiting == 0


async def test_a_rush_goes_through_the_readers_that_are_there(
    readers: Readers, media: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a process to start while another one comes free, nor loses one that gave up."""

    async def starts_for_ever() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(readers, "_add", starts_for_ever)
    async with asyncio.timeout(60):
        both = await asyncio.gather(read(readers, media), read(readers, media))
        assert all(windows(found) for found in both)
        async with aclosing(readers.read(media, SHAPE)) as first:
            await anext(first)
            gone = asyncio.create_task(read(readers, media))
            await asyncio.sleep(0)
            gone.cancel()
            async for _ in first:
                pass
        assert windows(await read(readers, media))


async def test_a_refusal_leaves_the_reader_in_use(readers: Readers, tmp_path: Path, media: Spool) -> None:
    before = readers.processes
    text = tmp_path / "a.mp3"
    text.write_bytes(b"no sound at all\n" * 500)
    with pytest.raises(errors.NotMedia):
        await read(readers, on_disk(text))
    assert set(before) <= set(readers.processes)
    assert windows(await read(readers, media))


async def test_too_long_is_refused_by_its_header(tmp_path: Path, media: Spool) -> None:
    readers = make(tmp_path, longest=5)
    try:
        with pytest.raises(errors.TooLarge):
            await read(readers, media)
    finally:
        await readers.stop()


async def test_a_reader_may_not_take_more_memory_than_allowed(tmp_path: Path, media: Spool) -> None:
    readers = make(tmp_path, memory=1 << 20)
    try:
        with pytest.raises(errors.Undecodable):
            await read(readers, media)
    finally:
        await readers.stop()


async def test_readers_know_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WHISPERD_PORT", "1")
    readers = make(tmp_path)
    await readers.start()
    try:
        (process,) = readers.processes
        environment = psutil.Process(process).environ()
        assert "HF_TOKEN" not in environment
        assert "WHISPERD_PORT" not in environment
        assert environment["GOMP_SPINCOUNT"] == "1000"
        assert environment["OPENBLAS_NUM_THREADS"] == "1"
        assert psutil.Process(process).cwd() == str(tmp_path / "empty")
    finally:
        await readers.stop()


async def test_the_spool_has_a_bound_and_leaves_nothing(tmp_path: Path) -> None:
    sweep(tmp_path)
    with pytest.raises(errors.TooLarge):
        async with spooled(tmp_path, largest=1000) as spool:
            await spool.write(b"x" * 999)
            await spool.write(b"xx")
    assert not list(tmp_path.iterdir())


async def test_bodies_of_dead_servers_are_swept_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "body-left").touch()
    (tmp_path / "other").touch()
    async with spooled(tmp_path) as spool:
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([spool.path, tmp_path / "other"])
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]


async def test_a_frozen_reader_is_replaced(tmp_path: Path, media: Spool) -> None:
    readers = Readers(tmp_path / "empty", warm=1, streams=1, queue=1, memory=1 << 30, longest=3600, stall=1.0)
    await readers.start()
    try:
        (process,) = readers.processes
        os.kill(process, signal.SIGSTOP)
        items = await read(readers, media)
        assert isinstance(items[0], MediaInfo)
        assert windows(items)
        assert process not in readers.processes
    finally:
        await readers.stop()


async def test_a_slow_body_is_waited_for(tmp_path: Path) -> None:
    """The stall is counted only while the whole body is there."""
    readers = Readers(tmp_path / "empty", warm=1, streams=1, queue=1, memory=1 << 30, longest=3600, stall=0.6)
    await readers.start()
    try:
        async with spooled(tmp_path) as spool:

            async def body() -> None:
                for start in range(0, len(MEDIA), len(MEDIA) // 3 + 1):
                    await asyncio.sleep(0.8)
                    await spool.write(MEDIA[start : start + len(MEDIA) // 3 + 1])
                    await spool.flush()
                await spool.finish()

            writing = asyncio.create_task(body())
            assert windows(await read(readers, spool))
            await writing
    finally:
        await readers.stop()


def test_positions_for_people() -> None:
    assert [clock(at) for at in (0, 751.9, 3723)] == ["0:00", "12:31", "1:02:03"]
