"""Voices that the owner has enrolled: a folder of samples, each named after the person who speaks in it.

The folder is looked at anew each time. A name is only ever compared with those of the files.
"""

from collections.abc import Sequence
from pathlib import Path

from server.errors import BadField
from server.types import KnownVoice

EVERYBODY = "*"
"""What means all of them."""

FIELD = "known_speakers"
"""What names them in a request."""

_LARGEST = 1 << 22
"""Bytes of a sample: ten seconds of any sound."""


def voices(folder: Path, names: Sequence[str], most: int) -> tuple[KnownVoice, ...]:
    """Those of the people who are named, in this order. Blocks.

    Raises BadField for a name that nobody has, for more than `most`, and for a file that is no sample.
    """
    samples = _samples(folder)
    wanted = sorted(samples) if EVERYBODY in names else list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in samples]:
        raise BadField(f"{FIELD}: nobody is enrolled as {unknown[0]!a}", FIELD)
    if len(wanted) > most:
        raise BadField(f"{FIELD}: {len(wanted)} voices are more than {most}", FIELD)
    return tuple(KnownVoice(name, _read(samples[name]), enrolled=True) for name in wanted)


def _samples(folder: Path) -> dict[str, Path]:
    """The files, by the names of the people."""
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError:
        return {}
    return {file.stem: file for file in files if file.is_file()}


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST:
            raise BadField(f"{FIELD}: the sample of {file.stem} is larger than {_LARGEST:,} bytes", FIELD)
        return file.read_bytes()
    except OSError as error:
        raise BadField(
            f"{FIELD}: the sample of {file.stem} cannot be read: {error.strerror}", FIELD
        ) from error
