"""A full line is told at once, in each dialect's own words."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

from tests.serving import serving, until
from tests.speech import say, wav

CLIP = wav(say("Yes."))


def test_a_full_line_in_each_dialects_words(tmp_path: Path) -> None:
    with serving(tmp_path, "--streams", "1", "--queue", "0") as own, own.client() as client:
        place = urlsplit(own.url)
        with socket.create_connection((place.hostname, place.port), timeout=60) as slow:
            # Who sends slowly is heard as it comes, and so takes the only place.
            slow.sendall(
                b"POST /api/post/speech/asr HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
                + CLIP[:2000]
            )
            until(lambda: client.post("/asr", files={"audio_file": CLIP}).status_code == 503)
            asked = client.post("/asr", files={"audio_file": CLIP})
            assert (asked.status_code, asked.content) == (503, b"")
            assert "its line is full" in asked.headers["x-whisperd-error"]
            told = client.post("/inference", files={"file": CLIP})
            assert (told.status_code, list(told.json())) == (503, ["error"])
            posted = client.post("/api/post/speech/asr", content=CLIP)
            assert (posted.status_code, posted.text[:30]) == (500, "error from server 1013: the se")
            for answer in (asked, told, posted):
                assert int(answer.headers["retry-after"]) > 0
                assert answer.headers["connection"] == "close", "not while it is closed for idling"
        until(lambda: client.post("/asr", files={"audio_file": CLIP}).status_code == 200)
