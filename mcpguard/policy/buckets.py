"""Token buckets as arithmetic: no clock, no storage."""

import math

from msgspec import Struct

_ROUNDING = 1e-9
"""Tokens forgiven, so that who waits exactly as long as told is not turned away by a last bit."""


# Structs, and few calls between them: every request passes here two or three times.


class Rate(Struct, frozen=True):
    """``burst`` requests at once, refilled at ``per_second``."""

    per_second: float
    burst: int


class Level(Struct, frozen=True):
    """What a bucket held at one moment."""

    tokens: float
    at: float
    """Monotonic seconds."""


def fill(rate: Rate, level: Level | None, now: float) -> Level:
    """Give the level at ``now``; a bucket never seen is full, time does not run backwards."""
    if level is None:
        return Level(float(rate.burst), now)
    if now <= level.at:
        return level if level.tokens <= rate.burst else Level(float(rate.burst), level.at)
    tokens = level.tokens + (now - level.at) * rate.per_second
    return Level(tokens if tokens < rate.burst else float(rate.burst), now)


def take(rate: Rate, level: Level | None, now: float, cost: float = 1.0) -> tuple[Level, float]:
    """Spend ``cost`` tokens if they are there: the new level, and the seconds to wait (0 = go).

    A cost above ``burst`` can never be paid and waits for ever (``math.inf``).
    """
    current = fill(rate, level, now)
    tokens = current.tokens
    if tokens + _ROUNDING >= cost:
        return Level(tokens - cost, current.at), 0.0
    return current, wait(rate, current, cost)


def wait(rate: Rate, level: Level, cost: float = 1.0) -> float:
    """Seconds from ``level.at`` until ``cost`` tokens are there."""
    if level.tokens + _ROUNDING >= cost:
        return 0.0
    if cost > rate.burst or rate.per_second <= 0.0:
        return math.inf
    return (cost - level.tokens) / rate.per_second


def until_full(rate: Rate, level: Level) -> float:
    """Seconds from ``level.at`` until the bucket is full again."""
    missing = rate.burst - level.tokens
    if missing <= 0.0:
        return 0.0
    return missing / rate.per_second if rate.per_second > 0.0 else math.inf
