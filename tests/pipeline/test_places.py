"""Places of an identity that are counted elsewhere: the answer has to be waited for."""

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refusal, Refused
from tests.pipeline.rig import Rig, api_key
from tests.pipeline.sse_rig import PARAMS, SseClient


@define(eq=False)
class PlacesElsewhere:
    """Implements `Places`; a test answers."""

    asked: list[tuple[str, int, Deferred[bool]]] = field(factory=list)
    given: list[str] = field(factory=list)

    def take_place(self, key: str, limit: int) -> Deferred[bool]:
        """Ask."""
        answer: Deferred[bool] = Deferred()
        self.asked.append((key, limit, answer))
        return answer

    def give_place(self, key: str) -> None:
        """Note it."""
        self.given.append(key)


class PlacesElsewhereTests(SynchronousTestCase):
    """An identity with places, before a server with sessions."""

    def setUp(self) -> None:
        """Nobody has a place yet."""
        self.places = PlacesElsewhere()
        keys = (api_key("one", max_concurrency=3), api_key("free"))
        self.rig = Rig(keys=keys, places=self.places)

    def answer(self, taken: bool) -> None:
        """Answer the last question."""
        self.places.asked[-1][2].callback(taken)

    def session(self) -> dict[str, str]:
        """The header of a session of ``one``."""
        greeting = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        shaken = self.rig.call("initialize", greeting, who="one")
        self.answer(True)
        self.assertEqual(shaken.status, 200)
        return {"Mcp-Session-Id": shaken.headers["mcp-session-id"]}

    def test_taken(self) -> None:
        """The request goes on with its place, and gives it back at its outcome."""
        call = self.rig.call("tools/call", {"name": "slow"}, who="one")
        self.assertEqual(self.places.asked[0][1], 3)
        self.assertEqual(self.rig.upstream.links, [])
        self.answer(True)
        self.assertIsNone(call.status)
        self.assertEqual(self.places.given, [])
        self.rig.upstream.links[0].answer(0, result={"content": []})
        self.assertEqual(call.status, 200)
        self.assertEqual(self.places.given, [self.places.asked[0][0]])

    def test_none_left(self) -> None:
        """429, nothing reached the server, and nothing is given back that was not taken."""
        call = self.rig.call("tools/call", {"name": "slow"}, who="one")
        self.answer(False)
        self.assertEqual((call.status, call.headers["retry-after"]), (429, "1"))
        self.assertEqual((self.places.given, self.rig.upstream.links), ([], []))
        self.assertEqual(self.rig.trail.outcomes[-1].event_type, "RateLimited")

    def test_untold(self) -> None:
        """Who cannot be asked lets nobody pass."""
        call = self.rig.call("tools/call", {"name": "slow"}, who="one")
        refused = Refused(Refusal(Reason.LIMITS_UNAVAILABLE, retry_after=1.0))
        self.places.asked[-1][2].errback(Failure(refused))
        self.assertEqual(call.status, 503)
        self.assertEqual((self.places.given, self.rig.upstream.links), ([], []))

    def test_session_ends_meanwhile(self) -> None:
        """A request whose session ended while it waited is told so, and gives its place back."""
        header = self.session()
        taken = len(self.places.given)
        call = self.rig.call("tools/call", {"name": "slow"}, who="one", headers=header)
        self.rig.send(method="DELETE", who="one", headers=header)
        self.answer(True)
        self.assertEqual(call.status, 404)
        self.assertEqual(len(self.places.given), taken + 1)

    def test_every_wire(self) -> None:
        """Sessions, stateless requests and HTTP+SSE wait alike."""
        header = self.session()
        before = len(self.places.asked)
        self.rig.call("tools/call", {"name": "slow"}, who="one", headers=header)
        self.rig.modern("tools/call", {"name": "slow"}, who="one")
        client = SseClient(self.rig, who="one")
        client.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": PARAMS})
        self.assertEqual(len(self.places.asked), before + 3)

    def test_others(self) -> None:
        """An identity without a limit of its own asks nobody."""
        self.rig.call("tools/call", {"name": "slow"}, who="free")
        self.assertEqual(self.places.asked, [])
        self.assertEqual(len(self.rig.upstream.links), 1)
