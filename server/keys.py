"""API keys: who may use this server, and who may also change it.

A key is 256 random bits, so its SHA-256 is all that is kept: nobody finds the key by trying, which is what a
slow hash would make dear for passwords, and a slow one would cost time in every request.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

Scope = Literal["use", "admin"]
"""`admin`: pull, import, delete, load and unload models; `use`: all else, which `admin` may too."""

PREFIX = "whisperd_"
"""How keys begin, so that people and scanners for leaked secrets know one when they see it."""

SHORTEST = 16
"""Characters of a key that somebody thought of himself."""

_NAME = re.compile(r"[A-Za-z0-9][\w.@-]{0,63}", re.ASCII)
_LINE = re.compile(r"(use|admin):sha256:([0-9a-f]{64})")
_ADMIN = "admin:"
_USE = "use:"


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks."""

    name: str
    scope: Scope

    def may(self, needed: Scope) -> bool:
        return needed in (self.scope, "use")


def make() -> str:
    """A new key."""
    return PREFIX + secrets.token_urlsafe(32)


def line(secret: str, scope: Scope) -> str:
    """What is kept of a key: "use:sha256:…", as in the settings."""
    return f"{scope}:sha256:{_digest(secret)}"


def named(name: str) -> str:
    """A key's name, checked. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError("a key's name has letters, digits, - _ . or @")
    return name


def kept(text: str) -> str:
    """A line of the settings, checked. Raises ValueError, in words that do not tell it."""
    if not _LINE.fullmatch(text):
        raise ValueError(
            "it is no hash of a key (use:sha256:…, admin:sha256:…); `whisperd keys make NAME` makes a key "
            "and its line"
        )
    return text


def hashed(text: str) -> str:
    """A line of the environment, which may have the key itself ("use:…", "admin:…", or alone: use).

    Raises ValueError, in words that do not tell it.
    """
    if _LINE.fullmatch(text):
        return text
    scope: Scope = "admin" if text.startswith(_ADMIN) else "use"
    secret = text.removeprefix(_ADMIN).removeprefix(_USE).strip()
    if len(secret) < SHORTEST or not sendable(secret):
        raise ValueError(
            f"a key has at least {SHORTEST} characters, or it can be guessed, and no blanks or accents; "
            "`whisperd keys make NAME` makes one"
        )
    return line(secret, scope)


def sendable(secret: str) -> bool:
    """Whether a header can have it."""
    return secret.isascii() and secret.isprintable() and " " not in secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Keys:
    """The keys that are known here. Without any, none is needed."""

    def __init__(self, lines: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        """`lines` as in the settings, by name."""
        self._known = [(_digest_of(text), Key(name, _scope_of(text))) for name, text in lines.items()]
        self._lent: dict[str, tuple[Key, float]] = {}
        self._clock = clock

    @property
    def needed(self) -> bool:
        return bool(self._known)

    def find(self, secrets: Iterable[str]) -> Key | None:
        """The first that is known of those that a request brings."""
        return next((key for secret in secrets if (key := self._find(_digest(secret)))), None)

    def lend(self, name: str, scope: Scope, seconds: float) -> str:
        """A key for a while, known to this process alone."""
        now = self._clock()
        self._lent = {digest: lent for digest, lent in self._lent.items() if lent[1] > now}
        secret = make()
        self._lent[_digest(secret)] = (Key(name, scope), now + seconds)
        return secret

    def _find(self, digest: str) -> Key | None:
        now = self._clock()
        lent = [(known, key) for known, (key, until) in self._lent.items() if until > now]
        # All are compared, each in the same time: how long it takes tells nothing of them.
        equal = [key for known, key in self._known + lent if hmac.compare_digest(known, digest)]
        return equal[0] if equal else None


def _scope_of(text: str) -> Scope:
    return cast(Scope, text.partition(":")[0])


def _digest_of(text: str) -> str:
    return text.rpartition(":")[2]
