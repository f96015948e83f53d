"""Stateless calls that wait for their client's next round, behind the bridge."""

import json
from typing import Any

from tests.live.gateway_process import RunningGateway
from tests.live.raw_client import MODERN, Exchange, RawCase

META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
}


class ParkingCase(RawCase):
    """A stateless client of ``demo``, a server that shakes hands."""

    async def ask(
        self, gateway: RunningGateway, method: str, who: str = "tester", **params: Any
    ) -> Exchange:
        """A stateless request, sent."""
        return await self.send_stateless(gateway, "demo", who, method, params, META)

    async def question(self, gateway: RunningGateway, *, who: str = "tester", **params: Any) -> Any:
        """A call of the tool that asks the user, and its response."""
        given = {"name": "ask", "arguments": {"question": "Who?"}, **params}
        return (await (await self.ask(gateway, "tools/call", who, **given)).over).messages[-1]

    def answers(self, asked: Any, name: str) -> dict[str, Any]:
        """The params of a retry with the answer to the only question."""
        (key,) = asked["result"]["inputRequests"]
        answer = {"action": "accept", "content": {"answer": name}}
        return {
            "inputResponses": {key: answer},
            "requestState": asked["result"]["requestState"],
        }

    def events(self, exchange: Exchange) -> list[dict[str, Any]]:
        """The messages of an event stream so far."""
        lines = exchange.received.decode().splitlines()
        found = [line[5:].strip() for line in lines if line.startswith("data:")]
        return [json.loads(one) for one in found if one]

    async def assert_parked(self, gateway: RunningGateway) -> None:
        """What waits for ``tester``'s answer is nothing to ``other``, and is answered once."""
        mine, theirs = [await self.question(gateway, who=who) for who in ("tester", "other")]
        stolen = await self.question(gateway, who="other", **self.answers(mine, "Eve"))
        self.assertEqual(stolen["error"]["code"], -32602)
        for who, asked, name in (("tester", mine, "Ada"), ("other", theirs, "Bob")):
            done = await self.question(gateway, who=who, **self.answers(asked, name))
            self.assertEqual(
                done["result"]["content"][0]["text"], f"The user answered: {name}", done
            )
            self.assertEqual(done["result"]["resultType"], "complete")
        twice = await self.question(gateway, **self.answers(mine, "Ada"))
        self.assertEqual(twice["error"]["code"], -32602)
