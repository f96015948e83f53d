"""The official conformance suite before the gateway, as its client.

What must pass is all that a version of the protocol requires, and all else the suite tries. An
exception stands in a table, with its reason; one that passes after all fails the test too.
"""

from collections.abc import Mapping

from twisted.trial.unittest import SynchronousTestCase

from tests.live.conformance_case import (
    NEWEST_SESSIONS,
    OLD,
    STATELESS,
    ConformanceCase,
    Exceptions,
    Expected,
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


SAME: Expected = {OLD: {}, NEWEST_SESSIONS: {}, STATELESS: TASKS}
"""Where nothing is translated."""
WITHOUT_SESSIONS: Exceptions = {
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
"""Clients without sessions before a server with."""


class SuiteTests(ConformanceCase):
    """Servers of both eras and of either, over both transports, behind one gateway."""

    async def test_every_server(self) -> None:
        """The server alone passes, which shows whose failure a failure is. Behind the gateway it
        passes as well where nothing is translated, and where the gateway keeps the sessions;
        where it has sessions for clients without, all passes but what sessions have not got.
        """
        both = await self.over_http("both")
        gateway = await self.start_gateway(
            [
                http("both", both),
                # A child for each session, which must start at once: the suite waits half a
                # second for some answers.
                stdio("both-sessions", self.command()),
                stdio("both-stateless", self.command("--era", "both")),
                http("modern", await self.over_http("modern")),
                stdio("modern-stdio", self.command("--era", "modern")),
                http("legacy", await self.over_http("legacy")),
                stdio("legacy-stdio", self.command("--era", "legacy")),
            ]
        )
        found = await self.complaints(both, None, SAME)
        for name, expected in BEHIND.items():
            complaints = await self.complaints(gateway.url(name), gateway.keys["tester"], expected)
            found += [f"{name}: {one}" for one in complaints]
        self.assertEqual(found, [], "\n".join(found))


BEHIND: Mapping[str, Expected] = {
    "both": SAME,
    "both-sessions": {OLD: {}, NEWEST_SESSIONS: {}},
    "both-stateless": {STATELESS: TASKS},
    "modern": {OLD: {}, NEWEST_SESSIONS: {}},
    # One run only: while two calls of a shared child want log messages, nobody can tell whose
    # they are, and the gateway drops them.
    "modern-stdio": {NEWEST_SESSIONS: {}},
    "legacy": {STATELESS: WITHOUT_SESSIONS},
    "legacy-stdio": {STATELESS: WITHOUT_SESSIONS},
}
"""What is run before each server of the gateway."""
