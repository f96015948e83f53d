"""Clients of PyPI's ``mcp`` through the gateway: how they choose, and how they are refused.

What they can do with servers of each era is in `tests.live.test_matrix`.
"""

from tests.live.clients_case import (
    DENIED,
    NEWEST,
    NEWEST_HANDSHAKE,
    ClientCase,
    first_error,
    python_client,
)


class AutoTests(ClientCase):
    """``mcp`` 2.x as it comes: it asks for the stateless version, else it shakes hands."""

    mode = "auto"

    def client(self) -> list[str]:
        """The driver over 2.x."""
        return python_client(2)

    async def test_both_eras(self) -> None:
        """It agrees on 2026-07-28, and every feature works."""
        await self.walk_through(*await self.both_eras(), NEWEST)

    async def test_handshake_only(self) -> None:
        """It agrees on 2026-07-28, which the servers do not know, and every feature works."""
        await self.walk_through(*await self.handshake_only(translated=True), NEWEST)

    async def test_fallback(self) -> None:
        """Where nothing is translated it falls back to the handshake, and every feature works."""
        await self.walk_through(*await self.handshake_only(bridge="fallback"), NEWEST_HANDSHAKE)

    async def test_refusals(self) -> None:
        """Denials, rate limits and wrong keys are legible."""
        await self.check_refusals(unauthorized="Invalid credentials")


class PinnedTests(ClientCase):
    """``mcp`` 2.x pinned to 2026-07-28: it asks nothing before its first request."""

    mode = NEWEST
    asks_name = False

    def client(self) -> list[str]:
        """The driver over 2.x."""
        return python_client(2)

    async def test_fallback(self) -> None:
        """Where nothing is translated, a clear error says that the server has not its version."""
        gateway, planned = await self.handshake_only(bridge="fallback")
        key = gateway.keys["tester"]
        reports = await self.report(
            {name: one.job(gateway.url(name), key, self.mode) for name, one in planned.items()}
        )
        for name in planned:
            error = first_error(reports[name])
            self.assertEqual(error["code"], -32022, reports)
            self.assertIn("Unsupported protocol version", error["message"])

    async def test_refusals(self) -> None:
        """Denials, rate limits and wrong keys are legible."""
        await self.check_refusals(unauthorized="Invalid credentials")


class LegacyTests(ClientCase):
    """``mcp`` 2.x told to shake hands."""

    mode = "legacy"

    def client(self) -> list[str]:
        """The driver over 2.x."""
        return python_client(2)

    async def test_refusals(self) -> None:
        """Denials, rate limits and wrong keys are legible."""
        await self.check_refusals(unauthorized="Invalid credentials")


class OneTests(ClientCase):
    """``mcp`` 1.x, which knows the handshake only."""

    def client(self) -> list[str]:
        """The driver over 1.x."""
        return python_client(1)

    async def test_both_eras(self) -> None:
        """Servers of both eras serve it the old one, and every feature works."""
        await self.walk_through(*await self.both_eras(), NEWEST_HANDSHAKE)

    async def test_refusals(self) -> None:
        """This SDK ends its session at any error status, naming that alone; nothing hangs."""
        reports = await self.refusals()
        self.assertEqual(set(reports["limited"]["steps"]), {"list"})
        self.assertIn("403 Forbidden", reports["limited"]["close"]["error"]["message"])
        self.assertNotIn("call 9", reports["hasty"]["steps"])
        self.assertIn("429 Too Many Requests", reports["hasty"]["close"]["error"]["message"])
        self.assertIn("401 Unauthorized", first_error(reports["wrong"])["message"])

    async def test_denied_in_band(self) -> None:
        """With the status 200 for denials, they are legible and end nothing."""
        reports = await self.refusals(denial_status=200)
        steps = reports["limited"]["steps"]
        self.assertIn(DENIED, steps["denied"]["error"]["message"], reports)
        self.assertEqual(steps["allowed"]["ok"]["text"], "on", reports)
