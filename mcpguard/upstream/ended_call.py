"""Requests that are over before anything was sent."""

from attrs import frozen

from mcpguard.upstream.link import Call, CallSink, Id, UpstreamFailure


@frozen(eq=False)
class EndedCall:
    """A request that was over before it ran."""

    def cancel(self, reason: str) -> None:
        """There is nothing to stop."""

    def hold(self) -> None:
        """No time runs."""

    def release(self) -> None:
        """No time runs."""


def refused(sink: CallSink, failure: UpstreamFailure) -> Call:
    """Fail a request at once."""
    sink.failed(failure)
    return EndedCall()


def answered(sink: CallSink, client_id: Id) -> Call:
    """Answer a request here, with an empty result."""
    sink.answer({"jsonrpc": "2.0", "id": client_id, "result": {}})
    return EndedCall()
