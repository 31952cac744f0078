"""`whisperd jobs` against a running server."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from server import client
from server.errors import SpeechError
from tests.serving import ROOT, Server, serving
from tests.speech import SENTENCES, talk, wav

CLIP = ROOT / "models" / "hello.ogg"


def whisperd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "jobs", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def submit(server: Server, media: bytes) -> str:
    with server.client() as client:
        form = {"file": ("a", media)}
        return str(client.post("/v1/audio/transcriptions?async=true", files=form).json()["id"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("jobs")) as running:
        yield running


def test_wait_prints_the_result(server: Server) -> None:
    id = submit(server, CLIP.read_bytes())
    waited = whisperd("wait", id, "--format", "srt", "--url", server.url)
    assert waited.stdout.startswith("1\n00:00:00,"), waited.stderr
    shown = whisperd("show", id, "--url", server.url).stdout
    assert re.search(r"status +succeeded", shown)
    assert re.search(r"succeeded$", shown.rstrip())
    assert re.search(rf"{id} +succeeded +transcribe +ggml-demo", whisperd("list", "--url", server.url).stdout)


def test_wait_fails_with_its_job(server: Server) -> None:
    waited = whisperd("wait", submit(server, b"nothing to hear" * 50), "--url", server.url)
    assert waited.returncode == 1
    assert "not of an audio or video format" in waited.stderr


class Restarting(BaseHTTPRequestHandler):
    """A server that breaks off, is being stopped and is being started, before it tells a job's end."""

    told: ClassVar[list[tuple[int, bytes]]] = []

    def do_GET(self) -> None:
        status, body = (200, b"{}") if self.path == "/v1/jobs/one" else self.told.pop(0)
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if b"data: " in body else "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_who_waits_outlasts_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_AGAIN", 0.01)
    Restarting.told = [
        (200, b'event: progress\ndata: {"done": 1, "total": 9}\n\n'),
        (200, b'event: error\ndata: {"code": 503, "reason": "the server is being stopped"}\n\n'),
        (503, b'{"code": 503, "reason": "the server is being started"}'),
        (200, b'event: progress\ndata: {"done": 9, "total": 9}\n\nevent: done\ndata: {}\n\n'),
        (200, b'event: error\ndata: {"code": 400, "reason": "this is no media"}\n\n'),
    ]

    async def waited() -> list[tuple[float, float | None]]:
        return [step async for step in client.Jobs(f"http://127.0.0.1:{web.server_port}").follow("one")]

    with ThreadingHTTPServer(("127.0.0.1", 0), Restarting) as web:
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        assert asyncio.run(waited()) == [(1, 9), (9, 9)]
        with pytest.raises(SpeechError, match="no media"):
            asyncio.run(waited())
        web.shutdown()
    with pytest.raises(SpeechError, match="failed"):
        asyncio.run(waited())  # who was never there is not waited for


def test_cancel(server: Server) -> None:
    id = submit(server, wav(talk(SENTENCES * 30)))
    assert whisperd("cancel", id, "--url", server.url).stdout == f"{id} is cancelled\n"
    assert whisperd("cancel", id, "--url", server.url).stdout == f"{id} is cancelled\n"
    assert id not in whisperd("list", "--status", "queued,running", "--url", server.url).stdout


def test_a_job_that_is_not_there(server: Server) -> None:
    shown = whisperd("show", "none", "--url", server.url)
    assert (shown.returncode, "no job" in shown.stderr) == (1, True)
