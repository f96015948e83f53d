"""Requests that have ended are freed at once, however they end."""

from collections import Counter
from collections.abc import Callable

from mcpguard.upstream.link import Link
from tests.garbage import counted_garbage
from tests.upstream.renewal_doubles import CRASHED, CallDouble, LinkDouble, RenewalCase

NOTHING: Counter[str] = Counter()


class OfAttempts(RenewalCase):
    """`Attempt`, whose call knows it."""

    def after(self, link: Link, old: LinkDouble, end: Callable[[CallDouble], object]) -> object:
        """What a request leaves."""
        with counted_garbage() as garbage:
            self.ask(link)
            end(old.calls[0])
            old.calls.clear()
        return garbage

    def test_ends(self) -> None:
        """An answer, an error, a failure."""
        link, old = self.open()
        ends: tuple[Callable[[CallDouble], object], ...] = (
            lambda call: call.result(),
            lambda call: call.error(),
            lambda call: call.sink.failed(CRASHED),
        )
        for end in ends:
            self.assertEqual(self.after(link, old, end), NOTHING)
