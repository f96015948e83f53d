"""Every kind of server before every kind of client, for tests of what goes wrong between them."""

import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, gatherResults

from tests.live.gateway_process import RunningGateway, http, stdio
from tests.live.processes import Program, free_port, marked
from tests.live.raw_client import LEGACY, MODERN, Exchange, RawCase
from tests.live.software import HERE

Message = dict[str, Any]
KINDS = ("stdio-legacy", "stdio-modern", "http-legacy", "http-modern", "sse")
"""Transport and generation; HTTP+SSE knows only the older one."""
CLIENTS = ("session", "stateless", "old")
"""Handshake and stateless over Streamable HTTP, handshake over HTTP+SSE."""
COUNTER = "test://counter"
ADA = {"action": "accept", "content": {"name": "Ada"}}
PATIENCE = 10.0


@define(eq=False)
class Server:
    """One of the kinds, alone for one client."""

    kind: str
    name: str
    journal: Path
    port: int = 0
    mark: str = ""
    """Of the gateway that starts it, if it is one over stdio."""
    program: Program | None = None

    @property
    def modern(self) -> bool:
        """Whether it is stateless."""
        return self.kind.endswith("modern")

    @property
    def command(self) -> list[str]:
        """How it is started."""
        script = str(HERE / "servers" / "breakable_server.py")
        argv = [sys.executable, "-S", "-E", script, "--journal", str(self.journal)]
        argv += ["--era", "modern" if self.modern else "legacy"]
        if self.port:
            argv += ["--sse" if self.kind == "sse" else "--http", str(self.port)]
        return argv

    def settings(self, **more: Any) -> dict[str, Any]:
        """Its configuration; ``restart`` is for those it means something to."""
        if self.kind.startswith("http"):
            more.pop("restart", None)
        if not self.port:
            return stdio(self.name, self.command, **more)
        path = "sse" if self.kind == "sse" else "mcp"
        settings = http(self.name, f"http://127.0.0.1:{self.port}/{path}", **more)
        return {**settings, "transport": "sse"} if self.kind == "sse" else settings

    @property
    def asked(self) -> list[str]:
        """What it was asked so far, in all its lives."""
        return self.journal.read_text().splitlines()

    def signal(self, number: int) -> None:
        """Send a signal to its process, or to each of its children."""
        if self.program is not None:
            pids = [self.program.process.pid]
        else:
            own = f"{self.journal} "
            pids = [pid for pid, command in marked(self.mark) if own in command]
        assert pids, f"{self.name} does not run"
        for pid in pids:
            assert pid is not None
            os.kill(pid, number)


@define(eq=False)
class Client:
    """One caller of one server."""

    case: "PairingCase"
    gateway: RunningGateway
    server: Server
    who: str = "tester"
    _next: int = field(init=False, default=0)

    async def open(self) -> None:
        """Get ready to call."""

    async def send(self, method: str, params: Message) -> Deferred[Message]:
        """Send a request; fires with the response."""
        raise NotImplementedError

    async def ask(self, method: str, **params: Any) -> Message:
        """Send a request and wait for the response."""
        return await (await self.send(method, params))

    async def begin(self, tool: str, text: str, **more: Any) -> Deferred[Message]:
        """Call a tool; fires with the response."""
        return await self.send("tools/call", {"name": tool, "arguments": {"text": text}, **more})

    async def call(self, tool: str, text: str, **more: Any) -> Message:
        """Call a tool and wait for the response."""
        return await (await self.begin(tool, text, **more))

    async def post(
        self, message: Message, headers: dict[str, str], method: str = "POST"
    ) -> Exchange:
        """One HTTP request."""
        return await self.case.send(
            self.gateway, self.server.name, message, headers, method=method, who=self.who
        )

    def number(self) -> int:
        """An id for a request."""
        self._next += 1
        return self._next


@define(eq=False)
class SessionClient(Client):
    """Shakes hands, over Streamable HTTP."""

    headers: dict[str, str] = field(factory=dict)
    latest: Exchange | None = None

    async def open(self) -> None:
        """Shake hands as a client that can show forms."""
        self.headers = {}
        exchange = await (await self.try_to_open()).over
        self.case.assertEqual(exchange.status, 200, exchange.received)
        self.headers = {
            "Mcp-Session-Id": exchange.answer.headers["Mcp-Session-Id"],
            "MCP-Protocol-Version": LEGACY,
        }
        done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await (await self.post(done, self.headers)).over

    async def try_to_open(self) -> Exchange:
        """Send ``initialize``."""
        return await self.post(hello(), {})

    async def send(self, method: str, params: Message) -> Deferred[Message]:
        """Send a request in the session."""
        message = {"jsonrpc": "2.0", "id": self.number(), "method": method, "params": params}
        self.latest = await self.post(message, self.headers)
        return self.latest.over.addCallback(last_message)

    async def asked(self) -> Message:
        """The server's question on the stream of the latest request."""
        exchange = self.latest
        assert exchange is not None
        await self.case.until(lambda: events(exchange), PATIENCE, "the client is asked")
        return events(exchange)[0]

    async def respond(self, question: Message) -> int:
        """Answer it; the status."""
        message = {"jsonrpc": "2.0", "id": question["id"], "result": ADA}
        return (await (await self.post(message, self.headers)).over).status

    async def listen(self) -> Exchange:
        """Subscribe to the counter and open the session's stream."""
        answer = await self.ask("resources/subscribe", uri=COUNTER)
        self.case.assertEqual(answer.get("result"), {}, answer)
        return await self.post({}, self.headers, method="GET")


@define(eq=False)
class StatelessClient(Client):
    """Speaks 2026-07-28."""

    async def send(self, method: str, params: Message) -> Deferred[Message]:
        """Send a request."""
        return (await self.exchange(method, params)).over.addCallback(last_message)

    async def exchange(self, method: str, params: Message) -> Exchange:
        """Send a request; its exchange."""
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        if "name" in params:
            headers["Mcp-Name"] = params["name"]
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        }
        params = {**params, "_meta": {**meta, **params.get("_meta", {})}}
        message = {"jsonrpc": "2.0", "id": self.number(), "method": method, "params": params}
        return await self.post(message, headers)

    async def park(self, text: str) -> Message:
        """Be asked in the course of a call; what its next round must carry."""
        answer = await self.call("ask", text)
        result = answer.get("result", {})
        self.case.assertEqual(result.get("resultType"), "input_required", answer)
        (key,) = result["inputRequests"]
        return {"inputResponses": {key: ADA}, "requestState": result["requestState"]}

    async def listen(self) -> Exchange:
        """Open a stream that reports changes of the counter."""
        exchange = await self.try_to_listen()
        await self.case.until(lambda: events(exchange), PATIENCE, "the acknowledgement")
        wanted = events(exchange)[0]["params"]["notifications"]
        self.case.assertEqual(wanted, {"resourceSubscriptions": [COUNTER]})
        return exchange

    async def try_to_listen(self) -> Exchange:
        """Ask for that stream."""
        wanted = {"notifications": {"resourceSubscriptions": [COUNTER]}}
        return await self.exchange("subscriptions/listen", wanted)


@define(eq=False)
class OldClient(Client):
    """Shakes hands, over HTTP+SSE."""

    stream: Exchange | None = None
    endpoint: str = ""

    async def open(self) -> None:
        """Open the stream and shake hands."""
        answer = await self.try_to_open()
        self.case.assertIn("result", answer)
        await self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def try_to_open(self) -> Message:
        """Open the stream and send ``initialize``; the response."""
        name = f"{self.server.name}/sse"
        self.stream = stream = await self.case.send(
            self.gateway, name, None, {}, method="GET", who=self.who
        )
        await self.case.until(lambda: b"\n\n" in stream.received, PATIENCE, "the endpoint")
        found = re.search(rb"event: endpoint\r?\ndata: /mcp/(\S+)", stream.received)
        assert found is not None, stream.received
        self.endpoint = found.group(1).decode()
        self._next = -1
        return await (await self.send("initialize", hello()["params"]))

    async def say(self, message: Message) -> int:
        """Post a message; the status."""
        sent = await self.case.send(self.gateway, self.endpoint, message, who=self.who)
        return (await sent.over).status

    async def send(self, method: str, params: Message) -> Deferred[Message]:
        """Post a request, whose answer comes on the stream."""
        number = self.number()
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        status = await self.say(message)
        if status != 202:
            done: Deferred[Message] = Deferred()
            done.callback({"error": {"code": status}})
            return done
        return Deferred.fromCoroutine(self._answer(number))

    async def _answer(self, number: int) -> Message:
        def found() -> list[Message]:
            assert self.stream is not None
            heard = events(self.stream)
            return [one for one in heard if one.get("id") == number and "method" not in one]

        await self.case.until(found, PATIENCE, f"the answer to {number}")
        return found()[0]

    async def asked(self) -> Message:
        """The server's question."""

        def found() -> list[Message]:
            assert self.stream is not None
            return [one for one in events(self.stream) if one.get("method") == "elicitation/create"]

        await self.case.until(found, PATIENCE, "the client is asked")
        return found()[-1]

    async def respond(self, question: Message) -> int:
        """Answer it; the status."""
        return await self.say({"jsonrpc": "2.0", "id": question["id"], "result": ADA})

    async def listen(self) -> Exchange:
        """Subscribe to the counter; the stream is there already."""
        answer = await self.ask("resources/subscribe", uri=COUNTER)
        self.case.assertEqual(answer.get("result"), {}, answer)
        assert self.stream is not None
        return self.stream


MAKERS: dict[str, Callable[..., Client]] = {
    "session": SessionClient,
    "stateless": StatelessClient,
    "old": OldClient,
}


class PairingCase(RawCase):
    """A gateway before a server for each pairing, all of them tried at the same time."""

    timeout = 180

    def server(self, kind: str, name: str) -> Server:
        """A server of a kind, not running yet."""
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        journal = directory.resolve() / "journal"
        journal.touch()
        port = 0 if kind.startswith("stdio") else free_port()
        return Server(kind, name, journal, port)

    async def run_server(self, server: Server) -> None:
        """Start it, if it is not one of the gateway's children, and wait until it listens."""
        if server.port:
            server.program = self.start(server.command, name=server.name)
            await server.program.said("listening on")

    async def kill(self, server: Server) -> None:
        """SIGKILL, and wait until it is gone."""
        server.signal(signal.SIGKILL)
        if server.program is not None:
            await self.ends(server.program, PATIENCE)

    async def pairings(
        self,
        cells: Iterable[tuple[str, str]],
        scenario: Callable[[Any], Awaitable[None]],
        gateway: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Play a scenario with the client of every pairing (kind, client) at the same time.

        Afterwards every request has left its one outcome.
        """
        wanted = list(cells)
        servers = [self.server(kind, f"{kind}-{client}") for kind, client in wanted]
        await gatherResults([Deferred.fromCoroutine(self.run_server(one)) for one in servers])
        running = await self.start_gateway(
            [one.settings(**settings) for one in servers], **(gateway or {})
        )
        players: list[Client] = []
        for server, (_, client) in zip(servers, wanted, strict=True):
            server.mark = running.mark
            players.append(MAKERS[client](self, running, server))
        await self.together([self._play(one, scenario) for one in players])
        for exchange in self.exchanges:
            exchange.leave()
        await self.account(running)

    async def _play(self, client: Client, scenario: Callable[[Any], Awaitable[None]]) -> None:
        try:
            await client.open()
            await scenario(client)
        except Exception as problem:
            said = client.gateway.program.err.decode().splitlines()
            about = [line for line in said if client.server.name in line]
            words = "\n".join([f"{client.server.name}: {problem!r}", *client.server.asked, *about])
            raise self.failureException(words) from problem

    async def together(self, running: Sequence[Any]) -> None:
        """Wait for all of them, then fail with all that failed."""
        playing = [Deferred.fromCoroutine(one) for one in running]
        found = await DeferredList(playing, consumeErrors=True)
        problems = [str(result.value) for good, result in found if not good]
        self.assertEqual(problems, [], "\n".join(problems))

    async def in_time(self, seconds: float, answer: Deferred[Message]) -> Message:
        """An answer that must come in time."""
        began = self.reactor.seconds()
        message = await answer.addTimeout(2 * seconds, self.reactor)
        self.assertLess(self.reactor.seconds() - began, seconds, message)
        return message

    def assert_error(self, message: Message, code: int) -> None:
        """A clear error of the gateway's own."""
        self.assertEqual(message.get("error", {}).get("code"), code, message)

    def assert_text(self, message: Message, text: str) -> None:
        """A tool's answer."""
        self.assertIn("result", message, message)
        self.assertEqual(message["result"]["content"][0]["text"], text, message)

    async def assert_serves(self, client: Client, text: str, *, lost: bool = False) -> None:
        """The next call is carried out, once; if the session is ``lost``, in another one."""
        message = await self.as_told(client, text)
        if lost:
            self.assert_error(message, 404)
            await client.open()
            message = await self.as_told(client, text)
        self.assert_text(message, text)
        self.assertEqual(client.server.asked.count(f"note {text}"), 1)

    async def as_told(self, client: Client, text: str) -> Message:
        """Call again where the answer is when to come back: children that crash are paced."""
        message = await client.call("note", text)
        for _ in range(3):
            if message.get("error", {}).get("code") != 503:
                break
            await self.pause(message["error"]["data"]["retry_after"])
            message = await client.call("note", text)
        return message

    async def noted(self, server: Server, words: str, times: int = 1) -> None:
        """Wait until the server was asked something, so often in all its lives."""
        await self.until(
            lambda: server.asked.count(words) >= times, PATIENCE, f"{words}: {server.asked}"
        )

    async def updates(self, stream: Exchange, count: int) -> None:
        """Wait for so many updates of the counter on a stream."""
        await self.until(
            lambda: stream.received.count(b"resources/updated") >= count, PATIENCE, "an update"
        )


def hello() -> Message:
    """The request that begins a session."""
    params = {
        "protocolVersion": LEGACY,
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "raw", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def events(exchange: Exchange) -> list[Message]:
    """The messages of an event stream so far."""
    lines = exchange.received.decode().splitlines()
    found = [line[5:].strip() for line in lines if line.startswith("data:")]
    return [json.loads(one) for one in found if one.startswith("{")]


def last_message(exchange: Exchange) -> Message:
    """The response; what has none shows its status."""
    if not exchange.received:
        return {"error": {"code": 0, "message": "the connection was closed"}}
    try:
        message: Message = exchange.messages[-1]
    except (ValueError, IndexError, KeyError):
        return {"error": {"code": exchange.status, "message": exchange.received.decode()}}
    return message
