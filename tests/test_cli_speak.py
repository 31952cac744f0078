"""`whisperd speak` and `whisperd voices`, as people type them."""

import os
import socket
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import keys
from tests import tiny_voices
from tests.serving import Server, serving


def whisperd(*arguments: str, data: Path, stdin: str = "", key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments, "--data", str(data)],
        env=os.environ | {"WHISPERD_API_KEY": key, "COLUMNS": "1000"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("name", "head"), [("a.mp3", b"\xff"), ("a.opus", b"OggS"), ("a.flac", b"fLaC")])
def test_a_text_becomes_a_file(tmp_path: Path, name: str, head: bytes) -> None:
    file = tmp_path / name
    ran = whisperd("speak", "Good morning.", "-o", str(file), data=tmp_path / "data")
    assert ran.returncode == 0, ran.stderr
    assert "Espeak.EN-US.default" in ran.stderr
    assert file.read_bytes().startswith(head)
    assert [path.name for path in tmp_path.glob("a*")] == [name], "nothing half is left"


def test_standard_input_and_a_wav_that_knows_its_length(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    ran = whisperd(
        "speak", "-", "-o", str(file), "--language", "de-DE", data=tmp_path / "data", stdin="Guten Tag."
    )
    assert ran.returncode == 0, ran.stderr
    with wave.open(str(file)) as sound:
        assert 44 + 2 * sound.getnframes() == file.stat().st_size
    assert "Espeak.DE-DE.default" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Hi.", "-o", "a.txt"), "suffix"),
        (("Hi.", "--voice", "nobody", "-o", "a.mp3"), "no voice 'nobody'"),
        ((" ", "-o", "a.mp3"), "no text"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = whisperd("speak", *arguments, data=tmp_path)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


KEY = "use-with-the-command-line"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key."""
    data = tmp_path_factory.mktemp("data")
    with serving(data, environment={"WHISPERD_KEYS": f"line={keys.line(KEY, 'use')}"}) as server:
        yield server


def test_a_running_server_speaks(locked: Server, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    ran = whisperd(
        "speak", "-", "-o", str(file), "--url", locked.url, "--voice", "Espeak.DE-DE.f2", "--speed", "2",
        data=tmp_path / "data", stdin="Guten Tag, wie geht es Ihnen?", key=KEY,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "spoken by Espeak.DE-DE.f2" in ran.stderr
    with wave.open(str(file)) as sound:
        assert 44 + 2 * sound.getnframes() == file.stat().st_size
        assert 0.4 < sound.getnframes() / sound.getframerate() < 2
    assert not (tmp_path / "data").exists(), "nothing is done here"


@pytest.mark.parametrize(
    ("key", "arguments", "said"),
    [
        ("", (), "wants an API key"),
        (KEY, ("--voice", "nobody"), "no voice 'nobody'"),
        (KEY, ("--url", "http://127.0.0.1:1"), "http://127.0.0.1:1"),
    ],
)
def test_what_a_server_refuses_is_one_sentence(
    locked: Server, tmp_path: Path, key: str, arguments: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "a.mp3"
    ran = whisperd(
        "speak", "Hi.", "-o", str(file), "--url", locked.url, *arguments, data=tmp_path / "data", key=key
    )
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not file.exists()


def test_sound_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        ran = whisperd("speak", "Hi.", "-o", str(tmp_path / "a.mp3"), "--url", url, data=tmp_path / "data")
        thread.join(30)
    assert ran.returncode == 1
    assert url in ran.stderr
    assert not list(tmp_path.glob("a*"))


def test_voices_are_listed_and_deleted(tmp_path: Path) -> None:
    file = tiny_voices.piper(tmp_path / "voices")
    listed = whisperd("voices", "list", "--language", "en", data=tmp_path).stdout
    assert "Piper.EN-US.tiny-x_low.high" in listed
    assert "Espeak.DE-DE" not in listed
    assert "Espeak.EN-GB.default" in listed
    assert whisperd("voices", "rm", "en_US-tiny-x_low", data=tmp_path).returncode == 0
    assert not file.exists()
    assert not file.with_name(file.name + ".json").exists()
    model = tiny_voices.kokoro(tmp_path / "voices" / "kokoro")
    other = tiny_voices.kokoro(tmp_path / "voices" / "kokoro", "onnx/model")
    assert whisperd("voices", "rm", "af_nova", data=tmp_path).returncode == 0
    assert [file.exists() for file in (model, other)] == [True, False], "the first one by name has it"
    assert (model.parent.parent / "voices" / "af_nova.bin").exists(), "the other model speaks in it"
    assert whisperd("voices", "rm", "af_heart", data=tmp_path).returncode == 0
    assert not [*(tmp_path / "voices" / "kokoro").rglob("*.*")]
    kept = whisperd("voices", "rm", "Espeak.EN-US.default", data=tmp_path)
    assert kept.returncode == 1
    assert "comes with its engine" in kept.stderr
