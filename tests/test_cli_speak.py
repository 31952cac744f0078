"""`whisperd speak` and `whisperd voices`, as people type them."""

import subprocess
import sys
import wave
from pathlib import Path

import pytest

from tests import tiny_voices


def whisperd(*arguments: str, data: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments, "--data", str(data)],
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
    [(("Hi.", "-o", "a.txt"), "suffix"), (("Hi.", "--voice", "nobody", "-o", "a.mp3"), "no voice 'nobody'")],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = whisperd("speak", *arguments, data=tmp_path)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_voices_are_listed_and_deleted(tmp_path: Path) -> None:
    file = tiny_voices.piper(tmp_path / "voices")
    listed = whisperd("voices", "list", "--language", "en", data=tmp_path).stdout
    assert "Piper.EN-US.tiny-x_low.high" in listed
    assert "Espeak.DE-DE" not in listed
    assert "Espeak.EN-GB.default" in listed
    assert whisperd("voices", "rm", "en_US-tiny-x_low", data=tmp_path).returncode == 0
    assert not file.exists()
    assert not file.with_name(file.name + ".json").exists()
    kept = whisperd("voices", "rm", "Espeak.EN-US.default", data=tmp_path)
    assert kept.returncode == 1
    assert "comes with its engine" in kept.stderr
