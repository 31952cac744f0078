"""`whisperd jobs` against a running server."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

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


def test_cancel(server: Server) -> None:
    id = submit(server, wav(talk(SENTENCES * 30)))
    assert whisperd("cancel", id, "--url", server.url).stdout == f"{id} is cancelled\n"
    assert whisperd("cancel", id, "--url", server.url).stdout == f"{id} is cancelled\n"
    assert id not in whisperd("list", "--status", "queued,running", "--url", server.url).stdout


def test_a_job_that_is_not_there(server: Server) -> None:
    shown = whisperd("show", "none", "--url", server.url)
    assert (shown.returncode, "no job" in shown.stderr) == (1, True)
