"""Sound on its way into files, in a real process."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from server.encoder import Encoder
from server.types import Audio
from tests.speech import SENTENCES, talk, wav

RATE = 16_000


@pytest.fixture(scope="module")
def pcm() -> bytes:
    """Some ten seconds of speech."""
    return wav(talk(SENTENCES[:4], 0.3))[44:]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Encoder]]:
    encoder = Encoder(tmp_path_factory.mktemp("encoder"))
    with asyncio.Runner() as runner:
        yield runner, encoder
        runner.run(encoder.stop())


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac"])
def test_sound_that_is_all_there_leaves_bit_by_bit(
    running: tuple[asyncio.Runner, Encoder], pcm: bytes, format: Audio
) -> None:
    """Whoever waits for the first does not wait for the rest, be there a bit before it or not."""

    async def at_once() -> AsyncIterator[bytes]:
        yield pcm[:1000]
        yield pcm[1000:]

    async def whole() -> list[bytes]:
        return [data async for data in encoder.encode(at_once(), format, RATE, 24_000)]

    runner, encoder = running
    parts = runner.run(whole())
    assert len(parts) > 5
    assert 0 < len(b"".join(parts[:2])) < len(b"".join(parts)) / 5
