"""Clients of HTTP+SSE (2024-11-05) through the gateway, in the SDKs of today."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.live import scenarios
from tests.live.clients_case import (
    DEMO,
    PATH,
    ClientCase,
    Walker,
    Walkers,
    children_of,
    first_error,
    npm_client,
    python_client,
    unjudged,
)
from tests.live.gateway_process import RunningGateway, stdio
from tests.live.raw_client import Exchange, RawCase, http_request

REFUSED: Mapping[str, tuple[Walker, str]] = {
    # Though these two SDKs hide the status of a POST.
    "pypi-one": (Walker(lambda: python_client(1)), "401 Unauthorized"),
    "pypi-two": (Walker(lambda: python_client(2), "legacy"), "401 Unauthorized"),
    "npm-one": (Walker(lambda: npm_client("npm_sdk")), "401"),
    "npm-two": (Walker(lambda: npm_client("npm_client"), "default"), "401"),
}
"""Clients, and what they say to a wrong key."""
WALKERS: Walkers = {
    **{who: walker for who, (walker, _) in REFUSED.items()},
    # They ask for the stateless version first, and fall back to the handshake.
    "pypi-auto": Walker(lambda: python_client(2), "auto"),
    "npm-auto": Walker(lambda: npm_client("npm_client"), "auto"),
}


class SdkClientTests(ClientCase):
    """``sse_client`` of PyPI's ``mcp`` and ``SSEClientTransport`` of npm's SDKs, in every way of
    use: what those of the matrix do before other servers is in `tests.live.test_matrix`.
    """

    transport = "sse"

    async def test_every_feature(self) -> None:
        """They shake hands, every feature works, and no session is left open."""
        gateway = await self.start_gateway(
            await self.demo_servers(), identities={who: {} for who in WALKERS}
        )
        planned = {
            "demo": scenarios.demo(sessions=0),
            "demo-http": scenarios.demo(sessions=3),
        }
        await self.walk_through(gateway, WALKERS, dict.fromkeys(WALKERS, planned))

        def open_sessions() -> int:
            kinds = [event["event_type"] for event in gateway.events()]
            return kinds.count("SessionStarted") - kinds.count("SessionEnded")

        await self.until(lambda: open_sessions() == 0, 20, "every session has ended")
        await self.no_child_but(gateway, 1)

    async def test_refusals(self) -> None:
        """Denials and limits of tools are errors of their calls, with the gateway's words, and
        end nothing; a wrong key is told so.
        """
        limit = {"tool_pattern": "list_*", "requests_per_second": 0.01, "burst_size": 1}
        rate = {"requests_per_second": 1000, "burst_size": 1000, "tool_limits": [limit]}
        gateway = await self.start_gateway(
            [stdio("demo", DEMO, env=dict(PATH))],
            identities={who: {"allowed_tools": ["echo", "list_*"]} for who in REFUSED},
            rate_limit=rate,
        )
        planned = unjudged(
            denied=_call("delete_file", path="x"),
            listed=_call("list_directory", path="."),
            often=_call("list_directory", path="."),
            unknown=_call("nothing_of_the_kind"),
            allowed=_call("echo", message="on"),
        )
        url = gateway.url("demo", "sse")
        jobs = {
            who: {
                name: planned.job(url, key, walker.mode, transport="sse")
                for name, key in (("limited", gateway.keys[who]), ("wrong", "mcp_wrong"))
            }
            for who, (walker, _) in REFUSED.items()
        }
        reports = await self.reports(WALKERS, jobs)
        for who, (_, unauthorized) in REFUSED.items():
            found = reports[who]["limited"]["steps"]
            for name, code, words in (
                ("denied", 403, f"Identity '{who}' is not authorized to call tool 'delete_file'"),
                ("often", 429, "Rate limit exceeded for this tool"),
                ("unknown", 403, f"Identity '{who}' is not authorized"),
            ):
                error = found[name]["error"]
                self.assertEqual(error["code"], code, reports)
                self.assertIn(words, error["message"])
            self.assertEqual(found["allowed"]["ok"]["text"], "on", reports)
            self.assertIn(unauthorized, first_error(reports[who]["wrong"])["message"])


def _call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"do": "call", "tool": tool, "arguments": arguments}


class RawStreamTests(RawCase):
    """The stream on the wire, on the single route, by a client that ends as it likes."""

    timeout = 180

    async def gateway(self, **server: Any) -> RunningGateway:
        """A gateway before the demo server, at ``/mcp``."""
        return await self.start_gateway([stdio("default", DEMO, env=dict(PATH))], server=server)

    async def request(
        self, gateway: RunningGateway, method: str, path: str, message: Any = None, **how: Any
    ) -> Exchange:
        """Send one request, as old clients do: a POST without any header of MCP."""
        fields = {"Authorization": f"Bearer {gateway.keys['tester']}", "Accept": "*/*"}
        body = b""
        if message is not None:
            fields["Content-Type"] = "application/json"
            body = json.dumps(message).encode()
        data = http_request(method, path, fields, body)
        exchange = await self.connect(gateway, data, method, **how)
        self.exchanges.append(exchange)
        return exchange

    async def open(self, gateway: RunningGateway, **how: Any) -> tuple[Exchange, str]:
        """Open a stream and shake hands; gives the stream, and where to post."""
        stream = await self.request(gateway, "GET", "/sse", **how)
        await self.until(lambda: b"\n\n" in stream.received, 10, "the endpoint")
        found = re.search(rb"event: endpoint\ndata: (\S+)\n", stream.received)
        assert found is not None, stream.received
        endpoint = found.group(1).decode()
        params = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "x"}}
        await self.post(gateway, endpoint, "initialize", params)
        await self.until(lambda: b'"serverInfo"' in stream.received, 20, "the handshake")
        return stream, endpoint

    async def post(
        self, gateway: RunningGateway, endpoint: str, method: str, params: Any, id: int = 0
    ) -> None:
        """Post one request, which is accepted."""
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        posted = await (await self.request(gateway, "POST", endpoint, message)).over
        self.assertEqual((posted.status, posted.answer.body), (202, b"Accepted"))

    async def slow_call(self, gateway: RunningGateway, stream: Exchange, endpoint: str) -> None:
        """Have a call running."""
        arguments = {"seconds": 3, "steps": 3}
        params = {"name": "slow", "arguments": arguments, "_meta": {"progressToken": "t"}}
        await self.post(gateway, endpoint, "tools/call", params, id=7)
        await self.until(lambda: b'"progress"' in stream.received, 10, "the call has begun")

    async def test_ends(self) -> None:
        """A client that vanishes, one that does not read, and then the gateway that stops."""
        gateway = await self.gateway()
        await self.client_vanishes(gateway)
        await self.slow_reader(gateway)
        await self.gateway_stops(gateway)

    async def client_vanishes(self, gateway: RunningGateway) -> None:
        """With the connection ends the session: the call is cancelled, the child is gone."""
        stream, endpoint = await self.open(gateway)
        self.assertRegex(endpoint, r"^/messages\?sessionId=[\w-]+$")
        await self.slow_call(gateway, stream, endpoint)
        stream.leave()
        # The demo server knows 2026 as well: a child for callers without a session may stay.
        await self.until(lambda: len(children_of(gateway)) <= 1, 10, "its child is gone")
        (call,) = await self.outcomes(gateway, "ToolCall", 1)
        self.assertEqual(call["status"], "cancelled")
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        gone = await (await self.request(gateway, "POST", endpoint, message)).over
        self.assertEqual(gone.status, 404)
        await self.account(gateway)

    async def slow_reader(self, gateway: RunningGateway) -> None:
        """Who does not read is cut at the bound of what waits, and its session is gone."""
        stream, endpoint = await self.open(gateway)
        assert stream.transport is not None
        stream.transport.pauseProducing()  # type: ignore[attr-defined]
        big = "x" * 900_000
        for number in range(40):
            message = {
                "jsonrpc": "2.0",
                "id": number,
                "method": "tools/call",
                "params": {"name": "echo", "arguments": {"message": big}},
            }
            posted = await (await self.request(gateway, "POST", endpoint, message)).over
            if posted.status == 404:
                break
        self.assertEqual(posted.status, 404)
        dropped = await self.metric(gateway, "mcp_guard_connections_dropped_total")
        self.assertGreaterEqual(dropped, 1)
        self.assertEqual(await self.metric(gateway, "mcp_guard_sessions"), 0)
        await self.account(gateway)

    async def gateway_stops(self, gateway: RunningGateway) -> None:
        """A running call still gets its answer; then the stream ends, and so does the gateway."""
        stream, endpoint = await self.open(gateway)
        await self.slow_call(gateway, stream, endpoint)
        idle, _ = await self.open(gateway)
        stopping = self.stop(gateway)
        await stopping
        await idle.over
        await stream.over
        answers = [one for one in _messages(stream) if one.get("id") == 7]
        self.assertEqual(answers[0]["result"]["content"][0]["text"], "Done: 3 steps in 3 s")

    async def test_on_the_wire(self) -> None:
        """What the first event says behind a proxy, and what who asks wrongly is told."""
        gateway = await self.gateway(public_url="https://127.0.0.1/guard")
        await self.public_path(gateway)
        await self.curl(gateway)

    async def public_path(self, gateway: RunningGateway) -> None:
        """Behind a proxy that takes a path away, the address to post to has it."""
        stream = await self.request(gateway, "GET", "/sse")
        await self.until(lambda: b"\n\n" in stream.received, 10, "the endpoint")
        self.assertIn(b"data: /guard/messages?sessionId=", stream.received)

    async def curl(self, gateway: RunningGateway) -> None:
        """Whoever asks for something else than a stream, or with another method, is told."""
        key = {"Authorization": f"Bearer {gateway.keys['tester']}"}
        for method, path, fields, status, words in (
            ("GET", "/sse", {**key, "Accept": "application/json"}, 406, b"text/event-stream"),
            ("GET", "/sse", key, 406, b"text/event-stream"),
            ("PUT", "/sse", {}, 405, b"Method not allowed"),
            ("HEAD", "/sse", {}, 405, b""),
            ("POST", "/messages", key, 400, b"sessionId"),
            ("POST", "/messages", {}, 401, b"Authentication required"),
        ):
            data = http_request(method, path, fields, b"{}" if method == "POST" else b"")
            answer = (await (await self.connect(gateway, data, method)).over).answer
            self.assertEqual(answer.status, status, path)
            self.assertIn(words, answer.body)


def _messages(stream: Exchange) -> list[dict[str, Any]]:
    """The messages of a stream, without the endpoint."""
    text = stream.answer.body.decode()
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
