"""HTTP connections whose requests' heads are bounded in size and time.

uvicorn's own take headers without end and wait for them forever, so that one client without manners could
take all memory, or all file handles.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST = 64 << 10
"""Bytes of a request's first line and headers."""

_MOMENT = 0.1
"""Seconds that a server which ends waits for a request that is just coming in."""

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"%b"
)


class Connection(HttpToolsProtocol):
    """A connection; `patience`: seconds in which a head must be whole, once connected or begun."""

    def __init__(self, *arguments: Any, patience: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._patience = patience
        self._waiting: asyncio.TimerHandle | None = None
        self._head = 0
        """Bytes of a head that is not whole yet."""
        self._is_in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # While an answer is under way, a stray line break behind its request must not end it.
        if self._is_in_head and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        self._head += len(data) * self._is_in_head
        super().data_received(data)
        if self._head > LARGEST and not self.transport.is_closing():
            self._refuse()

    def on_headers_complete(self) -> None:
        self._rest()
        self._is_in_head, self._head = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_head = True
        super().on_message_complete()

    def shutdown(self) -> None:
        """The server ends. Closed at once over a request not read yet, its client would see a reset."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_MOMENT, self._end)
        else:
            super().shutdown()

    def _end(self) -> None:
        if self.transport.get_protocol() is self:  # what has become a WebSocket ends by itself
            super().shutdown()

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self._patience, self.transport.close)

    def _rest(self) -> None:
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None

    def _refuse(self) -> None:
        sentence = b"the request's headers are larger than %d bytes" % LARGEST
        self.transport.write(_REFUSAL % (len(sentence), sentence))
        self.transport.close()
