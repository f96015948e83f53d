"""A demo server over a folder of the test's own, and requests to put to it."""

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.calls import Call, Client, Session
from mcpguard.demo.files import Folder, seed
from mcpguard.demo.messages import META_CAPABILITIES, META_VERSION, Message
from mcpguard.demo.server import Server

MODERN = {META_VERSION: "2026-07-28", META_CAPABILITIES: {}}


class ServerCase(SynchronousTestCase):
    """Gives each test a seeded folder, a server of both eras and a clock it can set."""

    def setUp(self) -> None:
        """Build them."""
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        seed(self.root)
        self.now = 1_000.0
        self.server = self.build("legacy", "modern")
        self.sent: list[Message] = []
        self._usual: Session | None = None

    def build(self, *eras: str) -> Server:
        """A server of these eras, with small bounds."""
        return Server(
            Folder(self.root, max_file=1000, max_entries=10, max_depth=4),
            eras=frozenset(eras),
            secret=b"s" * 32,
            now=lambda: self.now,
            max_watchers=3,
            max_uris=2,
        )

    def session(self, version: str = "2025-11-25", **capabilities: Message) -> Session:
        """A legacy session whose handshake is done."""
        session = Session(self.sent.append, max_running=2, ask_timeout=0.01)
        params = {"protocolVersion": version, "capabilities": capabilities}
        self.legacy("initialize", params, session=session)
        return session

    def legacy(
        self, method: str, params: Message | None = None, *, session: Session | None = None
    ) -> Message:
        """The answer to a legacy request, in the test's usual session unless one is given."""
        if session is None:
            session = self._usual = self._usual or self.session()
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params or {}}
        return self.answer(message, session)

    def modern(self, method: str, params: Message | None = None, **meta: Any) -> Message:
        """The answer to a modern request; ``meta`` adds to or replaces ``_meta`` members."""
        message = modern_request(method, params, meta)
        return self.answer(message, self.server.modern_client(message))

    def answer(self, message: Message, client: Client) -> Message:
        """The answer to a request; what it sends before is added to ``sent``."""
        answer = self.server.answer(Call(message, client, self.sent.append))
        assert answer is not None
        return answer


def modern_request(method: str, params: Message | None, meta: Message) -> Message:
    """A request with a complete ``_meta``."""
    full = {**(params or {}), "_meta": {**MODERN, **meta}}
    return {"jsonrpc": "2.0", "id": "m", "method": method, "params": full}
