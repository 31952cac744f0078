"""The bench against other programs, at its quickest, and the models that it makes for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.fixed import write_fixed
from server.convert import convert
from server.engines import ctranslate2, whisper_cpp
from server.types import Decode, Loading
from tests.serving import ROOT
from tests.speech import say

PAGE = "before\n<!-- engines: begin; written by scripts/bench engines -->\n<!-- engines: end -->\nafter\n"


def bench(*flags: str, caches: Path, name: str = "engines") -> subprocess.CompletedProcess[str]:
    """In a place where whisper.cpp's server has not been built: building it takes minutes."""
    return subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "XDG_CACHE_HOME": str(caches)},
    )


@pytest.mark.long
def test_a_quick_run_compares_and_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "kept.json"
    page.write_text(PAGE)
    flags = ("--quick", "--write", "--page", str(page), "--kept", str(kept))
    done = bench(*flags, "--only", "demo-60", caches=tmp_path)
    assert done.returncode == 0, done.stderr
    programs = json.loads(kept.read_text())["demo-60"]["programs"]
    assert set(programs) == {
        "whisperd, CTranslate2",
        "whisperd, whisper.cpp",
        "whisperd's CTranslate2 alone, its windows",
        "pywhispercpp",
        "faster-whisper",
        "faster-whisper, batched",
        "faster-whisper, batched, our windows",
    }
    for name, figures in programs.items():
        assert figures["rounds"][0] > 0, name
        assert figures["memory"] > 20, name
    for name in ("whisperd, CTranslate2", "whisperd, whisper.cpp"):
        assert programs[name]["word_errors"] < 0.1, name
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| demo model: a file of 60 s | whisperd, CTranslate2 |" in text

    again = bench(*flags, caches=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "a file of 60 s" not in again.stderr, "what is there was measured again"
    assert set(json.loads(kept.read_text())) == {"demo-clips", "demo-60"}


def test_parts_that_are_not_known_are_refused_with_those_that_are(tmp_path: Path) -> None:
    done = bench("--only", "demo-99", caches=tmp_path)
    assert done.returncode == 2
    assert "demo-99" in done.stderr
    assert "demo-clips" in done.stderr


@pytest.mark.long
def test_both_engines_say_the_same_words_of_random_weights(tmp_path: Path) -> None:
    path, folder = write_fixed(tmp_path / "ggml-base-12.bin", "base", 12), tmp_path / "converted"
    convert(path, folder, "int8")
    pcm = say("Open the window.")
    decode = Decode(language="en", threads=2)
    texts = [
        "".join(segment.text for segment in engine.transcribe(pcm, decode, lambda: False).segments)
        for engine in (
            ctranslate2.Engine(folder, Loading("ctranslate2", folder, threads=2)),
            whisper_cpp.Engine(path, Loading()),
        )
    ]
    assert texts[0] == texts[1]
    assert len(texts[0].split()) == 12


@pytest.mark.long
def test_a_look_at_speech_fills_both_pages_and_keeps_what_they_have(tmp_path: Path) -> None:
    accuracy, performance = tmp_path / "accuracy.md", tmp_path / "performance.md"
    for page in (accuracy, performance):
        page.write_text(PAGE.replace("engines", "speech"))
    pages = ("--write", "--accuracy", str(accuracy), "--performance", str(performance))
    few = ("--sentences", "2", "--requests", "3", "--rounds", "1", "--many", "100")
    for parts in ("words,first", "piper,engines,memory"):
        done = bench(*pages, *few, "--only", parts, caches=tmp_path, name="speech")
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "accuracy-speech.json").read_text())["word_errors"]
    assert {"mp3", "opus", "aac", "flac", "wav", "pcm"} < set(found)
    assert all(wrong["all"] < 0.1 for wrong in found.values())
    assert "| mp3 |" in accuracy.read_text()
    text = performance.read_text()
    for row in ("| pcm |", "| Kokoro, tiny model |", "| over HTTP over alone |", "| after 100 |"):
        assert row in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
