"""Every answer is counted, by the dialect and the route that it belongs to."""

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import dialects
from server.metrics import DIALECT, Metrics


class Counting:
    """Pure ASGI middleware. What clients make up never becomes a label: unknown paths are one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        dialect, path = _place(scope)
        DIALECT.set(dialect)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(dialect, path, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


def _place(scope: Scope) -> tuple[str, str]:
    route = dialects.door(scope).route
    if not isinstance(route, Route) or route.endpoint.__module__ == dialects.__name__:
        return "none", "none"
    return route.endpoint.__module__.rpartition(".")[2], route.path
