"""Measures, prints one table, and writes it into a page: see docs/performance.md."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from bench import managed, measure, over_http, report, sound

out = Console(width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="60 s only, one round: a look.")] = False,
    long: Annotated[bool, typer.Option("--long", help="Also the memory for ten hours.")] = False,
    write: Annotated[Path | None, typer.Option(help="Page whose table is replaced.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each measurement.")] = 5,
    requests: Annotated[int, typer.Option(min=1, help="Requests with the short clip.")] = 40,
    only: Annotated[list[str] | None, typer.Option(help="Parts to measure; a page keeps its others.")] = None,
    cycles: Annotated[int, typer.Option(min=1, help="Times that a model is loaded and unloaded.")] = 50,
    hours: Annotated[float, typer.Option(min=0.1, help="Length of the long recording.")] = 10.0,
    sentences: Annotated[int, typer.Option(min=1, max=10, help="Sentences a minute in it.")] = 4,
) -> None:
    """Measure whisperd on this machine, against the same model without a server.

    The machine should have nothing else to do. All traffic stays on loopback.
    """
    over_http.forget_settings()
    about = report.machine()
    lengths, rounds = ((60,), 1) if quick else ((60, 600), rounds)
    with TemporaryDirectory(prefix="whisperd-bench-") as folder:
        ways = _parts(Path(folder), lengths, rounds, requests, cycles)
        if long:
            ways["memory"] = lambda: _memory(Path(folder), hours, sentences)
        if unknown := sorted({*(only or ())} - {*ways}):
            raise typer.BadParameter(
                f"{', '.join(unknown)}: parts are {', '.join(ways)}", param_hint="--only"
            )
        parts = [measured() for name, measured in ways.items() if name in (only or ways)]
    out.print(*(f"{name}: {value}" for name, value in about.items()), sep="\n", highlight=False)
    out.print(report.table(parts))
    if write:
        report.write(write, parts, about, whole=not only)


def _parts(
    folder: Path, lengths: tuple[int, ...], rounds: int, requests: int, cycles: int
) -> dict[str, Callable[[], report.Part]]:
    """What can be measured, by the names that `--only` takes."""

    @cache
    def recording(seconds: int) -> sound.Recording:
        _tell("speaking")
        return sound.monologue(folder, seconds)

    return {
        "speed": lambda: measure.speed([recording(length) for length in lengths], rounds, _tell),
        "first": lambda: measure.first_segment(recording(lengths[-1]), rounds, _tell),
        "latency": lambda: measure.latency(sound.clip(folder), requests, _tell),
        "neighbour": lambda: measure.neighbour(recording(lengths[0]), rounds, _tell),
        "download": lambda: managed.download(folder, rounds, _tell),
        "cold": lambda: managed.cold(recording(lengths[0]), rounds, _tell),
        "cycles": lambda: managed.cycles(sound.clip(folder), cycles, _tell),
    }


def _memory(folder: Path, hours: float, sentences: int) -> report.Part:
    _tell(f"writing {hours:g} hours of sound")
    return measure.memory(sound.hours(folder, hours, sentences), folder, _tell)


def _tell(doing: str) -> None:
    err.print(doing, style="dim", highlight=False)


typer.run(main)
