"""/openapi.json, all that this port answers, and /docs, a page to read and try it; it needs no internet.

Both are open to all: a browser has no key when it opens a page, and they tell nothing of this server's data.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server import dialects, openapi
from server.dialects import Open, refusals, services
from server.openapi import Answer, answer, operation

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>whisperd</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="page"></div>
<script src="/docs/swagger-ui.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
_START = """SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true, docExpansion: "list"})
"""
_HEADERS = {
    # Swagger UI styles its elements in place.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@operation(
    "This document",
    answers={200: answer("OpenAPI 3.1", dict[str, Any])},
    refusals=refusals(),
    description="What streams consist of is told in extensions: `x-events` has the schemas of events' data "
    "by the events' names, `x-last` the text that ends a stream, `x-line` the schema of each line. "
    "`x-scope` is what a key must be for, where keys are wanted.",
)
async def document(request: Request) -> Response:
    return JSONResponse(_document(services(request).keys.needed))


@operation(
    "A page to read and try all this", answers={200: Answer("HTML", {"text/html": str})}, refusals=refusals()
)
async def page(request: Request) -> Response:
    return Response(_PAGE, media_type="text/html; charset=utf-8", headers=_HEADERS)


@operation(
    "The page's script", answers={200: Answer("a script", {"text/javascript": str})}, refusals=refusals()
)
async def script(request: Request) -> Response:
    return Response(_asset("swagger_bundle.js"), media_type="text/javascript", headers=_HEADERS)


@operation(
    "The page's start", answers={200: Answer("a script", {"text/javascript": str})}, refusals=refusals()
)
async def start(request: Request) -> Response:
    return Response(_START, media_type="text/javascript", headers=_HEADERS)


@operation("The page's style", answers={200: Answer("a style", {"text/css": str})}, refusals=refusals())
async def style(request: Request) -> Response:
    return Response(_asset("swagger_style.css"), media_type="text/css", headers=_HEADERS)


@cache
def _document(keys: bool) -> openapi.Schema:
    return openapi.document(dialects.doors(), keys=keys)


@cache
def _asset(name: str) -> bytes:
    """A file of Swagger UI. Its package is not imported: that would read three other pages too."""
    spec = importlib.util.find_spec("offapi")
    assert spec is not None, "offapi is among the dependencies"
    assert spec.origin is not None, "offapi is a folder with files"
    return Path(spec.origin).with_name(name).read_bytes()


ROUTES = [
    Open("/openapi.json", document),
    Open("/docs", page),
    Open("/docs/swagger-ui.js", script),
    Open("/docs/start.js", start),
    Open("/docs/swagger-ui.css", style),
]
