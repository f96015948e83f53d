"""Request paths, judged as they stand on the wire: nothing here decodes, so nothing is decoded
twice.
"""

import re

# RFC 3986 pchar. Percent-encoding only of what cannot change the path's shape.
_SEGMENT = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+")
# . / \ % NUL and the other controls: whoever decodes once more must find the same segments.
_RESHAPING = re.compile(r"%(?:2[eEfF5]|5[cC]|[01][0-9A-Fa-f]|7[fF])")


def split_path(path: str) -> tuple[str, ...] | None:
    """The segments of a raw absolute path; None for one that could be read in two ways.

    Refused: empty segments (a trailing slash makes one), ``.`` and ``..`` (also before a ``;``,
    where some servers cut), encoded dots, slashes, backslashes, percent signs and controls,
    malformed percent-encoding, anything that is not in RFC 3986's segment alphabet.
    """
    if not path.startswith("/"):
        return None
    segments = tuple(path[1:].split("/"))
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or _RESHAPING.search(segment):
            return None
        if segment.partition(";")[0] in ("", ".", ".."):
            return None
    return segments
