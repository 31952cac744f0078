"""How true the answers are: whisperd and its peers, with the same weights, on recordings that are all known.

Each row is measured by itself and kept in a JSON file, so that a run can be broken off and gone on with.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypedDict

import httpx
import typer
from rich.console import Console
from rich.table import Table

from bench import over_http, peers, report
from bench.bare import demo
from bench.peers import Answer, Hear
from bench.recordings import ROWS, Half, Recording, recordings
from bench.scores import scores
from server.convert import convert
from tests.random_files import faults, random_file

out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

PAGE = Path("docs/accuracy.md")

ENGINES = ("whisper.cpp", "ctranslate2")
"""What whisperd runs the model on, one after the other."""

_CHUNK = 50
"""Random files after which it is kept how far they have come."""

COLUMNS = {
    "word_errors": "word errors",
    "invented": "invented words a minute of silence",
    "language": "language right",
    "word_median": "word edges off, median",
    "word_p95": "95 %",
    "segment_median": "sentence edges off, median",
}


class Checked(TypedDict):
    """What was found in random files."""

    files: int
    segments: int
    faulty: int
    """Files whose answer has a fault."""


def main(
    rows: Annotated[str, typer.Option(help="Rows to measure, with commas between; all by default.")] = "",
    minutes: Annotated[float, typer.Option(min=0.5, help="Of sound for each row.")] = 10.0,
    tune: Annotated[bool, typer.Option("--tune", help="On the half that settings are tuned on.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also rows that are there already.")] = False,
    alone: Annotated[bool, typer.Option("--alone", help="Without the peers.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Keep the rows, and write the page.")] = False,
    page: Annotated[Path, typer.Option(help="Page whose table is replaced.")] = PAGE,
    files: Annotated[int, typer.Option(help="Instead: so many random files; are answers in order?")] = 0,
) -> None:
    """Measure how true whisperd's answers are, against the same model in other programs.

    With --write each row is kept as soon as it is measured, and another run goes on with the rest.
    """
    kept, checked = _kept(page) if write else ({}, None)
    if files:
        found = checked if checked and not again else Checked(files=0, segments=0, faulty=0)
        for found in _random(files, found):  # noqa: B020
            if write:
                _keep(page, kept, found)
        out.print(_checked(found))
        raise typer.Exit(int(found["faulty"] > 0))
    half: Half = "tune" if tune else "report"
    wanted = [name for name in (rows.split(",") if rows else ROWS) if again or name not in kept]
    with TemporaryDirectory(prefix="whisperd-accuracy-") as folder, ExitStack() as stack:
        programs = dict(_programs(stack, Path(folder), alone)) if wanted else {}
        for name in wanted:
            err.print(f"{ROWS[name].title}, {minutes:g} minutes", style="dim")
            kept[name] = _measured(name, Path(folder), half, minutes * 60, programs)
            if write:
                _keep(page, kept, checked)
    out.print(_table(kept))


def _random(files: int, found: Checked) -> Iterator[Checked]:
    """What has been found, time and again, until so many files were heard; those in `found` were."""
    with ExitStack() as stack:
        clients = [_client(stack, engine) for engine in ENGINES]
        for seed in range(found["files"], files):
            media, seconds, fields = random_file(seed)
            client = clients[seed % len(clients)]
            answer = client.post("/v1/audio/transcriptions", files={"file": media}, data=fields)
            document = answer.raise_for_status().json()
            told = list(faults(document, seconds))
            for fault in told:
                out.print(f"file {seed}: {fault}")
            found = Checked(
                files=seed + 1,
                segments=found["segments"] + len(document["segments"]),
                faulty=found["faulty"] + bool(told),
            )
            if found["files"] % _CHUNK == 0:
                yield found
    yield found


def _checked(checked: Checked) -> str:
    return (
        f"Random files: {checked['files']:,}, with {checked['segments']:,} segments; "
        f"answers with a fault: {checked['faulty']:,}"
    )


def _programs(stack: ExitStack, folder: Path, alone: bool) -> Iterator[tuple[str, Hear]]:
    for engine in ENGINES:
        yield f"whisperd, {engine}", _over_http(_client(stack, engine))
    if alone:
        return
    converted = folder / "converted"
    convert(demo(), converted, "int8")
    peers.write_tokenizer(converted)
    yield "pywhispercpp", stack.enter_context(peers.child("pywhispercpp", demo()))
    yield "faster-whisper", stack.enter_context(peers.child("faster-whisper", converted))


def _client(stack: ExitStack, engine: str) -> httpx.Client:
    """Of a whisperd that runs models on this engine."""
    server = stack.enter_context(over_http.server("--engine", engine))
    return stack.enter_context(server.client(timeout=3600))


def _over_http(client: httpx.Client) -> Hear:
    def hear(path: Path, mixed: bool) -> Answer:
        with path.open("rb") as file:
            answer = client.post(
                "/v1/audio/transcriptions",
                files={"file": (path.name, file)},
                data={
                    "response_format": "verbose_json",
                    "timestamp_granularities[]": "word",
                    "language": "multi" if mixed else "",
                },
            )
        return _answer(answer.raise_for_status().json())

    return hear


def _answer(document: dict[str, Any]) -> Answer:
    segments = document["segments"]
    likeliest = next(iter(document["languages"]), "")
    return Answer(
        text=document["text"],
        words=[(word["word"], word["start"], word["end"]) for word in document["words"]],
        segments=[(one["text"].strip(), one["start"], one["end"]) for one in segments],
        language=likeliest,
        languages=[one["language"] for one in segments],
    )


def _measured(
    name: str, folder: Path, half: Half, seconds: float, programs: dict[str, Hear]
) -> dict[str, Any]:
    files = recordings(name, folder, half, seconds)
    mixed = "mixed" in ROWS[name].languages
    found = {
        program: asdict(scores([(file, hear(file.path, mixed)) for file in files]))
        for program, hear in programs.items()
    }
    for file in files:
        file.path.unlink()
    return {"half": half, "minutes": seconds / 60, "words": _words(files), "scores": found}


def _words(files: list[Recording]) -> int:
    return sum(len(one.text.split()) for file in files for one in file.sentences)


# Rows that are kept -----------------------------------------------------------------------------------


def _kept(page: Path) -> tuple[dict[str, dict[str, Any]], Checked | None]:
    """Rows, and what was found in random files."""
    file = page.with_suffix(".json")
    kept: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    rows = {name: row for name, row in kept.get("rows", {}).items() if name in ROWS}
    return rows, kept.get("random")


def _keep(page: Path, rows: dict[str, dict[str, Any]], checked: Checked | None) -> None:
    about = report.machine()
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    head = f'"machine": {json.dumps(about)},\n"random": {json.dumps(checked)}'
    page.with_suffix(".json").write_text(f'{{{head},\n"rows": {{\n{lines}\n}}}}\n')
    text = page.read_text("utf-8")
    begin, end = text.index(report.MARKS[0]) + len(report.MARKS[0]), text.index(report.MARKS[1])
    table = _markdown(rows, about) + (f"\n\n{_checked(checked)}." if checked else "")
    page.write_text(f"{text[:begin]}\n\n{table}\n\n{text[end:]}", "utf-8")


def _cells(rows: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    for name in ROWS:
        if name not in rows:
            continue
        for number, (program, found) in enumerate(rows[name]["scores"].items()):
            about = f"{rows[name]['minutes']:g} min, {rows[name]['words']:,} words"
            title = f"{ROWS[name].title} ({about})" if not number else ""
            yield [title, program, *(_number(column, found[column]) for column in COLUMNS)]


def _number(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if column in ("word_errors", "language"):
        return f"{value:.1%}"
    return f"{value:.2f}" if column == "invented" else f"{value:,.0f} ms"


def _table(rows: dict[str, dict[str, Any]]) -> Table:
    table = Table("what", "program", *COLUMNS.values())
    for cells in _cells(rows):
        table.add_row(*cells)
    return table


def _markdown(rows: dict[str, dict[str, Any]], about: dict[str, str]) -> str:
    head = ["what", "program", *COLUMNS.values()]
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
