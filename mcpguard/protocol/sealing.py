"""Tokens that only this gateway can make and read: session ids, cursors, request states.

AES-256-GCM under a key of its own for each token (HMAC-SHA-256 of the master key over purpose and
a random 16-byte salt), so the nonce is constant and no number of tokens under one master key is
too many. What a token is bound to goes in as associated data and is not stored in it.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Callable
from hashlib import sha256

from attrs import field, frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_SALT_BYTES = 16
_TAG_BYTES = 16
_NONCE = bytes(12)


@frozen
class Seal:
    """Seals and opens tokens of one purpose.

    ``purpose`` separates the uses of one master key: a token of one is none of another.
    """

    key: bytes = field(repr=False)
    purpose: str
    random: Callable[[int], bytes]
    """Gives that many bytes nobody can guess."""

    def __attrs_post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"the key must have {KEY_BYTES} bytes, not {len(self.key)}")

    def seal(self, context: tuple[str, ...], content: bytes) -> str:
        """Give a token (URL-safe base64 without padding) that opens in this context only."""
        salt = self.random(_SALT_BYTES)
        sealed = self._cipher(salt).encrypt(_NONCE, content, _bound(context))
        return urlsafe_b64encode(salt + sealed).rstrip(b"=").decode()

    def open(self, context: tuple[str, ...], token: str) -> bytes | None:
        """Give the content of a token; None for any that was not sealed here, for this."""
        if not token.isascii():
            return None
        data = token.encode()
        try:
            raw = urlsafe_b64decode(data + b"=" * (-len(data) % 4))
        except (Error, ValueError):
            return None
        # The decoder skips what is not of the alphabet; a token has one form only.
        if len(raw) < _SALT_BYTES + _TAG_BYTES or urlsafe_b64encode(raw).rstrip(b"=") != data:
            return None
        salt, sealed = raw[:_SALT_BYTES], raw[_SALT_BYTES:]
        try:
            return self._cipher(salt).decrypt(_NONCE, sealed, _bound(context))
        except InvalidTag:
            return None

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self.key, self.purpose.encode() + b"\0" + salt, sha256))


def _bound(context: tuple[str, ...]) -> bytes:
    """Write a context so that no two are alike."""
    parts = [part.encode("utf-8", "surrogatepass") for part in context]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
