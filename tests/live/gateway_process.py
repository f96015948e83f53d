"""The real gateway as a process, started on a configuration and judged when it has ended."""

import base64
import hashlib
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from attrs import define

from mcpguard.observe.events import EVENT_TYPES, OUTCOME_TYPES, STEP_TYPES
from tests.live.processes import MARK, LiveCase, Program, marked
from tests.live.software import HERE, REPOSITORY

IMPATIENT = (sys.executable, str(HERE / "impatient.py"))
"""The gateway for tests that change certificate files, or servers, more than once."""
STATUSES = {"success", "error", "denied", "failed", "cancelled", "dropped"}
STOP_SECS = 15.0
"""A stop may not take longer once the clients are gone."""


def stdio(name: str, command: Sequence[str], **more: Any) -> dict[str, Any]:
    """The configuration of a server that is started."""
    return {
        "name": name,
        "transport": "stdio",
        "command": command[0],
        "args": list(command[1:]),
        **more,
    }


def http(name: str, url: str, **more: Any) -> dict[str, Any]:
    """The configuration of a server that is connected to."""
    return {"name": name, "transport": "http", "url": url, **more}


@define
class RunningGateway:
    """A gateway with the keys of its identities."""

    program: Program
    base: str
    """``http://127.0.0.1:port``."""
    keys: dict[str, str]
    audit_file: Path
    mark: str
    stopping: bool = False

    def url(self, server: str, transport: str = "http") -> str:
        """Where a server is reached, over Streamable HTTP or (``sse``) over HTTP+SSE."""
        return f"{self.base}/mcp/{server}{'/sse' if transport == 'sse' else ''}"

    def events(self) -> list[dict[str, Any]]:
        """The audit trail so far."""
        return events_of(self.audit_file, written=self.program.status is not None)

    def outcomes(self) -> list[dict[str, Any]]:
        """The outcome events so far."""
        return [one for one in self.events() if one["event_type"] in OUTCOME_TYPES]


class GatewayCase(LiveCase):
    """A test with a gateway, which must have ended well when the test is over."""

    mcp_guard: Sequence[str] = (sys.executable, "-m", "mcpguard")
    """The command that is the gateway."""
    environment: Mapping[str, str] = {}
    """Further variables of gateways that are started."""
    others: frozenset[str] = frozenset()
    """Identities that may be in the trail without a key."""

    async def start_gateway(
        self,
        servers: Sequence[Mapping[str, Any]],
        *,
        identities: Mapping[str, Mapping[str, Any]] | None = None,
        server: Mapping[str, Any] | None = None,
        **sections: Any,
    ) -> RunningGateway:
        """Start the gateway before some servers; ends, checked, with the test.

        ``identities`` are API keys by id, with their rights; by default one, ``tester``, that may
        do everything. Further keywords are sections of the configuration.
        """
        directory = Path(self.mktemp())
        directory.mkdir()
        directory = directory.resolve()
        mark = secrets.token_hex(8)
        rights = {"tester": {}} if identities is None else identities
        keys = {name: f"mcp_{secrets.token_urlsafe(32)}" for name in rights}
        for one in servers:
            if one["transport"] == "stdio":
                one.setdefault("env", {})[MARK] = mark  # type: ignore[attr-defined]
        settings = {
            "server": {"port": 1, **(server or {})},
            "upstream": {"servers": list(servers)},
            "rate_limit": {"requests_per_second": 10_000, "burst_size": 10_000},
            "audit": {"file": str(directory / "audit.log"), "log_arguments": True},
            "auth": {
                "api_keys": [
                    {"id": name, "key_hash": key_hash(keys[name]), **rights[name]}
                    for name in rights
                ]
            },
            **sections,
        }
        (directory / "mcp-guard.toml").write_text(tomlkit.dumps(settings))
        return await self._launch(directory, keys, mark, port=0)

    async def start_again(self, gateway: RunningGateway) -> RunningGateway:
        """Another life of a gateway that was stopped, with its configuration, keys and port."""
        self.assertTrue(gateway.stopping)
        port = int(gateway.base.rpartition(":")[2])
        return await self._launch(gateway.audit_file.parent, gateway.keys, gateway.mark, port=port)

    async def _launch(
        self, directory: Path, keys: dict[str, str], mark: str, *, port: int
    ) -> RunningGateway:
        config = str(directory / "mcp-guard.toml")
        program = self.start(
            [*self.mcp_guard, "-v", "-c", config, "run", "--port", str(port)],
            env={MARK: mark, "PYTHONPATH": str(REPOSITORY), **self.environment},
            cwd=str(directory),
            name="gateway",
        )
        found = await program.said(r"(http://127\.0\.0\.1:\d+)[\s\S]*Ready for requests!")
        gateway = RunningGateway(
            program, found.group(1).decode(), keys, directory / "audit.log", mark
        )
        self.addCleanup(self._judge, gateway)
        self.assertIn(config, "".join(command for _, command in marked(mark)))
        return gateway

    async def told(
        self, gateway: RunningGateway, event_type: str, count: int
    ) -> list[dict[str, Any]]:
        """The events of a type, waiting until there are ``count`` at least."""

        def found() -> list[dict[str, Any]]:
            return [one for one in gateway.events() if one["event_type"] == event_type]

        await self.until(lambda: len(found()) >= count, 5.0, f"{count} events {event_type}")
        return found()

    async def outcomes(
        self, gateway: RunningGateway, event_type: str, count: int
    ) -> list[dict[str, Any]]:
        """The outcomes of a type, waiting until there are ``count``: the trail is written behind
        the answers.
        """

        def found() -> list[dict[str, Any]]:
            return [one for one in gateway.outcomes() if one["event_type"] == event_type]

        await self.until(lambda: len(found()) >= count, 5.0, f"{count} events {event_type}")
        self.assertEqual(len(found()), count)
        return found()

    async def stop(self, gateway: RunningGateway) -> None:
        """Ask the gateway to stop, and wait until it has."""
        program = gateway.program
        if program.status is not None:
            self.fail(f"the gateway ended during the test\n{program.story()}")
        gateway.stopping = True
        program.signal("TERM")
        await self.ends(program, STOP_SECS)

    async def _judge(self, gateway: RunningGateway) -> None:
        """Stop the gateway; it must end in order, leave no process and owe no audit event."""
        program = gateway.program
        if not gateway.stopping:
            await self.stop(gateway)
        self.assertEqual(program.status, 0, program.story())
        self.assertEqual(list(marked(gateway.mark)), [], "processes were left behind")
        said = program.err.decode()
        for word in ("Traceback", "Unhandled", "[error", "[critical"):
            self.assertNotIn(word, said, program.story())
        complaints = audit_complaints(gateway.events(), set(gateway.keys) | self.others)
        self.assertEqual(complaints, [])


def events_of(file: Path, *, written: bool = False) -> list[dict[str, Any]]:
    """What is in a trail; its last line may be half there unless it is ``written``."""
    lines = file.read_text().splitlines(keepends=True)
    if lines and not written and not lines[-1].endswith("\n"):
        lines.pop()
    return [json.loads(line) for line in lines]


def audit_complaints(events: Sequence[Mapping[str, Any]], identities: set[str]) -> list[str]:
    """What is wrong with a trail: each request has one outcome, and nothing is unknown."""
    complaints: list[str] = []
    outcomes: dict[str, int] = {}
    requests: set[str] = set()
    for event in events:
        kind = event["event_type"]
        if kind not in EVENT_TYPES:
            complaints.append(f"unknown event type: {event}")
        if kind in STEP_TYPES | OUTCOME_TYPES:
            requests.add(event["request_id"])
            if event.get("identity_id") not in identities | {None}:
                complaints.append(f"unknown identity: {event}")
        if kind in OUTCOME_TYPES:
            outcomes[event["request_id"]] = outcomes.get(event["request_id"], 0) + 1
            if event.get("status") not in STATUSES:
                complaints.append(f"unknown status: {event}")
            if "duration_ms" not in event:
                complaints.append(f"no duration: {event}")
            if kind == "ToolCall" and not (event.get("tool") and event.get("server")):
                complaints.append(f"a call without its tool or server: {event}")
    for request in sorted(requests):
        if outcomes.get(request) != 1:
            trail = [one for one in events if one.get("request_id") == request]
            complaints.append(f"{outcomes.get(request, 0)} outcomes: {trail}")
    return complaints


def key_hash(key: str) -> str:
    """As it stands in a configuration."""
    return base64.b64encode(hashlib.sha256(key.encode()).digest()).decode()
