"""Addresses that clients name: fetched into a spool, or posted to, and never one of the inside of a network.

A name is resolved here, each of its addresses is checked, and the connection goes to the very address that
was checked: a name that resolves otherwise the next moment gains nothing. So it is with every redirect.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpcore
import httpx

from server.errors import BadUrl, TooSlow
from server.spool import Spool

_REDIRECTS = 5

_REDIRECTING = frozenset({301, 302, 303, 307, 308})

_CONNECT = 10.0
"""Seconds for resolving a name and connecting to each of its addresses."""

_LONGEST_URL = 4096

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_ANSWER = 1 << 16
_LISTENING = 2.0
"""Bytes of a webhook's answer that are read, and seconds for them."""

_AGENT = b"whisperd"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be fetched, and how."""

    private: bool = False
    """Whether private addresses may be."""
    hosts: Collection[str] = ()
    """Hosts that may be whatever their addresses are."""
    grace: float = 30.0
    rate: float = 1000.0
    """Slower than `rate` bytes a second, after `grace` seconds, is too slow."""
    longest: float = 3600.0
    """Seconds for all of it."""

    def allows(self, host: str, address: Address) -> bool:
        return self.private or host.lower().rstrip(".") in self.hosts or is_public(address)


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet at large, also where it is wrapped in another one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def check(url: str, field: str, rules: Rules) -> None:
    """Raises BadUrl for what can be told without asking anybody: its form, and addresses in figures."""
    host = _parsed(url, field).host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not rules.allows(host, address):
        raise _private(host, field)


def _parsed(url: str, field: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError) as error:
        raise BadUrl(f"{field}: this is no address: {error}", field) from error
    if parsed.scheme not in ("http", "https") or not host:
        raise BadUrl(f"{field}: must be an address that begins with http:// or https://", field)
    if len(url) > _LONGEST_URL:
        raise BadUrl(f"{field}: an address has at most {_LONGEST_URL} characters", field)
    if parsed.userinfo:
        raise BadUrl(f"{field}: an address with a user's name or password in it is not taken", field)
    return parsed


def _target(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _private(host: str, field: str) -> BadUrl:
    return BadUrl(
        f"{field}: {host} is a private address, which this server does not fetch (allow_private_urls)", field
    )


class _Checked(httpcore.AsyncNetworkBackend):
    """Connections to addresses that the rules allow, and to no others."""

    def __init__(self, rules: Rules, field: str) -> None:
        self._rules = rules
        self._field = field
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolved(host, port)
        if not all(self._rules.allows(host, address) for address in addresses):
            raise _private(host, self._field)
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._plain.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    async def _resolved(self, host: str, port: int) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise BadUrl(f"{self._field}: the host {host} is not known", self._field) from error
        return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))

    async def sleep(self, seconds: float) -> None:
        await self._plain.sleep(seconds)


@asynccontextmanager
async def _pool(rules: Rules, field: str) -> AsyncGenerator[httpcore.AsyncConnectionPool]:
    """Connections that the rules allow; their failures have a sentence."""
    try:
        async with httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            network_backend=_Checked(rules, field),
            max_connections=2,
        ) as pool:
            yield pool
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, ssl.SSLError) as error:
        reason = str(error) or type(error).__name__
        raise BadUrl(f"{field}: the address cannot be fetched: {reason}", field) from error


def _timeouts(seconds: float) -> dict[str, dict[str, float]]:
    return {"timeout": {"connect": _CONNECT, "read": seconds, "write": seconds, "pool": seconds}}


async def fetch(url: str, spool: Spool, rules: Rules, field: str = "url") -> None:
    """Fetch into the spool, which is complete at the end. Raises BadUrl, TooLarge, TooSlow and NoSpace."""
    try:
        async with asyncio.timeout(rules.longest), _pool(rules, field) as pool:
            async with aclosing(_body(pool, url, rules, field)) as chunks:
                async for chunk in chunks:
                    await spool.write(chunk)
    except TimeoutError as error:
        raise TooSlow(f"{field}: the address did not give its file within {rules.longest:g} s") from error
    await spool.finish()


async def _body(
    pool: httpcore.AsyncConnectionPool, url: str, rules: Rules, field: str
) -> AsyncGenerator[bytes]:
    """What the address gives, over its redirects."""
    for _ in range(_REDIRECTS + 1):
        parsed = _parsed(url, field)
        async with pool.stream(
            "GET", _target(parsed), headers=_headers(parsed), extensions=_timeouts(rules.grace)
        ) as answer:
            if answer.status not in _REDIRECTING:
                if answer.status != 200:
                    raise BadUrl(f"{field}: the address answers {answer.status}", field)
                async with aclosing(_paced(answer, rules, field)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            url = _joined(url, _location(answer, field), field)
    raise BadUrl(f"{field}: the address leads on to others more than {_REDIRECTS} times", field)


def _headers(url: httpx.URL) -> dict[bytes | str, bytes | str]:
    return {
        b"Host": url.netloc,
        b"User-Agent": _AGENT,
        b"Accept": b"*/*",
        b"Accept-Encoding": b"identity",
    }


def _joined(url: str, location: str, field: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise BadUrl(f"{field}: the address leads on to what is none: {error}", field) from error


def _location(answer: httpcore.Response, field: str) -> str:
    for name, value in answer.headers:
        if name.lower() == b"location":
            return value.decode("latin-1")
    raise BadUrl(f"{field}: the address leads on without saying where to", field)


async def _paced(answer: httpcore.Response, rules: Rules, field: str) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    began, received = loop.time(), 0
    async for chunk in answer.aiter_stream():
        received += len(chunk)
        elapsed = loop.time() - began
        if elapsed > rules.grace and received < rules.rate * elapsed:
            raise TooSlow(f"{field}: the address gives less than {rules.rate:,.0f} bytes per second")
        yield chunk


async def post(url: str, body: bytes, headers: Mapping[str, str], rules: Rules, timeout: float) -> int:
    """Post a body; the answer's status. Redirects are not followed. Raises BadUrl."""
    field = "webhook"
    parsed = _parsed(url, field)
    sent = _headers(parsed) | {name.encode(): value.encode() for name, value in headers.items()}
    sent |= {b"Content-Length": str(len(body)).encode()}
    try:
        async with asyncio.timeout(timeout), _pool(rules, field) as pool:
            async with pool.stream(
                "POST", _target(parsed), headers=sent, content=body, extensions=_timeouts(timeout)
            ) as answer:
                await _heard_out(answer)
                return answer.status
    except TimeoutError as error:
        raise BadUrl(f"{field}: no answer within {timeout:g} s", field) from error


async def _heard_out(answer: httpcore.Response) -> None:
    """Read what else a receiver says, within bounds: its status has said all."""
    read = 0
    with suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        async with asyncio.timeout(_LISTENING):
            async for chunk in answer.aiter_stream():
                read += len(chunk)
                if read > _ANSWER:
                    return
