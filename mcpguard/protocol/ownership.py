"""Whose a session is among the workers of one gateway: the number in front of its id.

What a worker hands to a client to be brought back begins with that worker's place in clear
(``2.<token>``), so that any other one can tell where it belongs without opening it. A process on
its own marks nothing.
"""

import re
from zlib import crc32

import msgspec

MAX_WORKERS = 9_999
"""As many as a mark can tell apart."""

_MARK = re.compile(r"([1-9][0-9]{0,3})\.")
_STATE = b"requestState"


def marked(number: int | None, token: str) -> str:
    """Put a worker's number in front of a token; None for a process on its own."""
    return token if number is None else f"{number}.{token}"


def unmarked(token: str) -> tuple[str, str]:
    """The number in front of a token, as it stands there, and the rest; no number: ``""``."""
    match = _MARK.match(token)
    return ("", token) if match is None else (match[1], token[match.end() :])


def place_of(token: str, workers: int) -> int:
    """Where a token belongs among so many workers: 1 to ``workers``.

    One place for every token, those of another number of workers included: what outlives a
    restart (``session_key``) is at one of them then, and not at several.
    """
    number = unmarked(token)[0]
    return (int(number) - 1) % workers + 1 if number else home_of(token, workers)


def home_of(name: str, workers: int) -> int:
    """One place among so many workers for every name, spread evenly."""
    return crc32(name.encode("utf-8", "replace")) % workers + 1


class _Stated(msgspec.Struct):
    requestState: str | None = None


class _Round(msgspec.Struct):
    params: _Stated | None = None


_ROUND = msgspec.json.Decoder(_Round)


def marked_state(body: bytes) -> str | None:
    """The ``requestState`` that a request brings back, if a worker put its number on it.

    Only bodies with that word in them are read: most have no more to do with it than the search.
    What cannot be read is nobody's, and refused where it is.
    """
    if _STATE not in body:
        return None
    try:
        params = _ROUND.decode(body).params
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # The latter two for bytes that are no UTF-8, and for what is nested too deeply.
        return None
    state = None if params is None else params.requestState
    return state if state is not None and unmarked(state)[0] else None
