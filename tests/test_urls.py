"""Addresses that clients give: a name is looked up once, and the connection goes there."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpcore
import pytest

from server import urls
from server.errors import BadUrl
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
