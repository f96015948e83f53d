"""What hears the answers to the gateway's own requests in a session over HTTP."""

from typing import Protocol

from attrs import define
from twisted.internet.defer import Deferred

from mcpguard.upstream.link import InitializeRejected, Message, Opening, UpstreamFailure


class Greeted(Protocol):
    """A session whose handshake is under way."""

    def established(self, message: Message) -> Opening:
        """Take the answer; raises `UpstreamFailure` or `InitializeRejected`."""
        ...

    def unopened(self, failure: UpstreamFailure) -> None:
        """Hear that there is none."""
        ...


class Nobody:
    """The sink of a ping of our own: the head of its answer says it all."""

    def notification(self, message: Message) -> None:
        """Drop it."""

    def answer(self, message: Message) -> None:
        """Drop it."""

    def failed(self, failure: UpstreamFailure) -> None:
        """Drop it: what it means the session has heard."""


@define(eq=False, repr=False)
class Handshake:
    """The sink of ``initialize``."""

    session: Greeted
    opening: Deferred[Opening]

    def notification(self, message: Message) -> None:
        """Drop it: nobody listens yet."""

    def answer(self, message: Message) -> None:
        """The server has answered."""
        if self.opening.called:
            return
        try:
            opening = self.session.established(message)
        except (InitializeRejected, UpstreamFailure) as failed:
            self.opening.errback(failed)
        else:
            self.opening.callback(opening)

    def failed(self, failure: UpstreamFailure) -> None:
        """The server has not answered."""
        self.session.unopened(failure)
        if not self.opening.called:
            self.opening.errback(failure)
