"""What clients of SDKs make of a refusal: who has few rights, who calls too often, a wrong key."""

from collections.abc import Mapping
from typing import Any

from tests.live.clients_case import (
    DEMO,
    NEWEST,
    PATH,
    ClientCase,
    Walker,
    Walkers,
    first_error,
    npm_client,
    python_client,
    unjudged,
)
from tests.live.gateway_process import stdio

ONE = Walker(lambda: python_client(1))
NEGOTIATING = Walker(lambda: npm_client("npm_client"), "auto", NEWEST)
LEGIBLE: Mapping[str, tuple[Walker, str]] = {
    "pypi-auto": (Walker(lambda: python_client(2), "auto", NEWEST), "Invalid credentials"),
    "pypi-pinned": (Walker(lambda: python_client(2), NEWEST, NEWEST), "Invalid credentials"),
    "pypi-legacy": (Walker(lambda: python_client(2), "legacy"), "Invalid credentials"),
    "npm-sdk": (Walker(lambda: npm_client("npm_sdk")), "Invalid credentials"),
    "npm-auto": (NEGOTIATING, "HTTP 401"),
}
"""Clients that tell their users what was refused, and what they say to a wrong key."""


def denied(who: str) -> str:
    """The gateway's words to who has few rights."""
    return f"Identity 'limited-{who}' is not authorized to call tool 'delete_file'"


class RefusalTests(ClientCase):
    """Each client as three: ``limited`` has few rights, ``hasty`` calls too often, and the key of
    ``wrong`` is.
    """

    async def refusals(self, walkers: Walkers, **server: Any) -> dict[str, dict[str, Any]]:
        """What each of them sees, by walker; each denial stands in the audit trail."""
        few_rights = {"allowed_tools": ["echo", "list_*"]}
        few_calls = {"rate_limit": 0.01, "burst_size": 9}
        gateway = await self.start_gateway(
            [stdio("demo", DEMO, env=dict(PATH))],
            identities={
                **{f"limited-{who}": few_rights for who in walkers},
                **{f"hasty-{who}": few_calls for who in walkers},
            },
            server=server,
        )
        echo = {"do": "call", "tool": "echo", "arguments": {"message": "on"}}
        delete = {"do": "call", "tool": "delete_file", "arguments": {"path": "x"}}
        few = unjudged(list={"do": "list"}, denied=delete, allowed=echo)
        many = unjudged(**{f"call {number}": echo for number in range(10)})
        jobs = {
            who: {
                name: steps.job(
                    gateway.url("demo"), gateway.keys.get(f"{name}-{who}", "mcp_wrong"), one.mode
                )
                for name, steps in (("limited", few), ("hasty", many), ("wrong", few))
            }
            for who, one in walkers.items()
        }
        reports = await self.reports(walkers, jobs)
        denials = await self.outcomes(gateway, "AuthorizationDenied", len(walkers))
        self.assertEqual(
            {(one["identity_id"], one["tool"]) for one in denials},
            {(f"limited-{who}", "delete_file") for who in walkers},
        )
        for found in reports.values():
            self.assertEqual(found["hasty"]["steps"]["call 0"]["ok"]["text"], "on", found)
            listed = found["limited"]["steps"]["list"]
            self.assertEqual(listed, {"ok": ["echo", "list_directory"]}, found)
        return reports

    async def test_legible(self) -> None:
        """A denial says why and ends nothing; so does a rate limit; a wrong key is told so. PyPI's
        ``mcp`` 1.x ends its session at any error status, naming that alone; nothing hangs.
        """
        walkers = {who: walker for who, (walker, _) in LEGIBLE.items()}
        reports = await self.refusals({**walkers, "pypi-1": ONE})
        for who, (_, unauthorized) in LEGIBLE.items():
            found = reports[who]
            steps = found["limited"]["steps"]
            self.assertIn(denied(who), steps["denied"]["error"]["message"], found)
            self.assertEqual(steps["allowed"]["ok"]["text"], "on", found)
            last = found["hasty"]["steps"]["call 9"]
            self.assertIn("Rate limit exceeded", last["error"]["message"], found)
            self.assertIn(unauthorized, first_error(found["wrong"])["message"])
        found = reports["pypi-1"]
        self.assertEqual(set(found["limited"]["steps"]), {"list"})
        self.assertIn("403 Forbidden", found["limited"]["close"]["error"]["message"])
        self.assertNotIn("call 9", found["hasty"]["steps"])
        self.assertIn("429 Too Many Requests", found["hasty"]["close"]["error"]["message"])
        self.assertIn("401 Unauthorized", first_error(found["wrong"])["message"])

    async def test_denied_in_band(self) -> None:
        """With the status 200 for denials, PyPI's ``mcp`` 1.x tells them too and goes on, and npm's
        client raises the gateway's own code and words.
        """
        walkers = {"pypi-1": ONE, "npm-auto": NEGOTIATING}
        reports = await self.refusals(walkers, denial_status=200)
        steps = reports["pypi-1"]["limited"]["steps"]
        self.assertIn(denied("pypi-1"), steps["denied"]["error"]["message"], reports)
        self.assertEqual(steps["allowed"]["ok"]["text"], "on", reports)
        error = reports["npm-auto"]["limited"]["steps"]["denied"]["error"]
        self.assertEqual((error["type"], error["code"]), ("ProtocolError", 403))
