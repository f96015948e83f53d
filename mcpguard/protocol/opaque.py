"""What a server gives a client to bring back unread: cursors, and the states of requests.

Packed for `protocol.sealing`: until when it counts, for which request, and the server's own words.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

STATED = frozenset({"tools/call", "prompts/get", "resources/read"})
"""The methods whose results may ask for input (2026-07-28, multi round-trip requests)."""

DIGEST_BYTES = 32
_EXPIRY_BYTES = 8
_OF_ONE_ROUND = frozenset({"_meta", "inputResponses", "requestState"})


def params_digest(params: Mapping[str, Any] | None) -> bytes:
    """Give what makes two requests the same one in another round: params but for its answers.

    The order of members does not count.
    """
    same = {key: value for key, value in (params or {}).items() if key not in _OF_ONE_ROUND}
    text = json.dumps(same, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def pack(text: str, expires_at: float, digest: bytes = b"") -> bytes:
    """Put a server's words together with their end (Unix seconds) and the digest they are for."""
    expiry = max(0, int(expires_at * 1000)).to_bytes(_EXPIRY_BYTES, "big")
    return expiry + digest + text.encode("utf-8", "surrogatepass")


def unpack(content: bytes, now: float, digest: bytes = b"") -> str | None:
    """Give the words back exactly; None when their time is over or they are for another request.

    ``now`` in Unix seconds; ``content`` is what `pack` gave, for a digest of the same length.
    """
    expiry, rest = content[:_EXPIRY_BYTES], content[_EXPIRY_BYTES:]
    if int.from_bytes(expiry, "big") <= now * 1000 or rest[: len(digest)] != digest:
        return None
    return rest[len(digest) :].decode("utf-8", "surrogatepass")
