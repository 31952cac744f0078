"""What was spoken before: found again, bounded, whole or not at all; and of private keys nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.phrases import Phrases
from tests.serving import Server, serving, until

KEYS = {"open": "a-key-for-all-to-see", "secret": "a-key-of-ones-own"}
SIZE = 2_000_000

SAID = "Good morning. The weather is beautiful today."


@pytest.fixture
def phrases(tmp_path: Path) -> Phrases:
    phrases = Phrases(tmp_path / "phrases", 1000)
    phrases.open()
    return phrases


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_the_least_recently_used_go_first(phrases: Phrases, tmp_path: Path) -> None:
    for name in "abc":
        phrases.put(name, name.encode() * 300)
    assert phrases.get("a") == b"a" * 300
    phrases.put("d", b"d" * 300)
    assert [name for name in "abcd" if phrases.get(name)] == ["a", "c", "d"]
    assert size(tmp_path / "phrases") <= 1000
    phrases.put("large", bytes(1000))
    assert phrases.get("large") is None
    assert phrases.get("d") == b"d" * 300, "what cannot be kept takes nobody's place"


def test_they_outlive_the_server_in_their_order(phrases: Phrases, tmp_path: Path) -> None:
    folder = tmp_path / "phrases"
    for place, name in enumerate("abc"):
        phrases.put(name, bytes(300))
        os.utime(folder / name, (place, place))
    (folder / ".d.1-2.tmp").write_bytes(b"half")
    smaller = Phrases(folder, 700)
    smaller.open()
    assert sorted(file.name for file in folder.iterdir()) == ["b", "c"]
    assert smaller.get("b") == bytes(300)
    Phrases(folder, 0).open()
    assert not folder.exists(), "who wants none kept has none"


@pytest.mark.parametrize("damage", [b"", b"abc", b"x" * 304])
def test_what_is_damaged_is_made_anew(phrases: Phrases, tmp_path: Path, damage: bytes) -> None:
    phrases.put("a", b"a" * 300)
    (tmp_path / "phrases" / "a").write_bytes(damage)
    assert not phrases.get("a")
    phrases.put("a", b"b" * 300)
    assert phrases.get("a") == b"b" * 300


def test_a_disk_that_cannot_be_written_to_is_no_error(phrases: Phrases, tmp_path: Path) -> None:
    (tmp_path / "phrases").rmdir()
    phrases.put("a", b"a")
    assert phrases.get("a") is None


# In a server -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {
        "WHISPERD_SPEECH_CACHE": str(SIZE),
        "WHISPERD_KEYS": ",".join(f"{name}=use:{key}" for name, key in KEYS.items()),
        "WHISPERD_PRIVATE_KEYS": "secret",
    }
    with serving(tmp_path_factory.mktemp("data"), environment=environment) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        client.headers["Authorization"] = f"Bearer {KEYS['open']}"
        yield client


def kept(server: Server) -> set[str]:
    return {file.name for file in (server.data / "phrases").iterdir() if not file.suffix}


def ask(client: httpx.Client, **fields: object) -> bytes:
    body = {"input": SAID, "response_format": "pcm", "voice": "alloy"} | fields
    return client.post("/v1/audio/speech", json=body).raise_for_status().content


def test_what_was_spoken_needs_no_voice_again(server: Server, client: httpx.Client) -> None:
    first = ask(client)
    until(lambda: len(kept(server)) == 2)
    for process in server.children("server.speaker"):
        process.kill()
    until(lambda: not server.children("server.speaker"))
    assert ask(client) == first, "espeak-ng never speaks twice the same"
    assert ask(client, input="Good morning.") == first[: len(ask(client, input="Good morning."))]
    assert not server.children("server.speaker")
    assert len(ask(client, response_format="mp3")) > 1000
    assert ask(client, input="Good morning. Peter lives in London.")
    assert server.children("server.speaker"), "only what is new is spoken"


def test_what_sounds_otherwise_is_another_phrase(server: Server, client: httpx.Client) -> None:
    said = "The number is four."
    sounds = [
        ask(client, input=said),
        ask(client, input=said, voice="nova"),
        ask(client, input=said, speed=2),
        ask(client, input='<speak>The <phoneme ph="nʊmbə">number</phoneme> is four.</speak>'),
        ask(client, input=said, voice="Espeak.DE-DE.default"),
    ]
    assert len(set(sounds)) == len(sounds)


def test_of_a_private_key_nothing_is_kept(server: Server, client: httpx.Client) -> None:
    before = kept(server)
    client.headers["Authorization"] = f"Bearer {KEYS['secret']}"
    form = {"text": "My name is a secret.", "language": "en-US"}
    assert ask(client, input="Nobody is to know this.")
    assert client.post("/v1/audio/synthesize", data=form).status_code == 200
    assert kept(server) == before
    client.headers["Authorization"] = f"Bearer {KEYS['open']}"
    assert client.post("/v1/audio/synthesize", data=form).status_code == 200
    until(lambda: len(kept(server)) == len(before) + 1)


def test_the_folder_stays_within_its_bound(server: Server, client: httpx.Client) -> None:
    for number in range(60):
        ask(client, input=f"This is the sentence number {number}.")
    assert 0 < size(server.data / "phrases") <= SIZE
