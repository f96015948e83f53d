"""The official conformance suite before the gateway, as its client.

What must pass is all that a version of the protocol requires, and all else the suite tries. An
exception stands in a table, with its reason; one that passes after all fails the test too.
"""

from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.live.conformance_case import (
    NEWEST_SESSIONS,
    OLD,
    STATELESS,
    ConformanceCase,
    Exceptions,
    Findings,
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


class FindingsTests(SynchronousTestCase):
    """What counts as a failure."""

    def complaints(self, exceptions: Exceptions) -> list[str]:
        """About a run in which a check of ``b`` failed and ``c`` is missing."""
        findings = Findings({"b:one": "no luck"}, frozenset("ab"), 0, "the story")
        return findings.complaints(frozenset("abc"), exceptions)

    def test_failures(self) -> None:
        """A failed check and a scenario that was not run."""
        self.assertEqual(self.complaints({}), ["c: was not run", "b:one: no luck"])

    def test_exceptions(self) -> None:
        """A check or its scenario may be excepted; an exception that passes is a failure."""
        for name in ("b", "b:one"):
            self.assertEqual(self.complaints({name: "known"}), ["c: was not run"])
        stale = "a is an exception but passes"
        self.assertEqual(self.complaints({"b": "known", "a": "known"})[1:], [stale])

    def test_status(self) -> None:
        """A bad exit status that no check explains."""
        findings = Findings({}, frozenset("a"), 1, "the story")
        self.assertEqual(findings.complaints(frozenset("a"), {}), ["the story"])


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
        gateway = await self.start_gateway(
            [stdio("sessions", self.command()), stdio("stateless", self.command("--era", "both"))]
        )
        await self.check_gateway(gateway, "sessions", {OLD: {}, NEWEST_SESSIONS: {}})
        await self.check_gateway(gateway, "stateless", {STATELESS: TASKS})


class SessionsBeforeStatelessTests(ConformanceCase):
    """Clients with sessions before a server without: the gateway keeps the sessions."""

    async def test_http(self) -> None:
        """All passes over an HTTP upstream."""
        gateway = await self.start_gateway([http("conformance", await self.over_http("modern"))])
        await self.check_gateway(gateway, "conformance", {OLD: {}, NEWEST_SESSIONS: {}})

    async def test_stdio(self) -> None:
        """All passes over a stdio upstream.

        One run only: while two calls of a shared child want log messages, nobody can tell whose
        they are, and the gateway drops them.
        """
        gateway = await self.start_gateway([stdio("conformance", self.command("--era", "modern"))])
        await self.check_gateway(gateway, "conformance", {NEWEST_SESSIONS: {}})


class StatelessBeforeSessionsTests(ConformanceCase):
    """Clients without sessions before a server with: the gateway has sessions for them."""

    exceptions: ClassVar[Exceptions] = {
        **TASKS,
        "input-required-result-basic-elicitation:sep-2322-elicitation-incomplete": (
            "wants the question under the server's own name, and in a session it has none"
        ),
        "input-required-result-multiple-input-requests:sep-2322-multiple-inputs-incomplete": (
            "wants three questions at once, and in a session the server asks one after the other"
        ),
        "input-required-result-ignore-extra-params:sep-2322-ignore-unexpected-params": (
            "answers before it is asked, and in a session no call waits for that"
        ),
    }

    async def test_http(self) -> None:
        """All passes over an HTTP upstream but what sessions have not got."""
        gateway = await self.start_gateway([http("conformance", await self.over_http("legacy"))])
        await self.check_gateway(gateway, "conformance", {STATELESS: self.exceptions})

    async def test_stdio(self) -> None:
        """All passes over a stdio upstream but what sessions have not got.

        The suite waits half a second for some answers, so a new child must start at once.
        """
        gateway = await self.start_gateway([stdio("conformance", self.command("--era", "legacy"))])
        await self.check_gateway(gateway, "conformance", {STATELESS: self.exceptions})
