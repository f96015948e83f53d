"""Sessions that outlive the gateway, their server or their child, over real sockets and pipes."""

import base64
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults

from tests.live.gateway_process import RunningGateway, http, stdio
from tests.live.processes import Program, free_port, marked
from tests.live.raw_client import LEGACY, Exchange, RawCase
from tests.live.software import HERE, python_sdk

SERVER = [sys.executable, "-S", "-E", str(HERE / "servers" / "remembering_server.py")]


class LifeCase(RawCase):
    """Servers that write down what they are asked."""

    timeout = 180

    def setUp(self) -> None:
        """A journal."""
        super().setUp()
        self.journal = Path(self.mktemp()).resolve()
        self.journal.touch()

    @property
    def asked(self) -> list[str]:
        """What the servers were asked so far, but for the gateway's own probes."""
        lines = self.journal.read_text().splitlines()
        return [line for line in lines if "mcp-guard" not in line]

    async def serve(self, port: int, *more: str) -> Program:
        """Start the HTTP server."""
        argv = [*SERVER, "--journal", str(self.journal), "--http", str(port), *more]
        program = self.start(argv, name="server")
        await program.said("http://")
        return program

    async def restart(self, server: Program, port: int, *more: str) -> Program:
        """Another life of the server, which knows no session of the last."""
        server.signal("KILL")
        await self.ends(server, 5)
        return await self.serve(port, *more)

    async def before_http(
        self, key: str | None = None, **more: Any
    ) -> tuple[RunningGateway, Program, int]:
        """A gateway before the HTTP server."""
        port = free_port()
        server = await self.serve(port)
        settings = {} if key is None else {"session_key": key}
        gateway = await self.start_gateway(
            [http("server", f"http://127.0.0.1:{port}/mcp")], server=settings, **more
        )
        return gateway, server, port

    async def before_stdio(self, restart: str, **server: Any) -> RunningGateway:
        """A gateway before children."""
        command = [*SERVER, "--journal", str(self.journal)]
        return await self.start_gateway(
            [stdio("server", command, era="legacy", restart=restart)], server=server
        )

    async def say(self, gateway: RunningGateway, session: str, text: str) -> Exchange:
        """Have something noted."""
        return await self.call(gateway, "server", "note", session, text=text)

    async def say_until_heard(self, gateway: RunningGateway, session: str, text: str) -> None:
        """Have it noted as soon as that goes; a refusal must say when to come back."""
        refused = 0
        while (answer := await self.say(gateway, session, text)).status != 200:
            self.assertEqual((answer.status, "Retry-After" in answer.answer.headers), (503, True))
            refused += 1
            self.assertLess(refused, 20)
            await self.pause(0.25)
        self.assertEqual(answer.text, text)
        self.assertEqual(self.asked.count(f"note {text}"), 1)

    async def listen(self, gateway: RunningGateway, session: str) -> Exchange:
        """Read the session's stream."""
        headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
        return await self.send(gateway, "server", None, headers, method="GET")

    async def changes(self, stream: Exchange, count: int) -> None:
        """Wait for so many changes of the tools on a stream."""
        await self.until(
            lambda: stream.received.count(b"tools/list_changed") >= count, 10.0, "a notification"
        )

    def kill_children(self, gateway: RunningGateway) -> None:
        """SIGKILL every child."""
        for pid, command in marked(gateway.mark):
            if "remembering_server" in command:
                os.kill(pid, signal.SIGKILL)


def new_key() -> str:
    """As ``openssl rand -base64 32`` makes one."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


class GatewayRestartTests(LifeCase):
    """Another life of the gateway."""

    async def test_with_a_key(self) -> None:
        """Raw and SDK clients go on in their sessions, and the server sees one session each."""
        gateway, server, port = await self.before_http(
            new_key(), identities={"tester": {}, "other": {}}
        )
        session = await self.shake_hands(gateway, "server")
        client = self.start(
            [
                str(python_sdk(2)),
                str(HERE / "clients" / "patient_client.py"),
                gateway.url("server"),
                gateway.keys["tester"],
            ],
            name="client",
        )
        await client.said("connected")
        client.process.writeToChild(0, b"one\n")
        await client.said("one: one")
        self.assertEqual((await self.say(gateway, session, "first")).text, "first")
        await self.stop(gateway)
        again = await self.start_again(gateway)
        foreign = await self.call(again, "server", "note", session, who="other", text="x")
        self.assertEqual(foreign.status, 404)
        answers = await gatherResults(
            [(await self.begin(again, "server", "note", session, text="x")).over for _ in range(5)]
        )
        self.assertEqual([one.text for one in answers], ["x"] * 5)
        client.process.writeToChild(0, b"two\n")
        await client.said("two: two")
        stream = await self.listen(again, session)
        await self.changes(stream, 1)
        self.assertEqual(sum(one.startswith("initialize ") for one in self.asked), 2)
        self.assertEqual(sum(one.startswith("delete") for one in self.asked), 0)
        self.assertNotIn("unknown session", self.asked)
        await self.stop(again)
        await self.restart(server, port)
        again = await self.start_again(again)
        # Neither knows it now: it is revived here and begun anew there.
        self.assertEqual((await self.say(again, session, "third")).text, "third")
        headers = {"Mcp-Session-Id": session}
        ended = await (await self.send(again, "server", None, headers, method="DELETE")).over
        self.assertEqual(ended.status, 200)
        self.assertEqual((await self.say(again, session, "late")).status, 404)
        await self.until(lambda: "delete raw" in self.asked, 5.0, "the end at the server")
        client.process.writeToChild(0, b"\n")
        await self.ends(client, 10)
        resumed = {
            one["session_id"]
            for one in again.events()
            if one["event_type"] == "SessionStarted" and one.get("details") == {"resumed": True}
        }
        self.assertEqual(len(resumed), 2)

    async def test_without_a_key(self) -> None:
        """The sessions end with the gateway, at the server too, and are unknown to the next."""
        gateway, _, _ = await self.before_http()
        session = await self.shake_hands(gateway, "server")
        self.assertEqual((await self.say(gateway, session, "first")).text, "first")
        await self.stop(gateway)
        self.assertIn("delete raw", self.asked)
        again = await self.start_again(gateway)
        self.assertEqual((await self.say(again, session, "x")).status, 404)
        session = await self.shake_hands(again, "server")
        self.assertEqual((await self.say(again, session, "second")).text, "second")

    async def test_children_replayed(self) -> None:
        """With ``restart = "replay"`` even a session of a child goes on, with another child."""
        gateway = await self.before_stdio("replay", session_key=new_key())
        session = await self.shake_hands(gateway, "server")
        await self.stop(gateway)
        again = await self.start_again(gateway)
        self.assertEqual((await self.say(again, session, "x")).text, "x")
        hello = ["initialize raw []", "initialized"]
        self.assertEqual(self.asked, [*hello, *hello, "note x"])


class ServerRestartTests(LifeCase):
    """Another life of an HTTP server."""

    async def test_the_call_is_carried_out_once(self) -> None:
        """The first call finds the session forgotten; it succeeds, in a new one, once."""
        gateway, server, port = await self.before_http()
        session = await self.shake_hands(gateway, "server")
        self.assertEqual((await self.say(gateway, session, "before")).text, "before")
        server = await self.restart(server, port)
        self.journal.write_text("")
        answers = await gatherResults(
            [
                (await self.begin(gateway, "server", "note", session, text=f"n{number}")).over
                for number in range(4)
            ]
        )
        notes = sorted(one for one in self.asked if one.startswith("note"))
        self.assertEqual(notes, sorted(set(notes)), "nothing is carried out twice")
        told = [one.text for one in answers if one.status == 200]
        self.assertEqual(sorted(f"note {text}" for text in told), notes)
        # One that was at the server when another was told of the loss may not be sent again.
        self.assertGreater(len(told), 0)
        self.assertLessEqual({one.status for one in answers}, {200, 502})
        self.assertEqual(self.asked.count("initialize raw []"), 1)
        self.assertEqual((await self.say(gateway, session, "after")).text, "after")
        self.assertEqual(await self.metric(gateway, "mcp_guard_upstream_renewals_total"), 1)
        server.signal("KILL")
        await self.ends(server, 5)
        self.assertEqual((await self.say(gateway, session, "x")).status, 503)
        await self.serve(port)
        await self.say_until_heard(gateway, session, "back")

    async def test_listeners_and_subscriptions(self) -> None:
        """A client that only listens hears of changes again, and is subscribed as before."""
        gateway, server, port = await self.before_http()
        session = await self.shake_hands(gateway, "server")
        headers = {"Mcp-Session-Id": session}
        for id, (method, uri) in enumerate(
            [("subscribe", "x:1"), ("subscribe", "x:2"), ("unsubscribe", "x:1")]
        ):
            message = {"jsonrpc": "2.0", "id": id, "method": f"resources/{method}"}
            message["params"] = {"uri": uri}
            await (await self.send(gateway, "server", message, headers)).over
        stream = await self.listen(gateway, session)
        await self.changes(stream, 1)
        await self.restart(server, port)
        self.journal.write_text("")
        await self.changes(stream, 2)
        await self.until(lambda: "subscribe x:2" in self.asked, 5.0, "the subscription")
        self.assertNotIn("subscribe x:1", self.asked)

    async def test_another_version(self) -> None:
        """A server that speaks another version now ends the session: the client starts anew."""
        gateway, server, port = await self.before_http()
        session = await self.shake_hands(gateway, "server")
        await self.restart(server, port, "--version", "2025-06-18")
        self.assertEqual((await self.say(gateway, session, "x")).status, 404)
        self.assertNotIn("note x", self.asked)
        self.assertEqual((await self.say(gateway, session, "x")).status, 404)


class ChildTests(LifeCase):
    """Children that die."""

    async def test_replay(self) -> None:
        """What ran fails and is not repeated; the next call has a new child and its handshake."""
        gateway = await self.before_stdio("replay")
        session = await self.shake_hands(gateway, "server")
        died = await self.call(gateway, "server", "die", session, text="now")
        self.assertEqual(died.status, 502)
        self.assertEqual((await self.say(gateway, session, "next")).text, "next")
        self.kill_children(gateway)
        await self.pause(0.3)
        # The second loss in a row: the answer is when to come back.
        await self.say_until_heard(gateway, session, "last")
        hello = ["initialize raw []", "initialized"]
        self.assertEqual(self.asked, [*hello, "die now", *hello, "note next", *hello, "note last"])

    async def test_end(self) -> None:
        """By default the session ends with its child."""
        gateway = await self.before_stdio("end")
        session = await self.shake_hands(gateway, "server")
        self.kill_children(gateway)
        await self.pause(0.3)
        self.assertEqual((await self.say(gateway, session, "x")).status, 404)
        self.assertNotIn("note x", self.asked)
