"""Stateless requests whose server may turn out not to be a stateless one any more."""

from collections.abc import Callable

from attrs import define

from mcpguard.errors import METHOD_NOT_FOUND
from mcpguard.protocol.eras import refuses_version
from mcpguard.upstream.link import CallSink, Message, Outbound, UpstreamFailure

DISCOVER = "server/discover"


@define(eq=False, repr=False)
class Versed:
    """A sink that notices when the server does not speak the version it is spoken to in."""

    outbound: Outbound
    sink: CallSink
    doubt: Callable[[str], UpstreamFailure]
    """Told of it; gives what the caller is told."""

    def notification(self, message: Message) -> None:
        """Pass it on."""
        self.sink.notification(message)

    def answer(self, message: Message) -> None:
        """Pass it on, unless it only says that nothing can be said in this version."""
        error, outbound = message.get("error"), self.outbound
        if not isinstance(error, dict):
            self.sink.answer(message)
        elif refuses_version(error, outbound.version):
            self.sink.failed(self.doubt(f"it does not speak {outbound.version}"))
        elif error.get("code") == METHOD_NOT_FOUND and outbound.method == DISCOVER:
            # The one method that every stateless server has.
            self.sink.failed(self.doubt(f"it does not know {DISCOVER}"))
        else:
            self.sink.answer(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Pass it on."""
        self.sink.failed(failure)
