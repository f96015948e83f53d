"""Sessions among several workers: every request finds its session, whichever worker it comes to."""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPConnection
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from mcpguard.protocol.ownership import unmarked
from tests.live.clients_case import DEMO, PATH
from tests.live.gateway_process import RunningGateway, audit_complaints, http, stdio
from tests.live.parking_case import ParkingCase
from tests.live.processes import free_port
from tests.live.raw_client import BOTH, LEGACY, Exchange, http_request
from tests.live.software import HERE
from tests.live.workers_case import PACE, WorkersCase

REMEMBERING = [sys.executable, str(HERE / "servers" / "remembering_server.py")]


class SessionCase(WorkersCase):
    """Sessions of a gateway of several workers."""

    timeout = 180
    count = 3
    """Of workers: who has not the session may be another one than who stands in."""

    async def before_children(self) -> RunningGateway:
        """A gateway before children that shake hands."""
        demo = stdio("demo", [*DEMO, "--era", "legacy"], env=dict(PATH))
        return await self.start_gateway(
            [demo], server={"workers": self.count}, identities={"tester": {}, "other": {}}
        )

    async def before_http(self) -> RunningGateway:
        """A gateway before a server whose sessions anybody may go on with who has their ids."""
        port = free_port()
        journal = self.mktemp()
        with open(journal, "w"):
            pass
        argv = [*REMEMBERING, "--journal", os.path.abspath(journal), "--http", str(port)]
        await self.start(argv, name="server").said("http://")
        self.journal = os.path.abspath(journal)
        remote = http("demo", f"http://127.0.0.1:{port}/mcp")
        return await self.start_gateway([remote], server={"workers": self.count})

    def asked(self) -> Counter[str]:
        """What the HTTP server was asked so far, by the first word."""
        with open(self.journal) as journal:
            return Counter(line.split()[0] for line in journal if "mcp-guard" not in line)

    async def sessions(self, gateway: RunningGateway, each: int = 1) -> dict[str, list[str]]:
        """So many sessions at every worker, by its number; their clients can be asked."""
        found: dict[str, list[str]] = {}
        for _ in range(100):
            session = await self.shake_hands(gateway, "demo", capabilities={"elicitation": {}})
            found.setdefault(unmarked(session)[0], []).append(session)
            if len(found) == self.count and all(len(one) >= each for one in found.values()):
                break
        self.assertEqual(set(found), {str(number + 1) for number in range(self.count)})
        return {number: some[:each] for number, some in found.items()}

    async def echo(self, gateway: RunningGateway, session: str, text: str) -> Exchange:
        """Have the server repeat something, over a connection of its own."""
        return await self.call(gateway, "demo", "echo", session, message=text)

    def headers(self, session: str) -> dict[str, str]:
        """Of a request in a session."""
        return {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}

    async def listen(self, gateway: RunningGateway, session: str) -> Exchange:
        """Read the session's stream."""
        return await self.send(gateway, "demo", None, self.headers(session), method="GET")

    async def assert_owes_nothing(self, gateway: RunningGateway) -> None:
        """Until now all is well, as the judge cannot tell of a gateway whose worker was killed."""
        await self.until(
            lambda: not audit_complaints(gateway.events(), set(gateway.keys)), 10, "all outcomes"
        )
        for word in ("Traceback", "Unhandled", "[error", "[critical"):
            self.assertNotIn(word, gateway.program.err.decode(), gateway.program.story())


class ChildSessionTests(SessionCase, ParkingCase):
    """Sessions that live in children, each of one worker."""

    async def test_children(self) -> None:
        """Every request finds its session, whatever its connection, as long as its owner lives."""
        gateway = await self.before_children()
        sessions = await self.sessions(gateway, 2)
        first, second = zip(*sessions.values(), strict=True)
        await self.assert_each_by_its_own_connection(gateway, [*first, *second])
        await self.assert_ended(gateway, second)
        # Its rounds come to any worker, too.
        await self.assert_parked(gateway)
        await self.account(gateway)
        await self.assert_many_on_one_connection(gateway, first)
        await self.assert_questions(gateway, first)
        await self.assert_event_streams(gateway)
        await self.assert_owes_nothing(gateway)
        await self.assert_owner_killed(gateway, first)

    async def assert_each_by_its_own_connection(
        self, gateway: RunningGateway, sessions: Sequence[str]
    ) -> None:
        """Requests over connections of their own all reach their session; answers are its own."""
        before = await self.metric(gateway, "mcp_guard_handovers_total")

        async def talk(session: str, who: int) -> list[str]:
            answers = [await self.echo(gateway, session, f"{who}-{n}") for n in range(12)]
            return [answer.text for answer in answers]

        talks = [Deferred.fromCoroutine(talk(one, who)) for who, one in enumerate(sessions)]
        for who, texts in enumerate(await gatherResults(talks)):
            self.assertEqual(texts, [f"{who}-{n}" for n in range(12)])
        self.assertGreater(await self.metric(gateway, "mcp_guard_handovers_total"), before + 20)

    async def assert_ended(self, gateway: RunningGateway, sessions: Sequence[str]) -> None:
        """A session is ended over any connection, and then unknown."""
        for session in sessions:
            ended = await self.send(gateway, "demo", None, self.headers(session), method="DELETE")
            self.assertEqual((await ended.over).status, 200)
            self.assertEqual((await self.echo(gateway, session, "late")).status, 404)

    async def assert_many_on_one_connection(
        self, gateway: RunningGateway, sessions: Sequence[str]
    ) -> None:
        """A connection goes where each request belongs, and no answer is another's."""

        def converse() -> list[str]:
            client = HTTPConnection("127.0.0.1", self.port(gateway), timeout=30)
            client.connect()
            socket, texts = client.sock, []
            for number in range(90):
                params = {"name": "echo", "arguments": {"message": f"t{number}"}}
                message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
                headers = {
                    "Authorization": f"Bearer {gateway.keys['tester']}",
                    "Accept": BOTH,
                    "Content-Type": "application/json",
                    **self.headers(sessions[number * 7 % len(sessions)]),
                }
                client.request("POST", "/mcp/demo", json.dumps(message), headers)
                body = client.getresponse().read().decode()
                found = re.search(r"\{.*\}", body)
                assert found is not None, body
                answer = json.loads(found.group())
                texts.append(f"{answer['id']} {answer['result']['content'][0]['text']}")
            same = client.sock is socket
            client.close()
            return [*texts, str(same)]

        texts = await deferToThread(converse)
        self.assertEqual(texts, [*(f"{number} t{number}" for number in range(90)), "True"])

    async def assert_questions(self, gateway: RunningGateway, sessions: Sequence[str]) -> None:
        """What a server asks in the course of a call is answered from any connection."""
        for session in [*sessions, *sessions]:
            call = await self.begin(gateway, "demo", "ask", session, question="Who?")
            await self.until(lambda one=call: b"elicitation/create" in one.received, 10, "question")
            events = re.findall(rb"data: (\{.*\})", call.received)
            asked = next(json.loads(one) for one in events if b"elicitation/create" in one)
            result = {"action": "accept", "content": {"answer": "Ada"}}
            message = {"jsonrpc": "2.0", "id": asked["id"], "result": result}
            given = await self.send(gateway, "demo", message, self.headers(session))
            self.assertEqual((await given.over).status, 202)
            self.assertIn("Ada", (await call.over).text)

    async def assert_event_streams(self, gateway: RunningGateway) -> None:
        """Clients of HTTP+SSE post over any connection; the answers are on their stream."""
        numbers: set[str] = set()
        streams: list[Exchange] = []
        while len(streams) < 3 or (len(numbers) == 1 and len(streams) < 20):
            stream, place = await self.open_stream(gateway)
            streams.append(stream)
            numbers.add(unmarked(place.partition("sessionId=")[2])[0])
            for number in range(1, 8):
                params = {"name": "echo", "arguments": {"message": f"m{number}"}}
                await self.post(gateway, place, "tools/call", params, number)
            await self.until(lambda one=stream: b'"m7"' in one.received, 10, "the answers")
        self.assertGreater(len(numbers), 1)
        for stream in streams:
            stream.leave()

    async def open_stream(self, gateway: RunningGateway) -> tuple[Exchange, str]:
        """Open a stream and shake hands; gives it, and where to post."""
        fields = {"Authorization": f"Bearer {gateway.keys['tester']}", "Accept": "*/*"}
        data = http_request("GET", "/mcp/demo/sse", fields, b"")
        stream = await self.connect(gateway, data, "GET")
        await self.until(lambda: b"\n\n" in stream.received, 10, "the endpoint")
        found = re.search(rb"event: endpoint\ndata: (\S+)\n", stream.received)
        assert found is not None, stream.received
        place = found.group(1).decode()
        params = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "x"}}
        await self.post(gateway, place, "initialize", params, 0)
        await self.until(lambda: b'"serverInfo"' in stream.received, 20, "the handshake")
        return stream, place

    async def post(
        self, gateway: RunningGateway, place: str, method: str, params: Any, id: int
    ) -> None:
        """Post one request of HTTP+SSE."""
        fields = {
            "Authorization": f"Bearer {gateway.keys['tester']}",
            "Content-Type": "application/json",
        }
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        data = http_request("POST", place, fields, json.dumps(message).encode())
        self.assertEqual((await (await self.connect(gateway, data)).over).status, 202)

    async def assert_owner_killed(self, gateway: RunningGateway, sessions: Sequence[str]) -> None:
        """The sessions of a killed worker are unknown, all others go on, and new ones begin."""
        self.lossy = True
        before = len(await self.told(gateway, "Authorized", 0))
        running = [
            await self.begin(gateway, "demo", "slow", session, seconds=60) for session in sessions
        ]
        await self.told(gateway, "Authorized", before + len(running))
        os.kill(self.workers(gateway)[1], signal.SIGKILL)
        await self.until(lambda: any(one.over.called for one in running), 10, "the lost call")
        statuses = {}
        for session in sessions:
            answers = [await self.echo(gateway, session, f"again {n}") for n in range(6)]
            (statuses[session],) = {answer.status for answer in answers}
        self.assertEqual(Counter(statuses.values()), {200: self.count - 1, 404: 1})
        self.assertEqual(sum(one.over.called for one in running), 1, "another one's was lost")
        await self.said(gateway, r"worker \d is ready", self.count + 1)
        for session in sessions:
            answer = await self.echo(gateway, session, "later")
            self.assertEqual(answer.status, statuses[session])
        await self.sessions(gateway)
        for one in running:
            one.leave()


class RemoteSessionTests(SessionCase):
    """Sessions of an HTTP server, which can be taken up again."""

    async def note(self, gateway: RunningGateway, session: str, text: str) -> Exchange:
        """Have something noted."""
        return await self.call(gateway, "demo", "note", session, text=text)

    async def test_remote(self) -> None:
        """Sessions outlive the workers that have them, be these replaced or killed."""
        gateway = await self.before_http()
        await self.assert_replaced(gateway)
        await self.assert_owes_nothing(gateway)
        await self.assert_owner_killed_under_load(gateway)

    async def assert_replaced(self, gateway: RunningGateway) -> None:
        """A reload replaces every worker, and every session goes on at its own place."""
        sessions = [one for some in (await self.sessions(gateway)).values() for one in some]
        for session in sessions:
            self.assertEqual((await self.note(gateway, session, "before")).text, "before")
        gateway.program.signal("HUP")
        await self.said(gateway, "reloaded")
        for session in sessions:
            answers = [await self.note(gateway, session, f"after {n}") for n in range(6)]
            self.assertEqual([answer.text for answer in answers], [f"after {n}" for n in range(6)])
        started = [one for one in gateway.events() if one["event_type"] == "SessionStarted"]
        resumed = [one for one in started if one.get("details") == {"resumed": True}]
        self.assertEqual(len(resumed), len(sessions), "one was taken up at several workers")
        self.assertEqual(self.asked()["delete"], 0)

    async def assert_owner_killed_under_load(self, gateway: RunningGateway) -> None:
        """Every session goes on, at one worker and then at its owner again, and ends nowhere."""
        self.lossy = True
        sessions = [one for some in (await self.sessions(gateway, 2)).values() for one in some]
        results: Counter[str] = Counter()
        over = False

        async def talk(session: str, who: int) -> None:
            number = 0
            while not over:
                number += 1
                await self.pause(PACE)
                answer = await self.note(gateway, session, f"{who}-{number}")
                if not answer.received:
                    results["lost"] += 1
                elif answer.status == 200:
                    self.assertEqual(answer.text, f"{who}-{number}")
                    results["200"] += 1
                else:
                    results[str(answer.status)] += 1

        talks = [Deferred.fromCoroutine(talk(one, who)) for who, one in enumerate(sessions)]
        try:
            await self.until(lambda: results["200"] > 60, 20, "calls")
            for count in (1, 2):
                os.kill(self.workers(gateway)[count], signal.SIGKILL)
                before = results["200"]
                await self.until(lambda seen=before: results["200"] > seen + 30, 30, "calls after")
                await self.said(gateway, r"worker \d is ready", 2 * self.count + count)
                before = results["200"]
                await self.until(lambda seen=before: results["200"] > seen + 60, 30, "calls later")
        finally:
            over = True
            await gatherResults(talks, consumeErrors=True)
        self.assertEqual(set(results) - {"lost"}, {"200"}, results)
        self.assertLessEqual(results["lost"], 2 * len(sessions))
        self.assertEqual(self.asked()["delete"], 0, "one was ended that goes on elsewhere")
