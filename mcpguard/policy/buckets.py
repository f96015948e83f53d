"""Token buckets as arithmetic: no clock, no storage."""

from attrs import frozen


@frozen
class Rate:
    """``burst`` requests at once, refilled at ``per_second``."""

    per_second: float
    burst: int
