"""Addresses that clients give: a name is looked up once, the connection goes there, and has its limits."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

import httpcore
import pytest

from server import urls, webhooks
from server.errors import BadUrl, SpeechError, TooLarge, TooSlow
from server.spool import spooled
from tests.receiver import Receiver

PUBLIC, PRIVATE = "93.184.215.14", "127.0.0.1"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


class Network(httpcore.AnyIOBackend):
    """All that is reached lies on this machine; what was to be reached is noted."""

    asked: ClassVar[list[str]] = []

    async def connect_tcp(self, host: str, *rest: Any, **more: Any) -> httpcore.AsyncNetworkStream:
        self.asked.append(host)
        return await super().connect_tcp(PRIVATE, *rest, **more)


def post(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> tuple[int, list[str]]:
    """A post to a name that is looked up so: its status, and the addresses that were connected to."""
    Network.asked = []
    left = list(answers)

    def looked_up(host: str, port: int, *_: object, **__: object) -> list[Any]:
        assert host == "rebinding.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    monkeypatch.setattr(httpcore, "AnyIOBackend", Network)
    address = f"http://rebinding.example:{urlsplit(receiver.url).port}/hook"
    status = asyncio.run(urls.post(address, b"{}", {}, urls.Rules(), 10))
    return status, Network.asked


def test_the_address_that_was_checked_is_the_one_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert post(receiver, monkeypatch, [PUBLIC], [PRIVATE]) == (204, [PUBLIC])


@pytest.mark.parametrize("answer", [[PRIVATE], [PUBLIC, PRIVATE], [PRIVATE, PUBLIC]])
def test_a_name_that_also_leads_inside_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, answer: list[str]
) -> None:
    with pytest.raises(BadUrl, match="private address"):
        post(receiver, monkeypatch, answer)
    assert Network.asked == []
    assert receiver.taken == []


LOCAL = urls.Rules(private=True)


class Wire:
    """A server that says what it is told to, and then nothing, until its client goes."""

    def __init__(self, said: bytes, *, hangs_up: bool = False) -> None:
        self._said = said
        self._hangs_up = hangs_up
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        line, _ = self._socket.accept()
        with self._socket, line, suppress(OSError):
            line.recv(1 << 16)
            line.sendall(self._said)
            while not self._hangs_up and line.recv(1 << 16):
                pass


@pytest.mark.parametrize(
    ("said", "hangs_up"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense", False),
    ],
)
def test_a_webhook_is_taken_by_its_status(
    said: bytes, hangs_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who breaks off, or never ends, what he says behind it, has it all the same."""
    monkeypatch.setattr(urls, "_LISTENING", 0.1)
    assert asyncio.run(urls.post(Wire(said, hangs_up=hangs_up).url, b"{}", {}, LOCAL, 30)) == 200


def test_a_webhook_does_not_wait_for_ever() -> None:
    with pytest.raises(BadUrl, match="no answer within"):
        asyncio.run(urls.post(Wire(b"").url, b"{}", {}, LOCAL, 0.2))


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "rules", "error"),
    [
        (HEAD + b"sound", urls.Rules(private=True, longest=0.2), TooSlow),
        (HEAD + b"sound", urls.Rules(private=True, grace=0.2), BadUrl),
        (HEAD + b"more than 20 bytes of sound", LOCAL, TooLarge),
    ],
)
def test_what_is_fetched_has_its_limits(
    tmp_path: Path, said: bytes, rules: urls.Rules, error: type[SpeechError]
) -> None:
    async def fetched() -> None:
        async with spooled(tmp_path, 20) as spool:
            await urls.fetch(Wire(said).url, spool, rules)

    with pytest.raises(error):
        asyncio.run(fetched())
    assert not [*tmp_path.iterdir()]


def test_what_drips_is_too_slow() -> None:
    class Dripping:
        async def aiter_stream(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0.02)
                yield b"x"

    async def read() -> None:
        async for _ in urls._paced(cast(Any, Dripping()), urls.Rules(grace=0.05, rate=1e6), "url"):
            pass

    with pytest.raises(TooSlow, match="bytes per second"):
        asyncio.run(read())


def test_a_webhook_is_tried_for_hours_with_longer_and_longer_waits() -> None:
    waits: list[float] = []
    while (wait := webhooks.wait(len(waits), 5.0, sum(waits), 6 * 3600.0)) is not None:
        waits.append(wait)
    assert waits[:7] == [5, 15, 45, 135, 405, 1215, 3600]
    assert max(waits) == 3600
    assert sum(waits) == 6 * 3600
