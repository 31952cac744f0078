"""Keys: who may use the server, who may change it, and that nobody else learns them."""

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Route

from server import config, dialects, keys
from server.config import ConfigError
from server.errors import NoKey, NoScope
from server.guard import Guard
from server.keys import Key, Keys
from tests.serving import ROOT, Server, serving
from tests.speech import SENTENCES, say, wav
from tests.test_guard import outer_address

USE, ADMIN, PLAIN = keys.make(), keys.make(), "a-key-of-ones-own"
MISPLACED = "a-key-in-the-address"
CLIP = wav(say(SENTENCES[0]))

APP = next(iter(config.Config().fal_apps))
"""Routes of fal's applications are there for those that are configured."""
DOORS = [door for door in dialects.doors() if isinstance(door.route, Route)]


# The keys themselves ----------------------------------------------------------------------------------


def test_a_key_is_found_by_its_hash_alone() -> None:
    known = Keys({"me": keys.line(ADMIN, "admin"), "tv": keys.line(USE, "use")})
    assert known.find([USE]) == Key("tv", "use")
    assert known.find(["", "none", ADMIN]) == Key("me", "admin")
    assert known.find([ADMIN[:-1], ADMIN + "x", keys.line(USE, "use"), keys.line(USE, "use")[11:]]) is None
    assert USE not in repr(vars(known))


def test_admin_may_what_use_may() -> None:
    assert [Key("a", "admin").may(scope) for scope in ("use", "admin")] == [True, True]
    assert [Key("a", "use").may(scope) for scope in ("use", "admin")] == [True, False]


def test_made_keys_differ_and_cannot_be_guessed() -> None:
    made = {keys.make() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"whisperd_[\w-]{43}", key) for key in made)


def test_a_lent_key_is_good_for_its_time() -> None:
    now = [0.0]
    known = Keys({}, clock=lambda: now[0])
    lent = known.lend("session", "use", 60)
    assert known.find([lent]) == Key("session", "use")
    now[0] = 61
    assert known.find([lent]) is None
    known.lend("other", "use", 60)
    assert len(known._lent) == 1
    assert not known.needed, "only keys of the settings lock the door"


def test_keys_in_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"keys:\n  tv: {keys.line(USE, 'use')}\n")
    assert config.read(file, {}).keys == {"tv": keys.line(USE, "use")}
    both = config.read(file, {"WHISPERD_API_KEY": PLAIN})
    assert both.keys == {"tv": keys.line(USE, "use"), "environment": keys.line(PLAIN, "admin")}
    lines = f"a={PLAIN}, b=admin:{PLAIN},c={keys.line(USE, 'use')}"
    named = config.read(environment={"WHISPERD_KEYS": lines})
    assert named.keys == {
        "a": keys.line(PLAIN, "use"),
        "b": keys.line(PLAIN, "admin"),
        "c": keys.line(USE, "use"),
    }
    assert PLAIN not in repr(named)
    assert config.read(environment={"WHISPERD_API_KEY": ""}).keys == {}


@pytest.mark.parametrize(
    ("file", "environment"),
    [
        (f"keys:\n  tv: {PLAIN}", {}),
        (f"keys:\n  tv: use:{PLAIN}", {}),
        (f"keys: [{PLAIN}]", {}),
        (f"keys: {PLAIN}", {}),
        (f"keys:\n  'a b': {keys.line(PLAIN, 'use')}", {}),
        ("", {"WHISPERD_KEYS": PLAIN}),
        ("", {"WHISPERD_KEYS": "tv=secret-short"}),
        ("", {"WHISPERD_API_KEY": "secret-short"}),
        ("", {"WHISPERD_API_KEY": "secret with blanks in it"}),
        ("", {"WHISPERD_API_KEY": "sécret-with-accents"}),
    ],
)
def test_what_is_no_key_stops_the_start_and_is_not_repeated(
    tmp_path: Path, file: str, environment: dict[str, str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(file)
    with pytest.raises(ConfigError) as refused:
        config.read(path, environment)
    assert PLAIN not in str(refused.value)
    assert "ecret" not in str(refused.value)
    assert "keys" in str(refused.value).lower()


# A server with keys -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {
        "WHISPERD_KEYS": f"tv={USE},me={keys.line(ADMIN, 'admin')},x={MISPLACED}",
        "WHISPERD_API_KEY": PLAIN,
    }
    with serving(tmp_path_factory.mktemp("locked"), environment=environment) as running:
        yield running


@pytest.fixture
def asking(locked: Server) -> Iterator[httpx.Client]:
    with locked.client() as client:
        yield client


def test_the_servers_own_first_clip_needs_none(locked: Server) -> None:
    assert "the bundled clip, heard by" in locked.log
    assert '-H "Authorization: Bearer $WHISPERD_API_KEY"' in locked.log


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {USE}"},
        {"authorization": f"bearer  {USE}"},
        {"authorization": f"Key {USE}"},
        {"x-api-key": USE},
        {"authorization": "Bearer none", "x-api-key": ADMIN},
        {"authorization": f"Bearer {PLAIN}"},
        {"authorization": basic("anybody", USE)},
        {"authorization": f"Bearer {USE}", "host": "evil.example", "origin": "https://evil.example"},
    ],
)
def test_a_key_opens(asking: httpx.Client, headers: dict[str, str]) -> None:
    assert asking.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {USE[:-1]}"},
        {"authorization": f"Token {USE}"},
        {"authorization": "Bearer \xe4".encode("latin-1")},
        {"authorization": "Basic !"},
        {"authorization": basic(USE, "")},
        {"authorization": f"Bearer {keys.line(USE, 'use')}"},
        {"x-api-key": ""},
        {"cookie": f"key={USE}"},
    ],
)
def test_nothing_else_opens(asking: httpx.Client, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/api/v1/models/ggml-demo", "/nowhere", "/v1/models/"):
        refused = asking.get(path, headers=headers, params={"api_key": MISPLACED})
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
        assert USE[:-1] not in refused.text


def test_using_is_not_changing(asking: httpx.Client) -> None:
    for method, path in (
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/ggml-demo"),
        ("POST", "/api/v1/models/ggml-demo/unload"),
        ("POST", "/v1/models/ggml-demo/load"),
    ):
        refused = asking.request(method, path, headers={"authorization": f"Bearer {USE}"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")
        assert "'tv'" in refused.json()["reason"]
    loaded = asking.post("/v1/models/ggml-demo/load", headers={"x-api-key": ADMIN})
    assert loaded.json()["loaded"] is True


def test_a_password_that_a_browser_remembers_is_no_page_s(asking: httpx.Client) -> None:
    """It sends it along with what any page asks for."""
    headers = {"authorization": basic("me", ADMIN), "origin": "https://evil.example"}
    refused = asking.post("/v1/models/ggml-demo/unload", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_page")


def expected(door: dialects.Door, error: Exception) -> tuple[int, bytes]:
    answer = door.refusal(error)  # type: ignore[arg-type]
    assert isinstance(answer, Response)
    return answer.status_code, bytes(answer.body)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{max(door.route.methods)} {door.route.path}")
def test_each_door_is_shut_in_its_dialects_own_words(asking: httpx.Client, door: dialects.Door) -> None:
    assert isinstance(door.route, Route)
    path = door.route.path.replace("{app:path}", APP)
    path = re.sub(r"{(\w+)(:\w+)?}", "nothing", path)
    (method, *_) = sorted((door.route.methods or {"GET"}) - {"HEAD"})
    answer = asking.request(method, path)
    told = "this server wants an API key: send it as `Authorization: Bearer KEY`"
    shut = (answer.status_code, answer.content) == expected(door, NoKey(told))
    assert shut is (door.scope is not None)
    if door.scope == "admin":
        answer = asking.request(method, path, headers={"x-api-key": USE})
        told = "the key 'tv' may use this server, but not change it (scope admin)"
        assert (answer.status_code, answer.content) == expected(door, NoScope(told))


def test_what_wants_no_key_is_documented() -> None:
    page = (ROOT / "docs" / "keys.md").read_text()
    told = re.findall(r"`(/[^`…]*)", page.partition("No key is wanted")[2].partition("\n\n")[0])
    opened = {door.route.path for door in DOORS if isinstance(door.route, Route) and door.scope is None}
    silent = {path for path in opened if not path.removeprefix("/api").startswith(tuple(told))}
    assert told
    assert not silent


@pytest.mark.parametrize("token", ["realtime-token.", "openai-insecure-api-key."])
def test_a_websocket_names_its_key_among_its_protocols(token: str) -> None:
    guard = Guard(lambda *_: None, keys=Keys({"tv": keys.line(USE, "use")}))  # type: ignore[arg-type]
    scope: dict[str, Any] = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    scope["subprotocols"] = ["realtime", token + USE]
    guard._check(HTTPConnection(scope), dialects.door(scope))
    assert scope["state"] == {"key": Key("tv", "use")}
    scope["subprotocols"] = ["realtime", USE]
    with pytest.raises(NoKey):
        guard._check(HTTPConnection(scope), dialects.door(scope))


def test_openais_client(locked: Server) -> None:
    good = openai.OpenAI(base_url=f"{locked.url}/v1", api_key=USE, max_retries=0)
    heard = good.audio.transcriptions.create(model="ggml-demo", file=("a.wav", CLIP), language="en")
    assert heard.text == SENTENCES[0]
    bad = openai.OpenAI(base_url=f"{locked.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        bad.models.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        good.models.delete("ggml-demo")


def whisperd(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"NO_COLOR": "1", "COLUMNS": "1000", **environment}
    return subprocess.run(
        [sys.executable, "-m", "server", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | own,
    )


def test_the_command_line_sends_its_key(locked: Server, tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    clip.write_bytes(CLIP)
    asked = ("--url", locked.url)
    assert "ggml-demo" in whisperd("models", "list", *asked, "--key", USE).stdout
    heard = whisperd("transcribe", str(clip), "--language", "en", *asked, WHISPERD_API_KEY=USE)
    assert heard.stdout.strip() == SENTENCES[0]
    refused = whisperd("models", "rm", "ggml-demo", *asked, WHISPERD_API_KEY=USE)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "scope admin" in refused.stderr
    assert "wants an API key" in whisperd("models", "list", *asked).stderr
    odd = whisperd("transcribe", str(clip), *asked, "--key", "odd\nkey")
    assert (odd.returncode, "characters that no key has" in odd.stderr) == (1, True)


def test_nobody_else_learns_them(locked: Server, asking: httpx.Client) -> None:
    asking.post("/v1/audio/transcriptions", headers={"x-api-key": USE}, files={"file": ("a.wav", CLIP)})
    asking.get("/v1/models", headers={"authorization": f"Bearer {ADMIN}x"})
    assert not [secret for secret in (USE, ADMIN, PLAIN) if secret in locked.log]
    children = locked.children()
    assert children
    for child in children:
        assert "WHISPERD" not in Path(f"/proc/{child.pid}/environ").read_text()


def test_the_doctors_tools_do_not_learn_them_either(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nenv | tr '\\n' ' '\n")
    tool.chmod(0o755)
    told = whisperd(
        *("doctor", "--data", str(tmp_path / "data")),
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        WHISPERD_API_KEY=PLAIN,
    )
    assert "GOMP_SPINCOUNT" in told.stdout, "the tool has told its environment"
    assert PLAIN not in told.stdout + told.stderr


# Making them, and starting without --------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["use", "admin"])
def test_a_made_key_and_its_line_belong_together(tmp_path: Path, scope: str) -> None:
    made = whisperd("keys", "make", "living-room", "--scope", scope)
    secret, line = made.stdout.strip(), made.stderr.strip().splitlines()[-1]
    file = tmp_path / "c.yaml"
    file.write_text(f"keys:\n  {line}\n")
    assert Keys(config.read(file, {}).keys).find([secret]) == Key("living-room", scope)  # type: ignore[arg-type]
    assert secret not in made.stderr


def test_a_bad_name_or_scope_makes_none() -> None:
    assert whisperd("keys", "make", "a b").returncode == 1
    assert whisperd("keys", "make", "a", "--scope", "root").returncode == 2


def test_beyond_this_machine_it_does_not_start_without_a_key(tmp_path: Path) -> None:
    refused = whisperd("serve", "--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path))
    assert refused.returncode == 1
    assert "whisperd keys make NAME" in refused.stderr
    assert "open: true" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_beyond_this_machine_it_starts_open_when_told_so(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", "0.0.0.0", "--open", "true") as server:
        outer = server.url.replace("127.0.0.1", outer_address())
        assert httpx.get(f"{outer}/v1/models", trust_env=False).status_code == 200


def test_the_first_start_makes_a_key_shows_it_once_and_keeps_its_hash(tmp_path: Path) -> None:
    start = ("--host", "0.0.0.0", "--make-key", "true")
    with serving(tmp_path, *start) as server:
        (secret,) = re.findall(r"whisperd_\S+", server.log)
        check(server, secret)
    file = tmp_path / "key.yaml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in file.read_text()
    with serving(tmp_path, *start) as server:
        assert "whisperd_" not in server.log
        check(server, secret)
    with serving(tmp_path, *start, environment={"WHISPERD_API_KEY": PLAIN}) as server:
        check(server, PLAIN, stranger=secret)
    file.write_text("")
    broken = whisperd("serve", *start, "--port", "0", "--data", str(tmp_path))
    assert (broken.returncode, "has no key" in broken.stderr) == (1, True)


def check(server: Server, secret: str, stranger: str = "x") -> None:
    with server.client() as client:
        assert client.get("/v1/health").status_code == 200
        assert client.get("/v1/models", headers={"x-api-key": stranger}).status_code == 401
        assert client.get("/v1/models", headers={"x-api-key": secret}).status_code == 200


def test_on_loopback_no_key_is_made(tmp_path: Path) -> None:
    with serving(tmp_path, "--make-key", "true") as server, server.client() as client:
        assert client.get("/v1/models").status_code == 200
    assert not (tmp_path / "key.yaml").exists()
    shutil.rmtree(tmp_path)
