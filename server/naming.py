"""Every request has an id: its client's own, or one made here. The log and the answer tell it."""

import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import logs

HEADER = "X-Request-ID"

_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Naming:
    """Pure ASGI middleware. An id is for finding lines again: two requests of one id are still two."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(HEADER, "")
        request = sent if _SANE.fullmatch(sent) else uuid4().hex
        logs.REQUEST.set(request)

        async def named(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                MutableHeaders(scope=message).setdefault(HEADER, request)
            await send(message)

        await self._app(scope, receive, named)
