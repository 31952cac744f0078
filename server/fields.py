"""Reading a request: its form as it arrives, each field checked the moment it is complete.

A bad field refuses at once, before the rest of a large file has come. Files go straight into a spool.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
from pydantic import BaseModel, BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticUseDefault, core_schema
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from server import languages
from server.errors import BadField, BadRequest, MissingField, SpeechError, TooLarge, TooSlow
from server.spool import Spool

_LARGEST_FIELD = 1 << 16
_MOST_FIELDS = 64
_FORM = b"multipart/form-data"
_URLENCODED = b"application/x-www-form-urlencoded"
_JSON = b"application/json"

_SMALL = 1 << 16
"""Bytes of a body that has no file in it."""

_NESTED = re.compile(r"(?P<name>[^\[\]]+)\[(?P<key>[^\[\]]*)\]")

Asked = TypeVar("Asked", bound=BaseModel)


def _language(value: object) -> str | None:
    if not (value is None or isinstance(value, str)):
        raise ValueError("must be a language's code, a text")
    return languages.code(value or "")


Language = Annotated[str | None, BeforeValidator(_language)]
"""A field's type: a language as people write it, an ISO-639-1 code within; None for detection."""


class NullIsAbsent:
    """In a field's annotation, behind all else: null in JSON is as if the field was not there."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_present, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _present(value: object) -> object:
    if value is None:
        raise PydanticUseDefault
    return value


@dataclass(slots=True)
class _Part:
    """A part of the form: a field, or the file."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    key: str = ""
    """Of an object's field, which is sent as name[key]."""
    is_file: bool = False
    is_unknown: bool = False
    """Something that we have no use for, a file under another name, say: it is dropped as it comes."""
    data: bytearray = field(default_factory=bytearray)


class Form(Generic[Asked]):
    """A multipart form whose fields are those of the pydantic model `asked`.

    `check` is called after each field with what is known so far, and may refuse it. `instead` names a field
    that may stand in the file's place; `sizes`: bytes of fields that may be larger than others.
    """

    def __init__(
        self,
        asked: Asked,
        spool: Spool,
        check: Callable[[Asked], None],
        file_field: str = "file",
        *,
        file_needed: bool = True,
        instead: str = "",
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.file_name = ""
        """As the client calls its file."""
        self._asked = asked
        self._spool = spool
        self._check = check
        self._file_field = file_field
        self._instead = instead
        self._sizes = sizes or {}
        self._known = {file_field, *type(asked).model_fields}
        self._seen: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._file_needed = file_needed
        self._file_seen = False
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._happened: list[Callable[[], None] | bytes] = []
        self._ended = False
        self._parts = 0

    async def read(self, request: Request, *, largest: int, grace: float, rate: float) -> Asked:
        """All fields, once the whole body is here and the file lies complete in the spool.

        `largest`: bytes of the body; `grace` seconds and `rate` bytes a second bound how slowly it may come.
        """
        declared = int(request.headers.get("content-length") or 0)
        if declared > largest + _MOST_FIELDS * _LARGEST_FIELD:
            raise TooLarge(f"the body is larger than {largest:,} bytes, the most this server takes")
        parser = self._parser(request)
        received = 0
        async for chunk in paced(request.stream(), grace, rate):
            received += len(chunk)
            if received > largest + _MOST_FIELDS * _LARGEST_FIELD:
                raise TooLarge(f"the body is larger than {largest:,} bytes, the most this server takes")
            try:
                parser.write(chunk)
            except FormParserError as error:
                raise BadRequest(f"the multipart form is malformed: {error}") from error
            await self._handle()
        if not self._ended:
            raise BadRequest("the multipart form breaks off before its end")
        stands_in = bool(self._instead and getattr(self._asked, self._instead))
        if self._file_needed and not self._file_seen and not stands_in:
            raise MissingField(f"{self._file_field}: Field required", self._file_field)
        if self._file_seen and stands_in:
            raise BadField(f"{self._instead}: a file was sent too; send one of them", self._instead)
        await self._spool.finish()
        return self._asked

    @property
    def has_file(self) -> bool:
        return self._file_seen

    def _parser(self, request: Request) -> MultipartParser:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != _FORM or b"boundary" not in options:
            raise BadRequest("the body must be multipart/form-data with a file in it")
        try:
            return self._parts_parser(options[b"boundary"])
        except FormParserError as error:
            raise BadRequest(f"the multipart form is malformed: {error}") from error

    def _parts_parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": lambda: self._happened.append(self._start),
                "on_part_data": lambda data, start, end: self._happened.append(bytes(data[start:end])),
                "on_part_end": lambda: self._happened.append(self._finish),
                "on_end": self._end,
            },
        )

    async def _handle(self) -> None:
        """What the parser met in this chunk, in order; only here may it take time."""
        happened, self._happened = self._happened, []
        for thing in happened:
            if not isinstance(thing, bytes):
                thing()
            elif self._part.is_file:
                await self._spool.write(thing)
            else:
                self._extend(thing)

    def _begin(self) -> None:
        self._happened.append(self._reset)
        self._header = (bytearray(), bytearray())

    def _reset(self) -> None:
        self._part = _Part()
        self._parts += 1
        if self._parts > _MOST_FIELDS:
            raise BadRequest(f"the form has more than {_MOST_FIELDS} fields")

    def _end_header(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        self._header = (bytearray(), bytearray())
        self._happened.append(lambda: self._part.headers.update({name: value}))

    def _start(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._part.name, self._part.key = _place(name)
        self._part.is_file = name == self._file_field and b"filename" in options
        self._part.is_unknown = not self._part.is_file and self._part.name not in self._known
        if self._part.is_file:
            self._once(name, self._file_seen)
            self._file_seen = True
            self.file_name = options[b"filename"].decode("utf-8", "replace")

    def _extend(self, data: bytes) -> None:
        if self._part.is_unknown:
            return
        self._part.data += data
        largest = self._sizes.get(self._part.name, _LARGEST_FIELD)
        if len(self._part.data) > largest:
            raise BadField(f"the field is larger than {largest:,} bytes", self._part.name[:80])

    def _finish(self) -> None:
        part = self._part
        if part.is_file or part.is_unknown:
            return
        if part.name == self._file_field:
            raise BadField(f"{part.name}: must be a file with a filename, not a text field", part.name)
        many = isinstance(getattr(self._asked, part.name), tuple)
        self._counts[part.name] += 1
        if many and self._counts[part.name] > self._most(part.name):
            raise BadField(f"{part.name}: at most {self._most(part.name)} of it", part.name)
        place = f"{part.name}[{part.key}]" if part.key else part.name
        self._once(place, place in self._seen and not many)
        self._seen.add(place)
        value = part.data.decode("utf-8", "replace")
        if not value:
            return  # an empty field of a web form
        put(self._asked, part.name, self._value(value, many))
        self._check(self._asked)

    def _most(self, name: str) -> int:
        """How often a field may be sent, those that are empty counted too."""
        rules = type(self._asked).model_fields[name].metadata
        return min((rule.max_length for rule in rules if hasattr(rule, "max_length")), default=_MOST_FIELDS)

    def _value(self, value: str, many: bool) -> Any:
        """The field's value with this part of it."""
        before = getattr(self._asked, self._part.name)
        if self._part.key:
            known = before.model_dump(exclude_unset=True) if isinstance(before, BaseModel) else {}
            return known | {self._part.key: value}
        return (*before, value) if many else value

    def _once(self, name: str, seen: bool) -> None:
        if seen:
            raise BadField(f"{name}: the field was sent twice", name)

    def _end(self) -> None:
        self._ended = True


def _place(name: str) -> tuple[str, str]:
    """The field that a part's name means, and the key in it: name, name[], name[0] and name[key] are met."""
    found = _NESTED.fullmatch(name)
    if found is None:
        return name, ""
    key = found["key"]
    return found["name"], "" if key.isdecimal() else key


def query(request: Request, asked: type[Asked]) -> Asked:
    """The fields of the query. Unknown ones are ignored, empty ones are as if absent. Raises BadField."""
    return _checked(asked, _once(asked, request.query_params.multi_items(), empty=False))


@asynccontextmanager
async def arriving(
    request: Request, spool: Spool, *, largest: int, grace: float, rate: float
) -> AsyncIterator[asyncio.Task[None]]:
    """A body that is all media, on its way into the spool once its first bytes are here.

    The task ends when the spool is complete, or with TooLarge, TooSlow or NoSpace. Bounds as for `Form.read`.
    """
    if int(request.headers.get("content-length") or 0) > largest:
        raise TooLarge(f"the body is larger than {largest:,} bytes, the most this server takes")
    chunks = paced(request.stream(), grace, rate)
    await spool.write(await anext(chunks, b""))
    task = asyncio.create_task(_spooling(chunks, spool))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, SpeechError):
            await task


async def _spooling(chunks: AsyncIterator[bytes], spool: Spool) -> None:
    await spool.flush()
    async for chunk in chunks:
        await spool.write(chunk)
        await spool.flush()  # whoever sends slowly is heard as it comes
    await spool.finish()


async def small(
    request: Request, asked: type[Asked], *, grace: float, rate: float, largest: float = _SMALL
) -> Asked:
    """The fields of a small body without a file, be it JSON, a multipart form or a urlencoded one.

    Unknown fields are ignored. `grace` and `rate`: as for `Form.read`; `largest`: bytes. Raises BadRequest.
    """
    body = bytearray()
    async for chunk in paced(request.stream(), grace, rate):
        body += chunk
        if len(body) > largest:
            raise TooLarge(f"the body is larger than {largest:,} bytes")
    return _checked(asked, _once(asked, await _pairs(request, bytes(body))))


def _once(asked: type[BaseModel], pairs: list[tuple[str, Any]], *, empty: bool = True) -> dict[str, Any]:
    """The fields by name, each sent once; `empty`: also those that are empty. Raises BadField."""
    known = names(asked)
    fields: dict[str, Any] = {}
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen and name in known:
            raise BadField(f"{name[:80]}: the field was sent twice", name[:80])
        seen.add(name)
        if empty or value:
            fields[name] = value
    return fields


def names(asked: type[BaseModel]) -> set[str]:
    """What a model's fields are called where they are sent."""
    return {field.alias or name for name, field in asked.model_fields.items()}


async def _pairs(request: Request, body: bytes) -> list[tuple[str, Any]]:
    """The fields as they were sent, in order."""
    if not body:
        return []
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    try:
        if kind == _JSON:
            return _json(body)
        if kind == _URLENCODED:
            return parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
        if kind == _FORM:
            return await _multipart(request, body, options.get(b"boundary", b""))
    except (ValueError, RecursionError, MultiPartException) as error:
        raise BadRequest(f"the body cannot be read: {error}") from error
    raise BadRequest(f"the body must be JSON or a form, not {kind.decode('latin-1')[:80] or 'unnamed'!a}")


def _json(body: bytes) -> list[tuple[str, Any]]:
    """The pairs of a JSON object; objects inside it become dicts."""
    msgspec.json.decode(body)  # stricter: half a surrogate pair is no text, and could not be kept
    pairs = json.loads(body.decode(), object_pairs_hook=_Pairs)
    if not isinstance(pairs, _Pairs):
        raise ValueError("it is no JSON object")
    return [(name, _plain(value)) for name, value in pairs]


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {name: _plain(inner) for name, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written."""


async def _multipart(request: Request, body: bytes, boundary: bytes) -> list[tuple[str, Any]]:
    async def whole() -> AsyncGenerator[bytes]:
        yield body

    form = await MultiPartParser(request.headers, whole(), max_files=0, max_fields=_MOST_FIELDS).parse()
    if b"--" + boundary + b"--" not in body:
        raise ValueError("it breaks off before its end")
    return list(form.multi_items())


def _checked(asked: type[Asked], fields: dict[str, Any]) -> Asked:
    try:
        return asked.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "missing":
            raise MissingField(f"{name}: Field required", name) from error
        raise BadField(f"{name}: {_reason(error)}", name) from error


def _reason(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")


def put(asked: BaseModel, name: str, value: Any) -> None:
    """Set a field, checked by its pydantic type. Raises BadField with the field's name and what it takes."""
    try:
        setattr(asked, name, value)
    except ValidationError as error:
        # Within an object: the field, the type among those it may have, the key.
        key = next((f"[{place}]" for place in error.errors()[0]["loc"][2:] if isinstance(place, str)), "")
        raise BadField(f"{name}{key}: {_reason(error)}", name) from error


async def paced(chunks: AsyncIterator[bytes], grace: float, rate: float) -> AsyncIterator[bytes]:
    """The chunks, for as long as they come faster than `rate` bytes a second.

    Only the time spent waiting for the client counts. Raises TooSlow after `grace` seconds of waiting.
    """
    loop = asyncio.get_running_loop()
    waited, received = 0.0, 0
    while True:
        began = loop.time()
        try:
            async with asyncio.timeout(grace):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise TooSlow(f"nothing of the body came for {grace:g} s") from error
        waited += loop.time() - began
        received += len(chunk)
        if waited > grace and received < rate * waited:
            raise TooSlow(f"the body came slower than {rate:,.0f} bytes per second")
        yield chunk
