"""Tests of calls that a token's scopes do not reach."""

from typing import Any

from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import ServerSettings
from mcpguard.errors import Reason
from mcpguard.front.exchange import Incoming
from mcpguard.identity.challenge import Challenges
from mcpguard.pipeline.dispatch import authorize
from mcpguard.policy.filters import filter_list
from mcpguard.policy.principal import Principal, Rights
from mcpguard.policy.scopes import granted
from mcpguard.protocol.jsonrpc import Request
from mcpguard.upstream.link import Eras
from tests.pipeline.rig import MODERN, MemoryOutlet, MemoryUpstream, Rig
from tests.pipeline.sse_rig import SseClient

MAPPING = {"read": ("read_*",), "write": ("write_*", "default:sum"), "admin": ("*",)}
URL = "https://h/.well-known/oauth-protected-resource/mcp"
CHALLENGE = (
    'Bearer error="insufficient_scope", scope="read write",'
    f' resource_metadata="{URL}",'
    " error_description=\"Identity 'Alice' needs the scope 'write' to call tool 'write_file'\""
)


def holding(
    *held: str, mapping: dict[str, tuple[str, ...]] | None = None, **rights: Any
) -> Principal:
    """Somebody whose token has these scopes."""
    tools, scopes = granted(MAPPING if mapping is None else mapping, held)
    return Principal(
        "alice", "jwt", "Alice", rights=Rights(scoped_tools=tools, **rights), scopes=scopes
    )


@define
class Knows:
    """Knows one principal."""

    principal: Principal

    def authenticate(self, incoming: Incoming, now: float) -> Principal:
        """Whoever asks."""
        return self.principal


def rig(principal: Principal, **more: Any) -> Rig:
    """A corridor for one principal."""
    return Rig(
        authenticator=Knows(principal),
        challenges=Challenges(metadata_url=lambda incoming: URL, scopes=("read",)),
        **more,
    )


class RefusalTests(SynchronousTestCase):
    """Calls that a scope would allow."""

    def assertChallenged(self, one: Rig, answer: MemoryOutlet) -> None:
        """The client is told what it needs, and no server has heard of it."""
        self.assertEqual(answer.status, 403)
        self.assertFalse(answer.streamed)
        self.assertEqual(answer.headers["www-authenticate"], CHALLENGE)
        error = answer.json["error"]
        self.assertEqual((error["code"], error["data"]["scope"]), (403, "read write"))
        self.assertIn("needs the scope 'write'", error["message"])
        self.assertEqual([one.method for one in one.upstream.asked], [])
        event = one.trail.outcomes[-1]
        self.assertEqual(
            (event.event_type, event.reason), ("AuthorizationDenied", "insufficient_scope")
        )

    def test_every_era(self) -> None:
        """Stateless, in a session, and bare: 403 before anything is streamed, with id."""
        for status in (403, 200):
            server = ServerSettings(denial_status=status)
            params = {"name": "write_file", "arguments": {}}
            one = rig(
                holding("read"),
                server=server,
                upstream=MemoryUpstream(known_eras=Eras(legacy=False, modern=(MODERN,))),
            )
            answer = one.modern("tools/call", params, id=7)
            self.assertChallenged(one, answer)
            self.assertEqual(answer.json["id"], 7)
            one = rig(holding("read"), server=server)
            session = one.handshake()
            answer = one.call("tools/call", params, headers={"Mcp-Session-Id": session})
            self.assertChallenged(one, answer)
            one = rig(holding("read"), server=server)
            self.assertChallenged(one, one.call("tools/call", params))

    def test_plain_client(self) -> None:
        """Who is no MCP client is told by the same status and header."""
        one = rig(holding("read"))
        answer = one.call("tools/call", {"name": "write_file"}, accept="*/*")
        self.assertEqual(answer.status, 403)
        self.assertEqual(answer.headers["www-authenticate"], CHALLENGE)
        self.assertIn("'write'", answer.json["error"])

    def test_event_stream(self) -> None:
        """Over HTTP+SSE the answer goes on the stream, so the scope is in the error itself."""
        one = rig(holding("read"))
        client = SseClient(one).initialize()
        answer = client.ask("tools/call", {"name": "write_file"}, id=5)
        self.assertEqual(answer.status, 202)
        said = client.messages[-1]
        self.assertEqual((said["id"], said["error"]["code"]), (5, 403))
        self.assertEqual(said["error"]["data"]["scope"], "read write")
        self.assertEqual(one.trail.outcomes[-1].reason, "insufficient_scope")

    def test_with_the_scope(self) -> None:
        """With what was asked for the call goes through."""
        one = rig(holding("read", "write"))
        one.upstream.reply = lambda outbound: {"result": {"content": []}}
        self.assertEqual(one.call("tools/call", {"name": "write_file"}).status, 200)

    def test_not_a_matter_of_scopes(self) -> None:
        """What lists deny, or no scope allows, is an ordinary denial without a challenge."""
        for principal, name in (
            (holding("read", denied_tools=("write_*",)), "write_file"),
            (holding("read", tools=("read_*",)), "write_file"),
            (holding("read", tools=()), "read_file"),
            (holding("read", mapping={"read": ("read_*",)}), "write_file"),
            (holding(mapping={}), "read_file"),
        ):
            for status in (403, 200):
                one = rig(principal, server=ServerSettings(denial_status=status))
                answer = one.call("tools/call", {"name": name})
                self.assertEqual(answer.status, status)
                self.assertNotIn("www-authenticate", answer.headers)
                self.assertEqual(one.trail.outcomes[-1].reason, "denied")
                self.assertIn("is not authorized to call tool", answer.json["error"]["message"])

    def test_remembered_decisions(self) -> None:
        """What one token may is not noted for another one of the same head."""
        one = rig(holding("write"))
        one.upstream.reply = lambda outbound: {"result": {"content": []}}
        for _ in range(2):
            self.assertEqual(one.call("tools/call", {"name": "write_file"}).status, 200)
        assert isinstance(one.authenticator, Knows)
        one.authenticator.principal = holding("read")
        self.assertEqual(one.call("tools/call", {"name": "write_file"}).status, 403)

    def test_lists(self) -> None:
        """A list shows what the scopes reach."""
        one = rig(holding("read", denied_tools=("read_me",)))
        names = ("read_file", "write_file", "read_me", "sum")
        one.upstream.reply = lambda outbound: {
            "result": {"tools": [{"name": name} for name in names]}
        }
        shown = one.call("tools/list").json["result"]["tools"]
        self.assertEqual(shown, [{"name": "read_file"}])


NAMES = ("a", "b", "ab", "ba", "x:a")
ENTRIES = st.lists(st.sampled_from(["a", "b*", "*b", "s:a", "t:*", "*", "*:x:a"]), max_size=3).map(
    tuple
)


class AgreementTests(SynchronousTestCase):
    """`tools/list` and `tools/call` say the same."""

    @settings(deadline=None, max_examples=150)
    @given(
        st.none() | ENTRIES,
        ENTRIES,
        st.dictionaries(st.sampled_from(["p", "q", "r"]), ENTRIES),
        st.sets(st.sampled_from(["p", "q", "r", "unknown"])),
    )
    def test_lists_and_calls(
        self,
        allowed: tuple[str, ...] | None,
        denied: tuple[str, ...],
        mapping: dict[str, tuple[str, ...]],
        held: set[str],
    ) -> None:
        """What is shown is what may be called; and a scope that is asked for is enough."""
        lists = {"tools": allowed, "denied_tools": denied}
        principal = holding(*held, mapping=mapping, **lists)
        tools = {"tools": [{"name": name} for name in NAMES]}
        shown, _ = filter_list(principal.rights, "s", "tools/list", tools)
        found = {}
        for name in NAMES:
            found[name] = authorize(principal, "s", Request(1, "tools/call", {"name": name}, {}))
        callable_names = [name for name, refusal in found.items() if refusal is None]
        self.assertEqual([tool["name"] for tool in shown["tools"]], callable_names)
        for name, refusal in found.items():
            if refusal is not None and refusal.reason is Reason.INSUFFICIENT_SCOPE:
                more = holding(*refusal.data["scope"].split(" "), mapping=mapping, **lists)
                request = Request(1, "tools/call", {"name": name}, {})
                self.assertIsNone(authorize(more, "s", request))
