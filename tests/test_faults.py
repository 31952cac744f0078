"""What may go wrong while a request runs, through the front door: the client sees no more than it must."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.serving import Server, serving, until
from tests.speech import SENTENCES, say, talk, wav

PATH = "/v1/audio/transcriptions"
TALK = SENTENCES * 6
MEDIA = wav(talk(TALK))
CLIP = wav(say(SENTENCES[0]))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own: these tests are rough with it."""
    with serving(
        tmp_path_factory.mktemp("data"),
        "--upload-grace",
        "1",
        "--max-upload",
        "10MB",
        "--max-duration",
        "10m",
    ) as running:
        with running.client() as client:
            assert clip_works(client)
        yield running


def clip_works(client: httpx.Client) -> bool:
    answer = client.post(PATH, files={"file": ("a.wav", CLIP)}, data={"language": "en"})
    return bool(answer.json()["text"] == SENTENCES[0])


def quiet(server: Server) -> bool:
    """No request left in a reader, a worker or on disk: the children do not use the processor."""
    before = _used(server)
    time.sleep(0.2)
    return _used(server) - before < 0.05 and not list((server.data / "spool").iterdir())


def _used(server: Server) -> float:
    """Seconds of processor time that the children have taken."""
    total = 0.0
    for child in server.children("server."):
        with contextlib.suppress(psutil.Error):
            total += child.cpu_times().user
    return total


@pytest.mark.parametrize("victim", ["server.worker", "server.reader"])
def test_a_killed_child_in_mid_request_is_not_noticed(own: Server, victim: str) -> None:
    with (
        own.client() as client,
        client.stream(
            "POST",
            PATH + "?stream=1",
            files={"file": ("a.wav", MEDIA)},
            data={"language": "en", "response_format": "text"},
        ) as answer,
    ):
        said, killed = [], False
        for line in answer.iter_lines():
            if line.startswith('data: "'):
                said.append(line[7:-1])
            if len(said) == 4 and not killed:
                killed = True
                for child in own.children(victim):
                    child.kill()
    assert killed
    assert "".join(said).strip() == " ".join(TALK)


def test_a_client_that_leaves_a_stream_stops_the_work(own: Server) -> None:
    with own.client() as client:
        with client.stream("POST", PATH + "?stream=1", files={"file": ("a.wav", MEDIA)}) as answer:
            assert any(line == "event: segment" for line in answer.iter_lines())
        until(lambda: quiet(own))
        assert clip_works(client)


def multipart(media: bytes, extra: bytes = b"") -> tuple[bytes, bytes]:
    """Head and body of a request, by hand."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + media
        + b"\r\n"
        + extra
        + b"--x--\r\n"
    )
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    return head, body


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_a_client_that_leaves_a_plain_request_stops_the_work(own: Server) -> None:
    head, body = multipart(MEDIA)
    with connect(own) as connection:
        connection.sendall(head + body)
        until(lambda: not quiet(own))
    until(lambda: quiet(own))
    with own.client() as client:
        assert clip_works(client)


def test_a_client_that_leaves_in_mid_upload_leaves_nothing(own: Server) -> None:
    head, body = multipart(MEDIA)
    with connect(own) as connection:
        connection.sendall(head + body[: len(body) // 2])
        until(lambda: list((own.data / "spool").iterdir()))
    until(lambda: quiet(own))
    with own.client() as client:
        assert clip_works(client)


def answer_of(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
        if b"\r\n\r\n" in received and received.endswith(b"}"):
            break
    return received


def test_a_client_that_sends_a_byte_a_second_is_refused(own: Server) -> None:
    head, body = multipart(MEDIA)
    with connect(own) as connection:
        connection.sendall(head)
        connection.setblocking(False)
        answer = b""
        for byte in range(100):
            connection.send(body[byte : byte + 1])
            time.sleep(0.1)
            try:
                answer = connection.recv(65536)
                break
            except BlockingIOError:
                continue
        connection.settimeout(60)
        while b"per second" not in answer and (more := connection.recv(65536)):
            answer += more  # head and body may come one after the other
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"slower than 1,000 bytes per second" in answer


def test_a_body_that_stops_coming_is_refused(own: Server) -> None:
    head, body = multipart(MEDIA)
    with connect(own) as connection:
        connection.sendall(head + body[:5000])
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"nothing of the body came for 1 s" in answer


def test_a_bad_field_refuses_before_the_file_has_come(own: Server) -> None:
    field = b'--x\r\nContent-Disposition: form-data; name="response_format"\r\n\r\nxml\r\n'
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        "Content-Length: 9000000\r\n\r\n"
    )
    with connect(own) as connection:
        connection.sendall(
            head.encode() + field + b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nRI"
        )
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"is not one of" in answer


class Endless:
    """Three gigabytes that take no memory; counts what was asked for."""

    def __init__(self, start: bytes = b"", piece: bytes = b"\0" * (1 << 16)) -> None:
        self.sent = 0
        self._start = start or (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        )
        self._piece = piece

    def __iter__(self) -> Iterator[bytes]:
        if self._piece[:1] == b"\0" or not self._piece.startswith(b"--x"):
            yield self._start
        while self.sent < 3 * 10**9:
            self.sent += len(self._piece)
            yield self._piece


@pytest.mark.parametrize("declared", [True, False])
def test_an_upload_over_the_limit_is_refused_early(own: Server, declared: bool) -> None:
    body = Endless()
    headers = {"content-type": "multipart/form-data; boundary=x"}
    if declared:
        headers["content-length"] = str(4 * 10**9)
    with own.client() as client:
        answer = client.post(PATH, content=iter(body), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
        assert body.sent < 100_000_000
        assert clip_works(client)
    until(lambda: not list((own.data / "spool").iterdir()))


def test_too_much_sound_is_refused(own: Server) -> None:
    import io

    import av
    import numpy as np

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16000, layout="mono")
        for _ in range(11):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000 * 60), "<i2"), format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with own.client() as client:
        answer = client.post(PATH, files={"file": ("a.flac", buffer.getvalue())})
        assert answer.status_code == 413
        assert clip_works(client)


def test_a_full_line_is_told_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, "--streams", "1", "--queue", "0") as server, server.client() as client:
        with client.stream("POST", PATH + "?stream=1", files={"file": ("a.wav", MEDIA)}) as first:
            lines = first.iter_lines()  # httpx hangs up when this goes
            assert any(line == "event: segment" for line in lines)
            with server.client() as other:
                refused = other.post(PATH, files={"file": ("a.wav", CLIP)})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "server_busy"
        until(lambda: quiet(server))
        assert clip_works(client)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk can only be mounted by root")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    import subprocess

    data = tmp_path / "data"
    data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(data)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with serving(data) as server, server.client() as client:
            answer = client.post(PATH, files={"file": ("a.wav", wav(talk(SENTENCES * 5)))})
            assert answer.status_code == 507
            assert answer.json()["error"]["code"] == "disk_full"
            assert clip_works(client)
            until(lambda: not list((data / "spool").iterdir()))
    finally:
        subprocess.run(["umount", str(data)], check=True)


def test_killing_the_server_leaves_no_child_alive(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.client() as client:
        assert clip_works(client)
        children = server.children()
        assert len(children) >= 3
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        psutil.wait_procs(children, timeout=10)
        assert not [
            child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ]
    with serving(tmp_path) as again, again.client() as client:
        assert clip_works(client)


@pytest.mark.parametrize("stream", ["?stream=1", ""])
def test_a_stream_says_that_the_server_is_being_stopped(tmp_path: Path, stream: str) -> None:
    fields = {"language": "en"} | ({} if stream else {"stream": "true"})
    with serving(tmp_path) as server, server.client() as client:
        with client.stream("POST", PATH + stream, files={"file": ("a.wav", MEDIA)}, data=fields) as answer:
            lines = answer.iter_lines()
            assert any(line.startswith("data:") and "weather" in line for line in lines)
            server.process.terminate()
            rest = [line for line in lines if line]
    assert "the server is being stopped" in rest[-1]
    assert "[DONE]" not in rest


def test_a_plain_request_is_told_that_the_server_is_being_stopped(tmp_path: Path) -> None:
    """It had its time."""
    head, body = multipart(MEDIA)
    with serving(tmp_path, "--slots", "1", "--shutdown-grace", "1s") as server:
        with connect(server) as connection:
            connection.sendall(head + body)
            until(lambda: not quiet(server))
            for child in server.children("server.worker"):
                child.suspend()
            server.process.terminate()
            answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"the server is being stopped" in answer
    assert "Traceback" not in server.log


def test_a_stopped_server_ends_its_children(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        children = server.children()
    assert not [child for child in children if child.is_running()]


def test_many_clients_each_get_their_own_words(own: Server) -> None:
    async def ask(client: httpx.AsyncClient, sentence: str) -> str:
        answer = await client.post(
            PATH, files={"file": ("a.wav", wav(say(sentence)))}, data={"language": "en"}
        )
        text: str = answer.json()["text"]
        return text

    async def everybody() -> list[str]:
        async with httpx.AsyncClient(base_url=own.url, timeout=120, trust_env=False) as client:
            return await asyncio.gather(*(ask(client, sentence) for sentence in SENTENCES * 2))

    assert asyncio.run(everybody()) == list(SENTENCES * 2)


def test_a_clip_does_not_wait_behind_a_film(own: Server) -> None:
    with own.client() as client, own.client() as other:
        with client.stream(
            "POST", PATH + "?stream=1", files={"file": ("a.wav", MEDIA)}, data={"language": "en"}
        ) as film:
            lines: Any = film.iter_lines()
            assert any(line == "event: segment" for line in lines)
            assert clip_works(other)
            assert sum(line == "event: segment" for line in lines) > len(TALK) // 2


def test_playlists_and_scripts_open_nothing(own: Server, tmp_path: Path) -> None:
    """What only points elsewhere is refused; the file it points to is not read, nobody is called."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(CLIP)
    with socket.create_server(("127.0.0.1", 0)) as trap, own.client() as client:
        trap.settimeout(0.3)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/a.wav"
        for target in (str(secret), f"file:{secret}", url):
            for bait in (
                f"ffconcat version 1.0\nfile '{target}'\n",
                f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
                f'<?xml version="1.0"?><MPD><BaseURL>{target}</BaseURL></MPD>',
                f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
                f"concat:{target}",
                "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
            ):
                answer = client.post(PATH, files={"file": ("a.mp3", bait.encode())})
                assert answer.status_code == 400, bait
                assert "weather" not in answer.text
        with pytest.raises(TimeoutError):
            trap.accept()


@pytest.mark.parametrize(
    "prompt",
    ["a" * 60_000, "会議を始めます" * 8_000, "word " * 12_000, "\N{PILE OF POO}" * 9_000, "\0<|en|>\n"],
)
def test_a_long_prompt_does_no_harm(own: Server, prompt: str) -> None:
    data = {"language": "en", "prompt": prompt[:16_000] if ord(prompt[0]) > 127 else prompt}
    workers = {child.pid for child in own.children("server.worker")}
    with own.client(timeout=20) as client:
        answer = client.post(PATH, files={"file": ("a.wav", CLIP)}, data=data)
        assert answer.status_code == 200
        assert clip_works(client)
    assert workers <= {child.pid for child in own.children("server.worker")}


def test_a_body_without_end_is_refused(own: Server) -> None:
    """The limit counts what comes, not what was announced: text fields, and what follows the form's end."""
    field = b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\n' + b"y" * 60_000 + b"\r\n"
    _, whole = multipart(CLIP)
    for start, piece in ((b"", field), (whole, b"z" * 60_000)):
        body = Endless(start, piece)
        with own.client() as client:
            headers = {"content-type": "multipart/form-data; boundary=x"}
            answer = client.post(PATH, content=iter(body), headers=headers)
            assert answer.status_code in (400, 413)
            assert body.sent < 200_000_000
    with own.client() as client:
        assert clip_works(client)
