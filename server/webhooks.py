"""Webhooks: a job's end, posted to the address that its client gave, signed so that anybody can check it.

The signature is fal's: Ed25519 over request id, user id, time and the body's SHA-256; the keys are published
as a JWKS. Source: fal's documentation of webhooks.
"""

import base64
import hashlib
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.files import secret_file

_RAW = serialization.Encoding.Raw

_STEEPNESS = 3.0
_LONGEST_WAIT = 3600.0
"""Each wait between two tries is so many times the one before, up to an hour."""


def wait(tries: int, first: float, elapsed: float, patience: float) -> float | None:
    """Seconds until the next try after `tries` that failed; None when `patience` seconds are over."""
    if elapsed >= patience:
        return None
    return min(first * _STEEPNESS ** min(tries, 30), _LONGEST_WAIT, max(patience - elapsed, 0.0))


class Key:
    """The server's signing key, in `path`, made at first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._private: Ed25519PrivateKey | None = None

    def headers(self, id: str, user: str, body: bytes, now: float | None = None) -> dict[str, str]:
        """The headers that sign a body."""
        at = str(int(time.time() if now is None else now))
        message = "\n".join((id, user, at, hashlib.sha256(body).hexdigest()))
        return {
            "X-Fal-Webhook-Request-Id": id,
            "X-Fal-Webhook-User-Id": user,
            "X-Fal-Webhook-Timestamp": at,
            "X-Fal-Webhook-Signature": self._key().sign(message.encode()).hex(),
        }

    def jwks(self) -> dict[str, object]:
        """The public key, as RFC 8037 writes it."""
        public = self._key().public_key().public_bytes(_RAW, serialization.PublicFormat.Raw)
        x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
        kid = hashlib.sha256(public).hexdigest()[:16]
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"}]}

    def _key(self) -> Ed25519PrivateKey:
        if self._private is None:
            fresh = Ed25519PrivateKey.generate().private_bytes_raw()
            self._private = Ed25519PrivateKey.from_private_bytes(secret_file(self._path, fresh))
        return self._private
