"""API keys as text: how one is made, hashed, and written into a configuration file."""

import base64
import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import frozen

PREFIX = "mcp_"
RANDOM_BYTES = 32
MAX_KEY = 4096

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"([0-9]{1,6})([mhdw])\Z")


def mint(randomness: Callable[[int], bytes]) -> str:
    """Make a key: ``mcp_`` and the base64url of 32 random bytes, 47 characters in all."""
    body = base64.urlsafe_b64encode(randomness(RANDOM_BYTES)).rstrip(b"=")
    return PREFIX + body.decode("ascii")


def digest(key: str) -> str:
    """The ``key_hash`` of a key: standard base64 of the SHA-256 of the whole of it.

    Raises:
        ValueError: empty, too long, or with a blank or control character in it.
    """
    if not key:
        raise ValueError("the key is empty")
    if len(key) > MAX_KEY:
        raise ValueError(f"the key is longer than {MAX_KEY} characters")
    if any(not 33 <= ord(c) <= 126 for c in key):
        raise ValueError("the key contains a blank or a character that no Bearer token has")
    return base64.b64encode(hashlib.sha256(key.encode("ascii")).digest()).decode("ascii")


def lifetime(text: str) -> timedelta:
    """``90d``, ``12h``, ``30m`` or ``2w``.

    Raises:
        ValueError: anything else, or nothing.
    """
    found = _DURATION.match(text)
    if found is None or int(found[1]) == 0:
        raise ValueError("accepted: a number above 0 with m, h, d or w, such as 90d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@frozen
class NewKey:
    """An entry for ``[[auth.api_keys]]``."""

    id: str
    key_hash: str
    allowed_tools: tuple[str, ...] | None = None
    rate_limit: float | None = None
    expires_at: datetime | None = None

    @property
    def entry(self) -> dict[str, object]:
        """The keys to write, in the order they are written."""
        rate = self.rate_limit
        written: dict[str, object | None] = {
            "id": self.id,
            "key_hash": self.key_hash,
            "allowed_tools": None if self.allowed_tools is None else list(self.allowed_tools),
            "rate_limit": int(rate) if rate is not None and rate.is_integer() else rate,
            "expires_at": self.expires_at,
        }
        return {name: value for name, value in written.items() if value is not None}
