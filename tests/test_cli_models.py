"""`whisperd models`, here and against a running server."""

import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import HOME, Hub, model
from tests.serving import Server, serving

DEMO = Path(__file__).parent.parent / "models" / "ggml-demo.bin"
MODEL = model()


def whisperd(
    *words: object, data: Path, hub: Hub | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """The command `whisperd models`, its data folder at `data`, its hub that of the test or none."""
    return subprocess.run(
        [sys.executable, "-m", "server", "models", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(data, hub) | more,
    )


def environment(data: Path, hub: Hub | None) -> dict[str, str]:
    endpoint = hub.url if hub else "http://127.0.0.1:9"
    own = {"WHISPERD_DATA": str(data), "HF_ENDPOINT": endpoint, "HF_TOKEN": "", "NO_COLOR": "1"}
    return {**os.environ, **own, "COLUMNS": "200"}


def rows(table: str) -> dict[str, list[str]]:
    """Lines of a table by their first cell."""
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells}


@pytest.fixture
def running(hub: Hub, tmp_path: Path) -> Iterator[Server]:
    """A server with data of its own, so that what it has is not what is here."""
    with serving(tmp_path / "server", environment={"HF_ENDPOINT": hub.url, "HF_TOKEN": ""}) as server:
        yield server


@pytest.fixture(params=["here", "there"])
def place(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The flags that choose where the command works."""
    if request.param == "here":
        return ()
    server: Server = request.getfixturevalue("running")
    return ("--url", server.url)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "here"


def test_pull_show_list_and_rm(hub: Hub, data: Path, tmp_path: Path, place: tuple[str, ...]) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    pulled = whisperd("pull", "ggml-tiny.bin", *place, data=data, hub=hub)
    assert (pulled.returncode, pulled.stdout) == (0, "ggml-tiny is installed (4 MB)\n"), pulled.stderr
    again = whisperd("pull", "tiny", *place, data=data, hub=hub)
    assert again.stdout == "ggml-tiny was already installed (4 MB)\n"
    folder = (tmp_path / "server" if place else data) / "models"
    assert (folder / "ggml-tiny.bin").read_bytes() == MODEL
    assert data.exists() is not bool(place)

    listed = rows(whisperd("list", *place, data=data).stdout)
    assert list(listed) == ["model", "ggml-demo", "ggml-tiny"]
    assert listed["ggml-tiny"][0] == "4 MB"
    assert listed["ggml-demo"][-3:-1] == ["en, de, es, fr", "translate, words"]
    assert listed["ggml-tiny"][-1] == "installed"

    shown = rows(whisperd("show", "tiny", *place, data=data).stdout)
    assert (shown["id"], shown["path"]) == (["ggml-tiny"], ["ggml-tiny.bin"])
    assert (shown["loaded"], shown["size"]) == (["no"], [str(len(MODEL))])
    assert len(shown["sha256"][0]) == 64

    gone = whisperd("rm", "tiny", *place, data=data)
    assert (gone.returncode, gone.stdout) == (0, "ggml-tiny is deleted\n")
    assert not (folder / "ggml-tiny.bin").exists()
    assert list(rows(whisperd("list", *place, data=data).stdout)) == ["model", "ggml-demo"]


def test_what_can_be_pulled(data: Path, place: tuple[str, ...]) -> None:
    listed = rows(whisperd("list", "--available", *place, data=data).stdout)
    assert listed["ggml-large-v3-turbo"] == [
        "1,625 MB",
        "2,715 MB",
        "100 languages",
        "words",
        "can be pulled",
    ]
    assert "diarize" in listed["ggml-small.en-tdrz"][3]
    # The demo says what it takes where it runs.
    assert listed["ggml-demo"][-1] == ("loaded" if place else "installed")


def test_a_broken_model_is_listed_shown_and_deleted(data: Path) -> None:
    (data / "models").mkdir(parents=True)
    (data / "models" / "ggml-half.bin").write_bytes(DEMO.read_bytes()[:100_000])
    (state,) = [cell for cell in rows(whisperd("list", data=data).stdout)["ggml-half"] if "broken" in cell]
    assert "breaks off" in state
    assert "breaks off" in rows(whisperd("show", "half", data=data).stdout)["broken"][0]
    assert whisperd("rm", "half", data=data).stdout == "ggml-half is deleted\n"


def test_long_lines_are_whole_where_another_program_reads_them(data: Path) -> None:
    narrow = whisperd("list", "--available", data=data, COLUMNS="40").stdout
    assert rows(narrow)["ggml-large-v3-turbo-q5_0"][-1] == "can be pulled"


def test_from_another_repository(hub: Hub, data: Path, place: tuple[str, ...]) -> None:
    hub.add("someone/whispers", "mine.bin", MODEL)
    words = ("pull", "mine.bin", "--repo", "someone/whispers", *place)
    assert whisperd(*words, data=data, hub=hub).stdout == "mine is installed (4 MB)\n"


def test_mistakes_end_in_one_sentence(hub: Hub, data: Path, place: tuple[str, ...]) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.add("someone/gated", "a.bin", MODEL, gated=True, token="let me in")
    for words, sentence in (
        (("pull", "ggml-tinny.bin"), "ggml-tiny"),
        (("pull", "a.bin", "--repo", "someone/gated"), f"{hub.url}/someone/gated"),
        (("pull", "a.bin", "--repo", "nonsense"), "owner/name"),
        (("show", "nope"), "there is no model 'nope'"),
        (("rm", "nope"), "there is no model 'nope'"),
        (("rm", "whisper-1"), "whisper-1"),
    ):
        done = whisperd(*words, *place, data=data, hub=hub)
        assert done.returncode == 1, words
        assert sentence in done.stderr, words
        assert done.stderr.startswith("whisperd: ")
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


def test_a_server_that_is_none(data: Path, hub: Hub) -> None:
    for url, sentence in (
        ("http://127.0.0.1:9", "127.0.0.1:9"),
        (hub.url, "answered"),
        ("nonsense", "nonsense"),
    ):
        for words in (("list",), ("pull", "tiny"), ("rm", "tiny")):
            done = whisperd(*words, "--url", url, data=data)
            assert (done.returncode, sentence in done.stderr) == (1, True), done.stderr
            assert "Traceback" not in done.stderr


def test_a_failing_download_fails_the_command(hub: Hub, data: Path, place: tuple[str, ...]) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.corrupt = len(MODEL) - 1
    hub.faults.rate = len(MODEL) * 2
    done = whisperd("pull", "tiny", *place, data=data, hub=hub)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("whisperd: ")
    assert not list((data / "models").glob("*.bin"))


# import -----------------------------------------------------------------------------------------------


def test_import_a_file(data: Path) -> None:
    done = whisperd("import", DEMO, "--name", "mine", data=data)
    assert (done.returncode, done.stdout) == (0, "mine is installed (12 MB)\n"), done.stderr
    assert (data / "models" / "mine.bin").read_bytes() == DEMO.read_bytes()


def test_import_a_folder_tells_of_those_that_cannot_be(data: Path, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    shutil.copy(DEMO, stick / "good.bin")
    (stick / "half.bin").write_bytes(DEMO.read_bytes()[:100_000])
    done = whisperd("import", stick, data=data)
    assert (done.returncode, done.stdout) == (1, "good is installed (12 MB)\n")
    assert "half.bin" in done.stderr
    assert "breaks off" in done.stderr
    assert [file.name for file in (data / "models").glob("*.bin")] == ["good.bin"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("import", "nowhere.bin"), "nowhere.bin"),
        (("import", "pyproject.toml"), "pyproject.toml"),
        (("import", "docs"), "docs"),
        (("import", "models", "--name", "x"), "--name is for a single file"),
        (("import", DEMO, "--name", "../x"), "cannot be the name of a model file"),
        (("import", DEMO, "--url", "http://127.0.0.1:9"), "copies files of this machine"),
    ],
)
def test_imports_that_cannot_be(data: Path, words: tuple[str, ...], sentence: str) -> None:
    done = whisperd(*words, data=data)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(data.rglob("*.bin"))


# In a terminal ----------------------------------------------------------------------------------------


def in_terminal(data: Path, hub: Hub, *words: str) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "models", *words],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**environment(data, hub), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    return process, ours


def shown(process: subprocess.Popen[bytes], terminal: int, until: str = "") -> str:
    """What it showed until that came, or else until its end."""
    seen = b""
    while process.poll() is None or select.select([terminal], [], [], 0)[0]:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
        if until and until in seen.decode(errors="ignore"):
            return seen.decode(errors="ignore")
    os.close(terminal)
    process.wait()
    return seen.decode()


def test_a_progress_bar(hub: Hub, data: Path, place: tuple[str, ...]) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.rate = len(MODEL) // 2
    process, terminal = in_terminal(data, hub, "pull", "tiny", *place)
    seen = shown(process, terminal)
    assert process.returncode == 0
    assert "ggml-tiny.bin" in seen
    assert "/3.7 MB" in seen
    assert "MB/s" in seen
    assert "left" in seen


def test_an_interrupted_pull_goes_on_the_next_time(hub: Hub, data: Path) -> None:
    hub.add(HOME, "ggml-tiny.bin", MODEL)
    hub.faults.stall_after = [len(MODEL) // 2]
    process, terminal = in_terminal(data, hub, "pull", "tiny")
    assert "1.9/3.7 MB" in shown(process, terminal, until="1.9/3.7 MB")
    process.send_signal(2)
    assert "Traceback" not in shown(process, terminal)
    assert process.returncode == 130
    assert whisperd("list", data=data, hub=hub).stdout.count("ggml-tiny") == 0
    done = whisperd("pull", "tiny", data=data, hub=hub)
    assert done.stdout == "ggml-tiny is installed (4 MB)\n", done.stderr
    assert hub.sent == len(MODEL)
