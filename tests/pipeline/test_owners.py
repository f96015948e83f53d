"""What workers hand out says whose it is, and nothing else about it changes."""

from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refused
from mcpguard.gateway.corridor import OPAQUE
from mcpguard.pipeline.opaque import Custody, Opaque
from mcpguard.protocol.ownership import place_of, unmarked
from mcpguard.protocol.sealing import KEY_BYTES, Seal
from mcpguard.upstream.link import Message, Outbound
from tests.pipeline.rig import META, MemoryOutlet, MemoryUpstream, Rig
from tests.pipeline.sse_rig import SseClient
from tests.pipeline.test_session_ids import ALICE, IdCase, opened

KEY = b"k" * KEY_BYTES
CAPABLE = {**META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
FORM = {"message": "who?", "requestedSchema": {}}


def listed(outbound: Outbound) -> Message | None:
    """Answer what the gateway asks on its own."""
    return {"result": {"tools": []}} if outbound.method == "tools/list" else None


def worker(number: int, **more: Any) -> Rig:
    """One of several workers with one key."""
    upstream = MemoryUpstream(resumable=True, session_id="s1", reply=listed)
    rig = Rig(upstream=upstream, session_key=KEY, owner=number, **more)
    rig.clock.advance(1_790_000_000)
    return rig


class NumberedIdTests(IdCase):
    """`SessionIds` of a worker."""

    def setUp(self) -> None:
        """Be the second worker."""
        super().setUp()
        self.two = evolve(self.ids, owner=2)

    def test_number(self) -> None:
        """The number stands in front, of ids that can be taken up and of those that cannot."""
        for opening in (opened(), opened(resumable=False)):
            session_id = self.two.issue(ALICE, self.route, {}, opening)
            self.assertRegex(session_id, r"\A2\.[A-Za-z0-9_-]+\Z")

    def test_read_by_all(self) -> None:
        """Whoever has the key can read it, another worker or a gateway of one process."""
        session_id = self.two.issue(ALICE, self.route, {}, opened(session_id="s9"))
        for ids in (self.two, self.ids, evolve(self.ids, owner=3)):
            kept = ids.read(session_id, ALICE, self.route)
            assert kept is not None
            self.assertEqual(kept.session_id, "s9")
        plain = self.issue()
        self.assertIsNotNone(self.two.read(plain, ALICE, self.route))

    def test_bound_to_its_number(self) -> None:
        """With another number, or none, it is no id: no session is at two workers."""
        session_id = self.two.issue(ALICE, self.route, {}, opened())
        sealed = unmarked(session_id)[1]
        plain = self.issue()
        for other in (sealed, f"3.{sealed}", f"22.{sealed}", f"2.2.{sealed}", f"2.{plain}"):
            self.assertIsNone(self.two.read(other, ALICE, self.route), other)

    @given(st.integers(0, 1100))
    @settings(deadline=None, max_examples=100)
    def test_bound(self, length: int) -> None:
        """With its number an id is no longer than any other may be."""
        ids = evolve(self.ids, owner=9_999)
        session_id = ids.issue(ALICE, self.route, {}, opened(session_id="x" * length))
        self.assertLessEqual(len(session_id), self.ids.bounds.max_chars)


class SessionTests(SynchronousTestCase):
    """Sessions among workers."""

    def call(self, rig: Rig, session: str) -> MemoryOutlet:
        """A call in a session."""
        return rig.call("tools/call", {"name": "x"}, headers={"Mcp-Session-Id": session})

    def resumed(self, rig: Rig) -> int:
        """How many sessions were taken up."""
        return len(rig.upstream.resumed_with)

    def test_handshake(self) -> None:
        """A session says at which worker it is."""
        self.assertEqual(place_of(worker(2).handshake(), 3), 2)

    def test_event_stream(self) -> None:
        """So does the address that HTTP+SSE clients post to."""
        rig = worker(3)
        client = SseClient(rig)
        self.assertEqual(place_of(client.session_id, 4), 3)
        self.assertEqual(client.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status, 202)
        self.assertEqual([message["id"] for message in client.messages], [1])

    def test_left_to_its_owner(self) -> None:
        """What was taken up for another worker is left to it, not ended, and can be again."""
        session = worker(2).handshake()
        stand_in = worker(3)
        own = stand_in.handshake()
        self.call(stand_in, session)
        stand_in.upstream.links[1].answer(0, result={})
        self.assertEqual((self.resumed(stand_in), len(stand_in.pipeline.table)), (1, 2))
        stand_in.pipeline.table.leave_to(lambda one: place_of(one, 3) == 2)
        self.assertEqual(len(stand_in.pipeline.table), 1)
        self.call(stand_in, own)
        links = stand_in.upstream.links
        self.assertEqual([(link.left, link.closed) for link in links], [(0, 0), (1, 0)])
        self.call(stand_in, session)
        self.assertEqual(self.resumed(stand_in), 2)

    def test_left_after_its_calls(self) -> None:
        """What runs when the owner returns is answered here; then the session is left to it."""
        session = worker(2).handshake()
        stand_in = worker(3)
        outlet = self.call(stand_in, session)
        table, link = stand_in.pipeline.table, stand_in.upstream.links[0]
        table.leave_to(lambda one: place_of(one, 3) == 2)
        table.sweep()
        self.assertEqual((len(table), link.left, outlet.status), (1, 0, None))
        link.answer(0, result={"content": []})
        self.assertEqual((outlet.status, outlet.json["result"]), (200, {"content": []}))
        table.sweep()
        self.assertEqual((len(table), link.left, link.closed), (0, 1, 0))

    def test_ended_for_good(self) -> None:
        """What its client has ended stays ended."""
        session = worker(2).handshake()
        rig = worker(2)
        rig.send(b"", method="DELETE", headers={"Mcp-Session-Id": session})
        rig.pipeline.table.leave_to(lambda one: True)
        self.assertEqual(self.call(rig, session).status, 404)

    def test_own_sessions_stay(self) -> None:
        """A session that began here is nobody else's, whatever is said of its id."""
        rig = worker(2)
        session = rig.handshake()
        rig.pipeline.table.leave_to(lambda one: True)
        self.call(rig, session)
        self.assertEqual((self.resumed(rig), len(rig.upstream.links[0].requests)), (0, 1))


class ParkedTests(SynchronousTestCase):
    """Calls that wait in a worker for their client's next round."""

    def setUp(self) -> None:
        """Two workers before a server of sessions, and a call that waits in the second."""
        self.one, self.two = worker(1, bridge="translate"), worker(2, bridge="translate")
        outlet = self.ask(self.two, {})
        message: Message = {"jsonrpc": "2.0", "id": 1, "method": "elicitation/create"}
        self.two.upstream.inboxes[0].request({**message, "params": FORM}, None)
        self.two.clock.advance(1)
        self.result = outlet.json["result"]

    def ask(self, rig: Rig, more: Message) -> MemoryOutlet:
        """One round of the call."""
        params = {"_meta": CAPABLE, "name": "t", **more}
        return rig.modern("tools/call", params, headers={"Mcp-Name": "t"})

    def again(self, rig: Rig, state: str) -> MemoryOutlet:
        """The next one."""
        (key,) = self.result["inputRequests"]
        answers = {key: {"action": "accept", "content": {}}}
        return self.ask(rig, {"requestState": state, "inputResponses": answers})

    def test_goes_on(self) -> None:
        """Its state says where it waits, and there it goes on."""
        state = self.result["requestState"]
        self.assertEqual(place_of(state, 3), 2)
        outlet = self.again(self.two, state)
        self.two.upstream.links[0].answer(-1, result={"content": []})
        self.assertEqual(outlet.json["result"]["resultType"], "complete")

    def test_elsewhere(self) -> None:
        """At another worker it is unknown, and so is it with another number."""
        state = self.result["requestState"]
        sealed = unmarked(state)[1]
        for rig, other in (
            (self.one, state),
            (self.two, f"1.{sealed}"),
            (self.two, sealed),
            (self.two, f"2.{state}"),
        ):
            self.assertEqual(self.again(rig, other).json["error"]["code"], -32602)
        self.assertEqual(self.two.upstream.links[0].responses, [])


class NumberedStateTests(SynchronousTestCase):
    """The states of servers that know rounds themselves."""

    def custody(self, owner: int | None) -> Custody:
        """The custody of a request at a worker."""
        states, cursors = (Seal(KEY, purpose, bytes) for purpose in ("state", "cursor"))
        opaque = Opaque(states, cursors, lambda: 1000.0, OPAQUE, owner)
        return opaque.custody(ALICE, "server", "/path", "tools/call", modern=True)

    def sealed(self, owner: int | None, words: str) -> str:
        """What a client gets for a server's words."""
        result = {"resultType": "input_required", "requestState": words}
        token = self.custody(owner).sealed({"name": "t"}, result)["requestState"]
        assert isinstance(token, str)
        return token

    @given(st.one_of(st.text(max_size=10), st.from_regex(r"[0-9]{1,5}\.[a-z]?", fullmatch=True)))
    @settings(deadline=None, max_examples=100)
    def test_any_words(self, words: str) -> None:
        """Words that look like a worker's are a server's own all the same, at every worker."""
        for maker, reader in ((2, 2), (2, 3), (2, None), (None, 2)):
            token = self.sealed(maker, words)
            opened_params = self.custody(reader).opened({"name": "t", "requestState": token})
            assert opened_params is not None
            self.assertEqual(opened_params["requestState"], words)
            self.assertIn(unmarked(token)[0], ("", str(maker)))

    def test_numbers_count(self) -> None:
        """A number that was put there by somebody else makes a state nobody's."""
        token = self.sealed(2, "words")
        for other in (f"2.{token}", f"3.{token}", unmarked(self.sealed(2, "2.words"))[1]):
            with self.assertRaises(Refused) as caught:
                self.custody(2).opened({"name": "t", "requestState": other})
            self.assertIs(caught.exception.refusal.reason, Reason.INVALID_PARAMS)
