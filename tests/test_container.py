"""The Containerfile: what can be known by reading it, and, marked slow, its CPU target built and run."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from server.config import Config, read
from tests import containerfile
from tests.containerfile import Ignore, Image, Stage
from tests.speech import say, wav

REPOSITORY = Path(__file__).parents[1]
STAGES = containerfile.read(REPOSITORY / "Containerfile")
IGNORE = Ignore(REPOSITORY / ".containerignore")
TARGETS = ("cpu", "cuda")

BUILD_WITHIN_S = 900
HEALTHY_WITHIN_S = 60

SLIM_HAS = {
    "ld-linux",
    "libc",
    "libdl",
    "libgcc_s",
    "libm",
    "libmvec",
    "libpthread",
    "libresolv",
    "librt",
    "libstdc++",
    "libz",
}
"""System libraries that the slim Python images have: the C and C++ runtimes, and zlib."""


def copies() -> Iterator[tuple[Stage, str | None, list[str]]]:
    """Each COPY: the stage it is in, the stage it copies from, and what."""
    for stage in STAGES.values():
        for step in stage.named("COPY"):
            origin, sources, _ = containerfile.copied_from(step, {})
            yield stage, origin, sources


def test_the_targets_are_there_and_the_last_one_is_for_cpus() -> None:
    assert set(TARGETS) <= set(STAGES)
    assert list(STAGES)[-1] == "cpu"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_each_base_image_has_a_version(stage: Stage) -> None:
    name, _, tag = stage.base.partition(":")
    assert name
    assert tag[:1].isdigit(), f"{stage.base} is another image tomorrow"


def test_what_is_copied_from_the_repository_is_there_and_reaches_the_build() -> None:
    sources = {source for _, origin, found in copies() if origin is None for source in found}
    assert "server" in sources
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert not IGNORE.covers(source), source


def test_what_is_copied_from_a_stage_comes_from_an_earlier_one() -> None:
    order = list(STAGES)
    for stage, origin, _ in copies():
        assert origin is None or order.index(origin) < order.index(stage.name)


def test_both_targets_are_made_of_the_same_sources() -> None:
    made_of: dict[str, set[str]] = {stage.name: set() for stage in STAGES.values()}
    for stage, origin, sources in copies():
        whole = {source.partition("/")[0] for source in sources}
        made_of[stage.name] |= whole if origin is None else made_of[origin]
    assert made_of["cpu"] == made_of["cuda"] != set()


def test_both_targets_are_run_in_the_same_way() -> None:
    assert containerfile.settings(STAGES["cpu"]) == containerfile.settings(STAGES["cuda"])


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_how_to_run_it(target: str) -> None:
    image = containerfile.settings(STAGES[target])
    user, _, group = image.user.partition(":")
    assert int(user) > 0, "Kubernetes can only tell by the number that it is not root"
    assert int(group) > 0
    assert image.volumes == [image.env["WHISPERD_DATA"]]
    assert image.ports == [Config().port]
    assert [*image.entrypoint, *image.cmd] == ["whisperd", "serve"]
    assert image.healthcheck


@pytest.mark.parametrize("target", TARGETS)
def test_an_images_settings_are_settings_of_the_server(target: str) -> None:
    env = containerfile.settings(STAGES[target]).env
    config = read(environment={name: value for name, value in env.items() if name.startswith("WHISPERD_")})
    assert (str(config.data), config.host, config.demo) == ("/data", "0.0.0.0", "auto")
    assert config.make_key
    assert not config.open


def test_whisper_cpp_is_compiled_in_an_environment_of_its_own() -> None:
    """pywhispercpp hands each variable to CMake, and the base image has dozens of them."""
    (compile_,) = (step.value for step in STAGES["cuda-build"].named("RUN") if "GGML_CUDA=1" in step.value)
    assert compile_.startswith("env -i ")


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        (".venv/bin/python", True),
        ("tests/test_container.py", True),
        ("server", False),
        ("server/dialects/audio.py", False),
        ("server/dialects/__pycache__/audio.cpython-312.pyc", True),
        ("models/ggml-demo.bin", False),
        ("docs/server", True),
    ],
)
def test_what_reaches_the_build(path: str, ignored: bool) -> None:
    assert IGNORE.covers(path) is ignored


class Container:
    """The built image, running."""

    def __init__(self, target: str, scratch: Path, **environment: object) -> None:
        self.image: Image = containerfile.settings(STAGES[target])
        self.log = scratch / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                    *(sys.executable, "-m", "tests.containerfile", target, str(REPOSITORY), str(scratch)),
                    *(f"{name}={value}" for name, value in environment.items()),
                ],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.deadline = threading.Timer(BUILD_WITHIN_S, self.process.kill)
        self.deadline.start()
        self.answer()

    def answer(self) -> dict[str, object]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the container is gone; its log ends with:\n{self.tail()}"
        found: dict[str, object] = json.loads(line)
        return found

    def run(self, command: Sequence[str]) -> tuple[object, str]:
        """The exit code of a command in the container, and what it printed."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        done = self.answer()
        assert done["ended"] is None, f"the server has ended; its log ends with:\n{self.tail()}"
        return done["code"], str(done["output"])

    def stop(self) -> object:
        """How the server ends when it is asked to: its exit code, or "killed"."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.answer()["ended"]

    def close(self) -> None:
        self.deadline.cancel()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()

    def tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-4000:]


def why_not(scratch: Path) -> str | None:
    """Why containers cannot be tried on this machine."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "trying the Containerfile takes root on Linux"
    for name in ("changes", "work", "root"):
        (scratch / name).mkdir()
    options = f"lowerdir=/,upperdir={scratch}/changes,workdir={scratch}/work"
    tried = subprocess.run(
        [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "mount",
            "-t",
            "overlay",
            "-o",
            options,
            "overlay",
            scratch / "root",
        ],
        capture_output=True,
        text=True,
    )
    return f"this machine mounts no overlays: {tried.stderr.strip()}" if tried.returncode else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The CPU target, built by its own lines and started; healthy as its own health check sees it."""
    if reason := why_not(tmp_path_factory.mktemp("overlay")):
        pytest.skip(reason)
    scratch = tmp_path_factory.mktemp("container")
    box = Container("cpu", scratch, WHISPERD_PORT=free_port())
    try:
        give_up = time.monotonic() + HEALTHY_WITHIN_S
        while (found := box.run(box.image.healthcheck))[0] != 0:
            assert time.monotonic() < give_up, f"not healthy: {found[1]}\n{box.tail()}"
            time.sleep(0.2)
        yield box
    finally:
        box.close()
        shutil.rmtree(scratch)  # a gigabyte that pytest would keep for three runs


def setting(container: Container, name: str) -> str:
    return container.run(["printenv", name])[1].strip()


@pytest.mark.slow
def test_the_health_check_sees_a_server_that_does_not_answer(container: Container) -> None:
    assert container.run(container.image.healthcheck) == (0, "")
    code, _ = container.run(["env", "WHISPERD_PORT=1", *container.image.healthcheck])
    assert code == 1


@pytest.mark.slow
def test_the_container_transcribes_with_nothing_installed(container: Container) -> None:
    (key,) = re.findall(r"whisperd_\S+", container.log.read_text())
    with httpx.Client(
        base_url=f"http://127.0.0.1:{setting(container, 'WHISPERD_PORT')}", timeout=120
    ) as client:
        assert client.get("/v1/health").status_code == 200
        assert client.get("/v1/models").status_code == 401
        client.headers["Authorization"] = f"Bearer {key}"
        answer = client.post(
            "/v1/audio/transcriptions",
            files={"file": ("speech.wav", wav(say("The weather is beautiful today.")))},
            data={"response_format": "text"},
        )
    assert answer.status_code == 200, answer.text
    assert answer.text.strip().lower().startswith("the weather is beautiful today")


@pytest.mark.slow
def test_no_process_of_the_server_is_roots(container: Container) -> None:
    list_processes = """if True:
        import json, psutil
        print(json.dumps([[p.uids().real, p.uids().effective, p.cmdline()] for p in psutil.process_iter()]))
    """
    processes = json.loads(container.run(["python", "-c", list_processes])[1])
    of_the_image = [found for found in processes if any("/opt/whisperd" in word for word in found[2])]
    assert len(of_the_image) > 1, processes
    assert {(real, effective) for real, effective, _ in of_the_image} == {(10001, 10001)}


@pytest.mark.slow
def test_the_server_is_the_image_s_own(container: Container) -> None:
    code, place = container.run(["python", "-c", "import server; print(server.__file__)"])
    assert (code, place.split("/")[:3]) == (0, ["", "opt", "whisperd"])


@pytest.mark.slow
def test_the_image_has_all_that_its_packages_require(container: Container) -> None:
    code, output = container.run(["/opt/whisperd/bin/python", "-m", "pip", "check"])
    assert code == 0, output


@pytest.mark.slow
def test_the_image_lists_what_is_in_it(container: Container) -> None:
    bill = json.loads(container.run(["cat", "/opt/whisperd/sbom.cdx.json"])[1])
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "whisperd"
    listed = {part["name"]: part for part in bill["components"]}
    assert {"starlette", "pywhispercpp", "espeakng-loader"} <= listed.keys()
    assert listed["starlette"]["purl"] == f"pkg:pypi/starlette@{listed['starlette']['version']}"
    assert listed["starlette"]["licenses"]


@pytest.mark.slow
def test_the_wheels_need_no_library_that_a_slim_image_lacks(container: Container) -> None:
    """This machine has more libraries than the base image, so that their absence would not be noticed."""
    _, output = container.run(
        ["sh", "-c", "find /opt/whisperd -name '*.so' -o -name '*.so.*' | xargs ldd | grep -v /opt/whisperd"]
    )
    needed = {line.split()[0].rpartition("/")[2] for line in output.splitlines() if ".so" in line}
    assert "libc.so.6" in needed
    assert {name for name in needed if name.partition(".so")[0].partition("-x86")[0] not in SLIM_HAS} <= {
        "linux-vdso.so.1"
    }


@pytest.mark.slow
def test_the_container_stops_when_asked_to(container: Container) -> None:
    port = int(setting(container, "WHISPERD_PORT"))
    # uvicorn tidies up and then ends itself by the signal that it was sent.
    assert container.stop() in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in container.tail()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
