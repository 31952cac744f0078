"""Models of several files: each a folder, pulled, checked, copied and deleted as one.

A `Kind` says which files make such a model and reads it from its folder. To have one more kind of them pulled
(`whisperd models pull owner/name`, `POST /v1/models`), imported, or named in the catalogue (`"kind"` there),
write its `Kind` and add it to `KINDS` in kinds.py; nothing else. pull.py fetches the files into a hidden
folder beside the target, over several tries if need be, and renames that once all are right.
"""

import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from server import digests
from server.errors import ModelBroken, NoSpace, NotWritable
from server.partial import writing
from server.sources import local
from server.types import ModelInfo

Home = Literal["models", "voices"]

_ORIGIN = ".origin.json"
_MOST_FILES = 200


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model that is a folder."""

    name: str
    """As catalogue.json has it: "ctranslate2"."""
    files: Callable[[Collection[str]], Collection[str]]
    """Which of the files of a folder at a source, by their paths in it, make such a model; none: it is not
    one. Where a file was named (`suffix`), only its folder's MODEL_CARD and files that begin with its name
    are told."""
    info: Callable[[Path], ModelInfo | None]
    """The model in a folder here, its size that of all files, with the reason in `broken` where it cannot be
    loaded; None where the folder is no such model. Reads little, and blocks."""
    home: Home = "models"
    """Which of the folders here it goes to."""
    code: bool = False
    """Whether its files may contain code (pickles do): such are pulled from pinned commits alone."""
    suffix: str = ""
    """A file with this ending means the model, where a folder at the source has many: ".onnx"."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model was pulled from."""

    repo: str
    path: str
    """The folder in it; "" for the repository itself."""
    revision: str


def origin(folder: Path) -> Origin | None:
    """Where a model of several files came from, if that is known."""
    try:
        return msgspec.json.decode((folder / _ORIGIN).read_bytes(), type=Origin)
    except (OSError, msgspec.MsgspecError):
        return None


def note_origin(folder: Path, origin: Origin) -> None:
    """Remember where it came from. Raises OSError."""
    digests.write(folder / _ORIGIN, msgspec.json.encode(origin))


def size(folder: Path) -> int:
    """Bytes of all files of a model."""
    return sum(path.stat().st_size for path in contents(folder))


def plain(folder: Path, engine: str) -> ModelInfo:
    """What any model of several files tells by its folder alone."""
    return ModelInfo(
        # A name that is not UTF-8 must still go into an answer.
        id=os.fsencode(folder.name).decode("utf-8", "replace"),
        path=folder.absolute(),
        size=size(folder),
        created=int(folder.stat().st_mtime),
        engine=engine,
    )


def contents(folder: Path) -> list[Path]:
    """All files of a model, hidden ones left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def visible(home: Path) -> list[Path]:
    """The folders in a folder that may be models: those that nobody hides."""
    try:
        return sorted(path for path in home.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:
        return []


def safe(paths: Collection[str]) -> bool:
    """Whether files of a source may be called so here."""
    return len(paths) <= _MOST_FILES and all(
        len(path) <= 500
        and path.isprintable()
        and "\\" not in path
        and not any(part == "" or part.startswith(".") for part in path.split("/"))
        and not path.endswith((".part", ".part.json"))
        for path in paths
    )


def put(folder: Path, target: Path) -> None:
    """Give a whole folder its name; what had the name is gone. Raises NotWritable."""
    with writing(target.parent):
        if target.is_dir() and not target.is_symlink():
            remove(target)
        target.unlink(missing_ok=True)
        folder.rename(target)
        sync(target.parent)


def remove(folder: Path) -> None:
    """Delete a model of several files: for who looks at once, since half is none. Raises NotWritable."""
    try:
        if folder.is_symlink():
            folder.unlink()
            return
        going = digests.temporary_name(folder)
        folder.rename(going)
        shutil.rmtree(going)
    except FileNotFoundError:
        return
    except OSError as error:
        raise NotWritable(f"{folder.name} cannot be deleted: {error.strerror}") from error


def import_(kind: Kind, source: Path, target: Path) -> ModelInfo:
    """Copy a model from a folder of this machine, checked before and after. Takes as long as copying does.

    Raises ModelBroken, NoSpace and NotWritable; nothing is left behind then.
    """
    _whole(kind, source, source)
    files = [source / path for path in kind.files(_paths(source))]
    temporary = digests.temporary_name(target)
    try:
        with writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            _check_space(source, files, target.parent)
            for file in files:
                copy = temporary / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                local.copy(file, copy)
        _whole(kind, temporary, source)
        put(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _whole(kind, target, source)


def sync(folder: Path) -> None:
    """Have a rename on the disk itself."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _paths(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in contents(folder)]


def _whole(kind: Kind, folder: Path, source: Path) -> ModelInfo:
    info = kind.info(folder)
    if info is None or info.broken:
        why = info.broken if info else f"it is no {kind.name} model"
        raise ModelBroken(f"{source} cannot be imported: {why}")
    return info


def _check_space(source: Path, files: list[Path], home: Path) -> None:
    need, free = sum(file.stat().st_size for file in files), shutil.disk_usage(home).free
    if free < need:
        raise NoSpace(f"{source.name} needs {need:,} bytes; the disk of {home} has {free:,} left")
