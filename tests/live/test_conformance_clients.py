"""The official conformance suite behind the gateway, as its server.

The suite tests clients. Here it finds the gateway's own side towards servers, which an SDK's client
makes work: what the suite says of both must be what it says of that client alone.

Left out are the scenarios of ``auth/``: they want a client to sign in at the server's own
authorization server, and the gateway shows servers no more than the credential it is configured
with. They are not started; nor are those of the skills extension, which the SDK has not got.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults

from tests.live.conformance_case import CLIENT, SCENARIO_MS, SUITE_SECS, ConformanceCase
from tests.live.gateway_process import RunningGateway, http
from tests.live.processes import free_port
from tests.live.software import conformance

SESSIONS = (
    "2025-11-25",
    (
        "initialize",
        "tools_call",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
        "json-schema-2020-12-preservation",
    ),
)
STATELESS = (
    "2026-07-28",
    (
        "tools_call",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    ),
)
"""All that have to do with the wire, by version."""
LEFT_OUT = "case $MCP_CONFORMANCE_SCENARIO in auth/*) exit ;; esac;"
"""In the words of the shell that the suite gives the client's command to."""
PINNED: Mapping[str, str] = dict.fromkeys(
    ("request-metadata", "http-standard-headers"),
    "takes the handshake, by which the gateway finds out whether a server knows sessions as well, "
    "for a request of a stateless client; with `era` set there is none",
)
"""Scenarios whose server the gateway is told the era of, with the reason."""

Said = Mapping[str, frozenset[tuple[str, str, str]]]
"""What the suite says by scenario: each check's id, name and status. The number does not matter: a
server sees the gateway's first questions, too, and each is checked."""


class ClientModeTests(ConformanceCase):
    """The suite's servers, before a client of PyPI's ``mcp`` 2.x and before the gateway."""

    async def said(
        self, version: str, command: list[str], routes: Mapping[str, object], token: str
    ) -> Said:
        """Run the suite's servers of a version; without routes the client goes to them itself."""
        output = Path(self.mktemp()).absolute()
        through = {"CONFORMANCE_ROUTES": json.dumps(routes), "CONFORMANCE_TOKEN": token}
        argv = [
            *(*conformance(), "client", "--command", f"{LEFT_OUT} exec {' '.join(command)}"),
            *("--requirements", version, "--timeout", str(SCENARIO_MS)),
            *("--output-dir", str(output)),
        ]
        status, _, err = await self.run_program(
            argv, seconds=SUITE_SECS, env=through if routes else {}
        )
        self.assertIn(status, (0, 1), err)  # 1: the scenarios left out have failed
        found = {}
        for file in output.glob("*/checks.json"):
            name = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", file.parent.name)
            checks = json.loads(file.read_text())
            found[name] = frozenset(
                (one["id"], one["name"], one["status"]) for one in checks if one["status"] != "INFO"
            )
        return found

    def route(self, gateway: RunningGateway, port: int, number: int) -> dict[str, object]:
        """How the client reaches a scenario, and the gateway the suite."""
        return {"url": gateway.url(f"scenario-{number}"), "port": port}

    async def test_same_as_direct(self) -> None:
        """What the suite says of the gateway is what it says of the client alone: all is well."""
        command = await self.prefork(CLIENT)
        wanted = [(version, name) for version, names in (SESSIONS, STATELESS) for name in names]
        ports = [free_port() for _ in wanted]
        gateway = await self.start_gateway(
            [
                http(
                    f"scenario-{number}",
                    f"http://127.0.0.1:{port}/mcp",
                    era="modern" if name in PINNED else "auto",
                )
                for number, ((_, name), port) in enumerate(zip(wanted, ports, strict=True))
            ]
        )
        routes = {
            (version, name): self.route(gateway, port, number)
            for number, ((version, name), port) in enumerate(zip(wanted, ports, strict=True))
        }
        runs = [
            Deferred.fromCoroutine(
                self.said(
                    version,
                    command,
                    {name: routes[version, name] for name in names} if through else {},
                    gateway.keys["tester"],
                )
            )
            for version, names in (SESSIONS, STATELESS)
            for through in (False, True)
        ]
        results = await gatherResults(runs)
        complaints = []
        for index, (version, names) in enumerate((SESSIONS, STATELESS)):
            direct, through = results[2 * index], results[2 * index + 1]
            for name in names:
                bad = [one for one in direct[name] if one[2] not in ("SUCCESS", "SKIPPED")]
                complaints += [f"{version} {name} direct: {one}" for one in bad]
                if odd := direct[name] ^ through[name]:
                    complaints.append(f"{version} {name} by the gateway: {sorted(odd)}")
        self.assertEqual(complaints, [], "\n".join(complaints))
