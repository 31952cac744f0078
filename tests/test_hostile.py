"""What nobody sends by accident: it gets a clear answer, costs little, and the next request works."""

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import httpx
import pytest

from server.connection import LARGEST
from server.errors import SpeechError
from server.reader import Readers
from server.spool import on_disk
from server.types import MediaEnd, WindowShape
from tests import mutants
from tests.serving import Server, serving
from tests.speech import SENTENCES, talk, wav

PATH = "/v1/audio/transcriptions"
MEDIA = wav(talk(SENTENCES[:1]))
SECRET = "sk-whisperd-a-secret-of-thirty-two-characters"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--upload-grace", "2", "--max-upload", "3MB")
    with serving(tmp_path_factory.mktemp("data"), *flags) as server:
        yield server
        assert not list((server.data / "spool").iterdir())
        assert "Traceback" not in server.log
        assert SECRET not in server.log


@pytest.fixture
def client(own: Server) -> Iterator[httpx.Client]:
    with own.client() as client:
        yield client
        # Whatever came before, the next request works.
        assert client.post(PATH, files={"file": MEDIA}).json()["text"] == SENTENCES[0]


def exchange(server: Server, sent: bytes) -> bytes:
    """What a server says to these bytes, to its hanging up."""
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0), timeout=60) as connection:
        answer = b""
        try:
            connection.sendall(sent)
            while data := connection.recv(65536):
                answer += data
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


def post(body: bytes, kind: str = "multipart/form-data; boundary=B") -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def part(headers: bytes, body: bytes = MEDIA) -> bytes:
    return b"--B\r\n" + headers + b"\r\n\r\n" + body + b"\r\n--B--\r\n"


FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"'

# Heads


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"a" * (4 * LARGEST),
        b"X: a\r\n" * LARGEST,
        b"".join(b"X-%d: a\r\n" % number for number in range(LARGEST)),
    ],
    ids=["a long one", "the same", "many"],
)
def test_headers_without_end_are_refused(own: Server, client: httpx.Client, head: bytes) -> None:
    answer = exchange(own, b"GET /v1/ping HTTP/1.1\r\nHost: localhost\r\n" + head)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 "), answer  # it may be reset before it is read


def test_the_refusal_says_why(own: Server) -> None:
    head = b"GET /v1/ping HTTP/1.1\r\nHost: localhost\r\nX: "
    answer = exchange(own, head + b"a" * (LARGEST + 1 - len(head)))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b"the request's headers are larger than 65536 bytes")


@pytest.mark.parametrize("sent", [b"", b"GET /v1/ping HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come_is_not_waited_for(own: Server, client: httpx.Client, sent: bytes) -> None:
    assert exchange(own, sent) == b""


def test_a_connection_is_used_again_with_long_heads(own: Server) -> None:
    """Each head counts for itself."""
    with own.client() as client:
        for _ in range(3):
            assert client.get("/v1/ping", headers={"X": "a" * 40_000}).status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: -5",
        "Content-Length: 99999999999999999999",
        "Host: evil\r\n\tfolded",
    ],
)
def test_heads_that_can_be_read_in_two_ways(own: Server, client: httpx.Client, lines: str) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\nConnection: close\r\n\r\nhello!"
    assert exchange(own, head.encode()).startswith(b"HTTP/1.1 400 ")


# Forms


@pytest.mark.parametrize(
    "body",
    [
        part(b"X-A: " + b"a" * (1 << 20) + b"\r\n" + FILE),
        part(b"X: a\r\n" * 100_000 + FILE),
        part(FILE).replace(b"\r\n", b"\n"),
        part(FILE)[:-8],
        b"-" * (2 << 20) + part(FILE),
        part(b'Content-Disposition: form-data; name="' + b"a" * (1 << 20) + b'"', b"x"),
        part(b'Content-Disposition: form-data; name="x"', b"y")[:-4] * 1000,
    ],
    ids=["part header", "part headers", "LF", "no end", "preamble", "field name", "parts"],
)
def test_forms_that_nobody_means(own: Server, client: httpx.Client, body: bytes) -> None:
    assert exchange(own, post(body)).startswith(b"HTTP/1.1 400 ")


def test_a_line_break_in_a_file_name_makes_no_header(own: Server) -> None:
    answer = exchange(own, post(part(FILE.replace(b"a.wav", b"a\r\nX-Evil: 1.wav"))))
    assert b"x-evil" not in answer.partition(b"\r\n\r\n")[0].lower()


@pytest.mark.parametrize("boundary", ["B" * 5000, "", '"'])
def test_boundaries_that_are_none(own: Server, client: httpx.Client, boundary: str) -> None:
    answer = exchange(own, post(part(FILE), f"multipart/form-data; boundary={boundary}"))
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_fields_have_a_size_and_a_number(client: httpx.Client) -> None:
    many = [("keywords[]", (None, f"word{number}")) for number in range(5000)]
    answer = client.post(PATH, files=[*many, ("file", ("a.wav", MEDIA))])
    assert (answer.status_code, answer.json()["detail"]) == (400, "the form has more than 64 fields")
    large = client.post(PATH, data={"prompt": "a" * (1 << 20)}, files={"file": MEDIA})
    assert (large.status_code, large.json()["detail"]) == (400, "the field is larger than 65,536 bytes")


# Bodies of JSON

BOMBS = {
    "deep": b"[" * 30_000 + b"]" * 30_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "digits": b'{"input":' + b"9" * 60_000 + b"}",
    "no numbers": b'{"input":NaN,"path":Infinity,"text":-Infinity,"audio_url":1e999}',
    "no object": b"[1]",
    "no UTF-8": b'{"input":"\xff\xfe"}',
    "half a character": json.dumps(dict.fromkeys(("input", "path", "voice", "model"), "\ud800")).encode(),
    "NUL": json.dumps(dict.fromkeys(("input", "path", "voice", "model"), "a\0b")).encode(),
}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/audio/speech", "/nvidia/nemotron-asr-multilingual/asr", "/load"]
)
@pytest.mark.parametrize("bomb", BOMBS)
def test_json_that_explodes(own: Server, path: str, bomb: str) -> None:
    with own.client() as client:
        answer = client.post(path, content=BOMBS[bomb], headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.content) < 2000


# Names

NAMES = (
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "a\0b",
    "a\r\nX-Evil: 1",
    "." * 5000,
    "~/.ssh/id_rsa",
    "%2e%2e/x",
)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_are_never_paths(client: httpx.Client, name: str) -> None:
    media = {"file": (name, MEDIA)}
    quoted = quote(name, safe="")
    for answer in (
        client.get(f"/v1/models/{quoted}"),
        client.delete(f"/v1/models/{quoted}"),
        client.post("/v1/models", json={"path": name}),
        client.post("/v1/models", json={"path": "ggml-x.bin", "repo": name}),
        client.post(PATH, data={"model": name}, files=media),
        client.post("/v1/audio/speech", json={"input": "hello", "model": "tts-1", "voice": name}),
        client.get(f"/v1/jobs/{quoted}"),
        client.get(f"/files/{quoted}"),
    ):
        assert answer.status_code in (400, 404), answer.text
        assert "root:" not in answer.text
        assert "x-evil" not in answer.headers
        assert len(answer.content) < 2000


def test_the_name_of_a_file_harms_nobody(client: httpx.Client) -> None:
    media = {"file": ("../../etc/cron.d/x\r\nX-Evil: 1\0.wav", MEDIA)}
    answer = client.post(PATH, data={"response_format": "lrc"}, files=media)
    assert answer.status_code == 200
    assert "x-evil" not in answer.headers


def test_secrets_are_not_repeated(client: httpx.Client) -> None:
    """The fixture looks for it in the log."""
    for answer in (
        client.get("/v1/models/x", headers={"Authorization": f"Bearer {SECRET}"}),
        client.post(PATH, headers={"x-api-key": SECRET}),
        client.post("/v1/audio/speech", headers={"Authorization": f"Key {SECRET}"}, content=b"{"),
        client.post(
            PATH, headers={"Authorization": f"Bearer {SECRET}"}, data={"url": f"http://u:{SECRET}@127.0.0.1/"}
        ),
        client.post(PATH, data={"url": f"http://127.0.0.1/a.wav?token={SECRET}"}),
    ):
        assert SECRET not in answer.text


# Media


def test_a_checksum_of_ogg_is_what_the_format_says() -> None:
    for name in ("ogg with libopus", "ogg with vorbis"):
        if name in mutants.seeds():
            data = bytearray(mutants.seeds()[name])
            assert mutants.checksums(bytearray(data)) == data


def id3(size: int) -> bytes:
    """An ID3v2 tag with a text of that length."""

    def seven_bits(number: int) -> bytes:
        return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))

    frame = b"TXXX" + seven_bits(size + 1) + b"\0\0\0" + b"a" * size
    return b"ID3\x04\0\0" + seven_bits(len(frame)) + frame


def swollen(kind: str) -> bytes:
    """Media with far more beside its sound than sound."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format={"attachments": "matroska", "tags": "flac", "id3": "mp3"}[kind]) as out:
        if kind == "tags":
            out.metadata.update({f"KEY{number}": "b" * 1000 for number in range(2000)})
        stream: Any = out.add_stream("mp3" if kind == "id3" else "flac", rate=16_000)
        stream.layout = "mono"
        if kind == "attachments":
            for number in range(300):
                out.add_attachment(f"../../{number}.mkv", "video/x-matroska", MEDIA[:5000])
        sound = (talk(SENTENCES[:1]) * 32767).astype("<i2").reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        resampler = av.AudioResampler(stream.format, "mono", 16_000, 1152)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return (id3(2_000_000) if kind == "id3" else b"") + buffer.getvalue()


@pytest.mark.parametrize("kind", ["attachments", "tags", "id3"])
def test_what_swells_media_is_not_the_sound(client: httpx.Client, kind: str) -> None:
    answer = client.post(PATH, files={"file": ("a.bin", swollen(kind))})
    assert answer.json()["text"] == SENTENCES[0], answer.text


async def test_damaged_media_end_in_sound_or_in_a_sentence(tmp_path: Path) -> None:
    """A few of the twenty thousand of docs/reliability.md."""
    died: list[str] = []
    shape = WindowShape(target=22.0, longest=29.0, gap=2.0)
    readers = Readers(
        tmp_path / "empty", warm=1, streams=1, queue=1, memory=1 << 30, longest=3600, on_death=died.append
    )
    await readers.start()
    heard = 0
    try:
        for number in range(150):
            file = tmp_path / "media"
            file.write_bytes(mutants.mutant(number)[1])
            try:
                *_, last = [item async for item in readers.read(on_disk(file), shape)]
            except SpeechError:
                continue
            heard += 1
            assert isinstance(last, MediaEnd), number
    finally:
        await readers.stop()
    assert not died
    assert 20 < heard < 130
