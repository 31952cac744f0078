"""whisperd against other programs with the same weights, on this machine, by turns: `scripts/bench engines`.

Each part is measured by itself and kept in a JSON file, so that a run can be broken off and gone on with.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench import measure, over_http, report, sound, whisper_server
from bench.bare import demo
from bench.fixed import write_fixed
from bench.programs import NAMES, Program, Reply, started
from bench.sound import Recording, word_errors
from tests.speech import SENTENCES

out = Console(width=None if sys.stdout.isatty() else 180)
err = Console(stderr=True)

PAGE = Path("docs/performance.md")
KEPT = Path("docs/engines.json")

MARKS = ("<!-- engines: begin; written by scripts/bench engines -->", "<!-- engines: end -->")

OURS, OUR_WHISPER_CPP, ENGINE, BARE, SERVER, SEQUENTIAL, BATCHED, OUR_WINDOWS = NAMES

_WARMING = "1 x 60"
"""What programs hear before the clock runs, if not something shorter."""

_SAMPLING = 1.0
"""Seconds between two looks at the memory."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is measured in one go, by turns."""

    title: str
    model: str
    """The demo model, or the name and the words a window of one with random weights."""
    sounds: str
    """How many of how many seconds: "12 x 3"; 3 stands for a clip of 1 to 5 s."""
    at_once: int = 1
    rounds: int = 3
    programs: tuple[str, ...] = NAMES


CLIPS = (OURS, OUR_WHISPER_CPP, BARE, SERVER, SEQUENTIAL)
"""Those that make sense for short ones: a batch wants more than one window."""

PARTS = {
    "demo-clips": Part("12 clips of 1 to 5 s, one at a time", "demo", "12 x 3", 1, 5, CLIPS),
    "demo-crowd": Part("16 clips of 1 to 5 s at once", "demo", "16 x 3", 16, 5, CLIPS),
    "demo-60": Part("a file of 60 s", "demo", "1 x 60", 1, 5),
    "demo-600": Part("a file of 600 s", "demo", "1 x 600", 1, 3),
    "demo-ten": Part("ten files of 60 s at once", "demo", "10 x 60", 10, 3, CLIPS),
    "base-clips": Part("6 clips of 1 to 5 s, one at a time", "base 12", "6 x 3", 1, 2, CLIPS),
    "base-crowd": Part("16 clips of 1 to 5 s at once", "base 12", "16 x 3", 16, 1, CLIPS),
    "base-60": Part("a file of 60 s", "base 80", "1 x 60", 1, 2),
    "base-600": Part(
        "a file of 600 s", "base 80", "1 x 600", 1, 1, (OURS, ENGINE, SEQUENTIAL, BATCHED, OUR_WINDOWS)
    ),
    "base-ten": Part("ten files of 60 s at once", "base 80", "10 x 60", 10, 1, (OURS, SERVER, SEQUENTIAL)),
    "small-clips": Part("2 clips of 1 to 5 s, one at a time", "small 12", "2 x 3", 1, 2, CLIPS),
    "small-60": Part("a file of 60 s", "small 80", "1 x 60", 1, 1),
}


@dataclass(frozen=True, slots=True)
class Aim:
    """What a part is to show: whisperd's CTranslate2 at least so many times as fast as another program."""

    part: str
    against: str
    least: float
    truer: bool = False
    """With fewer word errors too."""


AIMS = (
    Aim("demo-clips", SERVER, 4),
    Aim("base-clips", SERVER, 2.5),
    Aim("demo-600", SEQUENTIAL, 4, truer=True),
    Aim("demo-600", BATCHED, 2, truer=True),
    Aim("base-600", BATCHED, 1),
    Aim("demo-ten", SERVER, 4),
    Aim("demo-600", ENGINE, 1 / 1.1),
    Aim("base-600", ENGINE, 1 / 1.1),
)


def main(
    only: Annotated[str, typer.Option(help="Parts to measure, with commas between; all by default.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Also parts that are there already.")] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A look: 3 clips and 60 s, one round, without what is not built yet."),
    ] = False,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of each part; 0: as many as it has.")] = 0,
    write: Annotated[bool, typer.Option("--write", help="Keep the parts, and write the page.")] = False,
    page: Annotated[Path, typer.Option(help="Page whose tables are replaced.")] = PAGE,
    kept: Annotated[Path, typer.Option(help="File in which the parts are kept.")] = KEPT,
) -> None:
    """Measure whisperd against other programs with the same weights.

    The machine should have nothing else to do. With --write each part is kept as soon as it is measured, and
    another run goes on with the rest.
    """
    over_http.forget_settings()
    parts = _quick() if quick else PARTS
    found = _read(kept) if write else {}
    wanted = only.split(",") if only else [name for name in parts if again or name not in found]
    if unknown := sorted({*wanted} - {*parts}):
        raise typer.BadParameter(f"{', '.join(unknown)}: parts are {', '.join(parts)}", param_hint="--only")
    with TemporaryDirectory(prefix="whisperd-engines-") as folder:
        os.environ["BENCH_CONVERTED"] = str(Path(folder, "converted"))
        made = _Made(Path(folder))
        for name in wanted:
            part = replace(parts[name], rounds=rounds or parts[name].rounds)
            found[name] = _measured(part, made, quick)
            if write:
                _keep(found, kept)
    if write:
        _write(found, page)
    out.print(_table(HEAD, _cells(found)), _table(AIM_HEAD, _aims(found)))


def _quick() -> dict[str, Part]:
    return {
        "demo-clips": Part("3 clips of 1 to 5 s, one at a time", "demo", "3 x 3", 1, 1, CLIPS),
        "demo-60": Part("a file of 60 s", "demo", "1 x 60", 1, 1),
    }


def _tell(doing: str) -> None:
    err.print(doing, style="dim", highlight=False)


# Measuring --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one program in one part; seconds, but for memory in megabytes and the rate of word errors."""

    rounds: list[float]
    """Until all of it was heard."""
    replies: list[float]
    """Of each recording."""
    firsts: list[float]
    """To the first segment, where it comes before the rest."""
    memory: float
    word_errors: float | None


class _Made:
    """Models and recordings, made when they are wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def model(self, name: str) -> Path:
        if name == "demo":
            return demo()
        size, words = name.split()
        folder = self._folder / f"{size}-{words}"
        path = folder / f"ggml-{size}-{words}.bin"
        if not path.exists():
            _tell(f"writing random weights of the dimensions of {size}")
            folder.mkdir()
            write_fixed(path, size, int(words))
        return path

    @cache  # noqa: B019 - there is one of it, and it lives as long as the program
    def recordings(self, sounds: str) -> list[Recording]:
        count, seconds = map(int, sounds.split(" x "))
        if seconds == 3:
            return _clips(self._folder, count)
        return [_file(self._folder, seconds, seed) for seed in range(1, count + 1)]


def _clips(folder: Path, count: int) -> list[Recording]:
    """One sentence each, 1 to 5 s."""
    texts = islice(cycle(SENTENCES), count)
    made = []
    for number, text in enumerate(texts):
        (own := folder / f"clip-{number}").mkdir(exist_ok=True)
        made.append(sound.clip(own, text))
    return made


def _file(folder: Path, seconds: int, seed: int) -> Recording:
    (own := folder / f"file-{seed}").mkdir(exist_ok=True)
    return sound.monologue(own, seconds, seed)


def _measured(part: Part, made: _Made, quick: bool) -> dict[str, Any]:
    recordings = made.recordings(part.sounds)
    with ExitStack() as stack:
        programs = _started(part, made.model(part.model), stack, quick)
        _warm(programs, recordings, made.recordings(_WARMING))
        meters = {name: _Meter(program, recordings, part.at_once) for name, program in programs.items()}
        for number in range(part.rounds):
            for name in _in_turn(list(meters), number):
                _tell(f"{part.model}, {part.title}: {name}, round {number + 1} of {part.rounds}")
                meters[name].measure()
    figures = {name: asdict(meter.figures(spoken=part.model == "demo")) for name, meter in meters.items()}
    return {
        "model": part.model,
        "title": part.title,
        "seconds": sum(recording.seconds for recording in recordings),
        "machine": report.machine(),
        "programs": figures,
    }


def _in_turn(names: Sequence[str], number: int) -> list[str]:
    """Each round begins with another one, so that none always follows the same."""
    by = number % len(names)
    return [*names[by:], *names[:by]]


def _started(part: Part, model: Path, stack: ExitStack, quick: bool) -> dict[str, Program]:
    programs: dict[str, Program] = {}
    for name in part.programs:
        if quick and name == SERVER and not whisper_server.cached().is_file():
            continue
        _tell(f"starting {name}")
        try:
            programs[name] = started(name, model, stack, _tell)
        except whisper_server.NotBuilt as why:
            err.print(str(why), style="yellow", markup=False, highlight=False)
    return programs


def _warm(
    programs: Mapping[str, Program], recordings: Sequence[Recording], others: Sequence[Recording]
) -> None:
    """So that nothing is loaded, converted or cut for the first time while the clock runs.

    `others` stand in for what is to be heard, where that is longer, with those that cut nothing before.
    """
    shortest = min([*recordings, *others], key=lambda one: one.seconds)
    for name, program in programs.items():
        _tell(f"warming {name}")
        for recording in recordings if name in (ENGINE, OUR_WINDOWS) else [shortest]:
            program.hear(recording)


class _Meter:
    """One program being measured."""

    def __init__(self, program: Program, recordings: Sequence[Recording], at_once: int) -> None:
        self._program = program
        self._recordings = recordings
        self._at_once = at_once
        self._rounds: list[float] = []
        self._replies: list[float] = []
        self._firsts: list[float] = []
        self._texts: list[str] = []
        self._memory = 0.0

    def measure(self) -> None:
        """One round."""
        with _looking(self._look), ThreadPoolExecutor(self._at_once) as pool:
            began = perf_counter()
            answers = list(pool.map(lambda one: _timed(self._program, one, began), self._recordings))
            self._rounds.append(perf_counter() - began)
        at_once = self._at_once > 1
        self._replies += [since_start if at_once else reply.seconds for reply, since_start in answers]
        self._texts = [reply.text for reply, _ in answers]
        self._firsts += [reply.first for reply, _ in answers if reply.first is not None]
        if self._program.first and not at_once:
            self._firsts += [self._program.first(one) for one in self._recordings[:3]]

    def figures(self, spoken: bool) -> Figures:
        return Figures(
            [round(value, 5) for value in self._rounds],
            [round(value, 5) for value in self._replies],
            [round(value, 5) for value in self._firsts],
            round(self._memory, 1),
            round(self._word_errors(), 5) if spoken else None,
        )

    def _word_errors(self) -> float:
        words = [len(one.text.split()) for one in self._recordings]
        rates = (word_errors(one, text) for one, text in zip(self._recordings, self._texts, strict=True))
        return sum(rate * count for rate, count in zip(rates, words, strict=True)) / sum(words)

    def _look(self) -> None:
        sizes = (measure.proportional(process) for process in self._program.processes())
        self._memory = max(self._memory, sum(sizes) / 1e6)


def _timed(program: Program, recording: Recording, began: float) -> tuple[Reply, float]:
    """The reply, and when it was there, for those who have waited in line since `began`."""
    reply = program.hear(recording)
    return reply, perf_counter() - began


@contextmanager
def _looking(look: Callable[[], None]) -> Iterator[None]:
    """Look now and then, and once at the end."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLING):
            look()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()
    look()


# What is kept, and shown ------------------------------------------------------------------------------

HEAD = (
    "what",
    "program",
    "p50",
    "p95",
    "× real time",
    "first segment",
    "memory",
    "word errors",
    "whisperd is so many times as fast",
)
AIM_HEAD = ("aim", "least", "measured", "")

_LOAD = "load before the run"

_Kept = dict[str, dict[str, Any]]


def _read(file: Path) -> _Kept:
    found: _Kept = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return {name: found[name] for name in PARTS if name in found}


def _keep(found: _Kept, file: Path) -> None:
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(part)}" for name, part in _ordered(found).items())
    file.write_text(f"{{\n{lines}\n}}\n", "utf-8")


def _ordered(found: _Kept) -> _Kept:
    return {name: found[name] for name in PARTS if name in found}


def _write(found: _Kept, page: Path) -> None:
    text = page.read_text("utf-8")
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    page.write_text(f"{text[:begin]}\n\n{_markdown(_ordered(found))}\n\n{text[end:]}", "utf-8")


def _cells(found: _Kept) -> Iterator[list[str]]:
    for part in found.values():
        ours = part["programs"].get(OURS)
        title = f"{_model_title(part['model'])}: {part['title']}"
        for name, figures in part["programs"].items():
            yield [title, name, *_numbers(figures, part["seconds"]), _ratio(figures, ours)]
            title = ""


def _model_title(model: str) -> str:
    if model == "demo":
        return "demo model"
    size, words = model.split()
    return f"{size} dimensions, {words} tokens a window"


def _numbers(figures: dict[str, Any], seconds: float) -> list[str]:
    replies, firsts, wrong = sorted(figures["replies"]), figures["firsts"], figures["word_errors"]
    return [
        _seconds(median(replies)),
        _seconds(replies[int(0.95 * (len(replies) - 1))]) if len(replies) >= 10 else "",
        f"{seconds / median(figures['rounds']):,.1f}",
        _seconds(median(firsts)) if firsts else "",
        f"{figures['memory']:,.0f} MB",
        "" if wrong is None else f"{wrong:.1%}",
    ]


def _seconds(value: float) -> str:
    return f"{1000 * value:,.0f} ms" if value < 1 else f"{value:,.2f} s"


def _ratio(figures: dict[str, Any], ours: dict[str, Any] | None) -> str:
    ratios = _ratios(figures, ours) if ours else []
    if not ratios or figures is ours:
        return ""
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    return f"{median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})"


def _ratios(figures: dict[str, Any], ours: dict[str, Any]) -> list[float]:
    """Of the times of each round."""
    return [theirs / own for theirs, own in zip(figures["rounds"], ours["rounds"], strict=True)]


def _aims(found: _Kept) -> Iterator[list[str]]:
    for aim in AIMS:
        programs = found.get(aim.part, {}).get("programs", {})
        if OURS not in programs or aim.against not in programs:
            continue
        part, ours, theirs = found[aim.part], programs[OURS], programs[aim.against]
        measured = median(_ratios(theirs, ours))
        truer = not aim.truer or ours["word_errors"] < theirs["word_errors"]
        yield [
            f"{_model_title(part['model'])}, {part['title']}: as fast as {aim.against}"
            + (", with fewer word errors" if aim.truer else ""),
            f"{aim.least:.3g} ×",
            f"{measured:.2f} ×",
            "met" if measured >= aim.least and truer else "not met",
        ]


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> Table:
    table = Table(*head)
    for cells in rows:
        table.add_row(*cells)
    return table


def _markdown(found: _Kept) -> str:
    machine = list(found.values())[-1]["machine"]
    loads = [float(part["machine"][_LOAD].split()[0]) for part in found.values()]
    lines = [f"- {name}: {value}" for name, value in machine.items() if name != _LOAD]
    lines.append(f"- {_LOAD} of each part: {min(loads):.1f} to {max(loads):.1f}")
    for head, rows in ((AIM_HEAD, _aims(found)), (HEAD, _cells(found))):
        lines += ["", _line(head), _line(["---"] * len(head)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
