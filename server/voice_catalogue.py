"""The voices that can be pulled by name: Piper's, which are known to lie on the hub, and Kokoro's model.

What stands in `piper_voices.json` is from the voices' own list (rhasspy/piper-voices, voices.json, as
wyoming-piper 2.5.2 has it). At download time the hub's own sizes and hashes count.
"""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

_PIPER = "rhasspy/piper-voices"
_KOKORO = "onnx-community/Kokoro-82M-v1.0-ONNX"

_CARD = "in its MODEL_CARD"


@dataclass(frozen=True, slots=True)
class Entry:
    """A voice, or a model of several, that can be pulled."""

    id: str
    """What it is called to be pulled, and its folder once it is here."""
    name: str
    """The voice's own name then, or how those of the model begin: "Piper.EN-US.lessac-medium"."""
    engine: str
    locale: str
    """BCP 47; "" for several."""
    title: str
    """For people."""
    quality: str
    """As its makers call it: "x_low", "low", "medium" or "high"; "" where they do not."""
    speakers: int
    size: int
    """Bytes of its files."""
    licence: str
    repo: str
    """On the hub: "owner/name"."""
    path: str
    """Its folder in the repository, with a slash at its end; "" for all of it."""


@cache
def entries() -> tuple[Entry, ...]:
    """Every voice of the catalogue, by engine and locale."""
    rows = json.loads(Path(__file__).with_name("piper_voices.json").read_text("utf-8"))
    return (_kokoro(), *(_piper(**row) for row in rows))


def find(name: str) -> Entry | None:
    """The entry that a name means: its id, or the voice's own name."""
    wanted = name.lower()
    if wanted.startswith("kokoro."):
        wanted = "kokoro"
    return next((entry for entry in entries() if wanted in (entry.id.lower(), entry.name.lower())), None)


def near(name: str) -> tuple[str, ...]:
    """The ids most like a name, at most three, best first."""
    return tuple(get_close_matches(name, [entry.id for entry in entries()], n=3, cutoff=0.5))


def _piper(id: str, language: str, country: str, speakers: int, size: int) -> Entry:
    code, name, quality = id.split("-", 2)
    locale = code.replace("_", "-")
    return Entry(
        id=id,
        name=f"Piper.{locale.upper()}.{name}-{quality}",
        engine="piper",
        locale=locale,
        title=f"{language} ({country})" + (f", {speakers} speakers" if speakers > 1 else ""),
        quality=quality,
        speakers=speakers,
        size=size,
        licence=_CARD,
        repo=_PIPER,
        path=f"{code.partition('_')[0]}/{code}/{name}/{quality}/",
    )


def _kokoro() -> Entry:
    return Entry(
        id="Kokoro-82M-v1.0-ONNX",
        name="kokoro",
        engine="kokoro",
        locale="",
        title="54 voices of nine languages",
        quality="",
        speakers=54,
        size=354_000_000,
        licence="Apache-2.0",
        repo=_KOKORO,
        path="",
    )
