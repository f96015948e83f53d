"""What clients of SDKs agree on with servers of both eras, and with servers of one where nothing is
translated.

What they can do where it is translated is in `tests.live.test_matrix`, and before the reference
servers in `tests.live.test_bridge_stateless`.
"""

from pathlib import Path

from tests.live import scenarios
from tests.live.clients_case import (
    CROWD,
    NEWEST,
    PYTHON_SERVER,
    ClientCase,
    Walker,
    first_error,
    npm_client,
    python_client,
    unjudged,
)
from tests.live.forked import forked
from tests.live.gateway_process import RunningGateway, http, stdio
from tests.live.python_scenario import python
from tests.live.scenarios import Scenario, Step, containing
from tests.live.scenarios import text as said

TESTER = "tester"
"""Who does what only one SDK can."""


class BothErasTests(ClientCase):
    """Servers of both eras, of Python's SDK and of this project."""

    async def test_every_feature(self) -> None:
        """Clients that know 2026-07-28 and ask for it agree on it, the others shake hands; every
        feature works, also in the versions of Streamable HTTP before the newest handshake and
        where npm's SDK resumes a stream, and nobody's session leaves a child.
        """
        walkers = {
            "pypi-auto": Walker(lambda: python_client(2), "auto", NEWEST),
            "pypi-one": Walker(lambda: python_client(1)),
            # As it comes, npm's client shakes hands though it knows better.
            "npm-default": Walker(lambda: npm_client("npm_client"), "default"),
        }
        command = forked(Path(PYTHON_SERVER))
        gateway = await self.start_gateway(
            [
                stdio("python", command),
                http("python-http", await self.start_http_server([*command, "--http"])),
                *await self.demo_servers(),
            ],
            identities={who: {} for who in (*walkers, TESTER)},
        )
        plans = {
            who: {
                "python": python(sessions=0, who=who, first=100 * number),
                "python-http": python(sessions=CROWD, who=who, first=100 * number),
                "demo": scenarios.demo(sessions=CROWD),
                "demo-http": scenarios.demo(sessions=CROWD),
            }
            for number, who in enumerate(walkers)
        }
        await self.walk_through(gateway, walkers, plans)
        await self.old_versions(gateway)
        await self.resumption(gateway)
        await self.no_child_but(gateway, 2)

    async def old_versions(self, gateway: RunningGateway) -> None:
        """Sessions are in what was agreed on, and what there was then works."""
        walkers = {TESTER: Walker(lambda: npm_client("npm_client"), "default")}
        planned = steps_of_old()
        jobs = {
            f"{version} {server}": {
                **planned.job(gateway.url(server), gateway.keys[TESTER], "default"),
                "versions": [version],
            }
            for version in ("2025-03-26", "2025-06-18")
            for server in ("demo", "demo-http")
        }
        reports = await self.reports(walkers, {TESTER: jobs})
        for name, report in reports[TESTER].items():
            self.assertEqual(planned.complaints(report, name[:10], named=True), [])

    async def resumption(self, gateway: RunningGateway) -> None:
        """A call whose connection was lost is taken up where it was, nothing lost or repeated."""
        resume = {"do": "resume", "tool": "slow", "arguments": {"seconds": 2, "steps": 8}}
        scenario = unjudged(resume=resume)
        key = gateway.keys[TESTER]
        jobs = {name: scenario.job(gateway.url(name), key, "") for name in ("demo", "demo-http")}
        walkers = {TESTER: Walker(lambda: npm_client("npm_sdk"))}
        reports = await self.reports(walkers, {TESTER: jobs})
        for report in reports[TESTER].values():
            found = report["steps"]["resume"]["ok"]
            self.assertEqual(found["text"], "Done: 8 steps in 2 s")
            self.assertLess(len(found["before"]), 8)
            self.assertEqual(found["before"] + found["after"], list(range(1, 9)))


class HandshakeOnlyTests(ClientCase):
    """The reference servers of npm, with ``bridge = "fallback"``."""

    async def test_fallback(self) -> None:
        """Who can falls back to the handshake, and every feature works; who is pinned to
        2026-07-28 reads a clear error that the server has not its version.
        """
        walkers = {
            "pypi-auto": Walker(lambda: python_client(2), "auto"),
            "npm-auto": Walker(lambda: npm_client("npm_client"), "auto"),
            "npm-sdk": Walker(lambda: npm_client("npm_sdk")),
        }
        pinned = {"pypi-pinned": Walker(lambda: python_client(2), NEWEST, NEWEST)}
        servers, planned = await self.reference_servers(bridge="fallback")
        gateway = await self.start_gateway(
            servers, identities={who: {} for who in (*walkers, *pinned)}
        )
        await self.walk_through(gateway, walkers, dict.fromkeys(walkers, planned))
        await self.no_child_but(gateway, 0)
        key = gateway.keys["pypi-pinned"]
        jobs = {name: one.job(gateway.url(name), key, NEWEST) for name, one in planned.items()}
        reports = await self.reports(pinned, {"pypi-pinned": jobs})
        for report in reports["pypi-pinned"].values():
            error = first_error(report)
            self.assertEqual(error["code"], -32022, reports)
            self.assertIn("Unsupported protocol version", error["message"])


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
