"""The server under faults: `scripts/faults` does harm to one of its own while clients work.

Each fault comes alone, then pairs of them drawn by a seed. During a fault, clients go on asking, each for
sentences of its own; an answer must be right, or an error that says why. After it the load rests, and all
must be whole again: the next request works, no body lies in the spool, no process or handle is left.
"""

import argparse
import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench import report
from tests.serving import ROOT, Server, started, until
from tests.speech import SENTENCES, talk, wav

PATH = "/v1/audio/transcriptions"

_KINDS = ("job", "plain", "stream")
"""What the clients ask for."""

_CLIENTS = 3

_DURING = 3.0
"""Seconds that a fault lasts, where it does not end by itself."""

_WITHIN = 180.0
"""Seconds within which the next request must work."""

_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@dataclass
class Load:
    """Clients that ask all the time, and what they saw."""

    server: Server
    seed: int = 11
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    working: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    busy: set[int] = field(default_factory=set)

    def client(self, number: int, sentences: tuple[str, ...]) -> None:
        media, words = wav(talk(sentences)), " ".join(sentences)
        while not self.ended.is_set():
            if not self.working.wait(0.1):
                continue
            self.busy.add(number)
            try:
                self.note(number, media, words)
            except httpx.HTTPError as error:
                if isinstance(error, httpx.ConnectError):
                    self.seen["nobody listening"] += 1
                else:
                    self.seen[f"no answer ({type(error).__name__})"] += 1
                    self.wrong.append(f"a request without an answer: {error!r}")
                time.sleep(0.2)
            finally:
                self.busy.discard(number)

    def note(self, number: int, media: bytes, words: str) -> None:
        kind = _KINDS[number % len(_KINDS)]
        with self.server.client() as client:
            if kind == "stream":
                self.streamed(client, media, words)
                return
            path = PATH + ("?async=true" if kind == "job" else "")
            answer = client.post(path, files={"file": ("a.wav", media)}, data={"language": "en"})
        if answer.status_code == 202:
            answer = self.result(f"/v1/jobs/{answer.json()['id']}")
        if answer.status_code == 200:
            self.heard(answer.json()["text"], words)
        else:
            self.refused(answer, taken=kind == "job" and "/v1/jobs/" in str(answer.url))

    def result(self, address: str) -> httpx.Response:
        """Of a job that was taken; a server that is being started again is waited for."""
        end = time.monotonic() + _WITHIN
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError), self.server.client() as client:
                if client.get(address).json().get("status") not in ("queued", "running"):
                    return client.get(address + "/result")
            time.sleep(0.1)
        raise httpx.ReadTimeout(f"{address} has not ended")

    def streamed(self, client: httpx.Client, media: bytes, words: str) -> None:
        asked = {"language": "en", "response_format": "text"}
        with client.stream(
            "POST", PATH + "?stream=1", files={"file": ("a.wav", media)}, data=asked
        ) as answer:
            if answer.status_code != 200:
                answer.read()
                self.refused(answer)
                return
            lines = [line for line in answer.iter_lines() if line]
        events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        if events and events[-1] == "error":
            self.seen["a stream that ended with an error"] += 1
            return
        said = [line[7:-1] for line in lines if line.startswith('data: "')]
        self.heard("".join(said).strip(), words)

    def heard(self, text: str, words: str) -> None:
        self.seen["right" if text == words else "wrong"] += 1
        if text != words:
            self.wrong.append(f"{text!r} instead of {words!r}")

    def refused(self, answer: httpx.Response, taken: bool = False) -> None:
        error = answer.json()["error"]
        self.seen[f"{answer.status_code} {error['code'] or answer.status_code}"] += 1
        if error["message"] == "the server failed; its log says why":
            self.wrong.append("an error without a reason")
        if taken and answer.status_code == 404:
            self.wrong.append("a job was lost")
        time.sleep(0.2)

    @contextmanager
    def running(self) -> Iterator[None]:
        orders = list(itertools.permutations(SENTENCES, 2))
        random.Random(self.seed).shuffle(orders)
        threads = [
            threading.Thread(target=self.client, args=(number, orders[number]), daemon=True)
            for number in range(_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.ended.set()
            self.working.set()
            for thread in threads:
                thread.join(120)

    def rest(self) -> None:
        self.working.clear()
        until(lambda: not self.busy, 180)


# What is done to it -------------------------------------------------------------------------------------


def signalled(entry: str, number: signal.Signals) -> Callable[[Server], AbstractContextManager[None]]:
    @contextmanager
    def fault(server: Server) -> Iterator[None]:
        hurt = server.children(entry)
        for child in hurt:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        yield
        time.sleep(_DURING)
        if number is signal.SIGSTOP:
            until(lambda: not any(child.is_running() for child in hurt), 60)

    return fault


@contextmanager
def out_of_memory(server: Server) -> Iterator[None]:
    """Workers get no more memory than they have."""
    for child in server.children("server.worker"):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            held = child.memory_full_info().data
            resource.prlimit(child.pid, resource.RLIMIT_DATA, (held, held))
    yield
    time.sleep(_DURING)


def model_file(harm: Callable[[Path], None]) -> Callable[[Server], AbstractContextManager[None]]:
    @contextmanager
    def fault(server: Server) -> Iterator[None]:
        model = server.data / "models" / "ggml-mine.bin"
        kept = server.data / "kept"
        shutil.copy(model, kept)
        try:
            harm(model)
            yield
            time.sleep(_DURING)
            for child in server.children("server.worker"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()  # the next one has to load what is left
            time.sleep(_DURING)
        finally:
            kept.replace(model)

    return fault


@contextmanager
def full_disk(server: Server) -> Iterator[None]:
    """Not one more page for bodies, jobs or results, and what others give back is taken too."""
    filler = server.data / "filler"
    file = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        _fill(file)
        yield
        end = time.monotonic() + _DURING
        while time.monotonic() < end:
            _fill(file)
            time.sleep(0.02)
    finally:
        os.close(file)
        filler.unlink()


def _fill(file: int) -> None:
    for size in (1 << 20, 1 << 12, 1):
        with contextlib.suppress(OSError):
            while os.write(file, b"\0" * size):
                pass


@contextmanager
def hub_down(server: Server) -> Iterator[None]:
    """The configured hub is a port where nobody listens."""
    with server.client() as client:
        answer = client.post("/v1/models", json={"path": "tiny.en"})
        assert "hub" in answer.text, answer.text
    yield


def clock(seconds: str) -> Callable[[Server], AbstractContextManager[None]]:
    @contextmanager
    def fault(server: Server) -> Iterator[None]:
        moment = server.data / "clock"
        moment.write_text(seconds)
        try:
            yield
            time.sleep(_DURING)
        finally:
            moment.write_text("+0")

    return fault


@contextmanager
def locked_store(server: Server) -> Iterator[None]:
    with sqlite3.connect(server.data / "jobs" / "jobs.sqlite", isolation_level=None, timeout=30) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        time.sleep(_DURING)
        database.execute("ROLLBACK")
    database.close()


def _head(size: int) -> bytes:
    return (
        f"POST {PATH}?stream=1 HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode()


def _body() -> bytes:
    media = wav(talk(SENTENCES * 2))
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head + media + b"\r\n--x--\r\n"


def _connected(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


@contextmanager
def leaving(server: Server) -> Iterator[None]:
    """Clients that leave before, in and after the head, in and after the body, and in the stream."""
    body = _body()
    head = _head(len(body))
    for sent in (b"", head[:30], head, head + body[: len(body) // 2], head + body):
        with _connected(server) as connection:
            connection.sendall(sent)
    with _connected(server) as connection:
        connection.sendall(head + body)
        connection.recv(1)
    yield
    time.sleep(_DURING)


@contextmanager
def slow_client(server: Server) -> Iterator[None]:
    """It reads its stream a byte at a time, and then no more."""
    body = _body()
    with _connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(_head(len(body)) + body)
        yield
        for _ in range(int(_DURING * 10)):
            with contextlib.suppress(ConnectionError):  # it may be ended meanwhile
                connection.recv(1)
            time.sleep(0.1)


@dataclass
class Stop:
    """How the server ended when it was told to."""

    took_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def stopped(server: Server) -> Iterator[Stop]:
    """SIGTERM in mid-work; then another server on the same data folder."""
    stop = Stop()
    yield stop
    time.sleep(_DURING)
    children = server.children()
    process, environment = server.process, psutil.Process(server.process.pid).environ()
    began = time.monotonic()
    process.terminate()
    try:
        process.wait(_STOPS_WITHIN)
    except subprocess.TimeoutExpired:
        stop.wrong.append(f"it had not ended after {_STOPS_WITHIN:g} s")
        process.kill()
        process.wait()
    stop.took_s = round(time.monotonic() - began, 1)
    stop.wrong += [f"process {child.pid} outlived the server" for child in children if _lives(child)]
    assert process.stdout
    server._reading.join(5)
    process.stdout.close()
    again = subprocess.Popen(
        process.args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    following = Server(again, server.data)
    server.process = again  # so that it is ended if it never gets ready
    following.wait_ready()
    vars(server).update(vars(following))


def _lives(child: psutil.Process) -> bool:
    try:
        return child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


_STOPS_WITHIN = 30.0
"""Seconds; 10 of them are `shutdown_grace`."""


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


FAULTS: dict[str, Callable[[Server], AbstractContextManager[object]]] = {
    "worker SIGKILL": signalled("server.worker", signal.SIGKILL),
    "worker SIGSEGV": signalled("server.worker", signal.SIGSEGV),
    "worker SIGSTOP": signalled("server.worker", signal.SIGSTOP),
    "reader SIGKILL": signalled("server.reader", signal.SIGKILL),
    "reader SIGSTOP": signalled("server.reader", signal.SIGSTOP),
    "worker out of memory": out_of_memory,
    "model truncated": model_file(truncated),
    "model deleted": model_file(Path.unlink),
    "disk full": full_disk,
    "hub down": hub_down,
    "clock a day ahead": clock("+1d"),
    "clock a day back": clock("-1d"),
    "job store locked": locked_store,
    "clients leave": leaving,
    "slow client": slow_client,
    "server SIGTERM": stopped,
}

_EXCLUSIVE = {"model truncated", "model deleted"}, {"clock a day ahead", "clock a day back"}


def pairs(count: int, seed: int) -> list[tuple[str, ...]]:
    """Faults that come together."""
    able = [two for two in itertools.combinations(FAULTS, 2) if set(two) not in _EXCLUSIVE]
    return [tuple(two) for two in random.Random(seed).sample(able, min(count, len(able)))]


# What is seen -------------------------------------------------------------------------------------------


def works(server: Server) -> float:
    """Seconds until a request is answered rightly again."""
    began = time.monotonic()
    media = wav(talk(SENTENCES[:2]))

    def right() -> bool:
        with server.client() as client, contextlib.suppress(httpx.HTTPError):
            answer = client.post(PATH, files={"file": ("a.wav", media)}, data={"language": "en"})
            return answer.status_code == 200 and answer.json()["text"] == " ".join(SENTENCES[:2])
        return False

    until(right, _WITHIN)
    return time.monotonic() - began


def left_over(server: Server) -> list[str]:
    """What should not be there while nobody asks for anything."""
    with contextlib.suppress(AssertionError):
        until(lambda: not _left_over(server), 40)
    return _left_over(server)


def _left_over(server: Server) -> list[str]:
    process = psutil.Process(server.process.pid)
    found = [f"spool: {path.name}" for path in (server.data / "spool").iterdir()]
    states = Counter(child.status() for child in process.children(recursive=True))
    if states[psutil.STATUS_ZOMBIE] or states[psutil.STATUS_STOPPED]:
        found.append(f"processes: {dict(states)}")
    if len(process.children()) > _MOST_CHILDREN:
        found.append(f"{len(process.children())} processes")
    if process.num_fds() > _MOST_HANDLES:
        found.append(f"{process.num_fds()} handles")
    found += [f"jobs: {path.name}" for path in (server.data / "jobs").rglob("*.part")]
    return found


_MOST_CHILDREN = 2 + 8 + 2
"""Workers, readers with those kept for a minute after a rush, the encoder and one more."""

_MOST_HANDLES = 120


def suffered(server: Server, load: Load, names: tuple[str, ...]) -> dict[str, object]:
    """One fault, or several at the same time, from its beginning to the next right answer."""
    begun = len(server.lines)
    load.seen.clear()
    load.wrong.clear()
    load.working.set()
    with ExitStack() as stack:
        told = [stack.enter_context(FAULTS[name](server)) for name in names]
    stops = [each for each in told if isinstance(each, Stop)]
    again = works(server)
    load.rest()
    load.wrong += itertools.chain.from_iterable(stop.wrong for stop in stops)
    alive = server.process.poll() is None
    if load.wrong or not alive:
        print(*server.lines[begun:], sep="\n", file=sys.stderr)
    return {
        "faults": names,
        "clients_saw": dict(load.seen),
        "wrong": list(load.wrong),
        "works_again_s": round(again, 1),
        **({"ended_after_s": stops[0].took_s} if stops else {}),
        "left_over": left_over(server) if alive else ["the server ended"],
    }


@contextmanager
def harmed() -> Iterator[Server]:
    """A server that can be harmed: a small disk, a clock of its own, a model of its own, no hub."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = Path(folder) / "data"
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(data)], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(data)], check=True)
        (data / "models").mkdir()
        shutil.copy(ROOT / "models" / "ggml-demo.bin", data / "models" / "ggml-mine.bin")
        command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data", str(data)]
        flags = ["--default-model", "ggml-mine", "--log-level", "warning", "--jobs-keep", "36500d"]
        environment = {"HF_ENDPOINT": "http://127.0.0.1:9"}
        if _FAKETIME:
            (data / "clock").write_text("+0")
            environment |= {
                "LD_PRELOAD": str(_FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(data / "clock"),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        yield stack.enter_context(started([*command, *flags], data, environment))


def run(sets: list[tuple[str, ...]], seed: int, tell: Callable[[dict[str, object]], None]) -> None:
    """All of them, one after the other, on one server."""
    with harmed() as server:
        load = Load(server, seed)
        with load.running():
            for names in sets:
                if not _FAKETIME and any(name.startswith("clock") for name in names):
                    continue
                tell(suffered(server, load, names))


def row(found: dict[str, object]) -> str:
    saw = ", ".join(f"{count} {what}" for what, count in sorted(dict(found["clients_saw"]).items()))  # type: ignore[call-overload]
    wrong = "; ".join(found["wrong"]) or "none"  # type: ignore[arg-type]
    left = "; ".join(found["left_over"]) or "nothing"  # type: ignore[arg-type]
    names = " + ".join(found["faults"])  # type: ignore[arg-type]
    return f"| {names} | {saw} | {wrong} | {found['works_again_s']} s | {left} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="faults, with commas")
    parser.add_argument("--times", type=int, default=1, help="how often each comes alone")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of faults")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--write", type=Path, help="keep the raw figures in this file")
    asked = parser.parse_args()
    chosen = [name for name in FAULTS if not asked.only or name in asked.only.split(",")]
    singles = [(name,) for name in chosen for _ in range(asked.times)]
    rows: list[dict[str, object]] = []

    def tell(found: dict[str, object]) -> None:
        rows.append(found)
        print(row(found), flush=True)
        if asked.write:
            report.keep(asked.write, {"faults": {"seed": asked.seed, "clients": _CLIENTS, "rows": rows}})

    print(
        "| fault | clients saw | wrong | works again after | left over |\n|---|---|---|---|---|", flush=True
    )
    run(singles + pairs(asked.pairs, asked.seed), asked.seed, tell)


if __name__ == "__main__":
    main()
