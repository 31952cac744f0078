"""Who may: no web page in somebody's browser may change this server, nor read it under a name of its own.

There are no keys yet, so whoever reaches the port may use it. A browser on the same machine reaches it for
any page that it shows, also one whose own host name leads to us (DNS rebinding). Browsers say on whose behalf
they ask: in `Origin`, `Sec-Fetch-Site` and `Host`; other clients send no more than a `Host`.
"""

import ipaddress
import logging
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server import dialects

log = logging.getLogger(__name__)

_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_GUARDED = ("/v1/models", "/api/v1/models")
"""Where a request that does more than read changes the server."""

_FOREIGN_SITES = frozenset({"cross-site", "same-site"})


class Guard:
    """Pure ASGI middleware. `hosts` are the names under which people reach this server, without ports.

    "localhost" and addresses in figures need not be among them: no page can have those as a name of its own.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset({"localhost", *(_plain(host) for host in hosts)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        suspicion = next(self._suspicions(HTTPConnection(scope)), None)
        if suspicion is None:
            await self._app(scope, receive, send)
            return
        log.warning("%s %s refused: %s", scope.get("method", "WebSocket"), scope["path"], suspicion)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        else:
            await JSONResponse(dialects.body(403, suspicion, code="foreign_page"), 403)(scope, receive, send)

    def _suspicions(self, request: HTTPConnection) -> Iterator[str]:
        """Why it looks as if a web page sent this; nothing where it does not."""
        hosts = request.headers.getlist("host")
        for host in hosts:
            if _is_loopback(request.scope) and not self._knows(_name(host)):
                yield (
                    f"the host {host[:80]!a} is not known here; if people reach this server under that name, "
                    "add it to allowed_hosts"
                )
        if not _changes(request.scope):
            return
        site = request.headers.get("sec-fetch-site", "").lower()
        if site in _FOREIGN_SITES:
            yield f"a web page of another site may not change this server (Sec-Fetch-Site: {site})"
        for origin in request.headers.getlist("origin"):
            if not any(_is_of(origin, host) and self._knows(_name(host)) for host in hosts):
                yield (
                    f"a web page of {origin[:80]!a} may not change this server; if it is this server's own, "
                    "add its host to allowed_hosts"
                )

    def _knows(self, name: str) -> bool:
        return name in self._hosts or _address(name) is not None


def _changes(scope: Scope) -> bool:
    if scope.get("method", "GET") in _READING:
        return False
    path = scope["path"]
    return any(path == guarded or path.startswith(guarded + "/") for guarded in _GUARDED)


def _is_loopback(scope: Scope) -> bool:
    """Whether the connection came in on an address that only this machine reaches."""
    address = _address((scope.get("server") or ("",))[0] or "")
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_of(origin: str, host: str) -> bool:
    """Whether an origin ("https://name:1234") is the one that a Host header names."""
    scheme = origin.partition("://")[0]
    place = _place(origin)
    return place is not None and place == _place(f"{scheme}://{host}")


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    place = _place(f"http://{host}")
    return place[0] if place else ""


def _place(url: str) -> tuple[str, int | None] | None:
    """Plain host name and port; None where the text names no host, as "null" does."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (_plain(parts.hostname), port) if parts.hostname else None


def _plain(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()
