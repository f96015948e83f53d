"""One line is one record: characters that end lines or change what a reader sees are escaped."""

from collections.abc import Mapping
from typing import Any

import orjson

# C1 controls (a terminal takes U+009B for the start of an escape sequence), the line and
# paragraph separators, and the marks that reorder text. JSON leaves all of these as they are.
_BEYOND_ASCII = (
    *range(0x80, 0xA0),
    0x061C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    0xFEFF,
)
_IN_JSON = {code: f"\\u{code:04x}" for code in (0x7F, *_BEYOND_ASCII)}
_IN_TEXT = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{code: f"\\u{code:04x}" for code in _BEYOND_ASCII if code > 0xFF},
    0x09: "\\t",
    0x0A: "\\n",
    0x0D: "\\r",
}


def json_line(members: Mapping[str, Any]) -> bytes:
    """Return the members as one line of JSON with its newline, whatever splits lines later.

    Raises `orjson.JSONEncodeError` for what JSON cannot hold.
    """
    line = orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)
    if line.isascii() and 0x7F not in line:
        return line
    # Outside of strings JSON is ASCII, so that this only touches the insides of strings.
    return line.decode().translate(_IN_JSON).encode()


def visible(text: str) -> str:
    r"""Return the text as one line without control characters: ``\n``, ``\x1b``, ``\u202e``."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_IN_TEXT)
