"""What models there are, and which one a name means.

A model is a GGML Whisper file, or a folder that CTranslate2's converter wrote, in one of two folders: a
writable one, where people copy their own and where downloads go, and the bundled one, of which a model is
deleted by a mark in the first. Both are looked at anew at each call; a file is only opened when it is new or
has changed. Everything here blocks, for milliseconds where it does not say otherwise.
"""

import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from server import catalogue, ct2, digests, folders, ggml
from server.digests import Digests, Note
from server.errors import BadField, BadRequest, ModelBroken, ModelNotFound, NoSpace
from server.partial import writing
from server.sources import local
from server.types import ModelInfo, WindowShape

ALIASES = frozenset(
    {
        "whisper",
        "whisper-1",
        "gpt-transcribe",
        "gpt-4o-transcribe",
        "gpt-4o-mini-transcribe",
        "gpt-4o-mini-transcribe-2025-12-15",
        "gpt-4o-transcribe-diarize",
    }
)
"""Names that clients of hosted services send: each means the best installed model."""

Able = Callable[[ModelInfo], bool]
"""Whether a model can do what is asked."""

_NONE = "no model that can be loaded is installed"

_LONGEST_NAME = 80
"""Characters of a client's name that are compared with ids and said back to it."""

_LONGEST_FILE = 200
"""Bytes of a file's name; what stands beside it has a longer one, and 255 is the most."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of one model beyond its header."""

    id: str
    kin: tuple[int, int, int]
    """Width, encoder layers, decoder layers: another file of the same name is not this model."""
    languages: tuple[str, ...]
    """ISO-639-1 codes it was really trained on."""
    short_context: bool
    shape: WindowShape
    notice: str
    """One ASCII sentence, since it also travels in an HTTP header."""


DEMO = Traits(
    id="ggml-demo",
    kin=(192, 4, 3),
    languages=("en", "de", "es", "fr"),
    short_context=True,
    shape=WindowShape(target=7.0, longest=10.0, gap=2.0, padding=0.1),
    notice=(
        "This answer was made with the demo model, which knows only a few hundred words; "
        "install a real Whisper model for your own recordings."
    ),
)

TRAITS = (DEMO,)


def bundled(package: Path = Path(__file__).parent) -> Path | None:
    """The read-only folder of the models that come with the server: in the package as installed from a wheel,
    beside it in a checkout. None where there is neither."""
    if (inside := package / "bundled").is_dir():
        return inside
    beside = package.parent / "models"
    return beside if (package.parent / "pyproject.toml").is_file() and beside.is_dir() else None


@dataclass(frozen=True, slots=True)
class _Known:
    """A file that has been looked at."""

    info: ModelInfo
    header: ggml.Header | None
    """None where the file is broken."""
    mark: tuple[int, ...]
    """Differs when the file has changed."""

    @property
    def traits(self) -> Traits | None:
        return _traits(self.info.id, self.header) if self.header else None


def file_name(name: str, field: str = "name") -> str:
    """The name as that of a model file in the models' folder. Raises BadField, blaming `field`."""
    full = name if name.endswith(".bin") else f"{name}.bin"
    plain = full.isprintable() and not full.startswith(".") and not {"/", "\\"} & set(full)
    if not plain or len(full.encode("utf-8", "replace")) > _LONGEST_FILE or full == ".bin":
        raise BadField(f"{field}: {name[:_LONGEST_NAME]!a} cannot be the name of a model file", field)
    return full


class Models:
    """The models of a writable folder and of a bundled one; the former wins where both have an id.

    `default` is the name that a request without a model means; without it that is the demo model if `demo` is
    "true", or if it is "auto" and no other is installed; else the best installed one. `aliases` are names of
    the owner's own. `short_context` says by id whether a model may have its encoder cut to the sound. `gone`
    is told the hash of a file that has been deleted. Safe to use from several threads.
    """

    def __init__(
        self,
        folder: Path,
        bundled: Path | None,
        default: str = "",
        demo: Literal["true", "false", "auto"] = "false",
        aliases: Mapping[str, str] = MappingProxyType({}),
        short_context: Mapping[str, bool] = MappingProxyType({}),
        gone: Callable[[str], None] = lambda sha256: None,
    ) -> None:
        self.folder = folder.absolute()
        self._bundled = bundled.absolute() if bundled else None
        self._default = default
        self._demo = demo
        self._aliases = aliases
        self._short_context = short_context
        self._gone = gone
        self._digests = Digests(self.folder)
        self._seen: dict[Path, _Known] = {}
        self._lock = threading.RLock()

    def installed(self) -> tuple[ModelInfo, ...]:
        """Every model file, by id; those that cannot be loaded have the reason in `broken`.

        Raises ModelNotFound where a folder is there and cannot be read.
        """
        return tuple(known.info for known in self._look())

    def find(self, name: str | None, able: Able = lambda _: True) -> ModelInfo:
        """The model that a client means by `name`: an id, with or without "ggml-" and ".bin", or an alias.

        None and "" mean the default, or the best installed one where only that is `able`; an alias of hosted
        services means the best that is able, if any. Raises ModelNotFound, or ModelBroken for a file that
        cannot be loaded. A name is only ever compared, never made into a path.
        """
        models = self._look()
        known = self._named(models, name, able) if name else self._unnamed(models, able)
        if known.info.broken:
            raise ModelBroken(f"the model {known.info.id} cannot be loaded: {known.info.broken}")
        return known.info

    def named(self, name: str, *, aliases: bool = True) -> ModelInfo:
        """The model that a name means, also where it cannot be loaded; `aliases`: not only by its own id.

        Raises ModelNotFound.
        """
        models = self._look()
        known = self._named(models, name) if aliases else _by_id(models, name)
        if known is None:
            raise self._unknown(name, [known.info.id for known in models])
        return known.info

    def present(self, name: str, *, bundled: bool = True) -> ModelInfo | None:
        """The model of this file name, if it is there and can be loaded; `bundled`: also if only that is."""
        for known in self._look():
            path = known.info.path
            if path.name == name and (bundled or path.parent == self.folder):
                return None if known.info.broken else known.info
        return None

    def origin(self, info: ModelInfo) -> Note | None:
        """Where a model was pulled from, if that is known."""
        try:
            return self._digests.recall(info.path, info.path.stat())
        except OSError:
            return None

    def bundled(self, name: str) -> str | None:
        """The file name of the bundled model that `name` means, deleted or not."""
        bare = name.removesuffix(".bin")
        found = (f"{id}.bin" for id in (bare, f"ggml-{bare}") if self._bundles(f"{id}.bin"))
        return next(found, None)

    def restore(self, name: str) -> ModelInfo | None:
        """Bring a deleted bundled model back, by its file name; None where none of that name is bundled.

        Raises NotWritable.
        """
        if not self._bundles(name):
            return None
        with writing(self.folder):
            self._mark(name).unlink(missing_ok=True)
        return self.present(name)

    def delete(self, id: str) -> ModelInfo:
        """Remove a model, whole or broken, by its id, with or without "ggml-" and ".bin"; not by alias.

        A file that a worker has open works on. Raises ModelNotFound and NotWritable.
        """
        with self._lock:
            models = self._look()
            known = _by_id(models, id)
            if known is None:
                raise self._unknown(id, [known.info.id for known in models])
            name = known.info.path.name
            if known.info.engine:
                folders.remove(known.info.path)
                return known.info
            with writing(self.folder):
                (self.folder / name).unlink(missing_ok=True)
                if self._bundles(name):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._mark(name).touch()
            self._digests.forget(self.folder / name)
            self._forget(known.info.sha256)
            return known.info

    def _forget(self, sha256: str) -> None:
        """Nothing that was made from a file is needed any more, unless another one is the same."""
        if sha256 and all(known.info.sha256 != sha256 for known in self._look()):
            self._gone(sha256)

    def adopt(self, file: Path, name: str, note: Note) -> ModelInfo:
        """Give a whole, checked file of the models' folder its name; what had that name is gone.

        Raises NotWritable.
        """
        target = self.folder / name
        with self._lock, writing(self.folder):
            # Renaming changes neither size nor time, so that the model appears with all that is known of it.
            self._digests.remember(target, file.stat(), note)
            file.replace(target)
            folders.sync(self.folder)
            self._mark(name).unlink(missing_ok=True)
        return self._present(name)

    def import_(self, path: Path, name: str | None = None) -> ModelInfo:
        """Copy a GGML file into the models' folder, as `name` if one is given. Takes as long as copying does.

        Raises ModelBroken with the reason where it is not a whole one, BadField where another model has that
        name, NoSpace and NotWritable. Nothing is left behind then.
        """
        name = file_name(name or path.name)
        self._check_whole(path)
        target = self.folder / name
        if self.present(name, bundled=False):
            self._check_same(path, target)
            return self._present(name)
        temporary = digests.temporary_name(target)
        try:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._check_space(path)
                local.copy(path, temporary)
            # It may have changed while it was copied.
            self._check_whole(temporary, path)
            with writing(self.folder):
                temporary.replace(target)
                folders.sync(self.folder)
                self._mark(name).unlink(missing_ok=True)
        finally:
            temporary.unlink(missing_ok=True)
        return self._present(name)

    def import_folder(self, folder: Path) -> tuple[ModelInfo, ...]:
        """Import every GGML file of a folder and of those in it; the broken ones are only told of.

        Raises BadRequest where there is none, BadField, NoSpace and NotWritable as `import_` does.
        """
        try:
            files = list(local.candidates(folder))
        except OSError as error:
            raise BadRequest(f"{folder} cannot be read: {error.strerror}") from error
        if not files:
            raise BadRequest(f"there is no GGML file in {folder}")
        return tuple(self._imported(file) for file in files)

    def digest(self, id: str, stopped: Callable[[], bool] = lambda: False) -> ModelInfo:
        """The model, its SHA-256 computed if nobody has yet; those of several files have none. Takes seconds
        per gigabyte then; see `compute`.

        Raises ModelNotFound and ModelBroken.
        """
        info = self.find(id)
        if info.sha256 or info.engine:
            return info
        try:
            before = info.path.stat()
            sha256 = digests.compute(info.path, stopped)
            # Should it change meanwhile, it is no longer the file that this is remembered of.
            if sha256:
                with self._lock:
                    self._digests.remember(info.path, before, Note(sha256))
                    self._seen.pop(info.path, None)
        except OSError as error:
            raise ModelBroken(f"the model {info.id} cannot be read: {error.strerror}") from error
        return replace(info, sha256=sha256)

    def digest_all(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Compute what is missing, until `stopped()` becomes true. For a thread in the background."""
        for info in self.installed():
            if not (info.broken or info.sha256 or info.engine or stopped()):
                try:
                    self.digest(info.id, stopped)
                except (ModelNotFound, ModelBroken):
                    continue

    def _imported(self, file: Path) -> ModelInfo:
        try:
            return self.import_(file)
        except ModelBroken as error:
            size = file.stat().st_size if file.exists() else 0
            return ModelInfo(id=file.stem, path=file, size=size, created=0, broken=str(error))

    def _check_whole(self, path: Path, source: Path | None = None) -> None:
        try:
            ggml.check(path)
        except ModelBroken as error:
            raise ModelBroken(f"{source or path} cannot be imported: {error}") from error

    def _check_same(self, path: Path, target: Path) -> None:
        """Raises BadField where a file of another content has the name already."""
        if os.path.samefile(path, target):
            return
        if path.stat().st_size != target.stat().st_size or digests.compute(path) != digests.compute(target):
            raise BadField(
                f"another model is installed as {target.name}: delete it first, or give another name", "name"
            )

    def _check_space(self, path: Path) -> None:
        need, free = path.stat().st_size, shutil.disk_usage(self.folder).free
        if free < need:
            raise NoSpace(f"{path.name} needs {need:,} bytes; the disk of {self.folder} has {free:,} left")

    def _present(self, name: str) -> ModelInfo:
        info = self.present(name, bundled=False)
        if info is None:
            raise ModelNotFound(f"{name} was installed and is gone again")
        return info

    def _bundles(self, name: str) -> bool:
        return self._bundled is not None and "/" not in name and _regular(self._bundled / name) is not None

    def _mark(self, name: str) -> Path:
        """The file that says that the bundled model of this file name was deleted."""
        return self.folder / f".{name}.deleted"

    def _unnamed(self, models: tuple[_Known, ...], able: Able) -> _Known:
        known = self._named(models, self._default) if self._default else self._first(models)
        if known.info.broken or able(known.info):
            return known
        return max(_ranked(models, able), key=itemgetter(0), default=((), known))[1]

    def _named(self, models: tuple[_Known, ...], name: str, able: Able = lambda _: True) -> _Known:
        if found := _by_id(models, name):
            return found
        if meaning := self._aliases.get(name):
            return self._means(models, name, meaning, able)
        if (entry := catalogue.find(name)) and (found := _by_id(models, entry.id)):
            return found
        if name in ALIASES:
            return self._best(models, able)
        if "/" in name and (found := _by_origin(models, name)):
            return found
        raise self._unknown(name, [known.info.id for known in models])

    def _means(self, models: tuple[_Known, ...], alias: str, name: str, able: Able) -> _Known:
        """What an alias of the owner's means; aliases of aliases are none."""
        if found := _by_id(models, name):
            return found
        entry = catalogue.find(name)
        if found := _by_id(models, entry.id if entry else name):
            return found
        if name in ALIASES:
            return self._best(models, able)
        error = self._unknown(name, [known.info.id for known in models])
        raise ModelNotFound(f"{alias[:_LONGEST_NAME]!a} means {name!a}: {error}")

    def _first(self, models: tuple[_Known, ...]) -> _Known:
        demo = next((known for known in models if known.traits is DEMO), None)
        real = any(known.header and known.traits is not DEMO for known in models)
        wanted = self._demo == "true" or (self._demo == "auto" and not real)
        return demo if wanted and demo else self._best(models)

    def _best(self, models: tuple[_Known, ...], able: Able = lambda _: True) -> _Known:
        ranked = _ranked(models, able) or _ranked(models)
        if not ranked:
            raise self._none(demo=any(known.traits is DEMO for known in models))
        return max(ranked, key=itemgetter(0))[1]

    def _none(self, demo: bool) -> ModelNotFound:
        what = f'no model but the demo is installed, which answers to "{DEMO.id}"' if demo else _NONE
        return ModelNotFound(
            f'{what}: "whisperd models pull base" fetches one; or copy a GGML Whisper file such as '
            f"ggml-base.bin into {self.folder}"
        )

    def _unknown(self, name: str, ids: list[str]) -> ModelNotFound:
        if entry := catalogue.find(name):
            return ModelNotFound(
                f'the model {entry.id} is not installed: "whisperd models pull {entry.id}" fetches it '
                f"({entry.size / 1e6:,.0f} MB)"
            )
        missing = f"there is no model {name[:_LONGEST_NAME]!a}"
        if not ids:
            return ModelNotFound(f"{missing}, and {self._none(demo=False)}")
        near = catalogue.nearest(name[:_LONGEST_NAME], ids)
        hint = f"; near it: {', '.join(near)}" if near else ""
        return ModelNotFound(f"{missing} (installed: {len(ids)}){hint}")

    def _look(self) -> tuple[_Known, ...]:
        with self._lock:
            seen = {known.info.path: known for folder in self._folders for known in self._files(folder)}
            self._seen = seen
        by_id = {known.info.id: known for known in seen.values()}
        return tuple(by_id[id] for id in sorted(by_id))

    @property
    def _folders(self) -> tuple[Path, ...]:
        return (self._bundled, self.folder) if self._bundled else (self.folder,)

    def _files(self, folder: Path) -> Iterator[_Known]:
        for path, status in _entries(folder):
            if folder == self._bundled and os.path.exists(self._mark(path.name)):
                continue
            mark = _mark(status)
            known = self._seen.get(path)
            yield known if known and known.mark == mark else self._known(path, status, mark)
        for path in folders.visible(folder) if folder == self.folder else ():
            if found := self._folder(path):
                yield found

    def _folder(self, path: Path) -> _Known | None:
        """The model of several files in a folder, if it is one."""
        if not ct2.looks_like_one(path):
            return None
        try:
            marks = [_mark(file.stat()) for file in folders.contents(path)]
        except OSError:
            return None  # it is just going
        mark = tuple(number for each in marks for number in each)
        known = self._seen.get(path)
        return known if known and known.mark == mark else self._tuned(_known_folder(path, mark))

    def _known(self, path: Path, status: os.stat_result, mark: tuple[int, ...]) -> _Known:
        known = self._tuned(_known(path, status, mark))
        note = self._digests.recall(path, status)
        return replace(known, info=replace(known.info, sha256=note.sha256)) if note else known

    def _tuned(self, known: _Known) -> _Known:
        """With what the owner says of it."""
        short = self._short_context.get(known.info.id)
        return known if short is None else replace(known, info=replace(known.info, short_context=short))


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _by_id(models: tuple[_Known, ...], name: str) -> _Known | None:
    by_id = {known.info.id: known for known in models}
    bare = name.removesuffix(".bin")
    return next((by_id[id] for id in (name, bare, f"ggml-{bare}") if id in by_id), None)


def _by_origin(models: tuple[_Known, ...], repo: str) -> _Known | None:
    """The model of several files that is this repository of the hub."""
    for known in models:
        origin = folders.origin(known.info.path) if known.info.engine else None
        if origin and (origin.repo, origin.path) == (repo, ""):
            return known
    return None


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ModelNotFound(f"the models' folder {folder} cannot be read: {error.strerror}") from error
    for name in names:
        if name.endswith(".bin") and not name.startswith("."):
            status = _regular(folder / name)
            if status:
                yield folder / name, status


def _regular(path: Path) -> os.stat_result | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _known(path: Path, status: os.stat_result, mark: tuple[int, ...]) -> _Known:
    # A name that is not UTF-8 must still go into an answer.
    id = os.fsencode(path.stem).decode("utf-8", "replace")
    plain = ModelInfo(id=id, path=path, size=status.st_size, created=int(status.st_mtime))
    try:
        header = ggml.check(path)
    except ModelBroken as error:
        return _Known(replace(plain, broken=str(error)), None, mark)
    return _Known(_described(plain, header), header, mark)


def _known_folder(path: Path, mark: tuple[int, ...]) -> _Known:
    info = ct2.info(path)
    assert info
    try:
        return _Known(info, None if info.broken else ct2.check(path), mark)
    except ModelBroken as error:
        return _Known(replace(info, broken=str(error)), None, mark)


def _described(plain: ModelInfo, header: ggml.Header) -> ModelInfo:
    info = replace(
        plain,
        multilingual=header.multilingual,
        languages=header.languages,
        capabilities=catalogue.capabilities(
            plain.id, header.multilingual, short_decoder=2 * header.text_layers <= header.audio_layers
        ),
    )
    traits = _traits(info.id, header)
    if traits is None:
        return info
    return replace(
        info,
        languages=traits.languages,
        short_context=traits.short_context,
        shape=traits.shape,
        notice=traits.notice,
    )


def _traits(id: str, header: ggml.Header) -> Traits | None:
    kin = (header.audio_state, header.audio_layers, header.text_layers)
    return next((traits for traits in TRAITS if (traits.id, traits.kin) == (id, kin)), None)


def _ranked(
    models: tuple[_Known, ...], able: Able = lambda _: True
) -> list[tuple[tuple[float, ...], _Known]]:
    return [
        (_rank(known.info.id, known.header), known)
        for known in models
        if known.header and known.traits is not DEMO and able(known.info)
    ]


def _rank(id: str, header: ggml.Header) -> tuple[float, ...]:
    """Larger is better: by size, then languages, version, a decoder that was not cut short, precision."""
    return (
        header.audio_layers,
        header.audio_state,
        header.multilingual,
        _version(id, header),
        header.text_layers,
        header.weights.bits,
    )


def _version(id: str, header: ggml.Header) -> int:
    """3 for large-v3 and its kin, by their hundredth language; 2 and 1 differ in nothing but their names."""
    if len(header.languages) == 100:
        return 3
    return 2 if "v2" in id else 1
