"""What requests take up that run while nobody waits for them."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.gateway.corridor import REQUEST_BYTES
from mcpguard.pipeline.accepted_bytes import AcceptedBytes, RequestBytes
from mcpguard.upstream.link import Eras
from tests.pipeline.rig import MODERN, Rig
from tests.pipeline.sse_rig import SseClient

PIECE: dict[str, Any] = {
    "name": "t",
    "arguments": {"x": "y" * (REQUEST_BYTES.per_principal // 8)},
}
"""Eight of these are just too much for one principal."""


class AcceptedBytesTests(SynchronousTestCase):
    """`AcceptedBytes`."""

    def test_bounds(self) -> None:
        """One request alone is never too much; the bound of all holds for everybody."""
        accepted = AcceptedBytes(RequestBytes(per_principal=10, total=15))
        self.assertTrue(accepted.take("alice", 12))
        self.assertFalse(accepted.take("alice", 1))
        self.assertTrue(accepted.take("bob", 3))
        self.assertFalse(accepted.take("carol", 1))
        accepted.give("alice", 12)
        self.assertTrue(accepted.take("carol", 10))
        self.assertTrue(accepted.take("bob", 2))
        self.assertEqual(accepted.total, 15)


class CorridorTests(SynchronousTestCase):
    """Every way to a server."""

    def setUp(self) -> None:
        """Build it."""
        self.rig = Rig()

    def test_answered_posts(self) -> None:
        """HTTP+SSE: a POST that was answered leaves its request behind."""
        clients = [SseClient(self.rig).initialize() for _ in range(2)]
        for number in range(8):
            clients[number % 2].ask("tools/call", PIECE, number)
        refused = clients[1].messages[-1]
        self.assertEqual((refused["id"], refused["error"]["code"]), (7, 503))
        bob = SseClient(self.rig, who="bob").initialize()
        bob.ask("tools/call", PIECE, 1)
        self.assertEqual(len(self.rig.upstream.asked), 8)
        self.rig.upstream.links[0].answer(0, result={"content": []})
        clients[1].ask("tools/call", PIECE, "again")
        self.assertEqual(len(self.rig.upstream.asked), 9)
        for client in (*clients, bob):
            client.outlet.leave()
        self.assertEqual(self.rig.pipeline.accepted_bytes, 0)

    def test_clients_that_leave(self) -> None:
        """Handshake eras: a call runs on when its client leaves, and still counts."""
        session = {"Mcp-Session-Id": self.rig.handshake()}
        for _ in range(7):
            self.rig.call("tools/call", PIECE, headers=session).leave()
        self.assertEqual(len(self.rig.upstream.asked), 7)
        refused = self.rig.call("tools/call", PIECE, headers=session)
        self.assertEqual((refused.status, refused.headers["retry-after"]), (503, "1"))
        small = self.rig.call("ping", headers=session)
        self.assertIsNone(small.status)
        self.rig.upstream.links[0].answer(7, result={})
        for number in range(7):
            self.rig.upstream.links[0].answer(number, result={"content": []})
        self.assertEqual(self.rig.pipeline.accepted_bytes, 0)

    def test_stateless(self) -> None:
        """Stateless calls end with their clients, refused ones and notifications take nothing."""
        self.rig.upstream.known_eras = Eras(legacy=False, modern=(MODERN,))
        self.rig.upstream.reply = lambda outbound: (
            {"result": {"tools": []}} if outbound.method == "tools/list" else None
        )
        outlet = self.rig.modern("tools/call", PIECE)
        self.assertGreater(self.rig.pipeline.accepted_bytes, 4_000_000)
        outlet.leave()
        self.assertEqual(self.rig.pipeline.accepted_bytes, 0)
        self.rig.modern("tools/none", PIECE)
        self.rig.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": PIECE})
        self.assertEqual(self.rig.pipeline.accepted_bytes, 0)
