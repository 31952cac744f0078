"""A real server for tests: `whisperd serve` in its own process, on a free port of loopback."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parent.parent

READY = re.compile(r"whisperd is ready on (http://\S+)")


class Server:
    """A running server, its address and what it printed."""

    def __init__(self, process: subprocess.Popen[str], data: Path) -> None:
        self.process = process
        self.data = data
        self.url = ""
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if found := READY.search(line):
                self.url = found[1]

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_ready(self) -> None:
        """Until it listens and has tried itself."""
        until(lambda: "\ntry: " in self.log or "no model" in self.log or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.log

    def client(self, timeout: float = 120.0) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def children(self, entry: str = "") -> list[psutil.Process]:
        """Living child processes; `entry` picks those that run it ("server.reader", "server.worker")."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if entry in " ".join(_line(child))]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reading.join(5)
        assert self.process.stdout
        self.process.stdout.close()


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `true()` is; fail loudly if it never is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


@contextmanager
def started(command: Sequence[str], data: Path, environment: dict[str, str]) -> Iterator[Server]:
    """The server that a command starts, ready; stopped at the end."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "1000", **environment},
    )
    server = Server(process, data)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()
    untrue = [line for line in server.lines if line.startswith("UNTRUE ")]
    assert not untrue, "answers are not as /openapi.json says: " + "; ".join(untrue)


@contextmanager
def serving(
    data: Path, *flags: str, demo: str = "true", environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """A server with its own data folder, stopped at the end; `tests.checked` looks at its answers."""
    command = [
        sys.executable,
        "-m",
        "tests.checked",
        "serve",
        "--port",
        "0",
        "--data",
        str(data),
        "--demo",
        demo,
    ]
    with started([*command, *flags], data, environment or {}) as server:
        yield server
