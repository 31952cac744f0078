"""Who may: a key where keys are wanted; where none are, no web page in somebody's browser.

Without keys, whoever reaches the port may use it. A browser on the same machine reaches it for any page that
it shows, also one whose own host name leads to us (DNS rebinding). Browsers say on whose behalf they ask: in
`Origin`, `Sec-Fetch-Site` and `Host`; other clients send no more than a `Host`. With keys none of that
matters, since a page has none; only a password is sent along by browsers themselves.
"""

import base64
import binascii
import ipaddress
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import dialects
from server.dialects import Door
from server.errors import ForeignPage, NoKey, NoScope, Refused, TooMany
from server.keys import Key, Keys
from server.limits import Limits

log = logging.getLogger(__name__)

_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_FOREIGN_SITES = frozenset({"cross-site", "same-site"})

_TOKENS = ("realtime-token.", "openai-insecure-api-key.")
"""How clients that can set no header on a WebSocket name a key among its protocols."""


class Guard:
    """Pure ASGI middleware. `hosts` are the names under which people reach this server, without ports.

    "localhost" and addresses in figures need not be among them: no page can have those as a name of its own.
    Who came in with a key is told to the application as the state's `key`.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] = (),
        keys: Keys | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._app = app
        self._hosts = frozenset({"localhost", *(_plain(host) for host in hosts)})
        self._keys = keys or Keys({})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        door = dialects.door(scope)
        with ExitStack() as stack:
            try:
                self._check(HTTPConnection(scope), door)
                if key := scope.get("state", {}).get("key"):
                    stack.enter_context(self._limits.asking(key))
            except (Refused, TooMany) as error:
                log.warning("%s %s refused: %s", scope.get("method", "WebSocket"), scope["path"], error)
                await door.refuse(error, scope)(scope, receive, send)
            else:
                await self._app(scope, receive, _before_the_end(stack.close, send))

    def _check(self, request: HTTPConnection, door: Door) -> None:
        """Raises Refused."""
        if self._keys.needed:
            if door.scope is not None:
                request.scope.setdefault("state", {})["key"] = self._known(request, door)
            elif key := self._keys.find(_secrets(request)):
                request.scope.setdefault("state", {})["key"] = key
            if not any(kind == "basic" for kind, _ in _authorizations(request)):
                return
        for suspicion in self._suspicions(request, door):
            raise ForeignPage(suspicion)

    def _known(self, request: HTTPConnection, door: Door) -> Key:
        secrets = list(_secrets(request))
        key = self._keys.find(secrets)
        if key is None:
            raise NoKey(
                "the API key is not known here"
                if secrets
                else "this server wants an API key: send it as `Authorization: Bearer KEY`"
            )
        if door.scope and not key.may(door.scope):
            raise NoScope(f"the key {key.name!a} may use this server, but not change it (scope admin)")
        return key

    def _suspicions(self, request: HTTPConnection, door: Door) -> Iterator[str]:
        """Why it looks as if a web page sent this; nothing where it does not."""
        hosts = request.headers.getlist("host")
        for host in hosts:
            if _is_loopback(request.scope) and not self._knows(_name(host)):
                yield (
                    f"the host {host[:80]!a} is not known here; if people reach this server under that name, "
                    "add it to allowed_hosts"
                )
        if door.scope != "admin" or request.scope.get("method") in _READING:
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


def _before_the_end(free: Callable[[], None], send: Send) -> Send:
    """`send`; who has his answer may ask the next thing, so `free` is called before the last of it leaves."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            free()
        await send(message)

    return sending


def _secrets(request: HTTPConnection) -> Iterator[str]:
    """The keys that a request brings, wherever clients put them."""
    for kind, rest in _authorizations(request):
        if kind in ("bearer", "key"):
            yield rest
        elif kind == "basic":
            yield from _basic(rest)
    yield from request.headers.getlist("x-api-key")
    for protocol in request.scope.get("subprotocols", ()):
        yield from (protocol.removeprefix(token) for token in _TOKENS if protocol.startswith(token))


def _authorizations(request: HTTPConnection) -> Iterator[tuple[str, str]]:
    for value in request.headers.getlist("authorization"):
        kind, _, rest = value.partition(" ")
        yield kind.lower(), rest.strip()


def _basic(encoded: str) -> Iterator[str]:
    """The password, for clients that can only be given an address: http://any:KEY@host."""
    try:
        yield base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return


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
