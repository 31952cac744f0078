"""Voices that clients made of samples, and the recordings of the consent they were made with.

Each is a folder of its own under one that several servers may share. It gets its name once all of it is
there, so what is seen is whole. Only this user may read it: a voice identifies a person.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from server.errors import ConsentInUse, ConsentNotFound, CustomVoiceNotFound, StorageFull
from server.types import Sample

PREFIX = "voice_"
"""How the ids of voices begin."""

_CONSENT = "cons_"
_ID = re.compile(rf"({PREFIX}|{_CONSENT})[0-9a-f]{{24}}")
_NEW = ".new-"
_ABANDONED = 3600.0
"""Seconds after which what is not whole is left of a server that was killed."""


@dataclass(frozen=True, slots=True)
class Consent:
    """That somebody agreed to have a voice made of his."""

    id: str
    name: str
    language: str
    """BCP 47."""
    created: float
    """Unix seconds."""
    owner: str
    """Name of the API key that it was sent with; "" on a server without keys."""
    sha256: str
    """Of the recording as it was sent, in hex."""


@dataclass(frozen=True, slots=True)
class CustomVoice:
    """A voice made of a sample."""

    id: str
    name: str
    language: str
    """BCP 47, as the consent says."""
    created: float
    owner: str
    consent: str
    """Its id."""
    sha256: str
    """Of the sample as it is kept, in hex."""


Kept = TypeVar("Kept", Consent, CustomVoice)


class CustomVoices:
    """Those in `folder`; each key may keep up to `most` of a kind. None as `owner` stands for everybody."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most

    def sweep(self) -> None:
        """Remove what killed servers left half done."""
        for left in self._folder.glob(f"*/{_NEW}*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(left)

    # Consents ------------------------------------------------------------------------------------------

    def consents(self, owner: str | None) -> list[Consent]:
        """The newest first."""
        return self._all(Consent, owner)

    def consent(self, id: str, owner: str | None) -> Consent:
        """Raises ConsentNotFound."""
        found = self._read(id, Consent, owner)
        if found is None:
            raise ConsentNotFound(f"there is no consent {id[:80]!a}")
        return found

    def agree(self, name: str, language: str, recording: Path, sha256: str, owner: str) -> Consent:
        """Keep the recording of a consent. Raises StorageFull."""
        consent = Consent(_new(_CONSENT), name, language, time.time(), owner, sha256)
        with self._making(consent) as folder:
            shutil.copyfile(recording, folder / "recording")
        return consent

    def rename(self, id: str, name: str, owner: str | None) -> Consent:
        """Raises ConsentNotFound."""
        consent = replace(self.consent(id, owner), name=name)
        _write(consent, self._place(consent))
        return consent

    def withdraw(self, id: str, owner: str | None) -> None:
        """Forget a consent. Raises ConsentNotFound, and ConsentInUse while there are voices made with it."""
        consent = self.consent(id, owner)
        if using := [voice.id for voice in self.voices(None) if voice.consent == id]:
            raise ConsentInUse(f"the voice {using[0]} was made with this consent: delete it first", "id")
        _remove(self._place(consent))

    # Voices --------------------------------------------------------------------------------------------

    def voices(self, owner: str | None) -> list[CustomVoice]:
        """The newest first."""
        return self._all(CustomVoice, owner)

    def voice(self, id: str, owner: str | None) -> CustomVoice:
        """Raises CustomVoiceNotFound."""
        found = self._read(id, CustomVoice, owner)
        if found is None:
            raise CustomVoiceNotFound(f"there is no voice {id[:80]!a}")
        return found

    @contextmanager
    def making(
        self, name: str, consent: Consent, sample: Sample, owner: str
    ) -> Iterator[tuple[CustomVoice, Sample]]:
        """A voice with its sample, kept if the block ends well. Raises StorageFull."""
        voice = CustomVoice(
            _new(PREFIX), name, consent.language, time.time(), owner, consent.id, sample.sha256
        )
        with self._making(voice) as folder:
            shutil.copyfile(sample.path, folder / _SAMPLE)
            yield voice, replace(sample, path=str(folder / _SAMPLE), kept=str(folder))
            # Whoever withdrew it meanwhile did not know of this voice.
            self.consent(consent.id, None)

    def remove(self, id: str, owner: str | None) -> None:
        """Raises CustomVoiceNotFound."""
        _remove(self._place(self.voice(id, owner)))

    def sample(self, voice: CustomVoice) -> Sample:
        """What the voice is cloned from."""
        folder = self._place(voice)
        return Sample(str(folder / _SAMPLE), voice.sha256, kept=str(folder))

    # Files ---------------------------------------------------------------------------------------------

    def _place(self, kept: Consent | CustomVoice) -> Path:
        return self._folder / _KINDS[type(kept)] / kept.id

    def _all(self, kind: type[Kept], owner: str | None) -> list[Kept]:
        names = sorted(path.name for path in (self._folder / _KINDS[kind]).glob("*_*"))
        found = [kept for name in names if (kept := self._read(name, kind, owner))]
        return sorted(found, key=lambda kept: (kept.created, kept.id), reverse=True)

    def _read(self, id: str, kind: type[Kept], owner: str | None) -> Kept | None:
        if not _ID.fullmatch(id):
            return None
        try:
            kept = msgspec.json.decode((self._folder / _KINDS[kind] / id / _FILE).read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError):
            return None
        return kept if owner in (None, kept.owner) else None

    @contextmanager
    def _making(self, kept: Kept) -> Iterator[Path]:
        """A folder that becomes what is kept if the block ends well, and is gone if it does not."""
        if len(self._all(type(kept), kept.owner)) >= self._most:
            raise StorageFull(f"a key may keep {self._most} voices and as many consents: delete one first")
        place = self._place(kept)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = place.with_name(f"{_NEW}{kept.id}")
        new.mkdir(mode=0o700, parents=True)
        try:
            yield new
            _write(kept, new)
            new.rename(place)
        finally:
            shutil.rmtree(new, ignore_errors=True)


_KINDS: dict[type[Consent] | type[CustomVoice], str] = {Consent: "consents", CustomVoice: "voices"}
_FILE = "about.json"
_SAMPLE = "sample.pcm"


def _new(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def _write(kept: Consent | CustomVoice, folder: Path) -> None:
    part = folder / f"{_FILE}.{secrets.token_hex(4)}"
    part.write_bytes(msgspec.json.encode(kept))
    part.replace(folder / _FILE)


def _remove(folder: Path) -> None:
    """At once for whoever looks: its name goes first."""
    gone = folder.with_name(f"{_NEW}{secrets.token_hex(4)}-{folder.name}")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
