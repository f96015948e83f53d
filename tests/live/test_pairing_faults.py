"""Servers of every kind that are killed, restarted and stopped, before clients of every kind."""

import signal

from attrs import evolve
from twisted.internet.defer import Deferred

from tests.live.pairings import (
    CLIENTS,
    COUNTER,
    KINDS,
    Client,
    Message,
    OldClient,
    PairingCase,
    SessionClient,
    StatelessClient,
    last_message,
)

ALL = [(kind, client) for kind in KINDS for client in CLIENTS]
SOON = 5.0
"""Seconds within which an answer must come that need not wait for anything."""
LATE = 12.0
"""Seconds within which a server that does not answer must be given up, where it has one."""


def ends_with_it(client: Client) -> bool:
    """Whether the client's session ends with its server, unless it is replayed."""
    shaken = not isinstance(client, StatelessClient)
    return shaken and client.server.kind in ("stdio-legacy", "sse")


class KilledTests(PairingCase):
    """Servers that are killed and started again."""

    async def test_during_a_call(self) -> None:
        """The call fails at once with words; the next one works, and nothing runs twice."""

        async def scenario(client: Client) -> None:
            server = client.server
            running = await client.begin("hang", "one")
            await self.noted(server, "hang one")
            await self.kill(server)
            self.assert_error(await self.in_time(SOON, running), 502)
            await self.run_server(server)
            await self.assert_serves(client, "two", lost=ends_with_it(client))
            self.assertEqual(server.asked.count("hang one"), 1)

        await self.pairings(ALL, scenario)

    async def test_while_clients_are_asked(self) -> None:
        """A question that its server did not live to hear the answer of ends its call with words;
        a stateless server did not wait for one, and its next life takes the answer.
        """

        async def in_session(client: SessionClient | OldClient) -> None:
            server = client.server
            running = await client.begin("ask", "one")
            question = await client.asked()
            await self.kill(server)
            if not server.modern:
                self.assert_error(await self.in_time(SOON, running), 502)
            await self.run_server(server)
            status = await client.respond(question)
            if server.modern:
                self.assertEqual(status, 202)
                self.assert_text(await self.in_time(SOON, running), "Ada")
            else:
                self.assertNotIn("told Ada", server.asked)
            await self.assert_serves(client, "two", lost=ends_with_it(client))

        async def stateless(client: StatelessClient) -> None:
            server = client.server
            answers = await client.park("one")
            await self.kill(server)
            await self.run_server(server)
            message = await self.in_time(SOON, await client.begin("ask", "one", **answers))
            if server.modern:
                self.assert_text(message, "Ada")
            else:
                self.assert_error(message, 502)
                self.assertNotIn("told Ada", server.asked)
                again = await client.call("ask", "one", **answers)
                self.assert_error(again, -32602)
            await self.assert_serves(client, "two")

        async def scenario(client: Client) -> None:
            if isinstance(client, StatelessClient):
                await stateless(client)
            else:
                assert isinstance(client, SessionClient | OldClient)
                await in_session(client)

        await self.pairings(ALL, scenario)

    async def test_while_clients_listen(self) -> None:
        """They hear of changes again, subscribed as before, without doing anything; nothing that
        was asked before is asked again.
        """

        async def scenario(client: SessionClient | StatelessClient | OldClient) -> None:
            server = client.server
            await self.assert_serves(client, "one")
            stream = await client.listen()
            subscription = f"subscribe {COUNTER}"
            await self.noted(server, subscription)
            self.assert_text(await client.call("touch", "first"), "first")
            await self.updates(stream, 1)
            before = server.asked.count(subscription)
            await self.kill(server)
            await self.run_server(server)
            if server.kind == "http-modern" and isinstance(client, StatelessClient):
                # There the stream is the client's own, to the server itself.
                self.assert_error(last_message(await stream.over), 502)
                stream = await client.listen()
                heard = 0
            else:
                heard = stream.received.count(b"resources/updated")
            await self.noted(server, subscription, before + 1)
            await self.pause(0.1)
            self.assert_text(await client.call("touch", "second"), "second")
            await self.updates(stream, heard + 1)
            self.assertEqual(server.asked.count("touch first"), 1)
            self.assertEqual(server.asked.count("touch second"), 1)
            await self.assert_serves(client, "two")

        await self.pairings(ALL, scenario, restart="replay")


class HungTests(PairingCase):
    """Servers that do not answer, with room for one call at a time and four seconds for it."""

    async def test_in_every_way(self) -> None:
        """Whatever is asked of them is refused in time, and the next call has the place."""

        async def hang(client: Client) -> None:
            self.assert_error(await self.in_time(LATE, await client.begin("hang", "one")), 504)
            await self.assert_serves(client, "two")

        async def frozen(client: Client) -> None:
            server = client.server
            server.signal(signal.SIGSTOP)
            self.assert_error(await self.in_time(LATE, await client.begin("note", "x")), 504)
            server.signal(signal.SIGCONT)
            await self.assert_serves(client, "three")
            self.assertLessEqual(server.asked.count("note x"), 1)

        async def asked(client: Client) -> None:
            server = client.server
            if isinstance(client, StatelessClient):
                answers = await client.park("four")
                server.signal(signal.SIGSTOP)
                running = await client.begin("ask", "four", **answers)
            else:
                assert isinstance(client, SessionClient | OldClient)
                running = await client.begin("ask", "four")
                question = await client.asked()
                server.signal(signal.SIGSTOP)
                responding = Deferred.fromCoroutine(client.respond(question))
            self.assert_error(await self.in_time(LATE, running), 504)
            server.signal(signal.SIGCONT)
            if not isinstance(client, StatelessClient):
                await responding
            await self.assert_serves(client, "five")

        async def scenario(client: Client) -> None:
            await self.assert_serves(client, "zero")
            await hang(client)
            await frozen(client)
            await asked(client)

        await self.pairings(ALL, scenario, timeout_secs=4, max_timeout_secs=10, max_concurrency=1)

    async def test_what_begins_there(self) -> None:
        """Subscriptions and handshakes are refused in time too, and work afterwards."""

        async def listens(client: SessionClient | StatelessClient | OldClient) -> None:
            if isinstance(client, StatelessClient):
                refused = (await client.try_to_listen()).over.addCallback(last_message)
            else:
                refused = await client.send("resources/subscribe", {"uri": COUNTER})
            self.assert_error(await self.in_time(LATE, refused), 504)

        async def shakes_hands(client: Client) -> None:
            answer: Deferred[Message]
            if isinstance(client, SessionClient):
                answer = (await client.try_to_open()).over.addCallback(last_message)
            elif isinstance(client, OldClient):
                answer = Deferred.fromCoroutine(client.try_to_open())
            else:
                answer = await client.begin("note", "late")
            message = await self.in_time(LATE, answer)
            own_child = client.server.kind == "stdio-legacy"
            told_before = client.server.modern and not isinstance(client, StatelessClient)
            if own_child or told_before:
                self.assertIn("result", message)
            else:
                self.assert_error(message, 504)

        async def scenario(client: SessionClient | StatelessClient | OldClient) -> None:
            server = client.server
            await self.assert_serves(client, "zero")
            server.signal(signal.SIGSTOP)
            late = evolve(client, who="late")
            await self.together([listens(client), shakes_hands(late)])
            server.signal(signal.SIGCONT)
            stream = await client.listen()
            self.assert_text(await client.call("touch", "one"), "one")
            await self.updates(stream, 1)
            await late.open()
            await self.assert_serves(late, "two")

        await self.pairings(
            ALL, scenario, {"identities": {"tester": {}, "late": {}}}, timeout_secs=4
        )
