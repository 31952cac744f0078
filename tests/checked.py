"""whisperd, all of whose answers are held against its OpenAPI document: `python -m tests.checked serve …`.

What is not as declared becomes status 599 (or breaks a stream off) and a line "UNTRUE …" in the log, for
which `tests.serving` fails.
"""

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from jsonschema import Draft202012Validator
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import app, cli, dialects, fields, openapi

STATUS = 599
_BYTES = "application/octet-stream"


PENDING: set[str] = set()
"""Dialects that do not declare their routes yet; a new one is not to be added."""


class Untrue(Exception):
    """An answer that is not as declared."""


# What is read -------------------------------------------------------------------------------------------

READ: ContextVar[set[str]] = ContextVar("READ")
"""Fields that `fields.py` was asked for in this request."""

READERS: dict[str, Callable[[inspect.BoundArguments], set[str]]] = {
    "small": lambda call: fields.names(call.arguments["asked"]),
    "query": lambda call: fields.names(call.arguments["asked"]),
    "arriving": lambda call: set(),
    "names": lambda call: set(),
    "put": lambda call: set(),
    "paced": lambda call: set(),
}
"""Every public function of `fields.py`, and which fields a call of it reads."""


def watch() -> None:
    """From here on, what `fields.py` reads is recorded."""
    for name, told in READERS.items():
        setattr(fields, name, _watched(getattr(fields, name), told))
    made = fields.Form.__init__

    @functools.wraps(made)
    def init(self: Any, asked: Any, spool: Any, check: Any, file_field: str = "file", **rest: Any) -> None:
        _record({file_field, *type(asked).model_fields})
        made(self, asked, spool, check, file_field, **rest)

    fields.Form.__init__ = init  # type: ignore[method-assign]


def _watched(reader: Callable[..., Any], told: Callable[[inspect.BoundArguments], set[str]]) -> Any:
    signature = inspect.signature(reader)

    @functools.wraps(reader)
    def watched(*words: Any, **named: Any) -> Any:
        _record(told(signature.bind(*words, **named)))
        return reader(*words, **named)

    return watched


def _record(names: set[str]) -> None:
    READ.get(set()).update(names)


# What is declared ---------------------------------------------------------------------------------------


class Document:
    """The server's own OpenAPI document, and the routes that it tells of."""

    def __init__(self) -> None:
        self._document = openapi.document(dialects.doors())
        self._validators: dict[int, Draft202012Validator] = {}

    def route(self, scope: Scope) -> Route | None:
        """The route that takes the request; None where no route does."""
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        for route in dialects.routes():
            if isinstance(route, Route) and route.matches({**scope, "method": method})[0] is Match.FULL:
                return route
        return None

    def operation(self, route: Route, method: str) -> dict[str, Any]:
        path = openapi.place(route)
        path = path.removeprefix("/api") if path.startswith("/api/v1/") else path
        try:
            found: dict[str, Any] = self._document["paths"][path][method.lower()]
        except KeyError:
            raise Untrue(f"{method} {path} is not declared") from None
        return found

    def check(self, schema: dict[str, Any], value: object) -> None:
        if id(schema) not in self._validators:
            whole = {"components": self._document["components"], **schema}
            self._validators[id(schema)] = Draft202012Validator(whole)
        for error in self._validators[id(schema)].iter_errors(value):
            raise Untrue(f"{error.json_path}: {error.message[:400]}")


def names(operation: dict[str, Any]) -> Iterator[str]:
    """The fields that an operation declares, of its query, its path, its headers and its body."""
    for parameter in operation.get("parameters", ()):
        yield parameter["name"]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for name in content["schema"].get("properties", ()):
            yield name.removesuffix("[]")


# What is answered ---------------------------------------------------------------------------------------


class Answer:
    """One answer, looked at as it leaves."""

    def __init__(self, document: Document, scope: Scope) -> None:
        self._document = document
        self._scope = scope
        self._held: list[Message] = []
        self._declared: dict[str, Any] = {}
        self._rest = b""

    def take(self, message: Message) -> list[Message]:
        """What may be sent now. Raises Untrue."""
        self._held.append(message)
        if message["type"] == "http.response.start":
            self._begin(message)
            return []
        is_last = not message.get("more_body", False)
        self._body(message.get("body", b""), is_last)
        if not is_last and self._waits():
            return []
        held, self._held = self._held, []
        return held

    def _waits(self) -> bool:
        """Whether the body can only be looked at when all of it is here."""
        streams = self._declared.keys() & {"x-events", "x-line"}
        return "schema" in self._declared and not streams and not self._is_binary

    @property
    def _is_binary(self) -> bool:
        found: bool = self._declared.get("schema", {}).get("format") == "binary"
        return found

    def _begin(self, message: Message) -> None:
        status = str(message["status"])
        route = self._document.route(self._scope)
        if route and route.endpoint.__module__ in PENDING:
            return
        if route is None:
            if status not in ("307", "401", "403", "404", "405", "503"):
                raise Untrue(f"status {status} where there is no route")
            return
        method = "GET" if self._scope["method"] == "HEAD" else self._scope["method"]
        operation = self._document.operation(route, method)
        if strange := READ.get() - set(names(operation)):
            raise Untrue(f"{sorted(strange)} are read and not declared")
        if status not in operation["responses"]:
            raise Untrue(f"status {status} is not declared")
        self._choose(operation["responses"][status].get("content", {}), message)

    def _choose(self, content: dict[str, Any], message: Message) -> None:
        """By content type, the part of the declaration that holds for the body."""
        found = dict(message.get("headers", ())).get(b"content-type", b"").decode().partition(";")[0]
        if not found and _BYTES in content:
            found = _BYTES  # as RFC 9110 has it, section 8.3
        if found not in content and (found or content):
            raise Untrue(f"status {message['status']} with content type {found} is not declared")
        if self._scope["method"] != "HEAD":
            self._declared = content.get(found, {"schema": {"maxLength": 0}})

    def _body(self, body: bytes, is_last: bool) -> None:
        if not self._declared or self._is_binary:
            return
        self._rest += body
        if "x-events" in self._declared:
            *blocks, self._rest = self._rest.replace(b"\r\n", b"\n").split(b"\n\n")
            for block in blocks:
                self._event(block.decode())
        elif "x-line" in self._declared:
            *lines, self._rest = self._rest.split(b"\n")
            for line in filter(None, lines):
                self._document.check(self._declared["x-line"], json.loads(line))
        elif is_last:
            self._whole(self._declared["schema"])

    def _event(self, block: str) -> None:
        said = [line.partition(":") for line in block.splitlines() if not line.startswith(":")]
        if not said:
            return
        event = {name: value.removeprefix(" ") for name, _, value in said}
        name, data = event.get("event", ""), event.get("data")
        if name not in self._declared["x-events"]:
            raise Untrue(f"the event {name!r} is not declared")
        if data is None or data != self._declared.get("x-last"):
            self._document.check(self._declared["x-events"][name], None if data is None else json.loads(data))

    def _whole(self, schema: dict[str, Any]) -> None:
        text = self._rest.decode("utf-8", "replace")
        is_text = schema.get("type") == "string" or "maxLength" in schema
        self._document.check(schema, text if is_text else json.loads(text))


class Checked:
    """The application, whose answers are looked at."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._document = Document()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        READ.set(set())
        answer = Answer(self._document, scope)
        is_untrue = has_begun = False

        async def checked(message: Message) -> None:
            nonlocal is_untrue, has_begun
            if is_untrue:
                return
            try:
                for true in answer.take(message):
                    has_begun = True
                    await send(true)
            except Untrue as error:
                is_untrue = True
                said = f"UNTRUE {Request(scope).method} {scope['path']}: {error}"
                print(said, flush=True)
                if has_begun:
                    raise
                await PlainTextResponse(said, STATUS)(scope, receive, send)

        await self._app(scope, receive, checked)


def main() -> None:
    build = app.build
    watch()
    app.build = lambda services: Checked(build(services))  # type: ignore[assignment,return-value]
    cli.main()


if __name__ == "__main__":
    sys.argv[0] = "whisperd"
    main()
