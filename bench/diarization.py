"""Who says what: errors against the bare pipeline, words with the wrong speaker, time and memory.

The pipeline is the small one of the tests, which knows synthetic voices. Each part is measured by itself and
kept in a JSON file, so that a run can be broken off and gone on with.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import numpy as np
import psutil
import typer
from rich.console import Console

from bench import dialogues, over_http, report
from bench.dialogues import Dialogue, Heard, plain, spoken
from bench.measure import during, megabytes, proportional
from server.diarizers import Diarizers
from server.engines import pyannote
from server.types import SAMPLE_RATE, ModelInfo, SpeakerCount, Turn
from tests.dialogue import PIPELINE
from tests.serving import Server
from tests.speech import Pcm, silence, wav

out = Console(width=None)
err = Console(stderr=True)

ACCURACY, PERFORMANCE = "accuracy.md", "performance.md"

MARKS = ("<!-- diarization: begin; written by scripts/bench diarization -->", "<!-- diarization: end -->")

GROUPS = {
    "two": (("default", "f3"), ("default", "whisper"), ("f3", "m3-low"), ("default", "slt"), ("slt", "rms")),
    "three": (("m3-low", "f4-high", "whisper"), ("kal16", "f4-high", "whisper"), ("kal16", "f3", "whisper")),
}
"""Voices that the pipeline tells apart, by its card."""

EXCERPTS = ("dev00", "dev01", "tst00", "tst01")

_AMI = Path(__file__).parent.parent.parent / "shared" / "audio" / "ami"

_HOUR = 3600.0
_MEGABYTE = 1e6

Found = dict[str, Any]


def main(
    only: Annotated[str, typer.Option(help="Parts, with commas between: two,three,ami,time,long.")] = "",
    seconds: Annotated[float, typer.Option(min=20, help="Length of each dialogue.")] = 60.0,
    talks: Annotated[int, typer.Option(min=1, help="Dialogues of each group of voices.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the part time.")] = 5,
    hours: Annotated[float, typer.Option(min=0.01, help="Length of the long recording.")] = 3.0,
    ami: Annotated[Path, typer.Option(help="Folder of the AMI excerpts, WAV and RTTM.")] = _AMI,
    write: Annotated[bool, typer.Option("--write", help="Keep the parts, and write both pages.")] = False,
    pages: Annotated[Path, typer.Option(help="Folder of the pages.")] = Path("docs"),
) -> None:
    """Measure how true whisperd is about who says what, against the bare pipeline with the same weights."""
    parts: dict[str, Callable[[], object]] = {
        "two": lambda: _group("two", seconds, talks),
        "three": lambda: _group("three", seconds, talks),
        "ami": lambda: [_errors(f"AMI {name}", dialogues.excerpt(ami / f"{name}.wav")) for name in EXCERPTS],
        "time": lambda: _side_by_side(2 * seconds, rounds),
        "long": lambda: _long(hours),
    }
    wanted = only.split(",") if only else list(parts)
    if unknown := sorted({*wanted} - {*parts}):
        raise typer.BadParameter(f"{', '.join(unknown)}: parts are {', '.join(parts)}", param_hint="--only")
    over_http.forget_settings()
    for name in wanted:
        err.print(name, style="dim")
        found = parts[name]()
        out.print_json(data=found)
        if write:
            _keep(pages, name, found)


# Errors -----------------------------------------------------------------------------------------------


def _group(name: str, seconds: float, talks: int) -> list[Found]:
    with _server() as server, server.client(timeout=_HOUR) as client:
        return [
            _errors(", ".join(voices), talk) | _words(talk, client)
            for voices in GROUPS[name]
            for talk in (spoken(voices, seconds, seed) for seed in range(1, talks + 1))
        ]


def _errors(voices: str, talk: Dialogue) -> Found:
    """By whisperd's engine in its process and by the bare pipeline, one after the other, with all cores."""
    ours, took = _ours(talk.pcm)
    bare, bare_took = _bare(talk.pcm)
    return {
        "voices": voices,
        "seconds": talk.seconds,
        "true_speakers": len({turn.speaker for turn in talk.turns}),
        "error": dialogues.error_rate(talk.turns, ours, talk.seconds),
        "speakers": len({turn.speaker for turn in ours}),
        "took": took,
        "bare_error": dialogues.error_rate(talk.turns, bare, talk.seconds),
        "bare_speakers": len({turn.speaker for turn in bare}),
        "bare_took": bare_took,
    }


def _words(talk: Dialogue, client: httpx.Client) -> Found:
    return {"words": asdict(dialogues.words(talk.words, _heard(_asked(client, talk.pcm).json())))}


def _heard(answer: Found) -> list[Heard]:
    return [
        Heard(part, word["speaker"], (word["start"] + word["end"]) / 2)
        for word in answer["words"]
        for part in plain(word["word"]).split()
    ]


def _ours(pcm: Pcm) -> tuple[list[Turn], float]:
    """Turns by whisperd's process, and seconds; loading is not counted."""

    async def run(folder: Path) -> tuple[list[Turn], float]:
        sound = folder / "sound.pcm"
        sound.write_bytes(pcm.astype("<f4").tobytes())
        diarizers = Diarizers(folder / "empty")
        model = ModelInfo("talk", PIPELINE, size=0, created=0, engine="pyannote")
        try:
            await diarizers.load(model)
            began = time.perf_counter()
            found = await diarizers.diarize(model, sound, SpeakerCount(), lambda _: None)
            return list(found.turns), time.perf_counter() - began
        finally:
            await diarizers.stop()

    with TemporaryDirectory() as folder:
        return asyncio.run(run(Path(folder)))


def _bare(pcm: Pcm) -> tuple[list[Turn], float]:
    """The same by pyannote's own pipeline as it is shipped, in this process."""
    pipeline, sound = _pipeline(), pyannote.library().from_numpy(pcm)[None]
    began = time.perf_counter()
    output = pipeline({"waveform": sound, "sample_rate": SAMPLE_RATE, "uri": "media"})
    took = time.perf_counter() - began
    tracks = output.speaker_diarization.itertracks(yield_label=True)
    return [Turn(segment.start, segment.end, label) for segment, _, label in tracks], took


@cache
def _pipeline() -> Any:
    pyannote.library()
    from pyannote.audio import Pipeline

    return Pipeline.from_pretrained(PIPELINE)


# Time and memory --------------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[Server]:
    """With the pipeline and the demo model, both loaded."""
    with over_http.server() as server:
        shutil.copytree(PIPELINE, server.data / "models" / "talk")
        with server.client(timeout=_HOUR) as client:
            _asked(client, spoken(GROUPS["two"][0], 20.0).pcm)
        yield server


def _asked(client: httpx.Client, pcm: Pcm, *, diarize: bool = True) -> httpx.Response:
    fields = {"language": "en", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = client.post(
        over_http.PATH,
        files={"file": ("talk.wav", wav(pcm))},
        data={**fields, "diarize": str(diarize).lower()},
    )
    return answer.raise_for_status()


def _side_by_side(seconds: float, rounds: int) -> Found:
    """How long a transcript takes with speakers, without them, and the speakers alone."""
    pcm = spoken(GROUPS["two"][0], seconds).pcm
    with _server() as server, server.client(timeout=_HOUR) as client:
        ways: dict[str, Callable[[], object]] = {
            "speakers": lambda: _ours(pcm)[1],
            "transcription": lambda: _asked(client, pcm, diarize=False),
            "both": lambda: _asked(client, pcm),
        }
        took = [{name: _timed(way) for name, way in ways.items()} for _ in range(rounds)]
    ratios = [each["both"] / max(each["speakers"], each["transcription"]) for each in took]
    return {
        "seconds": len(pcm) / SAMPLE_RATE,
        "rounds": took,
        **{name: median(each[name] for each in took) for name in ways},
        "ratio": median(ratios),
        "ratios": ratios,
    }


def _timed(way: Callable[[], object]) -> float:
    """Its seconds; what takes its own time returns them."""
    began = time.perf_counter()
    took = way()
    return took if isinstance(took, float) else time.perf_counter() - began


def _long(hours: float) -> Found:
    """One recording of hours, through the port: a minute of talk and three of silence, by turns."""
    minute = spoken(GROUPS["two"][0], 60.0)
    stretch = np.concatenate([minute.pcm, silence(3 * minute.seconds)])
    length = int(hours * _HOUR * SAMPLE_RATE)
    pcm = np.tile(stretch, length // len(stretch) + 1)[:length]
    told: list[httpx.Response] = []
    with _server() as server, server.client(timeout=_HOUR) as client:
        began = time.perf_counter()
        seen = during(lambda: told.append(_asked(client, pcm)), lambda: _sizes(server))
        took = time.perf_counter() - began
    answer = told[0].json()
    return {
        "hours": hours,
        "talk": sum(turn.end - turn.start for turn in minute.turns) / (4 * minute.seconds),
        "took": took,
        "loaded": seen[0],
        "highest": [max(sizes) for sizes in zip(*seen, strict=True)],
        "speakers": len(answer["speakers"]),
        "words": len(answer["words"]),
        "nobodys": sum(not word["speaker"] for word in answer["words"]),
    }


def _sizes(server: Server) -> tuple[float, float, float]:
    """Megabytes: of all processes, of the one that tells speakers apart, and of that what is no file."""
    processes = server.children("server.diarizers")
    size = sum(map(proportional, processes)) / _MEGABYTE
    return megabytes(server), size, sum(map(_anonymous, processes)) / _MEGABYTE


def _anonymous(process: psutil.Process) -> int:
    """Bytes that the system cannot drop and read again from a file."""
    try:
        return sum(region.anonymous for region in process.memory_maps())
    except psutil.Error:
        return 0


# Pages ------------------------------------------------------------------------------------------------


def _keep(pages: Path, name: str, found: object) -> None:
    """The part beside those that are there already, and all of them in both pages."""
    kept = report.keep(pages / "diarization.json", {"machine": _machine(), name: found})
    _replace(pages / ACCURACY, _accuracy(kept))
    _replace(pages / PERFORMANCE, _performance(kept))


def _machine() -> dict[str, str]:
    about = report.machine()
    return {name: about[name] for name in ("processor", "memory", "system")} | {
        "versions": ", ".join(f"{name} {version(name)}" for name in ("whisperd", "pyannote.audio", "torch"))
    }


def _replace(page: Path, lines: Iterator[str]) -> None:
    text = page.read_text("utf-8")
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    page.write_text(f"{text[:begin]}\n\n" + "\n".join(lines) + f"\n\n{text[end:]}", "utf-8")


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _table(*head: str) -> Iterator[str]:
    yield _line(head)
    yield _line(["---"] * len(head))


def _accuracy(kept: Found) -> Iterator[str]:
    yield from _table(
        "voices",
        "error, bare pipeline",
        "whisperd",
        "speakers found",
        "words with a wrong speaker",
        "with none",
        "word errors",
    )
    for name in ("two", "three", "ami"):
        rows: list[Found] = kept.get(name, [])
        for row in rows:
            found = f"{row['speakers']} of {row['true_speakers']}"
            errors = (f"{row[error]:.2%}" for error in ("bare_error", "error"))
            yield _line([row["voices"], *errors, found, *_belonging([row]), _misheard(row)])
        if any("words" in row for row in rows):
            yield _line([f"**all of {name}**", "", "", "", *_belonging(rows), ""])


def _belonging(rows: Sequence[Found]) -> tuple[str, str]:
    """How many words are given to the wrong speaker, and to none."""
    counted = [row["words"] for row in rows if "words" in row]
    if not counted:
        return "", ""
    wrong, laid, nobodys = (sum(each[name] for each in counted) for name in ("wrong", "laid", "nobodys"))
    return f"{wrong} of {laid} ({wrong / laid:.1%})", str(nobodys)


def _misheard(row: Found) -> str:
    return f"{row['words']['errors']:.0%}" if "words" in row else ""


def _performance(kept: Found) -> Iterator[str]:
    if not {"time", "long"} & {*kept}:
        return
    yield from (f"- {name}: {value}" for name, value in kept["machine"].items())
    yield ""
    yield from _table("what", "figure")
    if row := kept.get("time"):
        hour = _HOUR / row["seconds"]
        yield _line(
            [f"{row['seconds']:.0f} s of two voices: transcription alone", f"{row['transcription']:.1f} s"]
        )
        yield _line(["the speakers alone", f"{row['speakers']:.1f} s"])
        yield _line(["both at once", f"{row['both']:.1f} s"])
        yield _line(["both, over the longer of the two (aim ≤ 1.15)", _range(row["ratios"])])
        yield _line(
            [
                "for an hour: speakers alone, both at once",
                f"{row['speakers'] * hour:.0f} s, {row['both'] * hour:.0f} s",
            ]
        )
    if row := kept.get("long"):
        yield from map(_line, _hours(row))


def _range(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} – {max(values):.2f})"


def _hours(row: Found) -> Iterator[tuple[str, str]]:
    yield (
        f"{row['hours']:g} h of two voices, {row['talk']:.0%} of it speech: both at once",
        f"{row['took']:.0f} s",
    )
    what = (
        "memory of all processes",
        "of it the process that tells speakers apart",
        "of that, what is no file",
    )
    for name, loaded, highest in zip(what, row["loaded"], row["highest"], strict=True):
        yield name, f"{loaded:,.0f} MB when loaded, at most {highest:,.0f} MB"
    yield "speakers found", f"{row['speakers']} of 2"
    yield "words without a speaker", f"{row['nobodys']} of {row['words']:,}"


if __name__ == "__main__":
    typer.run(main)
