"""Whose files are taken, and exactly which: the setting `trusted_repos`.

GGML files are data and come from any repository; a pin says which of its versions. What may contain code
comes only at a pinned commit: its 40 figures are a hash of all that lies there, while a branch or a tag may
be moved to something else. The hash of a single file holds against a mirror that lies, too.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from server.errors import BadField, ChecksumMismatch

_REPO = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_PIN = re.compile(rf"({_REPO})@([\w][\w./-]{{0,99}})", re.ASCII)
_FILE = re.compile(rf"({_REPO})/([\w./ +-]{{1,400}})@sha256:([0-9a-f]{{64}})", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class File(NamedTuple):
    """A file of a repository."""

    repo: str
    path: str


def entry(text: str) -> str:
    """An entry of the setting, checked. Raises ValueError."""
    if not _PIN.fullmatch(text) and not _FILE.fullmatch(text):
        raise ValueError("write owner/name@REVISION, or owner/name/FILE@sha256:HASH")
    return text


class Trust:
    """What `trusted_repos` says. Raises ValueError for what it cannot say."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._revisions: dict[str, str] = {}
        self._hashes: dict[File, str] = {}
        for text in map(entry, entries):
            if file := _FILE.fullmatch(text):
                self._hashes[File(file[1], file[2])] = file[3]
            elif pin := _PIN.fullmatch(text):
                self._revisions[pin[1]] = pin[2]

    def revision(self, repo: str, known: str = "") -> str:
        """The revision that is pulled of a repository; `known`: that of the catalogue."""
        return self._revisions.get(repo) or known or "main"

    def check_code(self, path: str, repo: str, revision: str = "") -> None:
        """Whether a file that may contain code may be pulled; `revision`: that of the catalogue, which is as
        good as the owner's. Raises BadField."""
        pin = self._revisions.get(repo) or revision or None
        if pin is None:
            raise BadField(
                f"{path[:80]!a} may contain code, which is pulled only from repositories of trusted_repos "
                f"at a pinned commit: {repo}@COMMIT",
                "path",
            )
        if not _COMMIT.fullmatch(pin):
            raise BadField(
                f"{path[:80]!a} may contain code, and {repo} is pinned to {pin}, which can be moved to other "
                f"files; pin it to a commit, by all 40 figures: {repo}@COMMIT",
                "path",
            )

    def check(self, path: str, repo: str, commit: str, sha256: str, revision: str = "") -> None:
        """Whether what the hub tells of a file is what is pinned; `sha256`: "" where it does not tell.

        Raises ChecksumMismatch.
        """
        pin = self._revisions.get(repo) or revision
        if _COMMIT.fullmatch(pin) and commit != pin:
            raise ChecksumMismatch(f"{repo} is pinned to the commit {pin}, and the hub tells of {commit}")
        known = self._hashes.get(File(repo, path), sha256)
        if sha256 and sha256 != known:
            raise ChecksumMismatch(
                f"{path} of {repo} is pinned to the SHA-256 {known}, and the hub has {sha256}"
            )
