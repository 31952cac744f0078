"""More who want to be spoken to than there is room for, and those who leave in the middle of a sentence."""

import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests import tiny_voices
from tests.serving import Server, serving, until

SLOTS = max(1, len(os.sched_getaffinity(0)) // 2)
QUEUE = 2

VOICE = "Piper.EN-US.endless-x_low"
BODY = json.dumps({"input": "This takes long.", "voice": VOICE}).encode()


def asking(server: Server) -> socket.socket:
    """A client that waits for a sentence which takes minutes."""
    place = urlsplit(server.url)
    client = socket.create_connection((place.hostname, place.port), timeout=120)
    client.sendall(
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    )
    return client


def counted(client: httpx.Client) -> tuple[int, int]:
    """Who is spoken to and who waits, for the endless voice."""
    loaded = client.get("/v1/models/loaded").json()["data"]
    found = [model for model in loaded if model["id"] == "piper/en_US-endless-x_low"]
    return (found[0]["busy"], found[0]["queued"]) if found else (0, 0)


def test_a_full_line_is_told_and_who_leaves_makes_room(tmp_path: Path) -> None:
    tiny_voices.endless(tmp_path / "voices")
    with (
        serving(tmp_path, "--queue", str(QUEUE)) as server,
        server.client() as client,
        ExitStack() as waiting,
    ):
        for place in range(SLOTS + QUEUE):
            waiting.enter_context(asking(server))
            until(lambda place=place: sum(counted(client)) > place)  # type: ignore[misc]
        assert counted(client) == (SLOTS, QUEUE)

        refused = client.post("/v1/audio/speech", json={"input": "Hi.", "voice": VOICE})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_busy")
        assert int(refused.headers["retry-after"]) > 0
        form = {"text": "Hi.", "language": "en-US", "voice": VOICE}
        assert client.post("/v1/audio/synthesize", data=form).status_code == 503
        other = client.post("/v1/audio/speech", json={"input": "Hi.", "voice": "Espeak.EN-US.default"})
        assert other.status_code == 200, "another voice's line is its own"

        waiting.close()
        until(lambda: counted(client) == (0, 0))
