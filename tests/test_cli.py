"""The `whisperd` command, as people type it."""

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from server import config, placement, tuning
from server.errors import WorkFailed
from tests.serving import Server, serving
from tests.speech import SENTENCES, talk, wav

TEXT = " ".join(SENTENCES[:4])


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("media") / "talk.wav"
    file.write_bytes(wav(talk(SENTENCES[:4])))
    return file


def whisperd(*words: object, data: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "server", *map(str, words)],
        input=stdin,
        capture_output=True,
        timeout=120,
        env={**os.environ, "WHISPERD_DATA": str(data), "COLUMNS": "200", "NO_COLOR": "1"},
    )


def test_version_and_help(tmp_path: Path) -> None:
    assert whisperd("--version", data=tmp_path).stdout.startswith(b"whisperd 0.")
    assert b"transcribe" in whisperd("--help", data=tmp_path).stdout
    help = whisperd("serve", "--help", data=tmp_path).stdout.decode()
    assert "Examples" in help
    from server.config import SETTINGS

    assert all("--" + name.replace("_", "-") in help for name in SETTINGS)


def test_transcribe_to_standard_output(media: Path, tmp_path: Path) -> None:
    done = whisperd("transcribe", media, "--model", "demo", "--language", "en", data=tmp_path)
    assert done.stdout.decode() == TEXT + "\n", done.stderr.decode()
    assert b"few hundred words" in done.stderr


@pytest.mark.parametrize("format", ["srt", "lrc", "json", "verbose_json"])
def test_transcribe_to_a_file(media: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    words = ("--model", "demo", "--format", format, "--output", out, "--words", "--max-line-width", "20")
    done = whisperd("transcribe", media, *words, data=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    broken = out.read_text()
    assert SENTENCES[3] in broken if "json" in format else max(map(len, broken.splitlines())) <= 30
    assert SENTENCES[3].split()[-1] in broken
    if format == "verbose_json":
        assert len(json.loads(out.read_text())["words"]) == len(TEXT.split())


def test_transcribe_standard_input(media: Path, tmp_path: Path) -> None:
    words = ("transcribe", "-", "--model", "demo", "--language", "en")
    assert whisperd(*words, data=tmp_path, stdin=media.read_bytes()).stdout.decode() == TEXT + "\n"
    assert not list((tmp_path / "spool").iterdir())


def test_transcribe_by_another_server(server: Server, media: Path, tmp_path: Path) -> None:
    words = ("--url", server.url, "--language", "en", "--format", "verbose_json", "--words")
    done = whisperd("transcribe", media, *words, data=tmp_path)
    document = json.loads(done.stdout)
    assert document["text"] == TEXT
    assert len(document["words"]) == len(TEXT.split())
    assert document["duration"] == pytest.approx(10, abs=0.5)
    piped = whisperd(
        "transcribe", "-", "--url", server.url, "--language", "en", data=tmp_path, stdin=media.read_bytes()
    )
    assert piped.stdout.decode() == TEXT + "\n", piped.stderr.decode()
    german = whisperd("transcribe", media, "--url", server.url, "--translate", data=tmp_path)
    assert german.returncode == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("transcribe", "none.wav", "--model", "demo"), "none.wav"),
        (("transcribe", "MEDIA", "--model", "nope"), "there is no model 'nope'"),
        (("transcribe", "MEDIA"), "no model but the demo is installed"),
        (("transcribe", "MEDIA", "--model", "demo", "--language", "pt"), "does not know the language"),
        (("transcribe", "MEDIA", "--language", "klingon"), "klingon"),
        (("transcribe", "MEDIA", "--format", "xml"), "verbose_json"),
        (("transcribe", "MEDIA", "--url", "http://127.0.0.1:9"), "127.0.0.1:9"),
        (("transcribe", "pyproject.toml", "--model", "demo"), "not of an audio or video format"),
        (("serve", "--host", "300.1.1.1"), "cannot listen on 300.1.1.1:8080"),
        (("serve", "--max-duration", "soon"), 'setting "max_duration"'),
    ],
)
def test_mistakes_end_in_one_sentence(
    media: Path, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = whisperd(*(str(media) if word == "MEDIA" else word for word in words), data=tmp_path)
    assert done.returncode != 0
    assert sentence in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_mistake_against_a_server_has_its_sentence(server: Server, media: Path, tmp_path: Path) -> None:
    done = whisperd("transcribe", media, "--url", server.url, "--model", "nope", data=tmp_path)
    assert "there is no model 'nope'" in done.stderr.decode()


def test_an_unknown_setting_refuses_to_start(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("prot: 1\n")
    done = whisperd("serve", "--config", file, data=tmp_path)
    assert (done.returncode, 'did you mean "port"' in done.stderr.decode()) == (1, True)


def test_a_progress_bar_in_a_terminal(media: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "transcribe", str(media), "--model", "demo"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "WHISPERD_DATA": str(tmp_path), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:
                break
    os.close(ours)
    assert process.wait() == 0
    assert b"transcribe" in shown
    assert b"100%" in shown


@pytest.mark.slow
def test_bench_measures_both_engines_and_writes_the_better_one(tmp_path: Path) -> None:
    settings = tmp_path / "whisperd.yaml"
    settings.write_text("# mine\nport: 9000\ntuning:\n  other: {threads: 3}\n\n# not theirs\nqueue: 5\n")
    done = whisperd("bench", "ggml-demo", "--config", str(settings), "--write", data=tmp_path / "data")
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert said.count("times as fast as speech") >= 2
    assert "whisper.cpp" in said
    written = config.read(settings, {})
    assert (written.port, written.queue, written.tuning["other"].threads) == (9000, 5, 3)
    assert written.tuning["ggml-demo"].engine in ("whisper.cpp", "ctranslate2")
    assert written.tuning["ggml-demo"].slots * written.tuning["ggml-demo"].threads >= 1
    assert "# mine" in settings.read_text()
    assert "# not theirs" in settings.read_text()


def test_what_bench_writes_leaves_the_rest_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "whisperd.yaml"
    way = tuning.Way("ctranslate2", 2, 1, speed=3.0)
    for before, kept in (
        (None, []),
        ("port: 1\n", ["port: 1"]),
        ("tuning: {}\nport: 1 # one\n", ["port: 1 # one"]),
        (
            "port: 1\ntuning:\n  a:\n    threads: 3\n\n  b: {slots: 2}\n# end\nqueue: 7\n",
            ["# end", "queue: 7"],
        ),
    ):
        file.unlink(missing_ok=True)
        if before:
            file.write_text(before)
        tuning.write(file, "b", way)
        read = config.read(file, {})
        assert read.tuning["b"] == config.Tuning(engine="ctranslate2", slots=2, threads=1)
        assert all(line in file.read_text().splitlines() for line in kept)
        if before and "threads: 3" in before:
            assert read.tuning["a"].threads == 3


def test_larger_models_share_the_cores_out_with_two_threads_for_each() -> None:
    small, large = placement.SMALL - 1, placement.SMALL
    assert [placement.sharing(small, cores, cores) for cores in (1, 2, 16)] == [(1, 1), (2, 1), (16, 1)]
    shares = [placement.sharing(large, cores, cores) for cores in (1, 2, 4, 8, 16, 64)]
    assert shares == [(1, 1), (2, 2), (4, 2), (4, 4), (4, 8), (16, 8)]
    assert placement.sharing(large, 16, 16, slots=8) == (8, 4), "the owner's slots"
    assert placement.sharing(large, 16, 2) == (2, 16), "fewer, for want of memory"
    assert placement.sharing(small, 8, 8, slots=2) == (2, 4)


def test_the_better_way_is_the_faster_and_among_equals_the_one_with_less_waiting() -> None:
    slow = tuning.Way("whisper.cpp", 2, 1, lone=0.1, speed=5.0)
    fast = tuning.Way("ctranslate2", 2, 1, lone=0.3, speed=20.0)
    soon = tuning.Way("ctranslate2", 1, 2, lone=0.2, speed=19.5)
    broken = tuning.Way("ctranslate2", 4, 1, failed="no")
    assert tuning.best([slow, fast, broken]) == fast
    assert tuning.best([slow, fast, soon]) == soon
    with pytest.raises(WorkFailed):
        tuning.best([broken])


def test_doctor(tmp_path: Path) -> None:
    done = whisperd("doctor", data=tmp_path)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    for word in ("pywhispercpp", "AVX", "ggml-demo", "times as fast as speech", "memory after unload"):
        assert word in said
    memory = {name: int(size) for name, size in re.findall(r"memory (\w+).*?(\d+) MB", said)}
    assert memory["after"] < memory["loaded"]
    assert memory["after"] <= memory["before"] + 20


def test_serve_shows_that_it_works(server: Server) -> None:
    assert "whisperd is ready on http://127.0.0.1:" in server.log
    assert '"The weather is beautiful today. Peter lives in London."' in server.log
    assert f"try: curl {server.url}/v1/audio/transcriptions -F file=@models/hello.ogg" in server.log


def test_serve_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path, demo="false") as server, server.client() as client:
        assert "no model but the demo is installed" in server.log
        answer = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", b"x")})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(
            "Bad Request, need model or language; no model but the demo"
        )
        assert f"copy a GGML Whisper file such as ggml-base.bin into {tmp_path}" in answer.json()["reason"]


def test_what_cannot_be_preloaded_ends_the_start_in_one_sentence(tmp_path: Path) -> None:
    done = whisperd("serve", "--port", "0", "--preload", "ggml-nope", data=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].startswith("whisperd: there is no model 'ggml-nope'")
    assert b"Traceback" not in done.stderr


def test_preload_and_a_model_folder_of_ones_own(tmp_path: Path) -> None:
    models = tmp_path / "mine"
    models.mkdir()
    (models / "my-own.bin").write_bytes(Path("models/ggml-demo.bin").read_bytes())
    with serving(
        tmp_path / "data",
        "--models",
        str(models),
        "--preload",
        "my-own",
        "--default-model",
        "my-own",
        demo="false",
    ) as server:
        assert server.children("server.worker")
        with server.client() as client:
            media = {"file": ("a.wav", wav(talk(SENTENCES[:1])))}
            answer = client.post("/v1/audio/transcriptions", files=media, data={"language": "en"})
            assert answer.json()["text"] == SENTENCES[0]
            assert "x-whisperd-notice" not in answer.headers
            ids = [model["id"] for model in client.get("/v1/models").json()["data"]]
            assert ids == ["ggml-demo", "my-own"]


def test_a_busy_port_is_said(server: Server, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    done = whisperd("serve", "--port", port, data=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr.decode()
