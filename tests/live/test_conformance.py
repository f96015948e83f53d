"""The official conformance suite before the gateway.

What must pass is all that a version of the protocol requires, and all else the suite tries. An
exception stands in a table, with its reason; one that passes after all fails the test too.
"""

from tests.live.conformance_case import (
    NEWEST_SESSIONS,
    OLD,
    STATELESS,
    ConformanceCase,
    Exceptions,
)

EXTENSION = "an extension that the SDK under the server has not got"
TASKS: Exceptions = {
    name: EXTENSION
    for name in (
        "tasks-lifecycle",
        "tasks-capability-negotiation",
        "tasks-wire-fields",
        "tasks-request-state-removal",
        "tasks-mrtr-input",
        "tasks-request-headers",
        "tasks-dispatch-and-envelope",
        "tasks-required-task-error",
        "tasks-mrtr-composition",
    )
}
"""None of them is required."""


class DirectTests(ConformanceCase):
    """The server without the gateway, which shows whose failure a failure is."""

    async def test_sessions(self) -> None:
        """It passes everything before 2026."""
        url = await self.over_http()
        await self.check(url, OLD, None, {})
        await self.check(url, NEWEST_SESSIONS, None, {})

    async def test_stateless(self) -> None:
        """It passes everything of 2026-07-28 that its SDK has."""
        await self.check(await self.over_http(), STATELESS, None, TASKS)


class HttpTests(ConformanceCase):
    """The suite before the gateway, before a server of both eras over HTTP."""

    async def test_sessions(self) -> None:
        """All of 2025-11-25."""
        gateway = await self.start_gateway([await self.http_server()])
        await self.check_gateway(gateway, "conformance", NEWEST_SESSIONS, {})

    async def test_old_sessions(self) -> None:
        """All of 2025-06-18."""
        gateway = await self.start_gateway([await self.http_server()])
        await self.check_gateway(gateway, "conformance", OLD, {})

    async def test_stateless(self) -> None:
        """All of 2026-07-28 but the extension."""
        gateway = await self.start_gateway([await self.http_server()])
        await self.check_gateway(gateway, "conformance", STATELESS, TASKS)


class StdioTests(ConformanceCase):
    """The suite before the gateway, before a server of both eras over stdio."""

    async def test_sessions(self) -> None:
        """All of 2025-11-25."""
        gateway = await self.start_gateway([self.stdio_server()])
        await self.check_gateway(gateway, "conformance", NEWEST_SESSIONS, {})

    async def test_old_sessions(self) -> None:
        """All of 2025-06-18."""
        gateway = await self.start_gateway([self.stdio_server()])
        await self.check_gateway(gateway, "conformance", OLD, {})

    async def test_stateless(self) -> None:
        """All of 2026-07-28 but the extension."""
        gateway = await self.start_gateway([self.stdio_server()])
        await self.check_gateway(gateway, "conformance", STATELESS, TASKS)
