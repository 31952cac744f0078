"""What clients store here: bytes by their hash, each file under an id that nobody guesses.

A blob stays for as long as a stored file or an unfinished job is made of it. Addresses to upload to are
signed, so that they work without a key, for a while.
"""

import hashlib
import hmac
import os
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from server.errors import BadRequest, StorageFull
from server.folders import sync

_BLOCK = 1 << 20

UPLOAD_TIME = 3600
"""Seconds for which an address to upload to is good, and a token."""

_MARK = 32
"""Characters of a hash that tell a part from another one with its number."""


class Blobs:
    """Bytes under the SHA-256 of what they are, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def keep(self, source: Path, sha256: str) -> None:
        """Keep a file that is complete, by the hash of it."""
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _copy(source, target)
            sync(target.parent)
            sync(self._folder)

    def remove(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)
        with suppress(OSError):
            self.path(sha256).parent.rmdir()

    def sweep(self, used: set[str]) -> None:
        """Remove what nobody uses."""
        for blob in self._folder.glob("??/*"):
            if blob.name not in used:
                blob.unlink(missing_ok=True)


class Uploads:
    """Files that arrive in parts, in any order and several at a time, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, source: Path, id: str, number: int) -> str:
        """Keep a part that is complete; its mark, by which it is meant when parts are joined."""
        mark = digest(source)[:_MARK]
        target = self._part(id, number, mark)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, target)
        return mark

    def join(self, id: str, parts: Iterable[tuple[int, str]], target: Path) -> None:
        """Write parts, by their numbers and marks, one behind the other. Raises BadRequest."""
        with target.open("wb") as whole:
            for number, mark in parts:
                try:
                    with self._part(id, number, mark).open("rb") as part:
                        shutil.copyfileobj(part, whole, _BLOCK)
                except FileNotFoundError as error:
                    raise BadRequest(f"part {number} is not here, or another one", "parts") from error

    def remove(self, id: str) -> None:
        shutil.rmtree(self._folder / id, ignore_errors=True)

    def size(self, besides: str = "") -> int:
        """Bytes of all parts but those of one upload."""
        parts = self._folder.glob("*/*")
        return sum(part.stat().st_size for part in parts if part.parent.name != besides)

    def sweep(self, before: float) -> None:
        """Remove what was begun before that time, in Unix seconds."""
        for upload in self._folder.glob("*"):
            if upload.stat().st_mtime < before:
                self.remove(upload.name)

    def _part(self, id: str, number: int, mark: str) -> Path:
        return self._folder / id / f"{number}-{mark}"


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex, once all of it is on the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _copy(source: Path, target: Path) -> None:
    """As a second name of the same bytes, where the disk can."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        part = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
        shutil.copyfile(source, part)
        part.replace(target)


def refuse_if_full(size: int, taken: int, most: int, whose: str) -> None:
    """Raises StorageFull where `size` more bytes do not fit."""
    if taken + size > most:
        raise StorageFull(f"{whose} files would take more than {most:,} bytes; wait until some expire")


class Signer:
    """Signatures that only this server makes, by a secret in `path`, made at first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._secret = b""

    def sign(self, *parts: str) -> str:
        return hmac.new(self._key(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()

    def is_signed(self, signature: str, *parts: str) -> bool:
        return hmac.compare_digest(self.sign(*parts).encode(), signature.encode())

    def _key(self) -> bytes:
        self._secret = self._secret or secret_file(self._path, secrets.token_bytes(32))
        return self._secret


def secret_file(path: Path, fresh: bytes) -> bytes:
    """What the file holds; it is made with `fresh` where there is none. Only this user may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    part.touch(mode=0o600)
    part.write_bytes(fresh)
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink()
    return path.read_bytes()
