"""The schemas that ``Mcp-Param-*`` headers are checked against, and the ways not to have them."""

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refused
from mcpguard.pipeline.schemas import ToolSchemas
from mcpguard.upstream.link import UpstreamFailure
from tests.pipeline.rig import MemoryLink

ANNOTATED = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
}
PLAIN = {"type": "object"}


def page(*tools: tuple[str, dict[str, Any]], cursor: str | None = None) -> dict[str, Any]:
    """One page of a list of tools."""
    listed = [{"name": name, "inputSchema": schema} for name, schema in tools]
    return {"tools": listed, **({} if cursor is None else {"nextCursor": cursor})}


@define(eq=False)
class Asker:
    """What one caller found out."""

    link: MemoryLink = field(factory=MemoryLink)
    found: list[Any] = field(factory=list)
    refused: list[Reason] = field(factory=list)


class SchemaCase(SynchronousTestCase):
    """Schemas kept for 300 s; 5 annotated tools, 3 pages, 4 views."""

    def setUp(self) -> None:
        """Nothing is known."""
        self.clock = Clock()
        self.schemas = ToolSchemas(
            self.clock.seconds, ttl_secs=300.0, max_tools=5, max_pages=3, max_views=4
        )

    def ask(self, tool: str = "query", who: str = "alice", path: str = "") -> Asker:
        """Look for a tool's schema."""
        asker = Asker()
        finding = Deferred.fromCoroutine(self.schemas.find("server", path, who, asker.link, tool))

        def refused(failure: Any) -> None:
            failure.trap(Refused)
            asker.refused.append(failure.value.refusal.reason)

        finding.addCallbacks(asker.found.append, refused)
        return asker


class WaitingTests(SchemaCase):
    """Callers that come while the server is being asked."""

    def test_nobody_passes_before_the_answer(self) -> None:
        """A call that comes while the list is on its way waits for it, and is checked by it."""
        first, second = self.ask(), self.ask()
        self.assertEqual((second.found, second.link.requests), ([], []))
        first.link.answer(0, result=page(("query", ANNOTATED)))
        self.assertEqual((first.found, second.found), ([ANNOTATED], [ANNOTATED]))

    def test_on_whose_account(self) -> None:
        """The gateway names itself, and declares what the caller's client can do, or nothing."""
        forms: dict[str, Any] = {"elicitation": {}}
        link = MemoryLink()
        Deferred.fromCoroutine(self.schemas.find("a", "", "bob", link, "query", forms))
        asked = [one.requests[0][0].params or {} for one in (self.ask().link, link)]
        metas = [params["_meta"] for params in asked]
        key = "io.modelcontextprotocol/clientCapabilities"
        self.assertEqual([meta[key] for meta in metas], [{}, forms])
        self.assertEqual(
            [meta["io.modelcontextprotocol/clientInfo"]["name"] for meta in metas],
            ["mcp-guard", "mcp-guard"],
        )

    def test_nor_before_the_last_page(self) -> None:
        """The first page does not speak for the second."""
        first = self.ask()
        first.link.answer(0, result=page(("other", PLAIN), cursor=""))
        second = self.ask()
        self.assertEqual(second.found, [])
        first.link.answer(1, result=page(("query", ANNOTATED)))
        self.assertEqual((first.found, second.found), ([ANNOTATED], [ANNOTATED]))

    def test_a_failure_is_everybodys(self) -> None:
        """When the server cannot be asked, nobody's headers pass unchecked."""
        first, second = self.ask(), self.ask()
        _, sink, _ = first.link.requests[0]
        sink.failed(UpstreamFailure(Reason.UPSTREAM_TIMEOUT))
        self.assertEqual((first.refused, second.refused), ([Reason.UPSTREAM_TIMEOUT],) * 2)
        self.assertEqual((first.found, second.found), ([], []))
        self.assertEqual(len(self.ask().link.requests), 1)

    def test_refreshing_keeps_checking(self) -> None:
        """When the time of what was known is over, calls wait for the new list."""
        self.ask().link.answer(0, result=page(("query", ANNOTATED)))
        self.clock.advance(301)
        first, second = self.ask(), self.ask()
        self.assertEqual((first.found, second.found), ([], []))
        first.link.answer(0, result=page(("query", ANNOTATED)))
        self.assertEqual(second.found, [ANNOTATED])

    def test_one_principal_does_not_wait_for_another(self) -> None:
        """Alice's server, her own child perhaps, may hang without holding up bob's calls."""
        self.ask(who="alice")
        bob = self.ask(who="bob")
        bob.link.answer(0, result=page(("query", PLAIN)))
        self.assertEqual(bob.found, [None])


class AnswerTests(SchemaCase):
    """What the server may answer."""

    def test_forgotten(self) -> None:
        """What is out of date for one is asked for again by that one alone."""
        for who in ("alice", "bob"):
            self.ask(who=who).link.answer(0, result=page(("query", PLAIN)))
        self.schemas.forget("server", "", "alice")
        self.schemas.forget("server", "/nowhere", "alice")
        asker = self.ask()
        asker.link.answer(0, result=page(("query", ANNOTATED)))
        self.assertEqual((asker.found, self.ask(who="bob").found), ([ANNOTATED], [None]))

    def test_errors_are_no_list(self) -> None:
        """A server that fails to list its tools is not one without annotations."""
        for error in ({"code": -32603, "message": "no"}, {"code": -32000}):
            asker = self.ask()
            asker.link.answer(0, error=error)
            self.assertEqual((asker.found, asker.refused), ([], [Reason.UPSTREAM_FAILED]))
        self.assertEqual(len(self.schemas), 0)

    def test_server_without_the_method(self) -> None:
        """A server that knows no tools/list has no annotations; its answer to the call counts."""
        asker = self.ask()
        asker.link.answer(0, error={"code": -32601, "message": "Method not found"})
        self.assertEqual(asker.found, [None])

    def test_endless_pages(self) -> None:
        """A server that always has one more page is asked for so many."""
        asker = self.ask()
        for number in range(3):
            asker.link.answer(number, result=page((f"t{number}", ANNOTATED), cursor="again"))
        self.assertEqual((len(asker.link.requests), asker.found), (3, [None]))
        self.assertEqual(self.ask("t2").found, [ANNOTATED])

    def test_odd_lists(self) -> None:
        """What is no tool is passed over."""
        asker = self.ask()
        odd: list[Any] = [None, 5, {}, {"name": 5}, {"name": "x"}, {"name": "query"}]
        asker.link.answer(0, result={"tools": [*odd, {"name": "y", "inputSchema": ANNOTATED}]})
        self.assertEqual((asker.found, self.ask("y").found), ([None], [ANNOTATED]))

    def test_a_list_that_passes_by(self) -> None:
        """What a caller lists meanwhile counts for that caller, and only for that one."""
        for who in ("alice", "bob"):
            self.ask(who=who).link.answer(0, result=page(("query", PLAIN)))
        self.schemas.learn("server", "", "alice", page(("query", ANNOTATED)))
        self.assertEqual(self.ask(who="alice").found, [ANNOTATED])
        self.assertEqual(self.ask(who="bob").found, [None])
        self.schemas.learn("server", "", "alice", page(("query", PLAIN)))
        self.assertEqual(self.ask(who="alice").found, [None])


class BoundTests(SchemaCase):
    """How much is kept."""

    def test_views(self) -> None:
        """Paths are the callers' to choose: what is known of each is kept for a few only."""
        for number in range(10):
            asker = self.ask(path=f"/{number}")
            asker.link.answer(0, result=page(("query", ANNOTATED)))
        self.assertEqual(len(self.schemas), 4)

    def test_the_view_in_use_stays(self) -> None:
        """What was used last is forgotten last."""
        for who in ("a", "b", "c", "d"):
            self.ask(who=who).link.answer(0, result=page(("query", ANNOTATED)))
        self.ask(who="a")
        self.ask(who="e").link.answer(0, result=page(("query", ANNOTATED)))
        self.assertEqual(self.ask(who="a").found, [ANNOTATED])
        self.assertEqual(self.ask(who="b").found, [])

    def test_tools(self) -> None:
        """Of annotated tools so many are kept; those without annotations cost nothing."""
        asker = self.ask("t4")
        plain = [(f"p{number}", PLAIN) for number in range(100)]
        many = [(f"t{number}", ANNOTATED) for number in range(9)]
        asker.link.answer(0, result=page(*plain, *many))
        self.assertEqual((asker.found, self.ask("t5").found), ([ANNOTATED], [None]))
