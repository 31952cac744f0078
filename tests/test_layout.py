"""Imports point one way, and only the edge knows HTTP."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).parent.parent / "server"

FLOORS = (
    ("errors", "types"),
    (
        *("keys", "trust", "config", "openapi", "child", "ggml", "engines", "media", "windows", "spool"),
        *("text", "encoding", "loudness", "onnx", "phonemes", "logs", "state", "garbage"),
    ),
    (
        "alignment",
        "cards",
        "catalogue",
        "digests",
        "partial",
        "phrases",
        "recording",
        "sources",
        "voice_catalogue",
    ),
    ("convert", "folders"),
    (
        "languages",
        "models",
        "prompts",
        "reader",
        "repetition",
        "subtitles",
        "vote",
        "words",
        "encoder",
        "voices",
        "pipelines",
        "enrolled",
        "ct2",
    ),
    ("kinds",),
    ("conversions", "prompts", "pull", "segments", "worker", "workers"),
    ("channels", "guards", "stitching"),
    ("formats", "lanes", "runners", "turns"),
    ("diarizers", "speaker"),
    ("memory", "placement"),
    ("transcribe", "diarize", "speak", "files", "custom_voices"),
    ("samples",),
    ("urls", "webhooks", "records", "durable"),
    ("jobs", "metrics"),
    ("services",),
    ("fields", "sse", "dialects", "deferred"),
    ("limits",),
    ("guard", "hangup", "counting", "naming", "headers"),
    ("app", "client", "connection", "terminal"),
    ("serve",),
    ("doctor", "tuning", "cli_keys", "cli_models", "cli_jobs", "cli_speak"),
    ("cli",),
    ("__main__",),
)
"""From the ground up: a room imports rooms of its own folder and of lower floors only."""

EDGE = {
    "dialects",
    "fields",
    "sse",
    "deferred",
    "guard",
    "counting",
    "naming",
    "headers",
    "hangup",
    "app",
    "connection",
    "serve",
}
"""Rooms that may name Starlette or uvicorn."""

HTTP = {"starlette", "uvicorn", "sse_starlette", "python_multipart"}

NATIVE = (
    "onnxruntime",
    "_pywhispercpp",
    "pywhispercpp",
    "av",
    "faster_whisper",
    "torch",
    "ctranslate2",
    "gguf",
)
"""What opens strangers' bytes or models: never in the server's own process."""


def room(file: Path) -> str:
    return file.relative_to(SERVER).with_suffix("").parts[0]


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "server":
                yield from (f"server.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


FILES = sorted(file for file in SERVER.rglob("*.py") if file != SERVER / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SERVER)))
def test_a_file_imports_downwards(file: Path) -> None:
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    here = room(file)
    assert here in floor, f"{here} has no floor yet"
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "server" and len(parts) > 1 and not parts[1].startswith("__"):
            assert parts[1] == here or floor[parts[1]] <= floor[here], f"{here} imports {parts[1]}"
        assert parts[0] not in HTTP or here in EDGE, f"{here} names {parts[0]}"


@pytest.mark.parametrize("folder", ["dialects", "engines", "runners", "sources"])
def test_members_of_a_folder_stand_alone(folder: str) -> None:
    for file in (SERVER / folder).glob("*.py"):
        for name in imports(file):
            assert not name.startswith(f"server.{folder}.") or file.name == "__init__.py", f"{file}: {name}"


def test_the_server_process_loads_nothing_native() -> None:
    seen = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, server.cli, server.dialects as d; d.routes(); print(*sys.modules)",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "server.app" in seen
    assert not {name.split(".")[0] for name in seen} & set(NATIVE)
