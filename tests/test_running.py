"""How the server runs: alone in its data folder, as any user, with a log that tells whose work failed."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from server import records, state
from tests.serving import ROOT, Server, serving, started, until
from tests.speech import SENTENCES, say, wav

pytestmark = pytest.mark.slow

PATH = "/v1/audio/transcriptions"
CLIP = wav(say(SENTENCES[0]))


def refused(data: Path) -> str:
    """The one sentence with which a server does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--port", "0", "--demo", "true", "--data", str(data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "1000"},
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("data")
    with serving(data, "--log-format", "json", "--slots", "1", "--log-level", "debug") as running:
        yield running


def test_a_second_server_on_one_folder_is_refused_and_names_the_first(own: Server) -> None:
    sentence = refused(own.data)
    assert f"{own.data} is in use by another whisperd (process {own.process.pid} on " in sentence
    with own.client() as client:
        assert heard(client) == SENTENCES[0]


def test_a_folder_left_by_a_killed_server_is_free(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from server import state\n"
        "with state.held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(state.StateError, match=f"process {process.pid} on"), state.held(tmp_path):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with state.held(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on")


def test_a_folder_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "version").write_text(f"{state.VERSION + 1}\n")
    assert "was written by a newer whisperd" in refused(tmp_path)
    assert (tmp_path / "version").read_text() == f"{state.VERSION + 1}\n"


def test_a_folder_becomes_one_of_this_version(tmp_path: Path) -> None:
    for older in ("", "0\n"):
        (tmp_path / "version").write_text(older) if older else None
        with state.held(tmp_path):
            assert (tmp_path / "version").read_text() == f"{state.VERSION}\n"
    assert state.VERSION >= records.SCHEMA, "the store of jobs is part of the folder"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(state.StateError, match="folder /proc/nowhere cannot be written by user "):
        state.held(Path("/proc/nowhere")).__enter__()


def heard(client: Any, **headers: str) -> str:
    answer = client.post(PATH, files={"file": ("a.wav", CLIP)}, data={"language": "en"}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["text"])


def lines(server: Server) -> list[dict[str, Any]]:
    """The log; what `whisperd serve` says to people begins its lines otherwise."""
    return [json.loads(line) for line in server.lines if line.startswith("{")]


def test_an_answer_names_its_request_and_the_log_tells_of_it(own: Server) -> None:
    with own.client() as client:
        files = {"file": ("a.wav", CLIP)}
        sent = client.post(PATH, files=files, headers={"X-Request-ID": "mine-1"})
        assert sent.headers["x-request-id"] == "mine-1"
        until(lambda: [line for line in lines(own) if line.get("request") == "mine-1"])
        made = client.get("/v1/models/nope")
        assert len(made.headers["x-request-id"]) == 32
        strange = client.get("/v1/ping", headers={"X-Request-ID": 'a"b c'})
        assert len(strange.headers["x-request-id"]) == 32
    until(lambda: [line for line in lines(own) if line.get("request") == made.headers["x-request-id"]])
    for line in lines(own):
        assert {"time", "level", "logger", "message"} <= set(line), line


@pytest.mark.parametrize(
    ("victim", "told"),
    [("server.worker", "a worker of ggml-demo died"), ("server.reader", "reader died")],
)
def test_stopped_children_are_replaced_and_told_of_under_their_request(
    own: Server, victim: str, told: str
) -> None:
    """SIGSTOP: they are neither dead nor at work. The client sees a moment's delay."""
    with own.client() as client:
        assert heard(client) == SENTENCES[0]
        stopped = own.children(victim)
        assert stopped
        for child in stopped:
            child.suspend()
        try:
            assert heard(client, **{"X-Request-ID": victim}) == SENTENCES[0]
            until(lambda: not any(child.is_running() for child in stopped), 60)
        finally:
            for child in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.resume()
        assert heard(client) == SENTENCES[0]
    until(lambda: [line for line in lines(own) if line.get("request") == victim and told in line["message"]])


async def test_what_a_child_prints_is_in_the_log_with_its_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from server.child import Child, ChildGone
    from server.types import Loading
    from server.worker import FromWorker

    wrong = Loading(path=tmp_path, engine="nowhere")
    import msgspec

    argument = msgspec.json.encode(wrong, enc_hook=str).decode()
    child = await Child[FromWorker].spawn("server.worker:main", FromWorker, tmp_path / "empty", argument, "x")
    child.serve("mine-2")
    with pytest.raises(ChildGone):
        await child.receive()
    child.kill()
    await child.ended()
    (line,) = [record for record in caplog.records if "No module named" in record.message]
    assert line.message.startswith(f"process {child.pid}: ModuleNotFoundError")
    assert vars(line)["request"] == "mine-2"
    assert line.name == "server.worker"


def test_a_line_of_the_log_stays_one() -> None:
    import logging

    from server import logs

    for form in ("text", "json"):
        record = logging.LogRecord("x", logging.INFO, "", 0, "%s refused", ("a\r\nb\x1b[2J\u2028",), None)
        formatter = logs._Json() if form == "json" else logs._Text()
        assert "\n" not in formatter.format(record)
        assert "\r" not in formatter.format(record)
        assert "\x1b" not in formatter.format(record)


ANYBODY = """
mount --make-rprivate /
mount --bind "$1" "$1"
mount -o remount,bind,ro /
chown 4242 "$1"
shift
exec env -u HOME -u USER -u LOGNAME -u TMPDIR setpriv --reuid 4242 --regid 0 --clear-groups \\
    --inh-caps -all,+dac_read_search --ambient-caps +dac_read_search --bounding-set -all,+dac_read_search "$@"
"""
"""Reading is allowed everywhere, as this machine's Python may lie in its owner's home."""


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"),
    reason="a read-only system and another user can only be had by root",
)
def test_any_user_on_a_read_only_system() -> None:
    """A user without name and home: only the data folder can be written, and nothing else is wanted."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # pytest's own is closed to others
        check_any_user(Path(folder))


def check_any_user(data: Path) -> None:
    command = ["unshare", "--mount", "bash", "-euc", ANYBODY, "bash", str(data)]
    probe = subprocess.run([*command, "touch", str(ROOT / "probe")], capture_output=True, text=True)
    if "Read-only file system" not in probe.stderr:
        pytest.skip("mounting is not allowed here")
    serve = [sys.executable, "-m", "server", "serve", "--port", "0", "--data", str(data), "--demo", "true"]
    with (
        started([*command, *serve], data, {"PYTHONDONTWRITEBYTECODE": "1"}) as server,
        server.client() as client,
    ):
        assert heard(client) == SENTENCES[0]
        spoken = client.post("/v1/audio/speech", json={"input": "Hello.", "response_format": "wav"})
        assert spoken.status_code == 200, spoken.text
        job = client.post(
            PATH + "?async=true", files={"file": ("a.wav", CLIP)}, data={"language": "en"}
        ).json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded", 60)
        assert (data / "version").stat().st_uid == 4242


def test_a_connection_stays_open_for_the_next_request(server: Server) -> None:
    """Also where an answer needs no waiting at all."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("GET", "/v1/ping")
            answer = connection.getresponse()
            answer.read()
            assert answer.headers["connection"] is None
            assert connection.sock is not None, "it was closed"


def test_children_leave_the_server_the_first_turn(server: Server) -> None:
    own = psutil.Process(server.process.pid).nice()
    assert {child.nice() - own for child in server.children("server.reader")} == {5}
