"""The official conformance suite behind the gateway, as its server.

The suite tests clients. Here it finds the gateway's own side towards servers, which an SDK's client
makes work: what the suite says of both must be what it says of that client alone.

Left out are the scenarios of ``auth/``: they want a client to sign in at the server's own
authorization server, and the gateway shows servers no more than the credential it is configured
with. They are not started; nor are those of the skills extension, which the SDK has not got.
"""

import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults

from tests.live.conformance_case import CLIENT, SCENARIO_MS, SUITE_SECS, ConformanceCase
from tests.live.forked import forked
from tests.live.gateway_process import http
from tests.live.software import conformance

WANTED: Mapping[str, tuple[str, ...]] = {
    "2025-11-25": (
        "initialize",
        "tools_call",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
        "json-schema-2020-12-preservation",
    ),
    "2026-07-28": (
        "tools_call",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    ),
}
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

    async def said(self, version: str, command: list[str], through: Mapping[str, str]) -> Said:
        """Run the suite's servers of a version; ``through`` tells the client of the gateway."""
        output = Path(self.mktemp()).absolute()
        argv = [
            *(*conformance(), "client", "--command", f"{LEFT_OUT} exec {' '.join(command)}"),
            *("--requirements", version, "--timeout", str(SCENARIO_MS)),
            *("--output-dir", str(output)),
        ]
        status, _, err = await self.run_program(argv, seconds=SUITE_SECS, env=through)
        self.assertIn(status, (0, 1), err)  # 1: the scenarios left out have failed
        found = {}
        for file in output.glob("*/checks.json"):
            name = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", file.parent.name)
            checks = json.loads(file.read_text())
            found[name] = frozenset(
                (one["id"], one["name"], one["status"]) for one in checks if one["status"] != "INFO"
            )
        return found

    def reserved_port(self) -> int:
        """A port that nobody else is given; the client may listen there meanwhile."""
        held = socket.socket()
        self.addCleanup(held.close)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        number: int = held.getsockname()[1]
        return number

    async def meet(self, meeting: Path, servers: Mapping[int, str]) -> None:
        """Start the gateway before the servers, given by port, once all of them listen."""
        await self.until(
            lambda: all((meeting / str(port)).exists() for port in servers),
            SUITE_SECS,
            "the suite's servers",
        )
        gateway = await self.start_gateway(
            [
                http(
                    f"scenario-{port}",
                    f"http://127.0.0.1:{port}/mcp",
                    era="modern" if name in PINNED else "auto",
                )
                for port, name in servers.items()
            ]
        )
        told = {"url": gateway.url("scenario-"), "key": gateway.keys["tester"]}
        (meeting / "written").write_text(json.dumps(told))
        (meeting / "written").rename(meeting / "gateway")

    async def test_same_as_direct(self) -> None:
        """What the suite says of the gateway is what it says of the client alone: all is well."""
        command = forked(CLIENT)
        meeting = Path(self.mktemp()).absolute()
        meeting.mkdir()
        servers: dict[int, str] = {}
        running = []
        for version, names in WANTED.items():
            ports = {name: self.reserved_port() for name in names}
            servers |= {port: name for name, port in ports.items()}
            through = {
                "CONFORMANCE_PORTS": json.dumps(ports),
                "CONFORMANCE_MEETING": str(meeting),
            }
            running += [self.said(version, command, {}), self.said(version, command, through)]
        results = gatherResults([Deferred.fromCoroutine(one) for one in running])
        await self.meet(meeting, servers)
        found = iter(await results)
        complaints = []
        for (version, names), direct, by_gateway in zip(WANTED.items(), found, found, strict=True):
            for name in names:
                bad = [one for one in direct[name] if one[2] not in ("SUCCESS", "SKIPPED")]
                complaints += [f"{version} {name} direct: {one}" for one in bad]
                if odd := direct[name] ^ by_gateway[name]:
                    complaints.append(f"{version} {name} by the gateway: {sorted(odd)}")
        self.assertEqual(complaints, [], "\n".join(complaints))
