"""Random identifiers of requests and errors."""

import os

from attrs import define, field

_DRAWN = 128
"""Identifiers made of what is asked of the kernel at once."""


@define(eq=False)
class RandomIds:
    """Makes UUIDs of version 4 (RFC 9562, 5.4), from the kernel's randomness.

    ``str(uuid.uuid4())`` takes four times as long: a system call and an object for each.
    """

    _drawn: bytes = field(init=False, default=b"", repr=False)
    _at: int = field(init=False, default=0)

    def __call__(self) -> str:
        """Return one in its usual form of 36 characters."""
        at = self._at
        if at == len(self._drawn):
            self._drawn = os.urandom(16 * _DRAWN)
            at = 0
        self._at = at + 16
        digits = self._drawn[at : at + 16].hex()
        # The version is 4, and the two bits of the variant are 10.
        variant = _VARIANT[digits[16]]
        return (
            f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
        )


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
