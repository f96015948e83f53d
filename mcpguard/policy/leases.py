"""Leases of tokens as arithmetic: no clock, no storage.

A bucket's owner (the authority) lends tokens to those who decide about requests (the holders).
Three rules keep the sum of all requests within the bucket, whatever gets lost on the way:

* What is lent and not known to be spent still counts as being in the bucket: it refills no
  further than ``burst`` minus that.
* A lease has an end. What was not given back by then counts as spent; its holder, who measures
  the time from before it asked, does not spend it after that.
* A holder whose question got no answer asks on under another name, so that the lost question may
  arrive whenever it likes.
"""

from attrs import frozen


@frozen
class Ask:
    """What one holder wants of one bucket."""

    holder: str
    """A name that nobody else uses: letters, digits, ``.`` and ``-``, at most 64 characters."""
    least: int
    """Tokens for requests that wait for them now; granted as far as they are there."""
    extra: int
    """Further tokens for requests to come; never more than half of what is left is granted."""
    held: int
    """Tokens of earlier leases that the holder still has and would keep."""
    lasts: float
    """Seconds for which ``extra`` and ``held`` are wanted."""


@frozen
class Lease:
    """The answer to an `Ask`."""

    granted: int
    """New tokens: those for ``least`` first."""
    kept: int
    """How many of ``held`` are still the holder's; the others have lapsed."""
    remaining: float
    """Tokens left in the bucket."""
    elsewhere: float
    """Tokens that other holders have, or may have."""
    wait: float
    """Seconds until a whole token is in the bucket; 0 when there is one, infinite for never."""
