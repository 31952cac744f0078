"""Reading a request: its form as it arrives, each field checked the moment it is complete.

A bad field refuses at once, before the rest of a large file has come. Files go straight into a spool.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from server.errors import BadField, BadRequest, MissingField, TooLarge, TooSlow
from server.spool import Spool

_LARGEST_FIELD = 1 << 16
_MOST_FIELDS = 64
_FORM = b"multipart/form-data"

Asked = TypeVar("Asked", bound=BaseModel)


@dataclass(slots=True)
class _Part:
    """A part of the form: a field, or the file."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    is_file: bool = False
    data: bytearray = field(default_factory=bytearray)


class Form(Generic[Asked]):
    """A multipart form whose fields are those of the pydantic model `asked`.

    `check` is called after each field with what is known so far, and may refuse it.
    """

    def __init__(
        self, asked: Asked, spool: Spool, check: Callable[[Asked], None], file_field: str = "file"
    ) -> None:
        self._asked = asked
        self._spool = spool
        self._check = check
        self._file_field = file_field
        self._seen: set[str] = set()
        self._file_seen = False
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._happened: list[Callable[[], None] | bytes] = []
        self._ended = False

    async def read(self, request: Request, *, largest: int, grace: float, rate: float) -> Asked:
        """All fields, once the whole body is here and the file lies complete in the spool.

        `largest`: bytes of the body; `grace` seconds and `rate` bytes a second bound how slowly it may come.
        """
        declared = int(request.headers.get("content-length") or 0)
        if declared > largest + _MOST_FIELDS * _LARGEST_FIELD:
            raise TooLarge(f"the body is larger than {largest:,} bytes, the most this server takes")
        parser = self._parser(request)
        async for chunk in paced(request.stream(), grace, rate):
            try:
                parser.write(chunk)
            except FormParserError as error:
                raise BadRequest(f"the multipart form is malformed: {error}") from error
            await self._handle()
        if not self._ended:
            raise BadRequest("the multipart form breaks off before its end")
        if not self._file_seen:
            raise MissingField(f"{self._file_field}: Field required", self._file_field)
        await self._spool.finish()
        return self._asked

    def _parser(self, request: Request) -> MultipartParser:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != _FORM or b"boundary" not in options:
            raise BadRequest("the body must be multipart/form-data with a file in it")
        return MultipartParser(
            options[b"boundary"],
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

    def _end_header(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        self._header = (bytearray(), bytearray())
        self._happened.append(lambda: self._part.headers.update({name: value}))

    def _start(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._part.name = name.removesuffix("[]")
        self._part.is_file = name == self._file_field and b"filename" in options
        if self._part.is_file:
            self._once(name, self._file_seen)
            self._file_seen = True

    def _extend(self, data: bytes) -> None:
        self._part.data += data
        if len(self._part.data) > _LARGEST_FIELD:
            raise BadField(f"the field is larger than {_LARGEST_FIELD:,} bytes", self._part.name[:80])

    def _finish(self) -> None:
        part = self._part
        if part.is_file:
            return
        if part.name == self._file_field:
            raise BadField("file: must be a file with a filename, not a text field", part.name)
        if part.name not in type(self._asked).model_fields:
            return
        many = isinstance(getattr(self._asked, part.name), tuple)
        self._once(part.name, part.name in self._seen and not many)
        self._seen.add(part.name)
        value = part.data.decode("utf-8", "replace")
        put(self._asked, part.name, (*getattr(self._asked, part.name), value) if many else value)
        self._check(self._asked)

    def _once(self, name: str, seen: bool) -> None:
        if seen:
            raise BadField(f"{name}: the field was sent twice", name)

    def _end(self) -> None:
        self._ended = True


def put(asked: BaseModel, name: str, value: Any) -> None:
    """Set a field, checked by its pydantic type. Raises BadField with the field's name and what it takes."""
    try:
        setattr(asked, name, value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BadField(f"{name}: {reason}", name) from error


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
