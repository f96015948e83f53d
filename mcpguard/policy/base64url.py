"""base64url without padding, the one spelling of each value (RFC 7515 section 2, RFC 4648)."""

import base64
import re

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")


def decode(text: str) -> bytes:
    """The bytes; raises ValueError for padding, other characters and bits that are left over.

    Lenient decoders read several texts as one value; what was signed or remembered is a text.
    """
    if not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("not base64url")
    found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode(found) != text:
        raise ValueError("not base64url as it should be written")
    return found


def encode(data: bytes) -> str:
    """The text of these bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
