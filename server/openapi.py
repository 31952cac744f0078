"""What this port answers, as an OpenAPI 3.1 document. Each dialect declares its part above its handlers:

    @operation(
        "Load a model",
        path={"id": "the model's id"},
        query=Waited,                                # a pydantic model: its fields are the query's
        headers={"Prefer": "respond-async: …"},      # those that change what it does
        body=Fields(Keep),                           # or Upload(Asked), or Raw("audio/wav", …)
        answers={200: answer("the model", Model)},   # a type: a `closed` TypedDict that the handler returns
        refusals=refusals(ModelNotFound, NoMemory),  # statuses and bodies of its errors, in its own form
    )
    @v1
    async def load(request: Request) -> Response: ...

A test fails for a route that declares nothing, for a field that is read and not declared, and for an answer
in any test of the HTTP interface that is not as declared.
"""

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, with_config

from server import __version__

Schema = dict[str, Any]

JSON = "application/json"
_SHARED = "#/components/schemas/{model}"
_FORM = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"
_EVENTS = "text/event-stream"

closed = with_config(ConfigDict(use_attribute_docstrings=True, extra="forbid"))
"""Marks a TypedDict that has its own keys alone; a text below a key describes it."""

Declared = TypeVar("Declared", bound=Callable[..., Any])


class Route(Protocol):
    """What is to be known of a route; Starlette's are such."""

    @property
    def path(self) -> str: ...

    @property
    def methods(self) -> Collection[str] | None: ...

    @property
    def endpoint(self) -> Callable[..., Any]: ...

    @property
    def param_convertors(self) -> Mapping[str, Any]: ...


class Door(Protocol):
    """A route, and what a key must be for that opens it; None: it is open."""

    @property
    def route(self) -> Any: ...

    @property
    def scope(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Fields:
    """A small body of fields: JSON, a multipart form or a urlencoded one."""

    model: type[BaseModel]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart form with a file."""

    model: type[BaseModel]
    file: str = "file"
    description: str = "audio or video"
    needed: bool = True
    """Whether there must be a file; else the fields may also come without one, in any form of `Fields`."""
    instead: str = ""
    """The field that may stand in the file's place."""


class Raw(tuple[str, ...]):
    """A body that is the media itself: the content types that it may have."""

    __slots__ = ()

    def __new__(cls, *content_types: str) -> "Raw":
        return super().__new__(cls, content_types)


Body = Fields | Upload | Raw


@dataclass(frozen=True, slots=True)
class Events:
    """A stream of server-sent events: the type of the data of each, by name; "" for events without one.

    None: the event has no data. In the document they are the extension `x-events`.
    """

    data: Mapping[str, Any]
    last: str | None = None
    """Data that is no JSON and ends the stream: the extension `x-last`."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A stream of JSON values, a line each. In the document their schema is the extension `x-line`."""

    data: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: what it means, and the type of its body by content type. A body without a content type is
    one of application/octet-stream."""

    description: str
    content: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that it may have, and what they tell."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a handler takes and answers."""

    summary: str
    answers: Mapping[int, Answer]
    path: Mapping[str, str]
    query: type[BaseModel] | None
    headers: Mapping[str, str]
    body: Body | None
    description: str


def answer(description: str, type: Any, **headers: str) -> Answer:
    """An answer in JSON. Headers are written with underscores."""
    return Answer(description, {JSON: type}, {name.replace("_", "-"): told for name, told in headers.items()})


def operation(
    summary: str,
    *,
    answers: Mapping[int, Answer],
    refusals: Mapping[int, Answer] | None = None,
    path: Mapping[str, str] | None = None,
    query: type[BaseModel] | None = None,
    headers: Mapping[str, str] | None = None,
    body: Body | None = None,
    description: str = "",
) -> Callable[[Declared], Declared]:
    """Declares what a handler takes and answers."""
    told = {**(refusals or {}), **answers}
    declared = Operation(summary, told, path or {}, query, headers or {}, body, description)

    def declare(handler: Declared) -> Declared:
        handler.operation = declared  # type: ignore[attr-defined]
        return handler

    return declare


def declared(route: Route) -> Operation | None:
    """What the route's handler declares; None where it does not."""
    found: Operation | None = getattr(route.endpoint, "operation", None)
    return found


def place(route: Route) -> str:
    """The path as OpenAPI writes it."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)


# The document -----------------------------------------------------------------------------------------


def document(doors: Iterable[Door], *, keys: bool = False) -> Schema:
    """The OpenAPI document of those routes. What lies under /v1 is told once, with both its servers.

    `keys`: whether keys are wanted at all.
    """
    found = [door for door in doors if is_told(door.route)]
    schemas = _Schemas(declared(door.route) for door in found)
    paths: dict[str, Schema] = {}
    for door in found:
        item = paths.setdefault(place(door.route), _servers(door.route))
        for method in sorted(set(door.route.methods) - {"HEAD"}):
            item[method.lower()] = _operation(door.route, method, schemas) | _security(door.scope, keys)
            if door.scope is None:
                item[method.lower()]["responses"].pop("401", None)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "whisperd",
            "version": __version__,
            "summary": "The speech server for your own machine",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": told} for name, told in _tags(door.route for door in found)],
        "paths": paths,
        "components": {"schemas": schemas.shared, "securitySchemes": _KEYS},
    }


def is_told(route: Any) -> bool:
    """Whether the document has the route by itself: one of HTTP, declared, and no twin of another."""
    is_http = bool(getattr(route, "methods", None))
    return is_http and declared(route) is not None and not route.path.startswith("/api/v1/")


_KEYS: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Key`, a space and the key, as fal's clients send it",
    },
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "basic": {"type": "http", "scheme": "basic", "description": "the key is the password"},
}


def _security(scope: str | None, keys: bool) -> Schema:
    if scope is None:
        return {"security": []}
    ways: list[Schema] = [{name: []} for name in _KEYS]
    return {"security": ways if keys else [{}, *ways], "x-scope": scope}


def _servers(route: Route) -> Schema:
    return {"servers": [{"url": "/"}, {"url": "/api"}]} if route.path.startswith("/v1/") else {}


def _tags(routes: Iterable[Route]) -> Iterator[tuple[str, str]]:
    """A tag for each dialect, described by the first paragraph of its file."""
    for module in dict.fromkeys(route.endpoint.__module__ for route in routes):
        told = inspect.getdoc(sys.modules[module]) or ""
        yield module.rpartition(".")[2], " ".join(told.partition("\n\n")[0].split())


def _operation(route: Route, method: str, schemas: "_Schemas") -> Schema:
    told = declared(route)
    assert told
    words = re.findall(r"\w+", place(route))
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": told.path[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in route.param_convertors
    ]
    parameters += [
        {"name": name, "in": "header", "description": meant, "schema": {"type": "string"}}
        for name, meant in told.headers.items()
    ]
    if told.query:
        parameters += _query(schemas.fields(told.query))
    return {
        "operationId": "_".join([method.lower(), *words]),
        "summary": told.summary,
        "tags": [route.endpoint.__module__.rpartition(".")[2]],
        **({"description": told.description} if told.description else {}),
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": _body(told.body, schemas)} if told.body is not None else {}),
        "responses": {
            str(status): _answer(answer, schemas) for status, answer in sorted(told.answers.items())
        },
    }


def _query(fields: Schema) -> list[Schema]:
    parameters = []
    for name, schema in fields["properties"].items():
        described = schema.pop("description", None)
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": name in fields.get("required", ()),
                **({"description": described} if described else {}),
                "schema": schema,
            }
        )
    return parameters


def _body(body: Body, schemas: "_Schemas") -> Schema:
    if isinstance(body, Raw):
        return {"required": True, "content": {kind: {"schema": _BINARY} for kind in body}}
    fields = schemas.fields(body.model)
    if isinstance(body, Fields):
        content = {JSON: {"schema": schemas.nullable(body.model)}}
        content |= {kind: {"schema": fields} for kind in (_URLENCODED, _FORM)}
        return {"required": body.required, "content": content}
    # Lists are written as OpenAI's clients write them.
    fields["properties"] = {
        name + "[]" * (schema.get("type") == "array"): schema for name, schema in fields["properties"].items()
    } | {body.file: {**_BINARY, "description": body.description}}
    if body.instead:
        fields["oneOf"] = [{"required": [body.file]}, {"required": [body.instead]}]
        return {"required": True, "content": {_FORM: {"schema": fields}}}
    if body.needed:
        fields["required"] = [*fields.get("required", ()), body.file]
        return {"required": True, "content": {_FORM: {"schema": fields}}}
    alone = _body(Fields(body.model), schemas)
    return {"required": True, "content": {**alone["content"], _FORM: {"schema": fields}}}


_BINARY = {"type": "string", "format": "binary"}


def _answer(answer: Answer, schemas: "_Schemas") -> Schema:
    content: Schema = {}
    for kind, told in answer.content.items():
        if isinstance(told, Events):
            events = {name: schemas.of(data) for name, data in told.data.items()}
            content[_EVENTS] = {"x-events": events}
            if told.last:
                content[_EVENTS]["x-last"] = told.last
        elif isinstance(told, Lines):
            content[kind] = {"schema": {"type": "string"}, "x-line": schemas.of(told.data)}
        else:
            content[kind] = {"schema": schemas.of(told)}
    headers = {
        name: {"description": told, "schema": {"type": "string"}} for name, told in answer.headers.items()
    }
    return {
        "description": answer.description,
        **({"headers": headers} if headers else {}),
        **({"content": content} if content else {}),
    }


class _Schemas:
    """The JSON Schemas of all types that operations name; those that have names are shared."""

    def __init__(self, operations: Iterable[Operation | None]) -> None:
        self._types = {id(type): type for told in operations if told for type in _types(told)}
        self._of, shared = TypeAdapter.json_schemas(
            [(key, "serialization", TypeAdapter(type)) for key, type in self._types.items()],
            ref_template=_SHARED,
        )
        self.shared: Schema = shared.get("$defs", {})

    def of(self, type: Any) -> Schema:
        """The schema of what we answer."""
        return self._of[id(type), "serialization"]

    def fields(self, model: type[BaseModel]) -> Schema:
        """The schema of what we read from a form: a field that is not there is absent, never null."""
        schema = self.nullable(model)
        schema["properties"] = {
            name: _written(_present(field)) for name, field in schema["properties"].items()
        }
        return schema

    def nullable(self, model: type[BaseModel]) -> Schema:
        """The schema of what we read from JSON, where null is as if absent if the field says so."""
        schema = model.model_json_schema(mode="validation", ref_template=_SHARED)
        self.shared |= schema.pop("$defs", {})
        for property in schema["properties"].values():
            property.pop("title", None)
        schema.pop("title", None)
        schema.pop("description", None)
        return schema


def _types(told: Operation) -> Iterator[Any]:
    for answer in told.answers.values():
        for content in answer.content.values():
            match content:
                case Events(data):
                    yield from data.values()
                case Lines(data):
                    yield data
                case _:
                    yield content


def _written(field: Schema) -> Schema:
    """A field's schema as text: a flag has many words, and an empty field is as if absent."""
    if any("pattern" in kind for kind in field.get("anyOf", ())):
        return {**field, "anyOf": [*field["anyOf"], {"const": ""}]}
    if field.get("type") != "boolean":
        return field
    kept = {name: value for name, value in field.items() if name != "type"}
    return {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": _FLAGS}], **kept}


_FLAGS = ["true", "false", "1", "0", "t", "f", "yes", "no", "y", "n", "on", "off"]


def _present(field: Schema) -> Schema:
    """A field's schema without null; and without the title, which is only its name again."""
    kept = {name: value for name, value in field.items() if name not in ("title", "anyOf")}
    if kept.get("default") is None or isinstance(kept["default"], dict):
        kept.pop("default", None)
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        return {**kinds[0], **kept}
    return {"anyOf": kinds, **kept} if kinds else kept
