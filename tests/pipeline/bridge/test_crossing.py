"""Nothing of one principal reaches another, whichever eras its client and the server speak."""

import json
from random import Random
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.pipeline.bridge.talker import OWNER, Talker
from tests.pipeline.rig import META, MemoryOutlet, Rig, api_key

PEOPLE = ("alice", "bob", "carol")
STEPS = 120
ELICITATION: dict[str, Any] = {"elicitation": {"form": {}}}
MODERN_META = {**META, "io.modelcontextprotocol/clientCapabilities": ELICITATION}


@define(eq=False)
class Person:
    """One principal with clients of either era, and everything they received."""

    name: str
    rig: Rig
    random: Random
    outlets: list[MemoryOutlet] = field(factory=list)
    sessions: list[str] = field(factory=list)
    parked: list[tuple[Any, Any]] = field(factory=list)
    """(arguments, result) of calls that wait for input."""
    modern_calls: list[tuple[MemoryOutlet, Any]] = field(factory=list)
    """Those whose end was not looked at yet."""
    read: dict[int, int] = field(factory=dict)
    """How many events of an outlet were looked at, by its place."""
    retries: int = 0
    answers: int = 0
    listens: list[MemoryOutlet] = field(factory=list)
    _next: int = 0

    def words(self) -> str:
        """Words that nobody else says."""
        self._next += 1
        return f"@{self.name}@{self._next}"

    def keep(self, outlet: MemoryOutlet) -> MemoryOutlet:
        """Remember what came."""
        self.outlets.append(outlet)
        return outlet

    def act(self, others: list["Person"]) -> None:
        """Do something a client might do."""
        doing = (
            *(self.shake_hands, self.call, self.call, self.call, self.call_modern),
            *(self.call_modern, self.call_modern, self.call_bare, self.answer, self.answer),
            *(self.retry, self.retry, self.retry, self.subscribe, self.listen, self.open_stream),
            *(self.leave, lambda: self.steal(others)),
        )
        self.random.choice(doing)()

    # -- as a client that shakes hands -----------------------------------------------------

    def shake_hands(self) -> None:
        """Open a session."""
        if len(self.sessions) < 3:
            session = self.rig.handshake(self.name, ELICITATION)
            self.sessions.append(session)
            self.in_session({"method": "notifications/initialized"}, session)

    def in_session(self, body: dict[str, Any], session: str) -> MemoryOutlet:
        """Post something in a session."""
        headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
        message = {"jsonrpc": "2.0", **body}
        return self.keep(self.rig.send(message, who=self.name, headers=headers))

    def call(self) -> None:
        """Call in a session; everybody uses the same ids and tokens."""
        if self.sessions:
            params = {**self.arguments(), "_meta": {"progressToken": 1}}
            body = {"id": 1, "method": "tools/call", "params": params}
            self.in_session(body, self.random.choice(self.sessions))

    def arguments(self) -> dict[str, Any]:
        """The params of a call."""
        return {"name": "hold", "arguments": {"text": self.words()}}

    def answer(self) -> None:
        """Answer everything that was asked on any stream, in every session of ours."""
        for place, outlet in enumerate(self.outlets):
            if not outlet.streamed:
                continue
            events = outlet.events
            for event in events[self.read.get(place, 0) :]:
                if event.get("method") == "elicitation/create":
                    self.answers += 1
                    for session in self.sessions:
                        self.in_session({"id": event["id"], "result": self.reply()}, session)
            self.read[place] = len(events)

    def reply(self) -> dict[str, Any]:
        """What a person enters."""
        return {"action": "accept", "content": {"a": self.words()}}

    def subscribe(self) -> None:
        """Subscribe to something nobody else subscribes to."""
        if self.sessions:
            params = {"uri": f"own://@{self.name}@/{self.random.randrange(2)}"}
            method = self.random.choice(("resources/subscribe", "resources/unsubscribe"))
            body = {"id": 2, "method": method, "params": params}
            self.in_session(body, self.random.choice(self.sessions))

    def open_stream(self) -> None:
        """GET the stream of a session."""
        if self.sessions:
            headers = {"Mcp-Session-Id": self.random.choice(self.sessions)}
            self.keep(self.rig.send(b"", method="GET", who=self.name, headers=headers))

    # -- as a stateless client -------------------------------------------------------------

    def call_modern(self) -> None:
        """Call without a session."""
        self.send_modern(self.arguments(), {})

    def send_modern(self, arguments: dict[str, Any], more: dict[str, Any]) -> MemoryOutlet:
        """Send a call, or its continuation."""
        meta = {**MODERN_META, "progressToken": 1}
        params = {**arguments, **more, "_meta": meta}
        outlet = self.keep(self.rig.modern("tools/call", params, who=self.name))
        self.modern_calls.append((outlet, arguments))
        return outlet

    def look(self) -> None:
        """Note the calls that wait for input."""
        calls, self.modern_calls = self.modern_calls, []
        for outlet, arguments in calls:
            if not outlet.finished:
                self.modern_calls.append((outlet, arguments))
                continue
            messages = outlet.events if outlet.streamed else [outlet.json]
            result = messages[-1].get("result", {}) if messages else {}
            if result.get("resultType") == "input_required":
                self.parked.append((arguments, result))

    def retry(self) -> None:
        """Go on with a call of ours."""
        self.look()
        if not self.parked:
            return
        arguments, result = self.parked.pop(self.random.randrange(len(self.parked)))
        responses = {key: self.reply() for key in result.get("inputRequests", {})}
        more = {"inputResponses": responses, "requestState": result["requestState"]}
        self.retries += 1
        self.send_modern(arguments, more)

    def listen(self) -> None:
        """Hear of our own resources."""
        wanted = {"toolsListChanged": True, "resourceSubscriptions": [f"own://@{self.name}@/0"]}
        params = {"_meta": dict(MODERN_META), "notifications": wanted}
        outlet = self.rig.modern("subscriptions/listen", params, who=self.name)
        self.listens.append(self.keep(outlet))

    # -- as anybody ------------------------------------------------------------------------

    def call_bare(self) -> None:
        """Call with a key and nothing else."""
        self.keep(self.rig.call("tools/call", self.arguments(), who=self.name))

    def leave(self) -> None:
        """Close a connection."""
        if self.outlets:
            self.random.choice(self.outlets).leave()

    def steal(self, others: list["Person"]) -> None:
        """Use what belongs to another: sessions, states, questions."""
        other = self.random.choice(others)
        other.look()
        if other.sessions:
            headers = {"Mcp-Session-Id": self.random.choice(other.sessions)}
            for method in ("GET", "DELETE"):
                outlet = self.rig.send(b"", method=method, who=self.name, headers=headers)
                assert self.keep(outlet).status == 404, outlet.body
            outlet = self.in_session(
                {"id": 1, "method": "tools/call", "params": self.arguments()},
                headers["Mcp-Session-Id"],
            )
            assert outlet.status == 404, outlet.body
        if other.parked:
            arguments, result = self.random.choice(other.parked)
            responses = {key: self.reply() for key in result.get("inputRequests", {})}
            more = {"inputResponses": responses, "requestState": result["requestState"]}
            outlet = self.send_modern(arguments, more)
            assert outlet.status == 400, (outlet.status, outlet.body)
            assert outlet.json["error"]["code"] == -32602, outlet.body
        for number in range(1, 4):
            for session in self.sessions:
                self.in_session({"id": f"mg-{number}", "result": self.reply()}, session)


class CrossingTest(SynchronousTestCase):
    """Three principals with clients of both eras before a server of one."""

    @settings(deadline=None, max_examples=25)
    @given(era=st.sampled_from(["legacy", "modern"]), relates=st.booleans(), seed=st.integers(0))
    def test_nothing_crosses(self, era: Any, relates: bool, seed: int) -> None:
        """Whatever happens, nobody receives another's words, and no call is given another's."""
        random = Random(seed)
        server = Talker(era, relates, random)
        rig = Rig(
            keys=tuple(api_key(name) for name in PEOPLE),
            upstream=server,  # type: ignore[arg-type]
            bridge="translate",
        )
        people = [Person(name, rig, random) for name in PEOPLE]
        for _ in range(STEPS):
            person = random.choice(people)
            person.act([one for one in people if one is not person])
            server.stir()
            rig.clock.advance(random.choice((0, 0, 0, 0.5, 5)))
        rig.clock.advance(2_000)
        for person in people:
            for outlet in person.outlets:
                heard = set(OWNER.findall(outlet.body.decode()))
                self.assertLessEqual(heard, {person.name}, outlet.body)
        for call in server.calls:
            self.assertEqual(len(call.owners), 1, call.said)

    def test_the_crowd_does_what_it_is_here_for(self) -> None:
        """Calls are parked and continued, questions answered, and updates heard, in either era."""
        for era in ("legacy", "modern"):
            random = Random(1)
            server = Talker(era, True, random)
            rig = Rig(
                keys=tuple(api_key(name) for name in PEOPLE),
                upstream=server,  # type: ignore[arg-type]
                bridge="translate",
            )
            people = [Person(name, rig, random) for name in PEOPLE]
            for _ in range(6 * STEPS):
                person = random.choice(people)
                person.act([one for one in people if one is not person])
                server.stir()
                rig.clock.advance(0.1)
            everything = b"".join(one.body for person in people for one in person.outlets)
            for wanted in (b"elicitation/create", b"resources/updated", b"tools/list_changed"):
                self.assertIn(wanted, everything, era)
            self.assertTrue(any(json.dumps(call.said).count("@") > 4 for call in server.calls))
            for person in people:
                self.assertGreater(person.retries, 5, era)
                self.assertGreater(person.answers, 5, era)
