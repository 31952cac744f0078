"""schemathesis asks for what /openapi.json tells, in ways that nobody thought of, with all its checks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import ROOT, Server, serving


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


def explore(server: Server, folder: Path, *words: str) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(ROOT / "tests" / "schemathesis.toml"),
            "run",
            f"{server.url}/openapi.json",
            "--request-timeout=60",
            "--no-color",
            # The page's script alone is 1.6 MB.
            "--exclude-path=/docs/swagger-ui.js",
            *words,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert server.process.poll() is None


def test_a_few_requests_for_everything(own: Server, tmp_path: Path) -> None:
    explore(own, tmp_path, "--phases=fuzzing", "--max-examples=4", "--seed=1")
