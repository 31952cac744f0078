"""The log: lines for people or for machines, each with the request that it belongs to.

A request's id goes wherever its work does: into tasks by the context, into workers with the work.
"""

import logging
import re
import sys
import time
from contextvars import ContextVar
from typing import Literal

import msgspec

Format = Literal["text", "json"]

REQUEST: ContextVar[str] = ContextVar("REQUEST", default="")
"""The id of the request, or of the job, that is being answered; empty for the server's own work."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def set_up(level: str, format: Format) -> None:
    """Send the log of this process to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if format == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # These tell each request that we make ourselves, at level info.
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    if format == "json":
        sys.excepthook = _uncaught


def of(request: str) -> dict[str, str]:
    """`extra` of a line that is written outside its request's context."""
    return {"request": request}


def _uncaught(kind: type[BaseException], error: BaseException, trace: object) -> None:
    logging.getLogger("server").critical("the server failed", exc_info=error)


def _request(record: logging.LogRecord) -> str:
    return str(getattr(record, "request", "") or REQUEST.get())


def _one_line(text: str) -> str:
    """What clients send cannot begin a line of its own, or move a terminal's cursor."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class _Text(logging.Formatter):
    """2026-01-31 12:00:00,123 WARNING server.reader [request]: message"""

    def format(self, record: logging.LogRecord) -> str:
        request = _request(record)
        line = (
            f"{self.formatTime(record)} {record.levelname} {record.name}"
            f"{f' [{request}]' if request else ''}: {_one_line(record.getMessage())}"
        )
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class _Json(logging.Formatter):
    """An object a line: `time` (UTC), `level`, `logger`, `message`; if any, `request`, `process`, `error`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := _request(record):
            line["request"] = request
        if process := getattr(record, "child", None):
            line["process"] = process
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
