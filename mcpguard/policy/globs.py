"""Globs of two wildcards, ``*`` (any run of characters) and ``?`` (any one): nothing else."""

import re


def is_glob(pattern: str) -> bool:
    """Tell whether a pattern has a wildcard."""
    return "*" in pattern or "?" in pattern


def glob_matches(pattern: str, text: str) -> bool:
    """Match the whole text, case-sensitively; brackets and backslashes are plain characters.

    Never backtracks over more than one run between stars: the leftmost place of each run is
    final, so the time is at most the product of both lengths and in practice their sum.
    """
    if not is_glob(pattern):
        return pattern == text
    first, *runs = pattern.split("*")
    if not runs:
        return len(first) == len(text) and _place(first, text, 0, len(text)) == 0
    *middle, last = runs
    if len(first) + len(last) > len(text):
        return False
    end = len(text) - len(last)
    if _place(first, text, 0, len(first)) != 0 or _place(last, text, end, len(text)) != end:
        return False
    start = len(first)
    for run in middle:
        found = _place(run, text, start, end)
        if found < 0:
            return False
        start = found + len(run)
    return True


def _place(run: str, text: str, start: int, end: int) -> int:
    """Find the leftmost place of a run (which may hold ``?``) within ``text[start:end]``, or -1."""
    if "?" not in run:
        return text.find(run, start, end)
    pieces = (re.escape(piece) for piece in run.split("?"))
    # A run has a fixed length, so this expression cannot backtrack either.
    found = re.compile(".".join(pieces), re.DOTALL).search(text, start, end)
    return -1 if found is None else found.start()
