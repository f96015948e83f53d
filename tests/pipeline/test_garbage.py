"""Requests that have ended are freed at once."""

from collections import Counter
from collections.abc import Callable

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.upstream.link import CallSink, Outbound, UpstreamFailure
from tests.garbage import counted_garbage
from tests.pipeline.rig import MemoryCall, MemoryLink, MemoryOutlet, Rig


@define(eq=False)
class KnowingCall(MemoryCall):
    """A call that knows its sink, as real ones do."""

    sink: CallSink | None = None


@define(eq=False)
class KnowingLink(MemoryLink):
    """A link of such calls."""

    def request(self, outbound: Outbound, sink: CallSink) -> MemoryCall:
        """As any, with another call."""
        MemoryLink.request(self, outbound, sink)
        call = KnowingCall(sink=sink)
        self.requests[-1] = outbound, sink, call
        return call


class OfRequests(SynchronousTestCase):
    """`RunningCall` and what it holds."""

    def after(self, end: Callable[[KnowingLink, MemoryOutlet], object]) -> Counter[str]:
        """What a call of a tool leaves, and whether it has come to its end."""
        rig = Rig()
        rig.upstream.reply = lambda outbound: None
        session = rig.handshake()
        link = KnowingLink()
        (found,) = rig.pipeline.table._sessions.values()
        found.link = link
        with counted_garbage() as garbage:
            headers = {"Mcp-Session-Id": session}
            outlet = rig.call("tools/call", {"name": "x", "arguments": {}}, headers=headers)
            self.assertEqual(len(found.running), 1)
            end(link, outlet)
            self.assertEqual(len(found.running), 0)
            link.requests.clear()
            del outlet
        return garbage

    def test_ends(self) -> None:
        """With an answer, with a failure, and because the client wants it no more."""

        def answered(link: KnowingLink, outlet: MemoryOutlet) -> None:
            link.answer(0, result={"content": []})

        def at_once(link: KnowingLink, outlet: MemoryOutlet) -> None:
            link.requests[0][1].failed(UpstreamFailure(Reason.UPSTREAM_FAILED, "broken"))

        def unwanted(link: KnowingLink, outlet: MemoryOutlet) -> None:
            link.requests[0][1].cancel("unwanted")  # type: ignore[attr-defined]

        for end in (answered, at_once, unwanted):
            self.assertEqual(self.after(end), Counter())
