"""Streams of server-sent events, as every route here sends them: they beat, and never end without a word."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import anyio
import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server import errors

_BEAT = 10
"""Seconds between signs of life in a stream."""

_FIRST = 5.0
"""Seconds for which a stream's status waits for its first event, so that a refusal gets a real one."""

_FAREWELL = 2.0
"""Seconds that a stream has to say that the server is being stopped."""

_LINE = "\n"

Item = TypeVar("Item")


def event(name: str, data: object = None) -> ServerSentEvent:
    """A named event; its data, if any, as JSON."""
    text = None if data is None else msgspec.json.encode(data).decode()
    return ServerSentEvent(event=name, data=text, sep=_LINE)


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
    stopping = anyio.Event()
    return EventSourceResponse(
        write(_until(stopping, items)),
        headers={"Cache-Control": "no-cache, no-transform", **(headers or {})},
        ping=_BEAT,
        ping_message_factory=(lambda: event("ping")) if go_whisper else (lambda: comment("still working")),
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


async def resumed(first: asyncio.Future[Item], items: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """The items again, the first of which somebody already waited for."""
    yield await first
    async for item in items:
        yield item


async def _until(stopping: anyio.Event, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """The items; an error as soon as the server is being stopped."""
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        while True:
            item = asyncio.ensure_future(anext(items, None))
            try:
                await asyncio.wait({item, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not item.done():
                    item.cancel()
                    await asyncio.wait({item})
            if item.cancelled():
                raise errors.Stopping
            if (found := item.result()) is None:
                return
            yield found
    finally:
        stopped.cancel()


class Held(Response):
    """An answer that holds what it needs until it has been sent, however that ends."""

    def __init__(self, answer: Response, stack: AsyncExitStack) -> None:
        self._answer = answer
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await self._answer(scope, receive, send)
