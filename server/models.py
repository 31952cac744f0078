"""What models there are, and which one a name means.

A model is a GGML Whisper file in one of two folders: a writable one, where people copy their own, and the
bundled one. Both are looked at anew at each call; a file is only opened when it is new or has changed.
Everything here blocks, for milliseconds.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from operator import itemgetter
from pathlib import Path
from typing import Literal

from server import ggml
from server.errors import ModelBroken, ModelNotFound
from server.types import ModelInfo, WindowShape

ALIASES = frozenset(
    {
        "whisper",
        "whisper-1",
        "gpt-4o-transcribe",
        "gpt-4o-mini-transcribe",
        "gpt-4o-transcribe-diarize",
    }
)
"""Names that clients of hosted services send: each means the best installed model."""


_NONE = "no model that can be loaded is installed"

_LONGEST_NAME = 80
"""Characters of a client's name that are compared with ids and said back to it."""


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
    shape=WindowShape(target=7.0, longest=10.0, gap=2.0),
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


class Models:
    """The models of a writable folder and of a bundled one; the former wins where both have an id.

    `default` is the name that a request without a model means; without it that is the demo model if `demo` is
    "true", or if it is "auto" and no other is installed; else the best installed one. Safe to use from
    several threads.
    """

    def __init__(
        self,
        folder: Path,
        bundled: Path | None,
        default: str = "",
        demo: Literal["true", "false", "auto"] = "false",
    ) -> None:
        self.folder = folder.absolute()
        self._bundled = bundled.absolute() if bundled else None
        self._default = default
        self._demo = demo
        self._seen: dict[Path, _Known] = {}

    def installed(self) -> tuple[ModelInfo, ...]:
        """Every model file, by id; those that cannot be loaded have the reason in `broken`.

        Raises ModelNotFound where a folder is there and cannot be read.
        """
        return tuple(known.info for known in self._look())

    def find(self, name: str | None) -> ModelInfo:
        """The model that a client means by `name`: an id, with or without "ggml-" and ".bin", or an alias.

        None and "" mean the default. Raises ModelNotFound, or ModelBroken for a file that cannot be loaded.
        A name is only ever compared, never made into a path.
        """
        models = self._look()
        known = self._named(models, name or self._default) if name or self._default else self._first(models)
        if known.info.broken:
            raise ModelBroken(f"the model {known.info.id} cannot be loaded: {known.info.broken}")
        return known.info

    def _named(self, models: tuple[_Known, ...], name: str) -> _Known:
        by_id = {known.info.id: known for known in models}
        bare = name.removesuffix(".bin")
        for id in name, bare, f"ggml-{bare}":
            if id in by_id:
                return by_id[id]
        if name in ALIASES:
            return self._best(models)
        raise self._unknown(name, list(by_id))

    def _first(self, models: tuple[_Known, ...]) -> _Known:
        demo = next((known for known in models if known.traits is DEMO), None)
        real = any(known.header and known.traits is not DEMO for known in models)
        wanted = self._demo == "true" or (self._demo == "auto" and not real)
        return demo if wanted and demo else self._best(models)

    def _best(self, models: tuple[_Known, ...]) -> _Known:
        ranked = [
            (_rank(known.info.id, known.header), known)
            for known in models
            if known.header and known.traits is not DEMO
        ]
        if not ranked:
            raise self._none(demo=any(known.traits is DEMO for known in models))
        return max(ranked, key=itemgetter(0))[1]

    def _none(self, demo: bool) -> ModelNotFound:
        what = f'no model but the demo is installed, which answers to "{DEMO.id}"' if demo else _NONE
        return ModelNotFound(f"{what}: copy a GGML Whisper file such as ggml-base.bin into {self.folder}")

    def _unknown(self, name: str, ids: list[str]) -> ModelNotFound:
        missing = f"there is no model {name[:_LONGEST_NAME]!a}"
        if not ids:
            return ModelNotFound(f"{missing}, and {self._none(demo=False)}")
        near = _near(name[:_LONGEST_NAME], ids)
        hint = f"; near it: {', '.join(near)}" if near else ""
        return ModelNotFound(f"{missing} (installed: {len(ids)}){hint}")

    def _look(self) -> tuple[_Known, ...]:
        seen = {known.info.path: known for folder in self._folders for known in self._files(folder)}
        self._seen = seen
        by_id = {known.info.id: known for known in seen.values()}
        return tuple(by_id[id] for id in sorted(by_id))

    @property
    def _folders(self) -> tuple[Path, ...]:
        return (self._bundled, self.folder) if self._bundled else (self.folder,)

    def _files(self, folder: Path) -> Iterator[_Known]:
        for path, status in _entries(folder):
            mark = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            known = self._seen.get(path)
            yield known if known and known.mark == mark else _known(path, status, mark)


def _near(name: str, ids: list[str]) -> list[str]:
    """The ids most like a name, at most three, best first."""
    by_short = {id.removeprefix("ggml-"): id for id in ids}
    return [
        by_short[short] for short in get_close_matches(name.removeprefix("ggml-"), by_short, n=3, cutoff=0.5)
    ]


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
    except OSError:
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


def _described(plain: ModelInfo, header: ggml.Header) -> ModelInfo:
    info = replace(plain, multilingual=header.multilingual, languages=header.languages)
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
