"""A request whose client has left is cancelled, and one that is answered before its body has come is closed.

Starlette cancels streams only, and uvicorn would read three refused gigabytes to their end.
"""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import dialects
from server.errors import Stopping

_REFUSED = 400
"""The lowest status of an answer that is none."""

_LINGER = 1.0
_LINGER_BYTES = 1 << 24
"""How long, and how much, of an unwanted body is still read: a client that is writing when the connection is
reset may never see the answer."""


class Hangup:
    """Pure ASGI middleware: reads one message ahead, so a large upload keeps its back-pressure."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        # First, so that a request which is all here is known to be before it is answered.
        listening = asyncio.ensure_future(body.listen())
        answering = asyncio.ensure_future(self._app(scope, body.next, body.closing(send)))
        try:
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The server is being stopped and has waited for us long enough.
            if body.answered:
                raise
            await dialects.door(scope).refusal(Stopping())(scope, receive, send)
        finally:
            left = not answering.done()
            answering.cancel()
            listening.cancel()
            results = await asyncio.gather(answering, listening, return_exceptions=True)
        if not left and isinstance(results[0], Exception):
            raise results[0]


class _Body:
    """What the client sends, as it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: asyncio.Queue[Message] = asyncio.Queue(1)
        self._complete = False
        self.answered = False
        """Whether the answer has begun."""
        self.next = self._messages.get

    async def listen(self) -> None:
        """Until the client has left."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            self._complete = not message.get("more_body", False)
            await self._messages.put(message)

    def closing(self, send: Send) -> Send:
        """`send`, but an answer that comes before the whole body has ends the connection.

        So does a refusal that tells to come again: who waits would else come to a connection just while it
        is closed for idling.
        """
        early = False

        async def wrapped(message: Message) -> None:
            nonlocal early
            self.answered = True
            if message["type"] == "http.response.start":
                early = not self._complete
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                if early or (message["status"] >= _REFUSED and "retry-after" in headers):
                    headers["connection"] = "close"
            if early and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                try:
                    await self._linger()
                finally:
                    # A stream that ends because the server stops is cancelled here.
                    await send({"type": "http.response.body", "body": b""})
                return
            await send(message)

        return wrapped

    async def _linger(self) -> None:
        read = 0
        try:
            async with asyncio.timeout(_LINGER):
                while not self._complete and read < _LINGER_BYTES:
                    read += len((await self.next()).get("body", b""))
        except TimeoutError:
            pass
