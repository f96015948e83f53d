"""The official conformance suite before the gateway, as its client.

What must pass is all that a version of the protocol requires, and all else the suite tries. An
exception stands in a table, with its reason; one that passes after all fails the test too.
"""

from tests.live.conformance_case import (
    NEWEST_SESSIONS,
    OLD,
    SERVER,
    STATELESS,
    ConformanceCase,
    Exceptions,
)
from tests.live.gateway_process import http, stdio

TASKS: Exceptions = dict.fromkeys(
    (
        "tasks-lifecycle",
        "tasks-capability-negotiation",
        "tasks-wire-fields",
        "tasks-request-state-removal",
        "tasks-mrtr-input",
        "tasks-request-headers",
        "tasks-dispatch-and-envelope",
        "tasks-required-task-error",
        "tasks-mrtr-composition",
    ),
    "an extension that the SDK under the server has not got",
)
"""None of them is required."""


class SameEraTests(ConformanceCase):
    """Before a server that speaks both eras: nothing is translated."""

    async def test_direct(self) -> None:
        """The server alone passes, which shows whose failure a failure is."""
        url = await self.over_http("both")
        await self.check(url, None, {OLD: {}, NEWEST_SESSIONS: {}, STATELESS: TASKS})

    async def test_http(self) -> None:
        """All passes over an HTTP upstream."""
        gateway = await self.start_gateway([http("conformance", await self.over_http("both"))])
        expected = {OLD: {}, NEWEST_SESSIONS: {}, STATELESS: TASKS}
        await self.check_gateway(gateway, "conformance", expected)

    async def test_stdio(self) -> None:
        """All passes over a stdio upstream, with a child for each session."""
        forked = await self.prefork(SERVER)
        gateway = await self.start_gateway(
            [stdio("sessions", forked), stdio("stateless", self.command("--era", "both"))]
        )
        await self.check_gateway(gateway, "sessions", {OLD: {}, NEWEST_SESSIONS: {}})
        await self.check_gateway(gateway, "stateless", {STATELESS: TASKS})
