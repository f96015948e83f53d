"""Clients of npm's SDKs through the gateway: how they choose, how they go on, how they are refused.

What they can do with servers of each era is in `tests.live.test_matrix`.
"""

from tests.live.clients_case import NEWEST, NEWEST_HANDSHAKE, ClientCase, npm_client
from tests.live.scenarios import Scenario, Step, containing
from tests.live.scenarios import text as said


class SdkTests(ClientCase):
    """``@modelcontextprotocol/sdk`` 1.x, which knows the handshake only."""

    def client(self) -> list[str]:
        """The driver over 1.x."""
        return npm_client("npm_sdk")

    async def test_handshake_only(self) -> None:
        """Every feature works."""
        await self.walk_through(*await self.handshake_only(), NEWEST_HANDSHAKE)

    async def test_refusals(self) -> None:
        """Denials, rate limits and wrong keys are legible: the SDK quotes the answer."""
        await self.check_refusals(unauthorized="Invalid credentials")

    async def test_resumption(self) -> None:
        """A call whose connection was lost is taken up where it was, nothing lost or repeated."""
        gateway = await self.start_gateway(await self.demo_servers())
        resume = {"do": "resume", "tool": "slow", "arguments": {"seconds": 2, "steps": 8}}
        scenario = Scenario(
            server="", content={}, asked=frozenset(), steps=(Step("resume", resume),)
        )
        key = gateway.keys["tester"]
        reports = await self.report(
            {
                name: scenario.job(gateway.url(name), key, self.mode)
                for name in ("demo", "demo-http")
            }
        )
        for report in reports.values():
            found = report["steps"]["resume"]["ok"]
            self.assertEqual(found["text"], "Done: 8 steps in 2 s")
            self.assertLess(len(found["before"]), 8)
            self.assertEqual(found["before"] + found["after"], list(range(1, 9)))


class DefaultTests(ClientCase):
    """``@modelcontextprotocol/client`` 2.x as it comes, which is to shake hands."""

    mode = "default"

    def client(self) -> list[str]:
        """The driver over 2.x."""
        return npm_client("npm_client")

    async def test_both_eras(self) -> None:
        """Servers of both eras serve it the old one, and every feature works."""
        await self.walk_through(*await self.both_eras(), NEWEST_HANDSHAKE)

    async def test_older_versions(self) -> None:
        """Sessions of the versions before the newest handshake are what was agreed on."""
        gateway = await self.start_gateway(await self.demo_servers())
        planned = steps_of_old()
        jobs = {
            f"{version} {server}": {
                **planned.job(gateway.url(server), gateway.keys["tester"], self.mode),
                "versions": [version],
            }
            for version in ("2025-03-26", "2025-06-18")
            for server in ("demo", "demo-http")
        }
        reports = await self.report(jobs)
        for name, report in reports.items():
            self.assertEqual(planned.complaints(report, name[:10], named=True), [])

    async def test_refusals(self) -> None:
        """Denials, rate limits and wrong keys are legible: the SDK quotes the answer."""
        await self.check_refusals(unauthorized="Invalid credentials")


class AutoTests(ClientCase):
    """``@modelcontextprotocol/client`` 2.x with version negotiation."""

    mode = "auto"

    def client(self) -> list[str]:
        """The driver over 2.x."""
        return npm_client("npm_client")

    async def test_handshake_only(self) -> None:
        """It agrees on 2026-07-28, which the servers do not know, and every feature works."""
        await self.walk_through(*await self.handshake_only(translated=True), NEWEST)

    async def test_fallback(self) -> None:
        """Where nothing is translated it falls back to the handshake, and every feature works."""
        await self.walk_through(*await self.handshake_only(bridge="fallback"), NEWEST_HANDSHAKE)

    async def test_refusals(self) -> None:
        """Denials, rate limits and wrong keys are legible."""
        await self.check_refusals(unauthorized="HTTP 401")

    async def test_denied_in_band(self) -> None:
        """With the status 200 for denials, the SDK raises the gateway's own code and words."""
        reports = await self.refusals(denial_status=200)
        error = reports["limited"]["steps"]["denied"]["error"]
        self.assertEqual((error["type"], error["code"]), ("ProtocolError", 403))


def steps_of_old() -> Scenario:
    """What the oldest session version of Streamable HTTP has already."""
    progress = {"do": "call", "tool": "slow", "arguments": {"seconds": 0.3}, "progress": True}
    arguments = {"text": "long story"}
    return Scenario(
        server="mcp-guard-demo",
        content={},
        asked=frozenset({"sampling", "roots"}),
        steps=(
            Step(
                "echo",
                {"do": "call", "tool": "echo", "arguments": {"message": "hello"}},
                said("hello"),
            ),
            Step("progress", progress, lambda found: len(found["progress"]) > 1),
            Step(
                "sampling",
                {"do": "call", "tool": "summarize", "arguments": arguments},
                containing("long story"),
            ),
            Step("roots", {"do": "call", "tool": "roots"}, said("file:///srv/data")),
        ),
    )
