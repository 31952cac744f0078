"""Requests as jobs: over /v1 and the line's breaks."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from tests.serving import Server, serving, until
from tests.speech import SENTENCES, silence, talk, wav

TWO = wav(talk(SENTENCES[:2]))
TEXT = " ".join(SENTENCES[:2])
LONGER = wav(talk(SENTENCES * 2))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that also fetches from this machine."""
    settings = {"WHISPERD_ALLOWED_URL_HOSTS": "localhost", "WHISPERD_WEBHOOK_WAIT": "0.2"}
    with serving(tmp_path_factory.mktemp("jobs"), environment=settings) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def submit(client: httpx.Client, media: bytes = TWO, query: str = "", **fields: str) -> dict[str, Any]:
    answer = client.post(
        f"/v1/audio/transcriptions?async=true{query}", files={"file": ("a.wav", media)}, data=fields
    )
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == job["url"]
    return job


def ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended."""
    found = job

    def over() -> bool:
        nonlocal found
        found = client.get(f"/v1/jobs/{job['id']}").json()
        return found["status"] not in ("queued", "running")

    until(over, 60)
    return found


def test_a_job_gives_its_result_in_every_format(client: httpx.Client) -> None:
    job = submit(client, response_format="srt")
    assert (job["object"], job["status"], job["error"]) == ("job", "queued", None)
    done = ended(client, job)
    assert done["status"] == "succeeded"
    assert done["model"] == "ggml-demo"
    assert done["logs"][0]["message"] == "started"
    result = f"/v1/jobs/{job['id']}/result"
    at_once = client.post(
        "/v1/audio/transcriptions", files={"file": ("a.wav", TWO)}, data={"response_format": "srt"}
    )
    assert client.get(result).text == at_once.text
    assert client.get(result, params={"response_format": "text"}).text.strip() == TEXT
    whole = client.get(result, params={"response_format": "verbose_json"}).json()
    assert len(whole["segments"]) == 2
    assert client.get(result, params={"response_format": "nonsense"}).status_code == 400


def test_a_preference_makes_a_job(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/audio/translations",
        files={"file": ("a.wav", TWO)},
        headers={"Prefer": "wait=10, respond-async", "X-Request-ID": "the-proxy-says-so"},
    )
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    job = ended(client, answer.json())
    assert (job["task"], job["status"]) == ("translate", "succeeded")


def test_a_request_id_of_a_proxy_makes_no_job(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/audio/transcriptions", files={"file": ("a.wav", TWO)}, headers={"X-Request-ID": "twice"}
    )
    assert "x-job-id" not in answer.headers


def test_a_key_is_done_once(client: httpx.Client) -> None:
    def ask(**fields: str) -> httpx.Response:
        return client.post(
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", TWO)},
            data=fields,
            headers={"Idempotency-Key": "one"},
        )

    first, second, other = ask(), ask(), ask(language="en")
    assert first.json()["text"] == second.json()["text"] == TEXT
    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    (listed,) = client.get("/v1/jobs", params={"idempotency_key": "one"}).json()["data"]
    assert listed["id"] == first.headers["x-job-id"]


def test_what_a_broken_line_interrupted_is_had_again(client: httpx.Client, server: Server) -> None:
    """The client hangs up right after its upload; the job goes on, and the same request gets its result."""
    body = client.build_request(
        "POST",
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", TWO)},
        headers={"Idempotency-Key": "broken"},
    )
    head = f"POST {body.url.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in body.headers.items())
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as line:
        line.sendall(head.encode() + b"\r\n" + body.read())
        until(lambda: client.get("/v1/jobs", params={"idempotency_key": "broken"}).json()["data"])
    (job,) = client.get("/v1/jobs", params={"idempotency_key": "broken"}).json()["data"]
    assert ended(client, job)["status"] == "succeeded"
    again = client.post(
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", TWO)},
        headers={"Idempotency-Key": "broken"},
    )
    assert (again.json()["text"], again.headers["x-job-id"]) == (TEXT, job["id"])


def test_a_stream_with_a_key_is_a_job_too(client: httpx.Client) -> None:
    events = client.post(
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", TWO)},
        data={"stream": "true"},
        headers={"Idempotency-Key": "streamed"},
    )
    assert TEXT in events.text
    assert events.text.rstrip().endswith("data: [DONE]")
    assert client.get(f"/v1/jobs/{events.headers['x-job-id']}").json()["status"] == "succeeded"


def follow(
    client: httpx.Client, job: dict[str, Any], after: str = "", most: int = 99, **query: str
) -> list[Any]:
    """The job's numbered events above `after`."""
    headers = {"Last-Event-ID": after} if after else {}
    found = []
    path = f"/v1/jobs/{job['id']}/events"
    with httpx_sse.connect_sse(client, "GET", path, params=query, headers=headers) as source:
        for event in source.iter_sse():
            assert event.event != "error", event.data
            if event.id and event.event != "progress":
                found.append((event.id, event.event, event.json()))
            if len(found) == most or event.event == "done":
                return found
    return found


def test_a_broken_event_stream_goes_on_where_it_was(client: httpx.Client) -> None:
    job = submit(client, wav(talk(SENTENCES[:6])))
    head = follow(client, job, most=3)
    assert [name for _, name, _ in head] == ["started", "segment", "segment"]
    rest = follow(client, job, after=head[-1][0])
    whole = follow(client, job)
    assert head + rest == whole
    assert whole[-1][1] == "done"
    assert whole[-1][2]["text"] == " ".join(SENTENCES[:6])
    srt = {"response_format": "srt", "last_event_id": head[-1][0]}
    rest_of_it = [data for _, name, data in follow(client, job, **srt) if name == "segment"]
    at_once = client.get(f"/v1/jobs/{job['id']}/result", params=srt).text
    assert len(rest_of_it) == 4
    assert at_once.endswith("".join(rest_of_it))
    assert rest_of_it[0].startswith("3\n")
    seen = {"Last-Event-ID": whole[-1][0]}
    assert client.get(f"/v1/jobs/{job['id']}/events", headers=seen).status_code == 204


def test_a_failed_job_says_why(client: httpx.Client) -> None:
    job = ended(client, submit(client, b"no media at all" * 100))
    assert (job["status"], job["error"]["type"]) == ("failed", "NotMedia")
    result = client.get(f"/v1/jobs/{job['id']}/result")
    assert (result.status_code, result.json()["error"]["code"]) == (400, "invalid_media")
    assert job["logs"][-1]["level"] == "ERROR"


def test_cancelling_frees_the_line_and_removes_the_media(client: httpx.Client, server: Server) -> None:
    film = wav(talk(SENTENCES * 40))
    jobs = [submit(client, film) for _ in range(8)]
    running, waiting = jobs[0], jobs[-1]
    until(lambda: client.get(f"/v1/jobs/{running['id']}").json()["progress"])
    place = client.get(f"/v1/jobs/{waiting['id']}").json()
    assert place["status"] == "queued"
    assert place["position"] >= 1
    early = client.get(f"/v1/jobs/{waiting['id']}/result")
    assert (early.status_code, early.headers.get("connection")) == (202, None), "stays open"
    states = {client.delete(f"/v1/jobs/{job['id']}").json()["status"] for job in jobs}
    assert states == {"cancelled"}
    result = client.get(f"/v1/jobs/{running['id']}/result")
    assert (result.status_code, result.json()["error"]["code"]) == (410, "job_cancelled")
    until(lambda: not [*(server.data / "jobs" / "blobs").glob("??/*")])
    assert client.delete(f"/v1/jobs/{running['id']}").json()["deleted"]
    assert client.get(f"/v1/jobs/{running['id']}").json()["error"]["code"] == "job_not_found"


def test_a_request_does_not_wait_for_the_line_of_jobs(client: httpx.Client) -> None:
    long = wav(talk(SENTENCES * 10))
    jobs = [submit(client, long) for _ in range(6)]
    answer = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", TWO)})
    assert answer.json()["text"] == TEXT
    waiting = [client.delete(f"/v1/jobs/{job['id']}").json()["status"] for job in jobs]
    assert "cancelled" in waiting


def test_jobs_are_listed_page_by_page(client: httpx.Client) -> None:
    jobs = [ended(client, submit(client)) for _ in range(3)]
    first = client.get("/v1/jobs", params={"limit": 2, "status": "succeeded"}).json()
    assert [job["id"] for job in first["data"]] == [jobs[2]["id"], jobs[1]["id"]]
    assert first["has_more"]
    following = client.get("/v1/jobs", params={"limit": 2, "after": jobs[1]["id"]}).json()
    assert following["data"][0]["id"] == jobs[0]["id"]
    for bad in ({"limit": "0"}, {"status": "lost"}):
        assert client.get("/v1/jobs", params=bad).status_code == 400


# Media by address -------------------------------------------------------------------------------------


class Far(BaseHTTPRequestHandler):
    """Somebody else's web server."""

    let_go = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.end_headers()
        elif self.path == "/speech.wav":
            self.send_response(200)
            self.end_headers()
            for at in range(0, len(TWO), 20_000):
                self.wfile.write(TWO[at : at + 20_000])
                time.sleep(0.05)
        elif self.path == "/held.wav":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(LONGER[: len(LONGER) * 2 // 3])
            if self.let_go.wait(60):
                self.wfile.write(LONGER[len(LONGER) * 2 // 3 :])
        elif self.path == "/silent.wav":
            self.rfile.read(1)  # until the other side hangs up
        elif self.path == "/cut.wav":
            self.send_response(200)
            self.send_header("Content-Length", str(len(TWO)))
            self.end_headers()
            self.wfile.write(TWO[: len(TWO) // 2])
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(410)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def far() -> Iterator[int]:
    """Its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Far) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield web.server_port
        web.shutdown()


def test_media_comes_from_an_address(client: httpx.Client, far: int) -> None:
    address = f"http://localhost:{far}/to/http://localhost:{far}/speech.wav"
    answer = client.post("/v1/audio/transcriptions", files={"url": (None, address)})
    assert answer.json()["text"] == TEXT
    job = client.post("/v1/audio/transcriptions?async=true", files={"url": (None, address)}).json()
    assert ended(client, job)["status"] == "succeeded"


def test_media_is_heard_while_it_comes_from_its_address(client: httpx.Client, far: int) -> None:
    form = {"url": (None, f"http://localhost:{far}/held.wav")}
    with httpx_sse.connect_sse(client, "POST", "/v1/audio/transcriptions?stream=true", files=form) as source:
        said = ""
        for event in source.iter_sse():
            assert event.event != "error", event.data
            if event.event == "segment":
                said += event.json()["text"]
                Far.let_go.set()
    assert said.strip() == " ".join(SENTENCES * 2)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:{}/speech.wav", "private address"),
        ("http://2130706433:{}/speech.wav", "private address"),
        ("http://[::ffff:127.0.0.1]:{}/speech.wav", "private address"),
        ("http://localhost:{0}/to/http://127.0.0.1:{0}/speech.wav", "private address"),
        ("http://localhost:{}/to/file:///etc/passwd", "begins with http"),
        ("http://169.254.169.254/latest/meta-data", "private address"),
        ("http://localhost:{}/to/http://[", "leads on to what is none"),
        ("http://localhost:{}/round", "more than 5 times"),
        ("http://localhost:{}/nothing", "answers 404"),
        ("http://localhost:{}/cut.wav", "without sending complete message body"),
        ("http://no-such-host.invalid/a.wav", "not known"),
        ("http://me:secret@localhost:{}/speech.wav", "name or password"),
        ("file:///etc/passwd", "begins with http"),
        ("http://xn--/", "this is no address"),
        ("http://localhost:1/", "cannot be fetched"),
    ],
)
def test_addresses_that_are_not_fetched(client: httpx.Client, far: int, address: str, reason: str) -> None:
    answer = client.post("/v1/audio/transcriptions", files={"url": (None, address.format(far))})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_url"
    assert reason in answer.json()["error"]["message"]


def test_a_file_or_an_address_but_not_both(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", TWO)},
        data={"url": "https://example.com/a.wav"},
    )
    assert answer.json()["error"]["param"] == "url"


# What is kept -----------------------------------------------------------------------------------------


def test_no_more_is_kept_than_is_told(tmp_path: Path, far: int) -> None:
    """No store before the first job; results up to a size; nothing at all where all is private."""
    folder = tmp_path / "jobs"
    settings = {
        "WHISPERD_JOBS_SIZE": "12KB",
        "WHISPERD_JOBS_AT_ONCE": "1",
        "WHISPERD_JOBS_QUEUE": "1",
        "WHISPERD_STORAGE": str(2 * len(TWO) + 1000),
        "WHISPERD_FILES_KEEP": "1s",
        "WHISPERD_ALLOW_PRIVATE_URLS": "true",
    }
    with serving(tmp_path, environment=settings) as server, server.client() as client:
        assert client.get("/v1/jobs").json() == {"object": "list", "data": [], "has_more": False}
        assert client.get("/v1/jobs/none").status_code == 404
        assert not folder.exists()
        jobs = [ended(client, submit(client)) for _ in range(4)]
        no_more_waits_than_is_told(client, f"http://127.0.0.1:{far}/silent.wav")
        no_more_is_stored_than_is_told(client, folder)
    settings["WHISPERD_PRIVATE"] = "true"
    with serving(tmp_path, environment=settings) as server, server.client() as client:

        def left() -> list[str]:
            return [job["id"] for job in client.get("/v1/jobs").json()["data"]]

        until(lambda: len([*(folder / "results").iterdir()]) == len(left()) < 3)
        kept = left()
        assert kept == [job["id"] for job in reversed(jobs)][: len(kept)]
        job = ended(client, submit(client))
        result = f"/v1/jobs/{job['id']}/result"
        assert client.get(result).json()["text"] == TEXT
        assert client.get(result).status_code == 404
        assert {path.stem for path in (folder / "results").iterdir()} == set(kept)
        assert not [*(folder / "blobs").glob("??/*")]


def no_more_waits_than_is_told(client: httpx.Client, address: str) -> None:
    """One job at work and one in line; who asks again by its key is not turned away."""

    def ask(key: str) -> httpx.Response:
        form, headers = {"url": (None, address)}, {"Idempotency-Key": key}
        return client.post("/v1/audio/transcriptions?async=true", files=form, headers=headers)

    at_work = ask("at work").json()
    until(lambda: client.get(f"/v1/jobs/{at_work['id']}").json()["status"] == "running")
    waiting, refused = ask("waiting").json(), ask("refused")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert ask("waiting").json()["id"] == waiting["id"]
    states = [client.delete(f"/v1/jobs/{job['id']}").json()["status"] for job in (at_work, waiting)]
    assert states == ["cancelled"] * 2
    assert all(client.delete(f"/v1/jobs/{job['id']}").json()["deleted"] for job in (at_work, waiting))


def no_more_is_stored_than_is_told(client: httpx.Client, folder: Path) -> None:
    """Files and the media of waiting jobs together, each file for its time."""
    stored = [client.post("/files/upload", content=TWO) for _ in range(3)]
    assert [answer.status_code for answer in stored] == [200, 200, 507]
    assert len([*(folder / "blobs").glob("??/*")]) == 1, "the same bytes are kept once"
    refused = client.post("/v1/audio/transcriptions?async=true", files={"file": ("a.wav", TWO)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
    path = httpx.URL(stored[0].json()["access_url"]).path
    until(lambda: client.get(path).status_code == 404)


KEYS = {name: f"a-secret-of-{name}-alone" for name in ("anna", "bob", "root")}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys, bob's private."""
    lines = ",".join(f"{name}={'admin:' * (name == 'root')}{key}" for name, key in KEYS.items())
    settings = {
        "WHISPERD_KEYS": lines,
        "WHISPERD_PRIVATE_KEYS": "bob",
        "WHISPERD_ALLOWED_URL_HOSTS": "localhost",
    }
    with serving(tmp_path_factory.mktemp("keyed"), environment=settings) as running:
        yield running


def test_nothing_of_what_is_private_stays_on_the_disk(keyed: Server) -> None:
    """Looked for in every byte of the data folder, beside what is not private, which is found there."""
    with keyed.client() as client:

        def asked_for(name: str) -> dict[str, bytes]:
            """What must not be on the disk once everything has been asked for and told."""
            client.headers["Authorization"] = f"Bearer {KEYS[name]}"
            media = wav(talk([SENTENCES[5 if name == "bob" else 6]]))
            marks = {
                "media": media[2000:2400],
                "prompt": f"A prompt of {name}".encode(),
                "key": f"an-idempotency-key-of-{name}".encode(),
                "name": f"recording-of-{name}".encode(),
                "text": SENTENCES[5 if name == "bob" else 6].encode(),
            }
            job = submit(client, media, prompt=marks["prompt"].decode())
            assert follow(client, job)[-1][1] == "done"
            assert client.get(f"/v1/jobs/{job['id']}/result").status_code == 200
            failed = submit(client, b"no media" * 100, prompt=marks["prompt"].decode())
            ended(client, failed)
            assert client.get(f"/v1/jobs/{failed['id']}/result").status_code == 400
            at_once = client.post(
                "/v1/audio/transcriptions",
                files={"file": ("a.wav", media)},
                headers={"Idempotency-Key": marks["key"].decode()},
            )
            assert at_once.json()["text"].encode() == marks["text"]
            in_vain = client.post(
                "/v1/audio/transcriptions",
                files={"file": ("a.wav", b"no media" * 99)},
                data={"prompt": marks["prompt"].decode()},
                headers={"Idempotency-Key": f"another-key-of-{name}"},
            )
            assert in_vain.json()["error"]["code"] == "invalid_media"
            for use in ("/fal/run/fal-ai/whisper", "/fal-ai/whisper"):
                stored = client.post(
                    "/files/upload", content=media, headers={"X-Fal-File-Name": marks["name"].decode()}
                )
                told = client.post(use, json={"audio_url": stored.json()["access_url"]}).json()
                if at := told.get("response_url"):
                    ended(client, {"id": told["request_id"]})
                    assert client.get(httpx.URL(at).path).json()["text"]
                path = httpx.URL(stored.json()["access_url"]).path
                until(lambda: client.get(path).status_code == (404 if name == "bob" else 200))  # noqa: B023
            return marks

        def left_of(marks: dict[str, bytes]) -> set[str]:
            held = b""
            for path in keyed.data.rglob("*"):
                with suppress(FileNotFoundError):
                    held += path.read_bytes() if path.is_file() else b""
            return {mark for mark, data in marks.items() if data in held}

        bobs = asked_for("bob")
        until(lambda: not left_of(bobs))
        assert left_of(asked_for("anna")) == {"media", "prompt", "key", "name", "text"}


def test_what_is_private_stays_for_its_client_where_no_webhook_takes_it(keyed: Server, far: int) -> None:
    with keyed.client() as client:
        client.headers["Authorization"] = f"Bearer {KEYS['bob']}"
        job = submit(client, query=f"&webhook=http://localhost:{far}/gone")
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["webhook"]["state"] == "given up")
        assert client.get(f"/v1/jobs/{job['id']}/result").json()["text"] == TEXT


def test_a_key_sees_its_own_jobs_and_is_private_where_told(keyed: Server) -> None:
    with keyed.client() as client:

        def seen(name: str, path: str) -> httpx.Response:
            return client.get(path, headers={"Authorization": f"Bearer {KEYS[name]}"})

        def submitted(name: str) -> str:
            client.headers["Authorization"] = f"Bearer {KEYS[name]}"
            done = ended(client, submit(client))
            del client.headers["Authorization"]
            return str(done["id"])

        job = submitted("anna")
        newest = {name: [one["id"] for one in seen(name, "/v1/jobs").json()["data"][:1]] for name in KEYS}
        assert newest == {"anna": [job], "bob": [], "root": [job]}
        for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/result", f"/v1/jobs/{job}/events"):
            assert seen("bob", path).json()["error"]["code"] == "job_not_found"
        assert seen("root", f"/v1/jobs/{job}").json()["id"] == job
        assert client.get("/v1/jobs").status_code == 401
        result = f"/v1/jobs/{submitted('bob')}/result"
        assert [seen("bob", result).status_code for _ in range(2)] == [200, 404]
        assert [seen("anna", f"/v1/jobs/{job}/result").status_code for _ in range(2)] == [200, 200]
        kept = {path.stem for path in (keyed.data / "jobs" / "results").iterdir()}
        assert job in kept
        assert result.split("/")[3] not in kept


def test_silence_is_a_result(client: httpx.Client) -> None:
    job = ended(client, submit(client, wav(silence(2))))
    assert client.get(f"/v1/jobs/{job['id']}/result").json()["text"] == ""
