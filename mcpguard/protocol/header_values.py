"""Header values of the stateless versions: plain, or Base64 in a sentinel (MCP 2026-07-28)."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence

Headers = Mapping[str, Sequence[str]]
"""Lower-case name -> values in order of arrival, outer white space trimmed."""

_OPEN, _CLOSE = "=?base64?", "?="
_PRINTABLE = re.compile(r"[ -~]*")


def decode_value(value: str) -> str | None:
    """Read a header value, plain or ``=?base64?…?=``; None if it is malformed.

    Only the canonical Base64 of valid UTF-8 counts: one value, one spelling.
    """
    if not _is_wrapped(value):
        return value if _PRINTABLE.fullmatch(value) else None
    payload = value[len(_OPEN) : -len(_CLOSE)]
    try:
        raw = base64.b64decode(payload, validate=True)
        text = raw.decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return text if base64.b64encode(raw).decode("ascii") == payload else None


def encode_value(value: str) -> str:
    """Write a header value: as it is where a header can carry that unchanged, else in Base64.

    Raises ValueError for a lone surrogate, which has no UTF-8.
    """
    if _PRINTABLE.fullmatch(value) and value == value.strip() and not _is_wrapped(value):
        return value
    return f"{_OPEN}{base64.b64encode(value.encode('utf-8')).decode('ascii')}{_CLOSE}"


def _is_wrapped(value: str) -> bool:
    return (
        value.startswith(_OPEN)
        and value.endswith(_CLOSE)
        and len(value) >= len(_OPEN) + len(_CLOSE)
    )
