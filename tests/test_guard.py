"""No web page changes this server, and none reads it under a name of its own."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message

from server.guard import Guard
from tests.serving import Server, until

MODELS = ("/v1/models", "/api/v1/models/ggml-base", "/v1/models/ggml-base/load")
AUDIO = "/v1/audio/transcriptions"


@contextmanager
def guarded(address: str, *hosts: str) -> Iterator[int]:
    """The port of an application behind the guard that answers everything."""

    async def answer(scope, receive, send):  # type: ignore[no-untyped-def]
        await PlainTextResponse(f"{Request(scope).method} done")(scope, receive, send)

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((address, 0))
        server = uvicorn.Server(
            uvicorn.Config(Guard(answer, hosts), http="httptools", lifespan="off", log_config=None)
        )
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            until(lambda: server.started)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with guarded("127.0.0.1", "speech.lan", "Nas.Local.") as port:
        yield port


def ask(port: int, method: str, path: str, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value.replace("PORT", str(port)) for name, value in headers.items()}
    with httpx.Client(trust_env=False) as client:
        return client.request(method, f"http://{address}:{port}{path}", headers=named)


# Whose name it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/health", AUDIO])
def test_a_foreign_host_is_refused_for_everything(port: int, method: str, path: str) -> None:
    assert ask(port, method, path, host="rebound.example:PORT").status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "localhost.evil.example:PORT",
        "127.0.0.1.evil.example",
        "xspeech.lan",
        "speech.lan.evil.example",
        "1",
        "a b",
        "[::1",
        "",
    ],
)
def test_hosts_that_are_not_ours(port: int, host: str) -> None:
    assert ask(port, "GET", "/v1/models", host=host).status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "localhost:PORT",
        "LocalHost",
        "localhost.",
        "127.0.0.1:PORT",
        "[::1]:PORT",
        "192.168.1.5:8080",
        "speech.lan",
        "SPEECH.lan:443",
        "nas.local:PORT",
    ],
)
def test_hosts_that_are_ours(port: int, host: str) -> None:
    assert ask(port, "GET", "/v1/models", host=host).status_code == 200
    assert ask(port, "DELETE", "/v1/models/ggml-base", host=host).text == "DELETE done"


def raw(port: int, lines: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(lines.encode() + b"\r\n")
        return connection.recv(1 << 16)


def test_a_second_host_cannot_hide_behind_the_first(port: int) -> None:
    answer = raw(port, "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")


def test_no_host_at_all_is_no_browser(port: int) -> None:
    assert raw(port, "GET / HTTP/1.0\r\n").startswith(b"HTTP/1.1 200 ")


def test_the_refusal_is_in_everybodys_words_and_says_what_to_do(port: int) -> None:
    body = ask(port, "GET", "/v1/models", host="nas.example").json()
    assert (body["error"]["code"], body["code"], body["detail"]) == ("foreign_page", 403, body["reason"])
    assert "'nas.example'" in body["reason"]
    assert "allowed_hosts" in body["reason"]


def test_ipv6_loopback_is_loopback() -> None:
    with guarded("::1") as port:
        assert ask(port, "GET", "/", "[::1]", host="evil.example").status_code == 403
        assert ask(port, "GET", "/", "[::1]").status_code == 200


def outer_address() -> str:
    """An address of this machine that others reach."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    pytest.skip("this machine has no address but loopback")


def test_on_an_outer_address_any_name_reads_but_no_page_of_an_unknown_one_changes() -> None:
    """Which names lead to it nobody knows here; what a browser sends along is all the more telling."""
    outer = outer_address()
    with guarded("0.0.0.0", "speech.lan") as port:
        assert ask(port, "GET", "/v1/models", outer, host="nas.example:PORT").status_code == 200
        assert ask(port, "POST", "/v1/models", outer, host="nas.example:PORT").status_code == 200
        assert ask(port, "GET", "/v1/models", host="nas.example:PORT").status_code == 403
        rebound = {"host": "nas.example:PORT", "origin": "http://nas.example:PORT"}
        assert ask(port, "POST", "/v1/models", outer, **rebound).status_code == 403
        own = {"host": "speech.lan:PORT", "origin": "http://speech.lan:PORT"}
        assert ask(port, "POST", "/v1/models", outer, **own).status_code == 200


# Whose page it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost:1",
        "http://localhost",
        "http://127.0.0.1:PORT",
        "https://localhost:PORT.evil.example",
        "chrome-extension://abc",
        "file://",
        "null",
        "",
    ],
)
def test_pages_of_others_change_nothing(port: int, method: str, path: str, origin: str) -> None:
    answer = ask(port, method, path, host="localhost:PORT", origin=origin)
    assert answer.status_code == 403


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site"])
def test_a_browser_that_says_so_itself(port: int, path: str, site: str) -> None:
    assert ask(port, "POST", path, sec_fetch_site=site).status_code == 403
    assert ask(port, "GET", path, sec_fetch_site=site).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:PORT", "http://localhost:PORT"),
        ("127.0.0.1:PORT", "http://127.0.0.1:PORT"),
        ("[::1]:PORT", "http://[::1]:PORT"),
        ("speech.lan", "https://speech.lan"),
        ("speech.lan:443", "https://speech.lan"),
        ("Speech.LAN", "http://speech.lan:80"),
    ],
)
def test_our_own_page_may(port: int, host: str, origin: str) -> None:
    answer = ask(port, "POST", "/v1/models", host=host, origin=origin, sec_fetch_site="same-origin")
    assert answer.status_code == 200


def test_a_page_may_still_have_something_transcribed(port: int) -> None:
    """That changes nothing here; and a browser lets no foreign page read the answer."""
    assert ask(port, "POST", AUDIO, origin="https://app.example").status_code == 200
    assert ask(port, "POST", "/v1/modelsque", origin="https://app.example").status_code == 200


async def test_a_websocket_of_a_foreign_host_is_closed_before_it_opens() -> None:
    passed: list[str] = []
    sent: list[Message] = []

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        passed.append(scope["type"])

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    def scope(host: bytes) -> dict[str, object]:
        server = ("127.0.0.1", 8080)
        return {"type": "websocket", "path": "/v1/realtime", "headers": [(b"host", host)], "server": server}

    await Guard(app)(scope(b"evil.example"), receive, send)
    assert (passed, [message["type"] for message in sent]) == ([], ["websocket.close"])
    await Guard(app)(scope(b"localhost:8080"), receive, send)
    assert passed == ["websocket"]


# In the whole server ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/v1/ping", False),
        ("/v1/models", False),
        ("/nowhere", False),
        ("/openapi.json", False),
        ("/docs", True),
    ],
)
def test_browsers_are_told_to_run_and_frame_nothing(client: httpx.Client, path: str, page: bool) -> None:
    answer = client.get(path, headers={"Origin": "https://elsewhere.example"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert ("default-src 'self'" if page else "default-src 'none'") in policy
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_no_page_of_another_site_is_let_in_beforehand(client: httpx.Client) -> None:
    """What browsers ask before they send another site's request (CORS)."""
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = client.options(AUDIO, headers=asked)
    assert answer.status_code in (403, 405)
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_server_is_guarded(server: Server, client: httpx.Client) -> None:
    refused = client.delete("/v1/models/ggml-demo", headers={"origin": "https://evil.example"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_page")
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/v1/models/ggml-demo").status_code == 200
