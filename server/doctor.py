"""What is installed here, what the machine offers, and whether it all works together."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from server import __version__, child, transcribe
from server.config import Config
from server.errors import SpeechError
from server.serve import clip_path
from server.services import Services, running
from server.spool import on_disk
from server.types import Listen

_LIBRARIES = ("pywhispercpp", "av", "onnxruntime", "faster-whisper", "starlette", "uvicorn")

_MEGABYTE = 1 << 20


async def examine(config: Config, model: str, out: Console) -> bool:
    """Print all of it; whether the self-test passed."""
    out.print(_table("whisperd", _about(config)))
    async with running(config) as services:
        out.print(_table("models", _models(services)))
        try:
            out.print(_table("self-test", await _self_test(services, model)))
        except SpeechError as error:
            out.print(f"[red]self-test failed: {error}[/]")
            return False
    return True


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    for name, value in rows:
        table.add_row(name, value)
    return table


def _about(config: Config) -> list[tuple[str, str]]:
    libraries = [(name, importlib.metadata.version(name)) for name in _LIBRARIES]
    return [
        ("version", __version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *libraries,
        ("processor", _features()),
        ("cores", f"{len(os.sched_getaffinity(0))} for this process"),
        ("memory", f"{psutil.virtual_memory().total // _MEGABYTE:,} MB"),
        ("gpu", "; ".join(_gpus()) or "none found"),
        ("data", f"{config.data} ({_free(config.data)} free)"),
        ("models in", str(config.model_folder)),
    ]


_FEATURES = ("avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "sve")
"""Of a processor, those that make models faster, as Linux names them."""


def _features() -> str:
    """Those of `_FEATURES` that this processor has."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "unknown"
    return " ".join(name.upper() for name in _FEATURES if name in words) or "none of note"


def _gpus() -> Iterator[str]:
    """NVIDIA's own list, where its driver is installed."""
    if tool := shutil.which("nvidia-smi"):
        listing = subprocess.run(
            [tool, "-L"], capture_output=True, text=True, timeout=20, check=False, env=child.environment()
        )
        yield from listing.stdout.splitlines() if listing.returncode == 0 else ()


def _free(folder: Path) -> str:
    """Space left where the folder is, or will be."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return f"{shutil.disk_usage(there).free // _MEGABYTE:,} MB"


def _models(services: Services) -> list[tuple[str, str]]:
    rows = []
    for info in services.models.installed():
        languages = "English only" if not info.multilingual else f"{len(info.languages)} languages"
        converted = services.placement.disk(info) // _MEGABYTE
        copy = f", {converted:,} MB converted" if converted else ""
        state = (
            f"broken: {info.broken}" if info.broken else f"{info.size // _MEGABYTE:,} MB{copy}, {languages}"
        )
        rows.append((info.id, state))
    return rows or [("none", f"copy a GGML Whisper file into {services.models.folder}")]


async def _self_test(services: Services, name: str) -> list[tuple[str, str]]:
    """The bundled clip with a cold and a warm model, and what memory the model takes and gives back."""
    clip = clip_path()
    if clip is None:
        return [("clip", "the bundled clip is not installed")]
    model = services.models.find(name)
    empty = _memory()
    began = time.monotonic()
    await services.memory.load(model)
    loading = time.monotonic() - began
    began = time.monotonic()
    transcript = await transcribe.whole(services.transcribe(Listen(model=model.id), on_disk(clip)))
    took = time.monotonic() - began
    full = _memory()
    engines = {residence.engine for residence in services.runner.loaded()}
    await services.memory.unload(model.id)
    return [
        ("engine", "; ".join(engines)),
        ("model", model.id),
        ("heard", transcript.text),
        ("speed", f"{transcript.duration / took:.1f} times as fast as speech ({took:.2f} s)"),
        ("loading", f"{loading:.2f} s"),
        ("memory before", f"{empty:,} MB"),
        ("memory loaded", f"{full:,} MB"),
        ("memory after unload", f"{_memory():,} MB"),
    ]


def _memory() -> int:
    """Proportional memory (PSS) of this process and its children, in MB."""
    us = psutil.Process()
    return sum(process.memory_full_info().pss for process in (us, *us.children(recursive=True))) // _MEGABYTE
