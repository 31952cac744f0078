"""Pipelines that tell speakers apart, as folders among the models.

A folder is one where its `config.yaml` names a pipeline of pyannote; see engines/pyannote.py for its parts.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from server import folders
from server.engines import pyannote
from server.errors import ModelBroken, ModelNotFound
from server.folders import Kind
from server.types import ModelInfo

ENGINE = "pyannote"

_CONFIG = "config.yaml"
_OVERHEAD = 600 << 20
"""Bytes of torch and pyannote in a process."""

_LARGEST_CONFIG = 1 << 16

_PARTS = ("segmentation", "embedding")

_CHECKPOINT = "pytorch_model.bin"

_EXTRA = (
    "telling speakers apart needs the extra `diarize`, which is not installed here: "
    "pip install 'whisperd[diarize]', or scripts/serve --with diarize"
)

_HOW = (
    "no pipeline is installed that tells speakers apart. Accept the terms of "
    "https://huggingface.co/pyannote/speaker-diarization-community-1, give this server a read token of that "
    "account (HF_TOKEN) and the repository at a commit (trusted_repos), and pull it: whisperd models pull "
    "speaker-diarization-community-1; or copy its folder here: whisperd models import FOLDER. Turns of "
    "speakers without names need no pipeline: whisperd models pull small.en-tdrz"
)


def check_extra() -> None:
    """Raises ModelNotFound where what runs pipelines is not installed. Nothing of it is imported."""
    for name in ("torch", "pyannote"):
        if find_spec(name) is None:
            raise ModelNotFound(_EXTRA)
    if find_spec("pyannote.audio") is None:
        raise ModelNotFound(_EXTRA)


class Pipelines:
    """Those in a models' folder, which is looked at anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def installed(self) -> tuple[ModelInfo, ...]:
        """By name."""
        return tuple(sorted(self._found(), key=lambda model: model.id))

    def find(self, name: str = "") -> ModelInfo:
        """The pipeline of that name; without one, the newest. Raises ModelNotFound and ModelBroken.

        Also where the extra is not installed that runs them.
        """
        check_extra()
        installed = self.installed()
        if not installed:
            raise ModelNotFound(_HOW)
        if not name:
            whole = [model for model in installed if not model.broken] or list(installed)
            return _usable(max(whole, key=lambda model: model.created))
        for model in installed:
            if model.id in (name, name.rpartition("/")[2]):
                return _usable(model)
        raise ModelNotFound(
            f'no pipeline "{name[:80]}" tells speakers apart; there are '
            + ", ".join(model.id for model in installed)
        )

    def ready(self) -> bool:
        """Whether there is one that can be loaded."""
        try:
            return bool(self.find())
        except (ModelNotFound, ModelBroken):
            return False

    def named(self, name: str) -> ModelInfo | None:
        """The pipeline of that name, be it whole or not."""
        return next((model for model in self.installed() if model.id == name), None)

    def delete(self, id: str) -> ModelInfo:
        """Remove the folder of a pipeline. Raises ModelNotFound and NotWritable."""
        model = self.named(id)
        if model is None:
            raise ModelNotFound(f'no pipeline "{id[:80]}" is installed')
        folders.remove(model.path)
        return model

    def _found(self) -> Iterator[ModelInfo]:
        for folder in folders.visible(self.folder):
            if is_pipeline(folder):
                yield _info(folder)


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline of pyannote, be it whole or not."""
    return str(_config(folder).get("name")).startswith("pyannote.")


def _config(folder: Path) -> dict[str, Any]:
    """What its configuration says of the pipeline; empty where it is of something else."""
    config = folder / _CONFIG
    try:
        if config.stat().st_size > _LARGEST_CONFIG:
            return {}
        found = yaml.safe_load(config.read_text("utf-8"))["pipeline"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _usable(model: ModelInfo) -> ModelInfo:
    if model.broken:
        raise ModelBroken(f"the pipeline {model.id} cannot be loaded: {model.broken}")
    return model


def _info(folder: Path) -> ModelInfo:
    params = _config(folder).get("params")
    named = params if isinstance(params, dict) else {}
    parts = {part: pyannote.part_of(folder, part, named.get(part)) for part in _PARTS}
    missing = [f"{part}/{_CHECKPOINT}" for part, path in parts.items() if not (path / _CHECKPOINT).is_file()]
    beside = {path for path in parts.values() if path.parent != folder and path.is_dir()}
    plain = folders.plain(folder, ENGINE)
    return replace(
        plain,
        size=plain.size + sum(folders.size(each) for each in beside),
        overhead=_OVERHEAD,
        capabilities=("diarize",),
        broken=f"it lacks {', '.join(missing)}" if missing else "",
    )


def _files(there: Collection[str]) -> Collection[str]:
    """All but what is for people; see folders.Kind."""
    whole = {_CONFIG, *(f"{part}/{_CHECKPOINT}" for part in _PARTS)} <= set(there)
    return [name for name in there if name.endswith(_NEEDED) or name == _CONFIG] if whole else []


_NEEDED = (".bin", ".npz", ".yaml", ".ckpt", ".safetensors")

KIND = Kind(ENGINE, _files, lambda folder: _info(folder) if is_pipeline(folder) else None, code=True)
