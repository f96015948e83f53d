"""Nothing crosses identities before any server of the matrix: callers whose ids and tokens are all
alike, whose calls wait for their answers at the same time, and who listen to the same server.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.live.gateway_process import RunningGateway
from tests.live.matrix import COLUMNS, LOGS_ALONE
from tests.live.matrix_servers import matrix_servers
from tests.live.raw_client import LEGACY, MODERN, Exchange, RawCase

PRINCIPALS = ("amber", "cobalt", "indigo")
CALLERS = 2
"""Of each principal, before each server."""
PREFIX = "io.modelcontextprotocol/"
META = {
    f"{PREFIX}protocolVersion": MODERN,
    f"{PREFIX}clientCapabilities": {"elicitation": {"form": {}}},
    "progressToken": 1,
}
LOUD = {**META, f"{PREFIX}logLevel": "debug"}


class CrossingTests(RawCase):
    """All callers before all servers at once, each request with id 1 and progress token 1."""

    timeout = 180

    async def gateway(self) -> RunningGateway:
        """The gateway of the matrix, for some identities."""
        return await self.start_gateway(
            await matrix_servers(self), identities={name: {} for name in PRINCIPALS}
        )

    async def everybody(self, caller: Any) -> None:
        """Run ``caller(server, principal, words)`` for everybody, all at once."""
        await gatherResults(
            [
                Deferred.fromCoroutine(caller(column.key, who, f"{who} {number}"))
                for column in COLUMNS
                for who in PRINCIPALS
                for number in range(CALLERS)
            ],
            consumeErrors=True,
        )
        for exchange in self.exchanges:
            self.assert_own(exchange)

    def assert_own(self, exchange: Exchange) -> None:
        """What came back names nobody but who asked."""
        who = self.asked_by[exchange]
        others = "|".join(one for one in PRINCIPALS if one != who)
        found = re.findall(rf".{{0,60}}(?:{others}).{{0,60}}".encode(), exchange.received)
        self.assertEqual(found, [], f"reached {who}")

    def setUp(self) -> None:
        """Nobody has asked yet."""
        super().setUp()
        self.asked_by: dict[Exchange, str] = {}

    async def send(self, *what: Any, **how: Any) -> Exchange:
        """Send one request, and remember who did."""
        exchange = await super().send(*what, **how)
        self.asked_by[exchange] = how["who"]
        return exchange

    async def ask(
        self,
        gateway: RunningGateway,
        server: str,
        who: str,
        method: str,
        params: dict[str, Any],
        meta: Mapping[str, Any] = META,
    ) -> Exchange:
        """Send one stateless request."""
        return await self.send_stateless(gateway, server, who, method, params, meta)

    async def asked(
        self, gateway: RunningGateway, server: str, who: str, tool: str, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Call a tool; the result, after all its questions have been answered."""
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        while True:
            exchange = await self.ask(gateway, server, who, "tools/call", params)
            answer = (await exchange.over).messages[-1]
            self.assertEqual(answer["id"], 1, answer)
            self.assertIn("result", answer)
            result: dict[str, Any] = answer["result"]
            if result["resultType"] != "input_required":
                return result
            params["inputResponses"] = {
                key: {
                    "action": "accept",
                    "content": {"answer": f"{who} says {question['params']['message']}"},
                }
                for key, question in result.get("inputRequests", {}).items()
            }
            params["requestState"] = result.get("requestState")

    async def test_stateless(self) -> None:
        """Progress, answers and updates are their callers' own, also of calls that were parked."""
        gateway = await self.gateway()
        listens = await self.listens(gateway)

        async def caller(server: str, who: str, words: str) -> None:
            slow, answered, _ = await gatherResults(
                [
                    Deferred.fromCoroutine(self.asked(gateway, server, who, tool, arguments))
                    for tool, arguments in (
                        ("slow", {"seconds": 0.3, "steps": 2, "who": words}),
                        ("ask", {"question": words}),
                        ("touch", {"who": who}),
                    )
                ],
                consumeErrors=True,
            )
            self.assertEqual(slow["content"][0]["text"], f"{words} 2 steps")
            self.assertEqual(answered["content"][0]["text"], f"answered: {who} says {words}")

        await self.everybody(caller)
        ended = [one for one in self.exchanges if one not in listens]
        told = [message for one in ended for message in one.messages if "method" in message]
        self.assertTrue(all(one["params"]["progressToken"] == 1 for one in told), told)
        callers = len(PRINCIPALS) * CALLERS
        self.assertEqual(len({one["params"]["message"] for one in told}), callers * 2)
        # Also what came while the client of a call was being asked.
        self.assertEqual(len(told), callers * 2 * len(COLUMNS))
        for listen in listens:
            await self.until(partial(heard, listen, self.asked_by[listen]), 10, "an update")
            self.assert_own(listen)
            listen.leave()
        checks = [
            check(gateway, column.key)
            for column in COLUMNS
            for check in (self.check_foreign_state, self.check_log_messages)
        ]
        await gatherResults([Deferred.fromCoroutine(one) for one in checks], consumeErrors=True)

    async def listens(self, gateway: RunningGateway) -> list[Exchange]:
        """Everybody listens to their own counter at every server."""
        begun = []
        for column in COLUMNS:
            for who in PRINCIPALS:
                wanted = {"notifications": {"resourceSubscriptions": [counter(who)]}}
                method = "subscriptions/listen"
                begun.append(await self.ask(gateway, column.key, who, method, wanted))
        for listen in begun:
            await self.until(partial(begun_or_over, listen), 30, "a listen")
            self.assertIn(b"subscriptions/acknowledged", listen.received)
        return begun

    async def check_foreign_state(self, gateway: RunningGateway, server: str) -> None:
        """A parked call goes on for its own caller only, whoever else has got its state."""
        question = {"name": "ask", "arguments": {"question": "Who?"}}
        parked = await self.ask(gateway, server, "amber", "tools/call", question)
        result = (await parked.over).messages[-1]["result"]
        (key,) = result["inputRequests"]
        answers = {key: {"action": "accept", "content": {"answer": "stolen"}}}
        again = {**question, "inputResponses": answers, "requestState": result["requestState"]}
        stolen = await self.ask(gateway, server, "cobalt", "tools/call", again)
        error = (await stolen.over).error
        self.assertEqual(error["code"], -32602, error)
        answers[key]["content"] = {"answer": "own"}
        own = await self.ask(gateway, server, "amber", "tools/call", again)
        self.assertEqual((await own.over).text, "answered: own")

    async def check_log_messages(self, gateway: RunningGateway, server: str) -> None:
        """Log messages whose call cannot be told are nobody's: not the other call's, but not its
        own either.
        """
        log = {"name": "log", "arguments": {"text": "hey"}}
        for other, barrier in (("cobalt", ("anybody",)), ("amber", ("anybody", "itself"))):
            wait = {"name": "wait", "arguments": {"seconds": 1.5, "who": "nobody"}}
            waiting = await self.ask(gateway, server, other, "tools/call", wait, LOUD)
            await self.pause(0.5)
            logging = await self.ask(gateway, server, "amber", "tools/call", log, LOUD)
            lines = [one["params"] for one in (await logging.over).messages if "method" in one]
            alone = LOGS_ALONE.get(server) in barrier
            self.assertEqual(len(lines), 0 if alone else 3, f"{server} {other}: {lines}")
            self.assertEqual(len((await waiting.over).messages), 1, f"{server} {other}")

    async def test_sessions(self) -> None:
        """Progress and answers in sessions of their own are theirs, and those without any."""
        gateway = await self.gateway()

        async def caller(server: str, who: str, words: str) -> None:
            echo = {"name": "echo", "arguments": {"message": words}}
            bare = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": echo}
            alone = await self.send(gateway, server, bare, who=who)
            self.assertEqual((await alone.over).text, words)
            session = await self.shake_hands(gateway, server, who)
            slow = {"name": "slow", "arguments": {"seconds": 0.3, "steps": 2, "who": words}}
            message = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {**slow, "_meta": {"progressToken": 1}},
            }
            headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
            exchange = await self.send(gateway, server, message, headers, who=who)
            await exchange.over
            self.assertEqual(exchange.text, f"{words} 2 steps")
            told = [one["params"] for one in exchange.messages if "method" in one]
            self.assertEqual([one["message"] for one in told], [f"{words} 1", f"{words} 2"])
            self.assertEqual([one["progressToken"] for one in told], [1, 1])

        await self.everybody(caller)


def counter(who: str) -> str:
    """The resource of a principal."""
    return f"test://counter/{who}"


def begun_or_over(listen: Exchange) -> bool:
    """Whether a listen has begun, or never will."""
    return b"subscriptions/acknowledged" in listen.received or listen.over.called


def heard(listen: Exchange, who: str) -> bool:
    """Whether a listen has heard of a change."""
    lines = listen.received.splitlines()
    return any(b"resources/updated" in line and counter(who).encode() in line for line in lines)
