"""One URI, many spellings: what rules on resources compare.

A server may read ``file:///etc/%70asswd``, ``FILE:///etc/passwd`` and ``file:////etc/passwd`` as
the same file, and ``file:///pub/../etc/passwd`` too. Rules therefore look at a URI as written and
in one plain form, and no rule allows what has no plain form.
"""

import re
from urllib.parse import unquote

_MAX_LAYERS = 3
"""Layers of percent-coding that are taken off; servers take off one, careless ones two."""

_CODED_WILDCARD = re.compile(r"%(?:25)*(?:2a|3f)", re.IGNORECASE)
_HEAD = re.compile(r"[^:/#]+:(?://[^/]*)?")
_LOCAL_FILE = re.compile(r"file:(?://(?:localhost)?/|/|(?!/))")
_SLASHES = re.compile(r"//+")
_UNCLEAR = re.compile(r"[\x00-\x1f\x7f\\]|\A\s|\s\Z|(?:\A|[/:])\.{1,2}(?:[/?#]|\Z)")


def plain(uri: str) -> str:
    """Give the plain form of a URI.

    Percent-coding is taken off, scheme and host are lower case, runs of slashes are one, and a
    local file is always ``file:///…``.
    """
    decoded, _ = _decode(uri)
    found = _HEAD.match(decoded)
    if found is None:
        return _SLASHES.sub("/", decoded)
    head = found.group().lower()
    joined = head + _SLASHES.sub("/", decoded[found.end() :])
    return _LOCAL_FILE.sub("file:///", joined, count=1) if head.startswith("file:") else joined


def plain_pattern(pattern: str) -> str:
    """Give the plain form of a pattern for URIs, to be matched against plain URIs only.

    A percent-coded ``*`` or ``?`` becomes ``?``, which is no wider than one character.
    """
    return plain(_CODED_WILDCARD.sub("?", pattern))


def is_unclear(uri: str) -> bool:
    """Tell whether readers may disagree on what a URI names.

    Dot segments, backslashes, control characters, outer white space, in any decoded form, and
    percent-coding in more layers than anybody needs.
    """
    decoded, settled = _decode(uri)
    return not settled or bool(_UNCLEAR.search(uri) or _UNCLEAR.search(decoded))


def _decode(text: str) -> tuple[str, bool]:
    """Take off percent-coding; also tell whether nothing is left to take off."""
    for _ in range(_MAX_LAYERS):
        decoded = unquote(text)
        if decoded == text:
            return text, True
        text = decoded
    return text, unquote(text) == text
