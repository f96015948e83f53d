"""The fast channel before everything that the general channel is held to."""

from tests.front import (
    test_bodies,
    test_channel,
    test_cors,
    test_deadlines,
    test_outlet,
    test_routes,
    test_unread,
)
from tests.front.wire import ByFastChannel


class SoundRequests(ByFastChannel, test_channel.SoundRequests):
    """`SoundRequests`, with the fast channel."""


class MalformedRequests(ByFastChannel, test_channel.MalformedRequests):
    """`MalformedRequests`, with the fast channel."""


class Oversized(ByFastChannel, test_channel.Oversized):
    """`Oversized`, with the fast channel."""


class Garbage(ByFastChannel, test_channel.Garbage):
    """`Garbage`, with the fast channel."""


class LateBytes(ByFastChannel, test_channel.LateBytes):
    """`LateBytes`, with the fast channel."""


class BodiesTogether(ByFastChannel, test_bodies.BodiesTogether):
    """`BodiesTogether`, with the fast channel."""


class CrossOrigin(ByFastChannel, test_cors.CrossOrigin):
    """`CrossOrigin`, with the fast channel."""


class Deadlines(ByFastChannel, test_deadlines.Deadlines):
    """`Deadlines`, with the fast channel."""


class Crowds(ByFastChannel, test_deadlines.Crowds):
    """`Crowds`, with the fast channel."""


class Draining(ByFastChannel, test_deadlines.Draining):
    """`Draining`, with the fast channel."""


class TheSite(ByFastChannel, test_deadlines.TheSite):
    """`TheSite`, with the fast channel."""


class WholeAnswers(ByFastChannel, test_outlet.WholeAnswers):
    """`WholeAnswers`, with the fast channel."""


class Streams(ByFastChannel, test_outlet.Streams):
    """`Streams`, with the fast channel."""


class TheClientListener(ByFastChannel, test_routes.TheClientListener):
    """`TheClientListener`, with the fast channel."""


class OurOwnErrors(ByFastChannel, test_routes.OurOwnErrors):
    """`OurOwnErrors`, with the fast channel."""


class UnreadTogether(ByFastChannel, test_unread.UnreadTogether):
    """`UnreadTogether`, with the fast channel."""
