"""What was measured, as a table for people and as raw figures for programs."""

import dataclasses
import json
import operator
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil
from rich.table import Table

HEAD = ("what", "median", "range", "word errors", "aim", "")

MARKS = ("<!-- figures: begin; written by scripts/bench -->", "<!-- figures: end -->")
"""What stands between these lines of a page is replaced."""

_COMPARE = {"≤": operator.le, "<": operator.lt, "≥": operator.ge}


@dataclass(frozen=True, slots=True)
class Aim:
    """What a median should be."""

    relation: Literal["≤", "<", "≥"]
    bound: float

    def met(self, value: float) -> bool:
        return bool(_COMPARE[self.relation](value, self.bound))


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    what: str
    values: tuple[float, ...]
    """One for each round, in the order in which they were measured."""
    unit: str = ""
    word_errors: float | None = None
    """Rate, 0 to 1 and beyond, of what was heard in the last round."""
    aim: Aim | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def cells(self) -> tuple[str, ...]:
        """The row in the columns of HEAD."""
        several = len(self.values) > 1
        return (
            self.what,
            f"{_number(self.median)} {self.unit}".strip(),
            f"{_number(min(self.values))} – {_number(max(self.values))}" if several else "",
            "" if self.word_errors is None else f"{self.word_errors:.1%}",
            "" if self.aim is None else f"{self.aim.relation} {_number(self.aim.bound)} {self.unit}".strip(),
            "" if self.aim is None else ("met" if self.aim.met(self.median) else "not met"),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Figures that belong together."""

    title: str
    rows: tuple[Row, ...]


def machine() -> dict[str, str]:
    """What the figures were measured on, and how busy it was before."""
    packages = (
        "whisperd",
        "pywhispercpp",
        "ctranslate2",
        "faster-whisper",
        "av",
        "onnxruntime",
        "uvicorn",
    )
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores for this process",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "load before the run": f"{os.getloadavg()[0]:.2f} (mean of running processes over a minute)",
    }


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def table(parts: Sequence[Part]) -> Table:
    """For the terminal."""
    table = Table(*HEAD)
    for part in parts:
        table.add_section()
        table.add_row(f"[bold]{part.title}[/]")
        for row in part.rows:
            table.add_row(*row.cells())
    return table


def markdown(parts: Sequence[Part], about: dict[str, str]) -> str:
    """The same for a page, below the machine's description."""
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", _line(HEAD), _line(["---"] * len(HEAD))]
    for part in parts:
        lines.append(_line([f"**{part.title}**", *[""] * (len(HEAD) - 1)]))
        lines += [_line(row.cells()) for row in part.rows]
    return "\n".join(lines)


def write(
    page: Path,
    parts: Sequence[Part],
    about: dict[str, str],
    *,
    whole: bool = True,
    marks: tuple[str, str] = MARKS,
    raw: Path | None = None,
) -> None:
    """Put the table between the page's marks, and the raw figures into a JSON file, by default beside it.

    If they are not the `whole` of it, parts of other names stay, and so does what their run was measured on.
    """
    raw = raw or page.with_suffix(".json")
    if not whole and raw.exists():
        about, kept = _read(raw)
        fresh = {part.title for part in parts}
        parts = [*(part for part in kept if part.title not in fresh), *parts]
    replace(page, markdown(parts, about), marks)
    raw.write_text(_raw(parts, about), "utf-8")


def replace(page: Path, text: str, marks: tuple[str, str]) -> None:
    """Put the text between the page's marks."""
    old = page.read_text("utf-8")
    begin, end = old.index(marks[0]) + len(marks[0]), old.index(marks[1])
    page.write_text(f"{old[:begin]}\n\n{text}\n\n{old[end:]}", "utf-8")


def keep(file: Path, found: Mapping[str, object]) -> dict[str, Any]:
    """Put what was found into a file of raw figures, beside what else is there; all of it."""
    kept: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    kept |= found
    file.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    return kept


def _raw(parts: Sequence[Part], about: dict[str, str]) -> str:
    """JSON with a line for each figure."""
    rows = [{"part": part.title, **_rounded(row)} for part in parts for row in part.rows]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f'{{"machine": {json.dumps(about, ensure_ascii=False)},\n"rows": [\n{lines}\n]}}\n'


def _read(raw: Path) -> tuple[dict[str, str], list[Part]]:
    """What an earlier run has written."""
    found = json.loads(raw.read_text("utf-8"))
    rows: dict[str, list[Row]] = {}
    for row in found["rows"]:
        aim = Aim(**row.pop("aim")) if row["aim"] else None
        row.pop("aim", None)
        rows.setdefault(row.pop("part"), []).append(Row(**row | {"values": tuple(row["values"])}, aim=aim))
    return found["machine"], [Part(title, tuple(each)) for title, each in rows.items()]


def _rounded(row: Row) -> dict[str, object]:
    return dataclasses.asdict(row) | {"values": [round(value, 5) for value in row.values]}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
