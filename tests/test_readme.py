"""The README's commands, run as they stand there; only port and data folder are the test's."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route, WebSocketRoute

from server import __version__, dialects
from tests import serving
from tests.serving import Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
HEARD = "The weather is beautiful today. Peter lives in London."


def blocks(heading: str, language: str = "sh") -> list[str]:
    section = re.split(r"^## ", README, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(heading: str) -> list[str]:
    """The command lines under a heading, those that go on in the next line joined."""
    lines = "\n".join(blocks(heading)).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of the README's first command, on a port of its own."""
    data = tmp_path_factory.mktemp("data")
    (command,) = commands("Start")
    environment = {"WHISPERD_PORT": "0", "WHISPERD_DATA": str(data)}
    with serving.started(shlex.split(command), data, environment) as server:
        yield server


def test_the_first_command_ends_in_a_transcript_and_the_line_to_try_next(started: Server) -> None:
    assert HEARD in started.log
    assert "few hundred words" in started.log
    (line,) = re.findall(r"^try: (.*)$", started.log, re.MULTILINE)
    said = subprocess.run(shlex.split(line), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert HEARD in said


@pytest.mark.parametrize("command", commands("Ask"))
def test_curl_lines(started: Server, command: str, tmp_path: Path) -> None:
    words = shlex.split(command.replace("http://127.0.0.1:8080", started.url))
    written = tmp_path / "written"
    words = [str(written) if word == "hello.mp3" else word for word in words]
    said = subprocess.run([*words, "-sS"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    expected = {
        "models": "ggml-demo",
        "health": '"ok"',
        "transcriptions": "beautiful",
        "translations": "Peter",
        "inference": "Peter lives in London.",
        "asr": "Peter lives in London.",
        "speech/asr": '"text":"The weather is beautiful today."',
        "speech ": "",
    }
    (expectation,) = [
        text for word, text in expected.items() if re.search(rf"(/v1|/audio|/post|0)/{word}", command)
    ]
    assert expectation in said.stdout
    if "-o" in words:
        assert written.read_bytes()[:2] in (b"\xff\xf3", b"\xff\xfb"), "it is no mp3"


def test_the_python_example(started: Server) -> None:
    (example,) = blocks("Ask", "python")
    said = subprocess.run(
        [sys.executable, "-c", example.replace("http://127.0.0.1:8080", started.url)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout.strip() == HEARD


@pytest.mark.parametrize("command", commands("Models"))
def test_commands_about_models(command: str, tmp_path: Path) -> None:
    said = subprocess.run(
        shlex.split(command),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "WHISPERD_DATA": str(tmp_path / "data"), "COLUMNS": "200"},
    ).stdout
    assert "ggml-demo" in said


@pytest.mark.parametrize("command", commands("Without a server"))
def test_commands_without_a_server(command: str, tmp_path: Path) -> None:
    words = shlex.split(command.replace("hello.vtt", str(tmp_path / "hello.vtt")))
    said = subprocess.run(
        [str(ROOT / words[0]), *words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "WHISPERD_DATA": str(tmp_path / "data"), "COLUMNS": "1000"},
    )
    written = (tmp_path / "hello.vtt").read_text() if "--output" in command else said.stdout
    assert "Peter lives in London." in written


def test_links_lead_somewhere() -> None:
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_every_route_is_documented() -> None:
    documents = README + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for route in dialects.routes():
        assert isinstance(route, Route | WebSocketRoute)
        path = route.path.removeprefix("/api").replace(":path", "")
        assert path.removeprefix("/v1/audio") in documents, path


def test_every_error_code_is_documented() -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for code in dialects._CODES.values():
        assert f"`{code}`" in text
    for status in dialects._STATUS.values():
        assert re.search(rf"^\| (\d+, )?{status}(, \d+)? \|", text, re.MULTILINE), status


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    with serving.serving(tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) in (0, 130, -signal.SIGINT)
    assert "Traceback" not in server.log
