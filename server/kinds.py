"""The kinds of models that are folders: all that can be pulled and imported beside GGML files."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from server import ct2, folders, pipelines
from server.engines import pocket
from server.errors import BadField, BadRequest
from server.folders import Home, Kind
from server.models import Models
from server.types import ModelInfo

CARD = "MODEL_CARD"
"""What a folder on the hub has for people to read, beside a voice."""

_STYLE = re.compile(r"voices/[a-z][fm]_\w+\.bin|voices[-\w.]*\.(?:bin|npz)")
"""Files of Kokoro's voices."""


def _piper_files(there: Collection[str]) -> Collection[str]:
    pairs = [name for name in there if name.endswith(".onnx") and f"{name}.json" in there]
    if len(pairs) != 1:
        return ()
    # The card tells its licence.
    return (pairs[0], f"{pairs[0]}.json", *(name for name in there if name == CARD))


def _piper_info(folder: Path) -> ModelInfo | None:
    weights = [path for path in folder.glob("*.onnx") if path.is_file()]
    described = weights[0].with_name(f"{weights[0].name}.json") if len(weights) == 1 else None
    if described is None or not described.is_file():
        return None
    return replace(folders.plain(folder, "piper"), broken=_piper_broken(described))


def _piper_broken(described: Path) -> str:
    try:
        rate = json.loads(described.read_bytes())["audio"]["sample_rate"]
    except (OSError, ValueError, KeyError, TypeError):
        rate = None
    return "" if isinstance(rate, int) else f"{described.name} does not describe a voice"


PIPER = Kind("piper", _piper_files, _piper_info, home="voices", suffix=".onnx")
"""A voice of Piper's: its weights, and beside them what is to be known of them."""


def _kokoro_files(there: Collection[str]) -> Collection[str]:
    """A model and its voices, as the hub has them or as kokoro-onnx does; of several models the plain one."""
    styles = [name for name in there if _STYLE.fullmatch(name)]
    inner = "onnx/" if any(name.startswith("onnx/") for name in there) else ""
    models = [name for name in there if name.startswith(inner) and name.endswith(".onnx")]
    if not styles or not models or any(f"{name}.json" in there for name in models):
        return ()
    plain = f"{inner}model.onnx"
    return (plain if plain in models else min(models), *styles)


def _kokoro_info(folder: Path) -> ModelInfo | None:
    taken = _kokoro_files([path.relative_to(folder).as_posix() for path in folders.contents(folder)])
    if not taken:
        return None
    return folders.plain(folder, "kokoro")


KOKORO = Kind("kokoro", _kokoro_files, _kokoro_info, home="voices")
"""A model of Kokoro's, and the voices that it speaks in."""


def _pocket_info(folder: Path) -> ModelInfo | None:
    if not ((folder / "model.safetensors").is_file() and (folder / "embeddings").is_dir()):
        return None
    return replace(folders.plain(folder, "pocket"), broken=pocket.broken(folder))


POCKET = Kind("pocket", pocket.wanted, _pocket_info, home="voices")
"""A model of Pocket TTS with its voices: one of the hub's folders `languages/NAME`."""

KINDS: tuple[Kind, ...] = (ct2.KIND, pipelines.KIND, PIPER, KOKORO, POCKET)

Homes = Mapping[Home, Path]
"""Where the models of each home go."""


def suffixes() -> tuple[str, ...]:
    """Endings of files that mean a model of several files."""
    return tuple(kind.suffix for kind in KINDS if kind.suffix)


def of(files: Collection[str]) -> tuple[Kind, Collection[str]] | None:
    """The kind of a model at a source, and those of its files that are needed."""
    for kind in KINDS:
        if taken := kind.files(files):
            return kind, taken
    return None


def read(folder: Path) -> tuple[Kind, ModelInfo] | None:
    """The kind of a folder here, and the model in it, be it whole or not."""
    for kind in KINDS:
        if info := kind.info(folder):
            return kind, info
    return None


def import_all(source: Path, models: Models, homes: Homes) -> tuple[ModelInfo, ...]:
    """Import a folder that is a model, or every model in it; the broken ones are only told of.

    Raises BadRequest where there is none, BadField where another model has the name, NoSpace and NotWritable.
    """
    if found := read(source):
        return (_imported(*found, source, homes),)
    here = tuple(
        _imported(*found, folder, homes) for folder in folders.visible(source) if (found := read(folder))
    )
    try:
        return here + models.import_folder(source)
    except BadRequest:
        if here:
            return here
        raise


def _imported(kind: Kind, info: ModelInfo, source: Path, homes: Homes) -> ModelInfo:
    if info.broken:
        return info
    target = homes[kind.home] / source.resolve().name
    if target.exists() and target.samefile(source):
        return info
    there = kind.info(target) if target.is_dir() else None
    if target.exists() and (there is None or not there.broken):
        raise BadField(f"another model is installed as {target.name}: delete it first", "name")
    return folders.import_(kind, source, target)
