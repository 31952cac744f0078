"""The bench against other programs, at its quickest, and the models that it makes for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import dialogues
from bench.dialogues import Heard, Said
from bench.diarization import MARKS
from bench.fixed import write_fixed
from server.convert import convert
from server.engines import ctranslate2, whisper_cpp
from server.types import Decode, Loading, Turn
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


ANN, BOB = ["where", "is", "the", "house"], ["over", "there"]
TRUE = [Said(word, "ann", 0, 2) for word in ANN] + [Said(word, "bob", 3, 4) for word in BOB]


def told(words: str) -> list[Heard]:
    """Words with their speakers, in the middle of who says them: "where/1/ann"."""
    split = [word.split("/") for word in words.split()]
    return [Heard(text, name or None, {"ann": 1.0, "bob": 3.5}[voice]) for text, name, voice in split]


def test_words_with_a_wrong_speaker_are_counted_whatever_speakers_are_called() -> None:
    heard = told("where/2/ann was/2/ann house/1/ann over/1/bob there/1/bob again//bob")
    words = dialogues.words(TRUE, heard)
    # "the" was missed and "again" added; of the five that lie beside a true word one is said by the other.
    assert (words.laid, words.wrong, words.nobodys) == (5, 1, 1)
    assert words.errors == pytest.approx(3 / 6)


def test_words_of_another_time_do_not_stand_for_each_other() -> None:
    twice = [*TRUE, *(Said(word, "bob", 6, 8) for word in ANN)]
    heard = [Heard(word, "1", 7.0) for word in ANN]
    words = dialogues.words(twice, heard)
    assert (words.laid, words.wrong) == (4, 0)


@pytest.mark.parametrize(("speaker", "wrong", "nobodys"), [("1", 2, 0), ("", 6, 6)])
def test_where_too_few_speakers_were_found_words_are_wrong(speaker: str, wrong: int, nobodys: int) -> None:
    heard = told(" ".join(f"{said.text}/{speaker}/{said.voice}" for said in TRUE))
    words = dialogues.words(TRUE, heard)
    assert (words.laid, words.wrong, words.nobodys) == (6, wrong, nobodys)


@pytest.mark.slow
def test_the_error_rate_does_not_depend_on_names() -> None:
    true = [Turn(0, 2, "ann"), Turn(2, 4, "bob")]
    assert dialogues.error_rate(true, [Turn(0, 2, "1"), Turn(2, 4, "0")], 5) == 0
    # A second missed, one of the wrong speaker, and one in which nobody speaks.
    found = [Turn(1, 3, "1"), Turn(3, 5, "0")]
    assert dialogues.error_rate(true, found, 5) == pytest.approx(3 / 4)


@pytest.mark.long
def test_who_says_what_is_measured_and_written_into_both_pages(tmp_path: Path) -> None:
    marks = "before\n{}\n{}\nafter\n".format(*MARKS)
    for page in ("accuracy.md", "performance.md"):
        (tmp_path / page).write_text(marks)
    flags = ("--seconds", "20", "--talks", "1", "--rounds", "1", "--hours", "0.02", "--write")
    done = bench(
        *flags, "--only", "two,time,long", "--pages", str(tmp_path), caches=tmp_path, name="diarization"
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "diarization.json").read_text())
    assert {*kept} == {"machine", "two", "time", "long"}
    assert all(row["words"]["nobodys"] == 0 for row in kept["two"])
    assert kept["long"]["highest"][0] >= kept["long"]["loaded"][0] > kept["long"]["loaded"][1] > 100
    assert "| default, f3 | " in (tmp_path / "accuracy.md").read_text()
    assert "over the longer of the two" in (tmp_path / "performance.md").read_text()
