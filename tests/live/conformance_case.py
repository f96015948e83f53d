"""The official conformance suite as a program, and what it found."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults

from tests.live.forked import forked
from tests.live.gateway_process import GatewayCase
from tests.live.software import HERE, conformance

SERVER = HERE / "servers" / "conformance_server.py"
AUTHORIZE = HERE / "conformance" / "authorize.mjs"
SUITE_SECS = 60.0
"""A run of the suite takes three to seven seconds."""
SCENARIO_MS = 20_000
CLIENT = HERE / "clients" / "conformance_client.py"
GOOD = {"SUCCESS", "INFO", "SKIPPED"}
"""Of the rest, ``WARNING`` says that something is not as it should be (but may)."""

Exceptions = Mapping[str, str]
"""Reasons by check (``scenario:check``), or by scenario where no check of it can be had."""


@frozen
class Selection:
    """Which scenarios are run."""

    version: str
    options: tuple[str, ...]
    """How the suite is told."""

    @classmethod
    def required(cls, version: str) -> "Selection":
        """Those that a version of the protocol requires, and some that it does not."""
        return cls(version, ("--requirements", version))

    @classmethod
    def every(cls, version: str) -> "Selection":
        """Those that have to do with a version at all."""
        return cls(version, ("--spec-version", version))


OLD = Selection.every("2025-06-18")
NEWEST_SESSIONS = Selection.required("2025-11-25")
STATELESS = Selection.required("2026-07-28")

Expected = Mapping[Selection, Exceptions]
"""The exceptions of each run."""
LISTED: dict[Selection, frozenset[str]] = {}
"""What the suite was asked already: it takes a second to load."""


@frozen
class Findings:
    """What became of each scenario."""

    failed: Mapping[str, str]
    """What was wrong, by ``scenario:check``."""
    scenarios: frozenset[str]
    status: int
    """The exit status: 0 when all that is required passed."""
    story: str

    def complaints(self, wanted: frozenset[str], exceptions: Exceptions) -> list[str]:
        """What is not as expected: scenarios that were not run, unexpected failures, and
        exceptions that are none any more.
        """
        found = [f"{name}: was not run" for name in sorted(wanted - self.scenarios)]
        used = set()
        for check, message in self.failed.items():
            names = {check, check.partition(":")[0]} & set(exceptions)
            used |= names
            if not names:
                found.append(f"{check}: {message}")
        found += [f"{name} is an exception but passes" for name in sorted(set(exceptions) - used)]
        if not found and not exceptions and self.status:
            found.append(self.story)
        return found


def read_findings(directory: Path, status: int, story: str) -> Findings:
    """What the suite wrote into its output directory."""
    failed: dict[str, str] = {}
    scenarios = set()
    for file in sorted(directory.glob("*/checks.json")):
        # server-tools-list-2026-11-22T19-26-57-021Z, and without the first word for clients
        name = re.fullmatch(r"(?:server-)?(.+?)-\d{4}-\d\d-\d\dT[\d-]+Z", file.parent.name)
        assert name is not None, file
        scenarios.add(name[1])
        for check in json.loads(file.read_text()):
            if check["status"] not in GOOD:
                key = f"{name[1]}:{check['id']}"
                failed[key] = f"{failed.get(key, '')} {check.get('errorMessage')}".strip()
    return Findings(failed, frozenset(scenarios), status, story)


class ConformanceCase(GatewayCase):
    """A test that runs the suite."""

    timeout = 400

    async def wanted(self, selection: Selection) -> frozenset[str]:
        """The scenarios that a run for servers must have, as the suite lists them."""
        if selection in LISTED:
            return LISTED[selection]
        argv = [*conformance(), "list", "--server", *selection.options]
        status, out, err = await self.run_program(argv, seconds=SUITE_SECS)
        self.assertEqual(status, 0, err)
        section = out.partition("Server scenarios")[2].partition("\n\n")[0]
        names = frozenset(re.findall(r"^  - (\S+)", section, re.MULTILINE))
        self.assertGreater(len(names), 20, out)
        LISTED[selection] = names
        return names

    async def findings(self, url: str, selection: Selection, token: str | None) -> Findings:
        """Run the suite as a client before a server."""
        output = Path(self.mktemp()).absolute()
        node, suite = conformance()
        argv = [
            *([node] if token is None else [node, "--import", str(AUTHORIZE)]),
            *(suite, "server", "--url", url, "--output-dir", str(output)),
            *("--timeout", str(SCENARIO_MS), *self.of(selection)),
        ]
        env = {} if token is None else {"CONFORMANCE_TOKEN": token}
        status, out, err = await self.run_program(argv, seconds=SUITE_SECS, env=env)
        return read_findings(output, status, f"{out[-2000:]}\n{err[-2000:]}")

    @staticmethod
    def of(selection: Selection) -> Sequence[str]:
        """The options of a run; listing takes no ``--suite``."""
        every = "--spec-version" in selection.options
        return ("--suite", "all", *selection.options) if every else selection.options

    async def complaints(self, url: str, token: str | None, expected: Expected) -> list[str]:
        """Run selections side by side; all that was not as expected."""
        names = {one: await self.wanted(one) for one in expected}
        running = [
            Deferred.fromCoroutine(self.findings(url, selection, token)) for selection in expected
        ]
        return [
            f"{selection.version} {complaint}"
            for (selection, exceptions), found in zip(
                expected.items(), await gatherResults(running), strict=True
            )
            for complaint in found.complaints(names[selection], exceptions)
        ]

    def command(self, *options: str) -> list[str]:
        """The command of the server that the suite expects."""
        return [*forked(SERVER), *options]

    async def over_http(self, era: str) -> str:
        """The URL of one that runs."""
        return await self.start_http_server(self.command("--http", "--era", era))
