"""Tests of HTTP upstreams before real servers: the demo, the Python SDK's, server-everything."""

import sys
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from mcpguard.errors import Reason
from mcpguard.upstream.link import Link
from tests.live.forked import forked
from tests.live.http_callers import LEGACY, MODERN, Answering, HttpUpstreamCase, Waiting
from tests.live.processes import free_port
from tests.live.software import REPOSITORY, server_everything


class DemoTests(HttpUpstreamCase):
    """The bundled demo server, in each of its eras."""

    async def demo(self, era: str) -> str:
        """Run it; its URL."""
        return await self.start_http_server(
            [sys.executable, "-m", "mcpguard.demo", "--http", "--port", "0", "--era", era],
            env={"PYTHONPATH": str(REPOSITORY)},
        )

    def tokens(self, sink: Waiting) -> list[Any]:
        """The tokens of the progress notifications a call heard."""
        return [
            one["params"]["progressToken"]
            for one in sink.notifications
            if one["method"] == "notifications/progress"
        ]

    async def test_eras(self) -> None:
        """The probe tells legacy, modern and both apart, and leaves nothing behind."""
        for era, legacy, modern in (
            ("legacy", True, ()),
            ("modern", False, (MODERN,)),
            ("both", True, (MODERN,)),
        ):
            upstream = self.upstream(await self.demo(era))
            eras = await upstream.eras()
            self.assertEqual((eras.legacy, eras.modern), (legacy, modern), era)
            self.assertEqual(eras.discovered is not None, bool(modern))

    async def test_legacy(self) -> None:
        """List, call, progress, an error result, and the end of a session."""
        upstream = self.upstream(await self.demo("legacy"))
        link, _ = await self.session(upstream)
        _, listing = self.ask(link, "tools/list")
        names = [tool["name"] for tool in (await listing.done)["result"]["tools"]]
        self.assertIn("echo", names)
        self.assertEqual(self.text(await self.call(link, "echo", message="hello")), "hello")
        _, slow = self.ask(link, "tools/call", name="slow", arguments={"seconds": 0.5, "steps": 3})
        self.assertIn("Done", self.text(await slow.done))
        self.assertEqual(self.tokens(slow), [1, 1, 1])
        failed = await self.call(link, "read_file", path="nothing-here")
        self.assertTrue(failed["result"]["isError"])
        await link.close()

    async def test_modern(self) -> None:
        """List, call, progress and an unknown tool, statelessly."""
        upstream = self.upstream(await self.demo("modern"))
        link = await upstream.stateless("api_key:live", "")
        self.assertEqual(self.text(await self.call(link, "echo", True, message="hi")), "hi")
        _, slow = self.ask(
            link, "tools/call", True, name="slow", arguments={"seconds": 0.5, "steps": 3}
        )
        await slow.done
        self.assertEqual(self.tokens(slow), [1, 1, 1])
        self.assertEqual((await self.call(link, "no-such-tool", True))["error"]["code"], -32602)

    async def test_listen(self) -> None:
        """A subscription is acknowledged under the client's id and told of changes."""
        upstream = self.upstream(await self.demo("modern"))
        link = await upstream.stateless("api_key:live", "")
        call, listen = self.ask(
            link,
            "subscriptions/listen",
            True,
            endless=True,
            notifications={"resourcesListChanged": True},
        )
        first = await listen.first
        self.assertEqual(first["method"], "notifications/subscriptions/acknowledged")
        self.assertEqual(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1)
        await self.call(link, "write_file", True, path="new.txt", content="x")
        await self.until(lambda: len(listen.notifications) > 1, 5, "a change")
        call.cancel("enough")

    async def test_many_at_once(self) -> None:
        """Fifty callers, all with id 1, on one session and statelessly: everybody's own answer."""
        upstream = self.upstream(await self.demo("both"), max_concurrency=100)
        session, _ = await self.session(upstream)
        stateless = await upstream.stateless("api_key:live", "")
        expected, running = [], []
        for number in range(50):
            modern = number % 2 == 0
            link = stateless if modern else session
            expected.append(f"caller {number}")
            running.append(
                Deferred.fromCoroutine(self.call(link, "echo", modern, message=expected[-1]))
            )
        results = await DeferredList(running, fireOnOneErrback=True)
        self.assertEqual([self.text(answer) for _, answer in results], expected)


class PythonServerTests(HttpUpstreamCase):
    """A server of PyPI's ``mcp`` 2.x, which speaks both eras."""

    async def start_both(self) -> tuple[Any, Link, Any]:
        """Run it; the upstream, a session and its inbox."""
        script = REPOSITORY / "tests" / "live" / "servers" / "python_server.py"
        url = await self.start_http_server([*forked(script), "--http"])
        upstream = self.upstream(url)
        link, inbox = await self.session(
            upstream, elicitation={}, sampling={}, roots={"listChanged": True}
        )
        return upstream, link, inbox

    async def test_eras(self) -> None:
        """It speaks both."""
        upstream, _, _ = await self.start_both()
        eras = await upstream.eras()
        self.assertEqual((eras.legacy, eras.modern), (True, (MODERN,)))

    async def test_asking_back(self) -> None:
        """Elicitation, sampling and roots come on the stream of the call that needs them."""
        _, link, inbox = await self.start_both()
        self.assertEqual(self.text(await self.call(link, "ask", question="sure?")), "answered: yes")
        self.assertEqual(self.text(await self.call(link, "sample", text="x")), "m1 said: sampled")
        self.assertEqual(self.text(await self.call(link, "where")), "file:///r")
        self.assertEqual(
            inbox.asked,
            [("elicitation/create", True), ("sampling/createMessage", True), ("roots/list", True)],
        )

    async def test_cancelling(self) -> None:
        """The server stops what is cancelled, in each era by its own rule."""
        upstream, link, _ = await self.start_both()
        stateless = await upstream.stateless("api_key:live", "")
        for modern, conversation in ((False, link), (True, stateless)):
            before = int(self.text(await self.call(link, "cancellations")))
            call, sink = self.ask(
                conversation, "tools/call", modern, name="wait", arguments={"seconds": 30}
            )
            await self.pause(0.3)
            call.cancel("no longer needed")
            for _ in range(100):
                now = int(self.text(await self.call(link, "cancellations")))
                if now > before:
                    break
                await self.pause(0.05)
            self.assertEqual(now, before + 1, modern)
            self.assertFalse(sink.done.called)

    async def test_session_stream(self) -> None:
        """What belongs to no call reaches the inbox."""
        _, link, inbox = await self.start_both()
        _, subscribing = self.ask(link, "resources/subscribe", uri="test://counter")
        await subscribing.done
        await self.call(link, "touch")
        await self.until(
            lambda: (
                "notifications/resources/updated" in [one["method"] for one in inbox.notifications]
            ),
            5,
            "the update",
        )

    async def test_ten_sessions(self) -> None:
        """Ten sessions at once, each with calls of its own."""
        upstream, _, _ = await self.start_both()

        async def one(number: int) -> list[str]:
            link, _ = await self.session(upstream)
            texts = [
                self.text(await self.call(link, "echo", message=f"{number}/{turn}"))
                for turn in range(5)
            ]
            await link.close()
            return texts

        running = [Deferred.fromCoroutine(one(number)) for number in range(10)]
        results = await DeferredList(running, fireOnOneErrback=True)
        self.assertEqual(
            [texts for _, texts in results],
            [[f"{number}/{turn}" for turn in range(5)] for number in range(10)],
        )

    async def test_closed_session(self) -> None:
        """After DELETE the server knows the session no more, and says so to another link."""
        upstream, link, _ = await self.start_both()
        inbox, session_id = Answering(), link.session_id  # type: ignore[attr-defined]
        other = await upstream.resume_session("api_key:live", {}, LEGACY, session_id, inbox, "")
        await link.close()
        failure = await self.failure(other)
        self.assertIs(failure.reason, Reason.SESSION_NOT_FOUND)
        await self.until(lambda: inbox.closings, 1, "the end of the session")


class EverythingTests(HttpUpstreamCase):
    """npm's ``server-everything`` over Streamable HTTP: the TypeScript SDK 1.x."""

    async def everything(self, port: int) -> Any:
        """Run it on a port."""
        program = self.start([*server_everything(), "streamableHttp"], env={"PORT": str(port)})
        await program.said(rf"listening on port {port}")
        return program

    async def test_a_session(self) -> None:
        """List, call, progress, sampling and elicitation."""
        port = free_port()
        await self.everything(port)
        upstream = self.upstream(f"http://127.0.0.1:{port}/mcp")
        eras = await upstream.eras()
        self.assertEqual((eras.legacy, eras.modern), (True, ()))
        link, inbox = await self.session(upstream, elicitation={}, sampling={}, roots={})
        self.assertEqual(self.text(await self.call(link, "echo", message="hi")), "Echo: hi")
        _, long = self.ask(
            link,
            "tools/call",
            name="trigger-long-running-operation",
            arguments={"duration": 1, "steps": 4},
        )
        await long.done
        steps = [one["params"]["progress"] for one in long.notifications]
        self.assertEqual(steps, [1, 2, 3, 4])
        answer = await self.call(link, "trigger-sampling-request", prompt="x", maxTokens=5)
        self.assertIn("sampled", self.text(answer))
        await self.call(link, "trigger-elicitation-request")
        self.assertIn(("elicitation/create", True), inbox.asked)

    async def test_restart(self) -> None:
        """Restarted it answers 400, which is told as what it is: the session is gone."""
        port = free_port()
        program = await self.everything(port)
        upstream = self.upstream(f"http://127.0.0.1:{port}/mcp")
        link, inbox = await self.session(upstream)
        await self.call(link, "echo", message="hi")
        program.signal("KILL")
        await program.ended
        failure = await self.failure(link)
        self.assertIs(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        await self.everything(port)
        failure = await self.failure(link)
        self.assertIs(failure.reason, Reason.SESSION_NOT_FOUND)
        await self.until(lambda: inbox.closings, 1, "the end of the session")
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])
        again, _ = await self.session(upstream)
        self.assertEqual(self.text(await self.call(again, "echo", message="hi")), "Echo: hi")
