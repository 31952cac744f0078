"""The models that can be pulled by name: GGML Whisper files, and models of several files, that are known to
lie on the hub.

What stands in `catalogue.json` is from whisper.cpp's own list (ggml-org/whisper.cpp, models/README.md); sizes
where it has none follow from the tensors' shapes. CTranslate2's folders are those that faster-whisper knows
(SYSTRAN/faster-whisper, utils.py). Pipelines that tell speakers apart are pyannote's own, their sizes
rounded. At download time the hub's own sizes and hashes count.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType

from server.ggml import LANGUAGES

HOME = "ggerganov/whisper.cpp"
"""The repository of a file when none is given."""

_NAMES = {"turbo": "ggml-large-v3-turbo", "large": "ggml-large-v3"}
"""What OpenAI's own command line calls some models."""

_MIB = 1 << 20

_OVERHEAD = {"tiny": 198 * _MIB, "base": 246 * _MIB, "small": 386 * _MIB, "medium": 640 * _MIB}
"""Bytes beside the weights of one context: whisper.cpp's memory table less the files' sizes."""

_LARGE_OVERHEAD = 1040 * _MIB

_PROCESS = 300 * _MIB
"""Bytes of a process that runs CTranslate2, beside the weights."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that can be pulled."""

    id: str
    """What it is called once it is installed."""
    path: str
    """Its file in the repository."""
    repo: str
    """On the hub: "owner/name"."""
    size: int
    """Bytes, to within a thousandth; of all files, where it is several."""
    sha1: str | None
    """As whisper.cpp publishes it; None where it does not."""
    multilingual: bool
    languages: tuple[str, ...]
    """ISO-639-1 codes it can be asked for."""
    capabilities: tuple[str, ...]
    """Of "translate" into English, "diarize" by turns of speakers, "words" with times."""
    licence: str
    """As the hub spells it."""
    memory: int
    """Bytes that it takes when loaded on a CPU, estimated."""
    kind: str = ""
    """For a model of several files, its kind (kinds.py); `path` is its folder then, "" for the repository."""
    revision: str = ""
    """The commit that is pulled; "" for the newest."""
    parts: tuple[tuple[str, str], ...] = ()
    """Folders of the model whose files lie in other repositories, each with its repository."""


@cache
def entries() -> tuple[Entry, ...]:
    """Every model of the catalogue, small ones first."""
    rows = json.loads(Path(__file__).with_name("catalogue.json").read_text("utf-8"))
    return tuple(_entry(**row) for row in rows)


def find(name: str) -> Entry | None:
    """The entry that a name means: its id, with or without "ggml-" and ".bin", OpenAI's name for it, or the
    repository that it is."""
    bare = name.removesuffix(".bin")
    wanted = {bare, f"ggml-{bare}", _NAMES.get(bare)}
    return next((entry for entry in entries() if entry.id in wanted or _is(entry, name)), None)


def near(name: str) -> tuple[str, ...]:
    """The ids most like a name, at most three, best first."""
    return nearest(name, [entry.id for entry in entries()])


def nearest(name: str, ids: Iterable[str]) -> tuple[str, ...]:
    """Those of `ids` most like a name, at most three, best first; "ggml-" and ".bin" do not count."""
    by_short = {_short(id): id for id in ids}
    return tuple(by_short[short] for short in get_close_matches(_short(name), by_short, n=3, cutoff=0.5))


def memory(kind: str, size: int) -> int:
    """Bytes that a model of this kind ("tiny" to "large") and file size takes, estimated for one context."""
    return size + _OVERHEAD.get(kind, _LARGE_OVERHEAD)


def capabilities(id: str, multilingual: bool, short_decoder: bool) -> tuple[str, ...]:
    """What a Whisper model can do beyond writing down what it hears.

    `short_decoder`: most of its decoder was cut away, and with that its translations (turbo, distil).
    """
    can = {
        "translate": multilingual and not short_decoder,
        "diarize": id.endswith("-tdrz"),
        "words": True,
    }
    return tuple(name for name, able in can.items() if able)


def _is(entry: Entry, repo: str) -> bool:
    """Whether the entry is this repository, all of it."""
    return bool(entry.kind) and not entry.path and entry.repo == repo


def _short(name: str) -> str:
    return name.removesuffix(".bin").removeprefix("ggml-")


def _entry(
    path: str,
    repo: str,
    size: int,
    sha1: str | None = None,
    multilingual: bool = True,
    *,
    kind: str = "",
    id: str = "",
    revision: str = "",
    languages: tuple[str, ...] | None = None,
    capabilities: tuple[str, ...] | None = None,
    licence: str = "mit",
    memory: int = 0,
    parts: Mapping[str, str] = MappingProxyType({}),
) -> Entry:
    """One row; what a Whisper model's name tells of it need not stand there."""
    id = id or path.removesuffix(".bin") or repo.partition("/")[2]
    speaks = _languages(id) if multilingual else ("en",)
    can = _abilities(id, multilingual)
    return Entry(
        id=id,
        path=path,
        repo=repo,
        size=size,
        sha1=sha1,
        multilingual=multilingual,
        languages=speaks if languages is None else tuple(languages),
        capabilities=can if capabilities is None else tuple(capabilities),
        licence=licence,
        memory=memory or _memory(id, size, kind),
        kind=kind,
        revision=revision,
        parts=tuple(parts.items()),
    )


def _languages(id: str) -> tuple[str, ...]:
    # Cantonese came with large-v3.
    return tuple(LANGUAGES) if "v3" in id else tuple(LANGUAGES)[:-1]


def _abilities(id: str, multilingual: bool) -> tuple[str, ...]:
    return capabilities(id, multilingual, short_decoder="turbo" in id or "distil" in id)


def _memory(id: str, size: int, kind: str) -> int:
    """A folder of CTranslate2's has 2 bytes a weight, and 1 in memory."""
    if kind:
        return size // 2 + _PROCESS
    return memory(_short(id).split("-")[0].split(".")[0], size)
