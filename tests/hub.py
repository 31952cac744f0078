"""A model hub on loopback, for tests: the hub's HTTP API as huggingface-hub uses it, and everything that can
go wrong with it. Large files are redirected to a storage with an address of its own, as the real one does.

`Hub.asked` tells what was asked for and how many bytes of each body left; nothing of the client is replaced.
"""

import hashlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from server import ggml
from tests.test_ggml import SMALL, Shape, write_model

HOME = "ggerganov/whisper.cpp"

_SLICE = 1 << 16


@cache
def model(seed: int = 0, shape: Shape = SMALL) -> bytes:
    """A whole GGML Whisper file; no two stretches of it are alike, nor two of different seeds."""
    with TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model.bin", shape)
        data = bytearray(path.read_bytes())
        noise = random.Random(seed)
        for tensor in ggml.tensors(path):
            data[tensor.offset : tensor.offset + tensor.size] = noise.randbytes(tensor.size)
        return bytes(data)


@dataclass
class Asked:
    """One request, and what became of it."""

    host: str
    """ "hub" or "storage"."""
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    status: int = 0
    start: int = 0
    """Where the body begins in the file."""
    sent: int = 0
    """Bytes of the file that left."""


@dataclass
class Faults:
    """What goes wrong. Lists are used up from their front, an item an answer."""

    break_after: list[int] = field(default_factory=list)
    """The line breaks after so many bytes of a body; -1 lets one through."""
    stall_after: list[int] = field(default_factory=list)
    """Nothing more comes after so many bytes, and the line stays."""
    rate: int = 0
    """Bytes per second of a body."""
    corrupt: int | None = None
    """This byte of every file that has so many is another one."""
    statuses: list[int] = field(default_factory=list)
    """The storage answers these."""
    hub_statuses: list[int] = field(default_factory=list)
    """The hub answers these."""
    error_headers: dict[str, str] = field(default_factory=dict)
    """Headers of those answers."""
    before: list[Callable[[], None]] = field(default_factory=list)
    """Called when the hub is asked for bytes."""
    ignore_ranges: bool = False
    wrong_range: int | None = None
    """Ranges begin here, whatever was asked."""
    length: int | None = None
    """What Content-Length says."""
    total: int | None = None
    """What Content-Range says of the whole."""
    unframed: bool = False
    """Bodies end when the line does, and nothing says how long they are."""
    surplus: bytes = b""
    """What follows after the file, where bodies are unframed."""
    encoding: str = ""
    """What Content-Encoding says."""
    location: str = ""
    """Where the hub redirects to, instead of its storage."""
    no_commit: bool = False
    """The hub does not tell its revision, as some mirrors."""
    own_etags: bool = False
    """Entity tags are not hashes, as with some mirrors."""
    other_commit: str = ""
    """What it tells instead."""
    no_hashes: bool = False
    """Neither are there any in listings."""
    xet: bool = False
    """Files are said to be in Xet too."""


@dataclass
class _Repository:
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    gated: bool = False
    token: str = ""
    """What opens it."""
    tags: dict[str, str] = field(default_factory=dict)
    """Commits by a name, which can be moved."""

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        revision = self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Hub:
    """The hub and its storage, running until `close`."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.repositories: dict[str, _Repository] = {}
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()
        self._hub = _Server(self, "hub")
        self._storage = _Server(self, "storage")
        self.url = self._hub.url
        self.storage_url = self._storage.url

    def add(self, repo: str, path: str, data: bytes, *, gated: bool = False, token: str = "") -> str:
        """Add or change a file: a new revision, which is returned. `token` opens a gated one."""
        found = self.repositories.setdefault(repo, _Repository())
        files = dict(found.commits[-1][1]) if found.commits else {}
        files[path] = data
        revision = hashlib.sha1(f"{repo}{len(found.commits)}{path}".encode()).hexdigest()
        found.commits.append((revision, files))
        found.gated, found.token = gated or found.gated, token or found.token
        return revision

    @property
    def bodies(self) -> list[Asked]:
        """The requests that bytes of a file were sent for, in their order."""
        return [asked for asked in self.asked if asked.sent]

    @property
    def sent(self) -> int:
        """Bytes of files that left, in all."""
        return sum(asked.sent for asked in self.asked)

    def data(self, digest: str) -> bytes | None:
        for repository in self.repositories.values():
            for _, files in repository.commits:
                for data in files.values():
                    if sha256(data) == digest:
                        return data
        return None

    def close(self) -> None:
        self.stopping.set()
        self._hub.stop()
        self._storage.stop()


@cache
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def blob(data: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _large(name: str) -> bool:
    """Whether the hub keeps it in its storage for large files, rather than in git."""
    return not name.endswith((".json", ".txt", ".yaml", ".md", "MODEL_CARD"))


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def __init__(self, hub: Hub, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.kind = kind
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.005,))
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are gone are what many tests are about."""

    def stop(self) -> None:
        self.shutdown()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `Hub.asked`."""

    @property
    def faults(self) -> Faults:
        return self.server.hub.faults

    def answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked = Asked(self.server.kind, self.command, self.path, headers)
        self.server.hub.asked.append(self.asked)
        path = unquote(urlsplit(self.path).path)
        statuses = self.faults.hub_statuses if self.server.kind == "hub" else self.faults.statuses
        if statuses:
            self.say(statuses.pop(0), self.faults.error_headers)
        elif self.server.kind == "storage":
            data = self.server.hub.data(path.rpartition("/")[2])
            self.body(data, "a storage's own tag") if data is not None else self.say(404)
        elif path.startswith("/api/resolve-cache/models/"):
            self.small(path.removeprefix("/api/resolve-cache/models/"))
        elif path.startswith("/api/models/"):
            self.about(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            self.resolve(path)
        else:
            self.say(404)

    def about(self, path: str) -> None:
        repo, _, revision = path.partition("/revision/")
        found = self.found(repo, revision or "main")
        if found:
            commit, files = found
            siblings = [self.sibling(name, data) for name, data in files.items()]
            self.json({"id": repo, "modelId": repo, "sha": commit, "private": False, "siblings": siblings})

    def small(self, path: str) -> None:
        """A file that git itself has is sent by the hub, not by its storage."""
        owner, name, commit, file = path.split("/", 3)
        if found := self.found(f"{owner}/{name}", commit):
            data = found[1][file]
            self.body(data, blob(data))

    def sibling(self, name: str, data: bytes) -> dict[str, Any]:
        if "blobs=" not in self.path:
            return {"rfilename": name}
        if not _large(name):
            return {"rfilename": name, "size": len(data), "blobId": blob(data)}
        lfs = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
        known = {} if self.faults.no_hashes else {"lfs": lfs}
        return {"rfilename": name, "size": len(data), "blobId": "0" * 40, **known}

    def resolve(self, path: str) -> None:
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if self.command == "GET" and self.faults.before:
            self.faults.before.pop(0)()
        found = self.found(repo, revision)
        if not found:
            return
        commit, files = found
        if name not in files:
            self.say(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        data = files[name]
        if not _large(name):
            self.say(307, {"Location": f"/api/resolve-cache/models/{repo}/{commit}/{name}"})
            return
        tag = f"v{len(data)}-{sha256(data)[:6]}" if self.faults.own_etags else sha256(data)
        told = {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(data))}
        if not self.faults.no_commit:
            told["X-Repo-Commit"] = self.faults.other_commit or commit
        if self.faults.xet:
            told |= {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": "/api/xet"}
        where = self.faults.location or f"{self.server.hub.storage_url}/signed/{sha256(data)}"
        self.say(302, told | {"Location": where})

    def found(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.server.hub.repositories.get(repo)
        if repository is None:
            self.say(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        if repository.gated and self.headers.get("Authorization") != f"Bearer {repository.token}":
            self.say(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"})
            return None
        found = repository.at(revision)
        if found is None:
            self.say(404, {"X-Error-Code": "RevisionNotFound"})
        return found

    def body(self, data: bytes, tag: str) -> None:
        faults, total = self.faults, len(data)
        start = self.start(total)
        status = 200 if start is None else 206
        start = start or 0
        told = faults.total or total
        extra = {"ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if status == 206:
            extra["Content-Range"] = f"bytes {start}-{total - 1}/{told}"
        if faults.encoding:
            extra["Content-Encoding"] = faults.encoding
        self.asked.start = start
        length = None if faults.unframed else total - start if faults.length is None else faults.length
        self.head(status, length, extra)
        if faults.corrupt is not None and faults.corrupt < total:
            data = data[: faults.corrupt] + bytes([data[faults.corrupt] ^ 1]) + data[faults.corrupt + 1 :]
        self.send(memoryview(data)[start:])

    def start(self, total: int) -> int | None:
        wanted = self.headers.get("Range")
        if not wanted or self.faults.ignore_ranges:
            return None
        if self.faults.wrong_range is not None:
            return self.faults.wrong_range
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    def send(self, data: memoryview) -> None:
        cut = _next(self.faults.break_after)
        silent = _next(self.faults.stall_after)
        limit = min(len(data) if end is None else end for end in (cut, silent))
        began = time.monotonic()
        while self.asked.sent < limit and not self.server.hub.stopping.is_set():
            rate = self.faults.rate
            size = min(_SLICE, limit - self.asked.sent, rate // 50 or _SLICE)
            self.wfile.write(data[self.asked.sent : self.asked.sent + size])
            self.asked.sent += size
            if rate:
                time.sleep(max(0.0, self.asked.sent / rate - (time.monotonic() - began)))
        if silent is not None and silent < len(data):
            self.server.hub.stopping.wait(600)
        if self.faults.unframed and limit == len(data):
            self.wfile.write(self.faults.surplus)
        self.close_connection = limit < len(data) or self.faults.unframed

    def say(self, status: int, extra: dict[str, str] | None = None) -> None:
        self.head(status, 0, extra or {})

    def json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.head(200, len(data), {"Content-Type": "application/json"})
        self.wfile.write(data)

    def head(self, status: int, length: int | None, extra: dict[str, str]) -> None:
        self.asked.status = status
        self.send_response(status)
        framing = {"Connection": "close"} if length is None else {"Content-Length": str(length)}
        for name, value in (framing | extra).items():
            self.send_header(name, value)
        self.end_headers()


def _next(faults: list[int]) -> int | None:
    number = faults.pop(0) if faults else -1
    return None if number < 0 else number


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of its own for a test, without files. Its address is `hub.url`."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    running = Hub()
    yield running
    running.close()
