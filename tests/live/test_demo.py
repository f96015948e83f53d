"""The demo server as its users meet it: a process on stdio, a server on a port."""

import http.client
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.live.demo_process import PATIENCE, Message, StdioDemo, serve_http, spawn

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def slow(request_id: str | int, seconds: float, **meta: Any) -> Message:
    """A call of ``slow`` in one step."""
    arguments = {"seconds": seconds, "steps": 1}
    params: Message = {"name": "slow", "arguments": arguments, "_meta": meta}
    return {"id": request_id, "method": "tools/call", "params": params}


def echo(request_id: str | int, text: str, **meta: Any) -> Message:
    """A call of ``echo``."""
    params: Message = {"name": "echo", "arguments": {"message": text}, "_meta": meta}
    return {"id": request_id, "method": "tools/call", "params": params}


class ProcessTests(SynchronousTestCase):
    """How the process starts and ends."""

    def temporary(self) -> Path:
        """A directory of the test's own for temporary files."""
        path = Path(self.mktemp()).absolute()
        path.mkdir(parents=True)
        return path

    def test_end_of_input(self) -> None:
        """End of input ends it with success, though calls run, and nothing is left."""
        temporary = self.temporary()
        demo = StdioDemo(self, TMPDIR=str(temporary))
        demo.shake()
        demo.send(slow(2, 60))
        self.assertEqual(demo.receive()["method"], "notifications/message")
        self.assertEqual(len(os.listdir(temporary)), 1)
        self.assertEqual(demo.finish(), (0, b""))
        self.assertEqual(os.listdir(temporary), [])

    def test_signals(self) -> None:
        """SIGTERM, SIGINT and SIGHUP end it cleanly, over stdio and HTTP."""
        for arguments in ((), ("--http",)):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                temporary = self.temporary()
                if arguments:
                    process, _, _ = serve_http(self, "--root", str(temporary))
                else:
                    demo = StdioDemo(self, "--root", str(temporary))
                    demo.shake()
                    process = demo.process
                process.send_signal(number)
                _, errors = process.communicate(timeout=PATIENCE)
                self.assertEqual((process.returncode, errors), (0, b""))
                self.assertTrue(temporary.is_dir())

    def test_given_root(self) -> None:
        """A given folder is used as it is and stays."""
        root = self.temporary()
        (root / "mine.txt").write_text("mine")
        demo = StdioDemo(self, "--root", str(root))
        demo.shake()
        answer = demo.request("tools/call", name="read_file", arguments={"path": "mine.txt"})
        self.assertEqual(answer["result"]["content"][0]["text"], "mine")
        self.assertEqual(demo.finish()[0], 0)
        self.assertEqual(os.listdir(root), ["mine.txt"])

    def test_usage(self) -> None:
        """Impossible options are refused with a usage message on stderr."""
        for arguments in (("--root", "/nowhere"), ("--port", "65536"), ("--era", "old")):
            process = spawn(self, *arguments)
            output, errors = process.communicate(timeout=PATIENCE)
            self.assertEqual((process.returncode, output), (2, b""))
            self.assertIn(b"usage:", errors)

    def test_only_the_library(self) -> None:
        """It starts from the standard library and its own room alone."""
        process = spawn(self, environment={"PYTHONPROFILEIMPORTTIME": "1"})
        _, errors = process.communicate(timeout=PATIENCE)
        imported = {line.rpartition("|")[2].strip() for line in errors.decode().splitlines()}
        self.assertIn("mcpguard.demo.server", imported)
        for foreign in ("twisted", "attr", "attrs", "zope", "msgspec", "orjson", "asyncio"):
            self.assertNotIn(foreign, imported)
        rooms = {name for name in imported if name.startswith("mcpguard.")}
        self.assertEqual(
            {name for name in rooms if name.split(".")[1] != "demo"}, set(), "other rooms"
        )


class StdioTests(SynchronousTestCase):
    """The protocol over stdio."""

    def test_garbage(self) -> None:
        """What is no message is answered as such, blank lines are not, and the server goes on."""
        demo = StdioDemo(self)
        demo.write(b"hello\n\r\n\n[]\n" + b'{"jsonrpc":"2.0","id":"x","method":1}\n')
        codes = [(answer["id"], answer["error"]["code"]) for answer in demo.receive_all(3)]
        self.assertEqual(codes, [(None, -32700), (None, -32600), ("x", -32600)])
        self.assertEqual(demo.request("ping")["result"], {})

    def test_long_line(self) -> None:
        """A line above 16 MiB is answered once and skipped, in one piece or many."""
        demo = StdioDemo(self)
        for _ in range(2):
            demo.write(b"x" * (17 * 1024 * 1024) + b"\n")
            answer = demo.receive()
            self.assertEqual((answer["id"], answer["error"]["code"]), (None, -32600))
            self.assertEqual(demo.request("ping")["result"], {})

    def test_concurrency(self) -> None:
        """Calls run side by side; quick ones overtake slow ones; ids keep their type."""
        demo = StdioDemo(self)
        demo.shake()
        demo.request("logging/setLevel", level="error")
        started = time.monotonic()
        demo.send(*(slow(f"s{number}", 1) for number in range(20)), slow(5, 0.5), slow("5", 0.5))
        demo.send(echo("e", "first"))
        self.assertEqual(demo.receive()["id"], "e")
        self.assertEqual({answer["id"] for answer in demo.receive_all(2)}, {5, "5"})
        self.assertEqual(
            {answer["id"] for answer in demo.receive_all(20)},
            {f"s{number}" for number in range(20)},
        )
        # One after the other they would take 21 s.
        self.assertLess(time.monotonic() - started, 20)

    def test_too_many_calls(self) -> None:
        """The 513th waiting call is refused, and there is room again when others have ended."""
        demo = StdioDemo(self)
        demo.shake()
        demo.request("logging/setLevel", level="error")
        demo.send(*(slow(number, 60) for number in range(100, 613)))
        answer = demo.receive()
        self.assertEqual((answer["id"], answer["error"]["code"]), (612, -32603))
        for number in range(100, 612):
            params = {"requestId": number}
            demo.send({"method": "notifications/cancelled", "params": params})
        deadline = time.monotonic() + PATIENCE
        while "error" in demo.request(
            "tools/call", name="slow", arguments={"seconds": 0, "steps": 1}
        ):
            self.assertLess(time.monotonic(), deadline)

    def test_cancellation(self) -> None:
        """A cancelled call ends without an answer, in either era; others go on."""
        demo = StdioDemo(self)
        demo.shake()
        demo.request("logging/setLevel", level="error")
        demo.send(slow("old", 60), slow("new", 60, **META), slow("other", 0.5))
        for request_id in ("old", "new", "unknown", None):
            params = {"requestId": request_id, "reason": "enough"}
            demo.send({"method": "notifications/cancelled", "params": params})
        self.assertEqual(demo.receive()["id"], "other")
        self.assertEqual(demo.finish(), (0, b""))

    def test_progress_in_both_eras(self) -> None:
        """Both eras are served on one pipe, each call with its own progress token."""
        demo = StdioDemo(self)
        demo.shake()
        demo.request("logging/setLevel", level="error")
        demo.send(slow(1, 0.2, progressToken="a"), slow(2, 0.2, progressToken=2, **META))
        messages = demo.receive_all(4)
        tokens = {message["params"]["progressToken"] for message in messages if "params" in message}
        self.assertEqual(tokens, {"a", 2})
        results = {message["id"]: message["result"] for message in messages if "id" in message}
        self.assertNotIn("resultType", results[1])
        self.assertEqual(results[2]["resultType"], "complete")

    def test_question(self) -> None:
        """A legacy client is asked on the pipe, a modern one by an interim result."""
        demo = StdioDemo(self)
        demo.shake(elicitation={})
        params: Message = {"name": "ask", "arguments": {"question": "Colour?"}}
        demo.send({"id": 1, "method": "tools/call", "params": params})
        question = demo.receive()
        self.assertEqual(question["method"], "elicitation/create")
        accepted = {"action": "accept", "content": {"answer": "red"}}
        demo.send({"id": question["id"], "result": accepted})
        self.assertIn("red", demo.receive()["result"]["content"][0]["text"])
        meta = {**META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
        interim = demo.request("tools/call", **params, _meta=meta)["result"]
        self.assertEqual(interim["resultType"], "input_required")
        answers = dict.fromkeys(interim["inputRequests"], accepted)
        final = demo.request(
            "tools/call",
            **params,
            _meta=meta,
            inputResponses=answers,
            requestState=interim["requestState"],
        )["result"]
        self.assertIn("red", final["content"][0]["text"])

    def test_listen(self) -> None:
        """A listener hears of changes under its own id until it cancels."""
        demo = StdioDemo(self)
        wanted = {"resourceSubscriptions": ["demo://counter"]}
        params = {"notifications": wanted, "_meta": META}
        demo.send({"id": "ear", "method": "subscriptions/listen", "params": params})
        first = demo.receive()
        self.assertEqual(first["method"], "notifications/subscriptions/acknowledged")
        demo.send(echo(2, "x", **META))
        update, answer = demo.receive_all(2)
        self.assertEqual(
            update["params"],
            {
                "uri": "demo://counter",
                "_meta": {"io.modelcontextprotocol/subscriptionId": "ear"},
            },
        )
        self.assertEqual(answer["id"], 2)
        demo.send({"method": "notifications/cancelled", "params": {"requestId": "ear"}})
        self.assertEqual(demo.request("server/discover", _meta=META)["id"], 1)
        deadline = time.monotonic() + PATIENCE
        while True:  # the listener's thread may take a moment to let go
            demo.send(echo(3, "y", **META))
            if "id" in demo.receive():
                break
            demo.receive()
            self.assertLess(time.monotonic(), deadline)

    def test_stdout_is_the_protocols(self) -> None:
        """Whatever Python itself prints goes to stderr."""
        demo = StdioDemo(self, PYTHONVERBOSE="1")
        demo.shake()
        self.assertEqual(demo.request("ping")["result"], {})

    def test_client_that_does_not_read(self) -> None:
        """A client that never reads is not read either: the server keeps no growing queue."""
        demo = StdioDemo(self)
        demo.shake()
        assert demo.process.stdin is not None
        descriptor = demo.process.stdin.fileno()
        os.set_blocking(descriptor, False)
        message = json.dumps({"jsonrpc": "2.0", **echo(1, "x" * 10_000)}).encode() + b"\n"
        written, deadline = 0, time.monotonic() + 1.0
        while time.monotonic() < deadline:
            try:
                written += os.write(descriptor, message)
            except BlockingIOError:
                time.sleep(0.02)
        self.assertLess(written, 2 * 1024 * 1024)


class HttpTests(SynchronousTestCase):
    """The protocol over HTTP."""

    def serve(self, *arguments: str) -> None:
        """Start a server."""
        self.process, self.host, self.port = serve_http(self, *arguments)

    def ask(
        self, method: str, body: object = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """A request on a connection of its own; the response is read by the caller."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        self.addCleanup(connection.close)
        given = {
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            **(headers or {}),
        }
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name: value for name, value in given.items() if value}
        connection.request(method, "/mcp", data if method == "POST" else None, given)
        return connection.getresponse()

    def post(
        self, message: object, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPResponse, Any]:
        """Status, response and decoded body of a POST."""
        response = self.ask("POST", message, headers)
        body = response.read()
        return response.status, response, json.loads(body) if body else None

    def modern(
        self, method: str, params: Message | None = None, **headers: str
    ) -> tuple[int, Message]:
        """Status and message of a modern request, its headers fitting unless given."""
        full = {**(params or {}), "_meta": {**META, **(params or {}).get("_meta", {})}}
        given = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
        for member in ("name", "uri"):
            if member in full:
                given["Mcp-Name"] = full[member]
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        message = {"jsonrpc": "2.0", "id": 9, "method": method, "params": full}
        status, _, answer = self.post(message, given)
        self.assertEqual(answer["id"], 9)
        return status, answer

    def shake(self, **capabilities: Message) -> dict[str, str]:
        """Open a legacy session: the headers of its requests."""
        params = {"protocolVersion": "2025-11-25", "capabilities": capabilities}
        status, response, _ = self.post(
            {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        )
        session = response.getheader("Mcp-Session-Id")
        assert session is not None
        self.assertEqual(status, 200)
        return {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}

    def events(self, response: http.client.HTTPResponse, count: int) -> list[Message]:
        """The next ``count`` messages of an event stream."""
        self.assertEqual(response.getheader("Content-Type"), "text/event-stream")
        found: list[Message] = []
        while len(found) < count:
            line = response.readline()
            assert line, f"the stream ended after {found}"
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
        return found

    def test_admission(self) -> None:
        """Foreign hosts, origins, paths, methods and types are refused before anything else."""
        self.serve()
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        for headers, status in (
            ({"Host": "evil.example"}, 421),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Content-Type": "text/plain"}, 415),
            ({"Content-Type": ""}, 415),
            ({"Accept": "application/json"}, 406),
            ({"Accept": "text/event-stream"}, 406),
            ({"Transfer-Encoding": "chunked"}, 411),
        ):
            self.assertEqual(self.post(ping, headers)[0], status, headers)
        for method in ("PUT", "OPTIONS", "HEAD", "PATCH"):
            response = self.ask(method)
            self.assertEqual(response.status, 405)
            self.assertEqual(response.getheader("Allow"), "POST, GET, DELETE")
        local = {"Origin": f"http://localhost:{self.port}", "Accept": "*/*"}
        self.assertEqual(self.post(ping, local)[0], 400)  # admitted: only the session is missing

    def test_bodies(self) -> None:
        """What is no message is a 400 with a JSON-RPC error; too large a body is a 413."""
        self.serve()
        for body, code in ((b"{", -32700), (b"[]", -32600), (b"null", -32600), (b"", -32700)):
            status, _, answer = self.post(body)
            self.assertEqual((status, answer["error"]["code"]), (400, code))
        status, response, _ = self.post(b"{}", {"Content-Length": str(16 * 1024 * 1024 + 1)})
        self.assertEqual(status, 413)
        self.assertEqual(response.getheader("Connection"), "close")

    def test_session(self) -> None:
        """A session is needed, known until deleted, and then 404."""
        self.serve()
        listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        self.assertEqual(self.post(listing)[0], 400)
        self.assertEqual(self.post(listing, {"Mcp-Session-Id": "x"})[0], 404)
        session = self.shake()
        done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        status, _, body = self.post(done, session)
        self.assertEqual((status, body), (202, None))
        status, _, answer = self.post(listing, session)
        self.assertEqual((status, len(answer["result"]["tools"])), (200, 9))
        for method in ("DELETE", "GET"):
            self.assertEqual(self.ask(method).status, 400)
            self.assertEqual(self.ask(method, headers={"Mcp-Session-Id": "x"}).status, 404)
        self.assertEqual(self.ask("DELETE", headers=session).status, 200)
        self.assertEqual(self.post(listing, session)[0], 404)
        self.assertEqual(self.ask("DELETE", headers=session).status, 404)

    def test_legacy_errors_are_200(self) -> None:
        """A legacy error is an answer like any other; so is a second handshake's."""
        self.serve()
        session = self.shake()
        unknown = {"jsonrpc": "2.0", "id": 1, "method": "tools/destroy"}
        status, _, answer = self.post(unknown, session)
        self.assertEqual((status, answer["error"]["code"]), (200, -32601))
        params: Message = {"protocolVersion": "2025-11-25", "capabilities": {}}
        again = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        status, response, answer = self.post(again, session)
        self.assertEqual((status, answer["error"]["code"]), (200, -32600))
        self.assertIsNone(response.getheader("Mcp-Session-Id"))

    def test_streams(self) -> None:
        """Progress and questions go to their request's stream, changes to the GET stream."""
        self.serve()
        session = self.shake(elicitation={})
        other = self.shake()
        stream = self.ask("GET", headers={**session, "Accept": "text/event-stream"})
        self.assertEqual(self.ask("GET", headers=session).status, 409)
        json_only = {**session, "Accept": "application/json"}
        self.assertEqual(self.ask("GET", headers=json_only).status, 406)
        params: Message = {"uri": "demo://counter"}
        subscribe = {"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": params}
        self.post(subscribe, session)
        self.post({"jsonrpc": "2.0", **echo(2, "x")}, other)
        (update,) = self.events(stream, 1)
        self.assertEqual(update["params"], {"uri": "demo://counter"})
        work = self.ask("POST", {"jsonrpc": "2.0", **slow(3, 0.1, progressToken=7)}, session)
        log, progress, answer = self.events(work, 3)
        self.assertEqual(log["method"], "notifications/message")
        self.assertEqual(progress["params"]["progressToken"], 7)
        self.assertEqual(answer["id"], 3)
        self.assertEqual(work.read(), b"\r\n")
        params = {"name": "ask", "arguments": {"question": "?"}}
        asking = {"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": params}
        work = self.ask("POST", asking, session)
        (question,) = self.events(work, 1)
        reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
        self.assertEqual(self.post(reply, other)[0], 202)  # not from this session: dropped
        self.assertEqual(self.post(reply, session)[0], 202)
        self.assertIn("declined", self.events(work, 1)[0]["result"]["content"][0]["text"])
        self.ask("DELETE", headers=session)
        self.assertEqual(stream.read(), b"\r\n")

    def test_quick_answers_are_json(self) -> None:
        """A call that has nothing to say on the way is answered with plain JSON."""
        self.serve()
        session = self.shake()
        level = {"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel"}
        self.post({**level, "params": {"level": "error"}}, session)
        status, response, answer = self.post({"jsonrpc": "2.0", **slow(2, 0.3)}, session)
        self.assertEqual(response.getheader("Content-Type"), "application/json")
        self.assertEqual((status, answer["id"]), (200, 2))

    def test_legacy_cancellation(self) -> None:
        """A legacy call is cancelled by a notification and then ends its stream unanswered."""
        self.serve()
        session = self.shake()
        work = self.ask("POST", {"jsonrpc": "2.0", **slow(3, 60)}, session)
        self.events(work, 1)
        params = {"requestId": 3}
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        self.assertEqual(self.post(cancelled, session)[0], 202)
        self.assertEqual(work.read(), b"\r\n")

    def test_modern_disconnect_cancels(self) -> None:
        """A modern client cancels by leaving: nothing works for it any more."""
        self.serve()
        wanted = {"resourceSubscriptions": ["demo://counter"]}
        params = {"notifications": wanted, "_meta": META}
        message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
        headers = {
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "subscriptions/listen",
        }
        self.assertEqual(self.threads(), 1)
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        self.addCleanup(connection.close)
        common = {
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/mcp", json.dumps(message), {**common, **headers})
        response = connection.getresponse()
        (first,) = self.events(response, 1)
        self.assertEqual(first["method"], "notifications/subscriptions/acknowledged")
        self.assertEqual(self.threads(), 3)
        response.close()
        connection.close()
        deadline = time.monotonic() + PATIENCE
        while self.threads() > 1:
            self.assertLess(time.monotonic(), deadline, "the listener is still there")
            time.sleep(0.05)

    def threads(self) -> int:
        """How many threads the server has."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def test_ladder(self) -> None:
        """Each rule for modern requests has its status and code, the first broken one first."""
        self.serve()
        call = {"name": "echo", "arguments": {"message": "x"}}
        eu = {"name": "echo", "arguments": {"message": "x", "region": "eu"}}
        version = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2030-01-01"}}
        bare = {"_meta": {"io.modelcontextprotocol/clientCapabilities": None}}
        for method, params, headers, status, code in (
            ("tools/call", call, {}, 200, None),
            ("tools/call", call, {"Mcp_Name": "=?base64?ZWNobw==?="}, 200, None),
            ("tools/call", call, {"Mcp_Name": "ECHO"}, 400, -32020),
            ("tools/call", call, {"Mcp_Name": ""}, 400, -32020),
            ("tools/call", call, {"Mcp_Method": "tools/list"}, 400, -32020),
            ("tools/call", call, {"MCP_Protocol_Version": ""}, 400, -32020),
            ("tools/call", call, {"MCP_Protocol_Version": "2025-11-25"}, 400, -32020),
            ("tools/call", {**call, **bare}, {"Mcp_Name": "other"}, 400, -32602),
            ("tools/list", version, {"MCP_Protocol_Version": "2030-01-01"}, 400, -32022),
            ("tools/list", version, {}, 400, -32020),
            ("tools/call", eu, {}, 400, -32020),
            ("tools/call", eu, {"Mcp_Param_Region": "us"}, 400, -32020),
            ("tools/call", eu, {"Mcp_Param_Region": "eu"}, 200, None),
            ("tools/call", call, {"Mcp_Param_Region": "eu"}, 400, -32020),
            ("tools/call", {"name": "rm"}, {}, 400, -32602),
            ("tools/call", {"name": "roots"}, {}, 400, -32021),
            ("resources/read", {"uri": "demo://nothing"}, {}, 400, -32602),
            ("initialize", {}, {}, 404, -32601),
            ("ping", {}, {}, 404, -32601),
            ("logging/setLevel", {"level": "info"}, {}, 404, -32601),
            ("tools/destroy", {}, {}, 404, -32601),
            ("server/discover", {}, {"Mcp_Session_Id": "junk"}, 200, None),
        ):
            got, answer = self.modern(method, params, **headers)
            self.assertEqual(
                (got, answer.get("error", {}).get("code")), (status, code), (method, headers)
            )

    def test_modern_shapes(self) -> None:
        """Notifications are taken and not acted on, responses refused, GET and DELETE too."""
        self.serve()
        headers = {"MCP-Protocol-Version": "2026-07-28"}
        notification = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
        self.assertEqual(self.post(notification, headers)[0], 202)
        response = {"jsonrpc": "2.0", "id": 1, "result": {}}
        self.assertEqual(self.post(response, headers)[0], 400)
        for method in ("GET", "DELETE"):
            answer = self.ask(method, headers=headers)
            self.assertEqual((answer.status, answer.getheader("Allow")), (405, "POST"))

    def test_eras(self) -> None:
        """A server of one era refuses the other's clients so that they can tell."""
        self.serve("--era", "legacy")
        status, _, answer = self.post(
            {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": META}},
            {"MCP-Protocol-Version": "2026-07-28"},
        )
        self.assertEqual((status, answer["error"]["code"]), (400, -32600))
        self.serve("--era", "modern")
        params: Message = {"protocolVersion": "2025-11-25", "capabilities": {}}
        status, _, answer = self.post(
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        )
        self.assertEqual((status, answer["error"]["data"]), (400, {"supported": ["2026-07-28"]}))
        self.assertEqual(self.ask("GET").status, 405)

    def test_stop_ends_streams(self) -> None:
        """A stopping server ends a listen with its result."""
        self.serve()
        params = {"notifications": {}, "_meta": META}
        message = {"jsonrpc": "2.0", "id": 5, "method": "subscriptions/listen", "params": params}
        headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
        listening = self.ask("POST", message, headers)
        self.events(listening, 1)
        self.process.terminate()
        (result,) = self.events(listening, 1)
        self.assertEqual((result["id"], result["result"]["resultType"]), (5, "complete"))
        self.assertEqual(self.process.wait(PATIENCE), 0)

    def test_keep_alive(self) -> None:
        """One connection carries many requests, event streams among them, until told to close."""
        self.serve()
        session = self.shake()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        self.addCleanup(connection.close)
        connection.connect()
        used = connection.sock
        for request_id in range(3):
            for message in (echo(request_id, "x"), slow(request_id, 0)):
                body = json.dumps({"jsonrpc": "2.0", **message})
                headers = {
                    **session,
                    "Content-Type": "application/json",
                    "Accept": "application/json, text/event-stream",
                    "Connection": "close" if request_id == 2 else "keep-alive",
                }
                if connection.sock is None:
                    return
                connection.request("POST", "/mcp", body, headers)
                self.assertIs(connection.sock, used)
                self.assertIn(b'"result"', connection.getresponse().read())
        self.fail("the connection was not closed")

    def test_broken_requests(self) -> None:
        """Bytes that are no HTTP get a 400 and the end of the connection."""
        self.serve()
        for data in (b"\x16\x03\x01\r\n\r\n", b"GET /mcp HTTP/1.1\r\n\r\n", b"HELLO\r\n\r\n"):
            with socket.create_connection((self.host, self.port), PATIENCE) as connection:
                connection.sendall(data)
                answer = b""
                while chunk := connection.recv(1000):
                    answer += chunk
                self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
