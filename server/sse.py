"""Streams of server-sent events and of lines, as every route sends them: they beat, and end with a word."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import anyio
import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server import errors

_BEAT = 10
"""Seconds between signs of life in a stream."""

_FIRST = 5.0
"""Seconds for which a stream's status waits for its first event, so that a refusal gets a real one."""

_FAREWELL = 2.0
"""Seconds that a stream has to say that the server is being stopped."""

_LINE = "\n"

Item = TypeVar("Item")


def event(name: str, data: object = None, number: int | None = None) -> ServerSentEvent:
    """A named event; its data, if any, as JSON. `number`: what a client names to go on after it."""
    text = None if data is None else msgspec.json.encode(data).decode()
    return ServerSentEvent(event=name, data=text, id=None if number is None else str(number), sep=_LINE)


def data(data: object) -> ServerSentEvent:
    """An event without a name."""
    return ServerSentEvent(data=msgspec.json.encode(data).decode(), sep=_LINE)


def text(text: str) -> ServerSentEvent:
    """An event without a name whose data is no JSON."""
    return ServerSentEvent(data=text, sep=_LINE)


def comment(text: str) -> ServerSentEvent:
    """What clients pass over."""
    return ServerSentEvent(comment=text, sep=_LINE)


def stream(
    items: AsyncIterator[Item],
    write: Callable[[AsyncIterator[Item]], AsyncIterator[ServerSentEvent]],
    *,
    go_whisper: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer in which `write` tells what comes. `items` raises Stopping when the server is being stopped.

    go-whisper's beat is a named event without data, which breaks OpenAI's and fal's clients: a comment is for
    everybody else.
    """
    beat = event("ping") if go_whisper else comment("still working")
    return _answer(items, write, beat, "text/event-stream", headers)


def lines(
    items: AsyncIterator[Item],
    write: Callable[[AsyncIterator[Item]], AsyncIterator[Mapping[str, object]]],
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer in which `write` tells what comes as lines of JSON; empty lines among them are the beat."""

    async def encoded(items: AsyncIterator[Item]) -> AsyncIterator[bytes]:
        async for line in write(items):
            yield msgspec.json.encode(line) + b"\n"

    return _answer(items, encoded, b"\n", "application/x-ndjson", headers)


def _answer(
    items: AsyncIterator[Item],
    write: Callable[[AsyncIterator[Item]], AsyncIterator[ServerSentEvent | bytes]],
    beat: ServerSentEvent | bytes,
    media_type: str,
    headers: Mapping[str, str] | None,
) -> Response:
    stopping = anyio.Event()
    return EventSourceResponse(
        write(_until(stopping, items)),
        headers={"Cache-Control": "no-cache, no-transform", **(headers or {})},
        media_type=media_type,
        ping=_BEAT,
        ping_message_factory=lambda: beat,  # type: ignore[arg-type,return-value]  # bytes go out as they are
        shutdown_event=stopping,
        shutdown_grace_period=_FAREWELL,
    )


@asynccontextmanager
async def first(items: AsyncIterator[Item]) -> AsyncIterator[asyncio.Future[Item]]:
    """The first item, once it or its error is there, or a while has passed."""
    first = asyncio.ensure_future(anext(items))
    try:
        await asyncio.wait({first}, timeout=_FIRST)
        if first.done():
            first.result()
        yield first
    finally:
        first.cancel()
        await asyncio.wait({first})


async def begun(items: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """The items, once the first is there: what goes wrong before it is raised, and can have a status."""
    first = await anext(items)

    async def all_items() -> AsyncIterator[Item]:
        yield first
        async for item in items:
            yield item

    return all_items()


async def resumed(first: asyncio.Future[Item], items: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """The items again, the first of which somebody already waited for."""
    yield await first
    async for item in items:
        yield item


async def unless(failing: asyncio.Future[None], items: AsyncIterator[Item]) -> AsyncGenerator[Item]:
    """The items; the error of `failing` as soon as it has one."""
    while True:
        item = asyncio.ensure_future(anext(items, None))
        try:
            both: set[asyncio.Future[Any]] = {item, failing}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                failing.result()
            await asyncio.wait({item})
        finally:
            if not item.done():
                item.cancel()
                await asyncio.wait({item})
        if (found := item.result()) is None:
            return
        yield found


async def _until(stopping: anyio.Event, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """The items; an error as soon as the server is being stopped."""

    async def stopped() -> None:
        await stopping.wait()
        raise errors.Stopping

    watching = asyncio.ensure_future(stopped())
    try:
        async for item in unless(watching, items):
            yield item
    finally:
        watching.cancel()


class Held(Response):
    """An answer that holds what it needs until it has been sent, however that ends."""

    def __init__(self, answer: Response, stack: AsyncExitStack) -> None:
        self._answer = answer
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            # A stream reads on for a hang-up, and would take a body from those who still read it; hang-ups
            # are told by the middleware.
            await self._answer(scope, _deaf, send)


async def _deaf() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")
