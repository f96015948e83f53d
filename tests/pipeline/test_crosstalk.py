"""Many callers with the same ids on one child: from the HTTP request to the pipe and back."""

import json
from collections.abc import Iterable
from random import Random
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import UpstreamSettings
from mcpguard.upstream.stdio import StdioUpstream
from tests.pipeline.rig import META, MemoryMeter, MemoryOutlet, MemoryTrail, Rig, api_key
from tests.process_doubles import ProcessDouble, ProcessReactor
from tests.upstream.stdio_rig import ScriptedServer

CALLERS = 200
PRINCIPALS = [f"user{number}" for number in range(8)]
SESSIONS = 40


class HoldingServer(ScriptedServer):
    """A server that answers the handshake at once, and calls when the test says so."""

    def __call__(self, message: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Keep calls; answer the rest."""
        if message.get("method") == "tools/list":
            return [{"jsonrpc": "2.0", "id": message["id"], "result": {"tools": []}}]
        return super().__call__(message)


@define(eq=False)
class Caller:
    """One of them: what it asked as, and what it got."""

    number: int
    outlet: MemoryOutlet
    streams: bool
    """Whether it takes progress."""
    leaves: bool


@define(eq=False)
class Crowd:
    """A gateway before one shared child, and everybody who calls on it."""

    modern: bool
    reactor: ProcessReactor = field(factory=ProcessReactor)
    rig: Rig = field(init=False)
    callers: list[Caller] = field(factory=list)
    _sessions: list[tuple[str, str]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.reactor.server_for = lambda number: HoldingServer(
            legacy=not self.modern, modern=self.modern, hold={"tools/call"}
        )
        trail, meter = MemoryTrail(), MemoryMeter()
        upstream = StdioUpstream(
            UpstreamSettings(
                name="default",
                command="true",
                era="modern" if self.modern else "legacy",
                isolation="shared",
                max_concurrency=CALLERS,
            ),
            reactor=self.reactor,
            meter=meter,
            recorder=trail,
            random=lambda: 0.0,
            environ={"PATH": "/usr/bin:/bin"},
            signal_group=self.reactor.signal_group,
        )
        self.rig = Rig(
            keys=tuple(api_key(name) for name in PRINCIPALS),
            upstream=upstream,  # type: ignore[arg-type]
            clock=self.reactor,
            trail=trail,
            meter=meter,
        )

    def turn(self) -> None:
        """Let the child answer what it answers at once."""
        for _ in range(8):
            self.reactor.advance(0)

    def gather(self, random: Random) -> None:
        """Let everybody call, each with id 1 and progress token 1."""
        if not self.modern:
            for number in range(SESSIONS):
                self._open(PRINCIPALS[number % len(PRINCIPALS)])
        for number in range(CALLERS):
            params = {
                "name": "echo",
                "arguments": {"who": number},
                "_meta": {"progressToken": 1},
            }
            streams = random.random() < 0.7
            accept = "application/json, text/event-stream" if streams else "*/*"
            if random.random() < 0.3:
                who = random.choice(PRINCIPALS)
                outlet = self.rig.call("tools/call", params, 1, who=who, accept=accept)
            elif self.modern:
                streams, who = True, random.choice(PRINCIPALS)
                params["_meta"] = {**META, "progressToken": 1}
                outlet = self.rig.modern("tools/call", params, 1, who=who)
            else:
                streams, (session, who) = True, random.choice(self._sessions)
                headers = {"Mcp-Session-Id": session}
                outlet = self.rig.call("tools/call", params, 1, who=who, headers=headers)
            self.callers.append(Caller(number, outlet, streams, random.random() < 0.1))
        self.turn()

    def _open(self, who: str) -> None:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        outlet = self.rig.call("initialize", params, who=who)
        self.turn()
        self._sessions.append((outlet.headers["mcp-session-id"], who))

    @property
    def child(self) -> ProcessDouble:
        """The one child that serves them all."""
        (child,) = (one for one in self.reactor.children if not one.exited)
        return child

    def answers(self, random: Random) -> list[dict[str, Any]]:
        """What the child says to all the calls: progress, answers, some twice, some of nobody."""
        said: list[dict[str, Any]] = []
        for call in self.child.messages:
            if call.get("method") != "tools/call":
                continue
            who = call["params"]["arguments"]["who"]
            token = call["params"]["_meta"]["progressToken"]
            said += [
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": who, "total": step},
                }
                for step in range(random.randrange(3))
            ]
            answer = {"jsonrpc": "2.0", "id": call["id"], "result": {"who": who}}
            said += [answer] * random.choice((1, 1, 1, 2))
            stranger = random.choice((str(call["id"]), call["id"] + 100_000, -call["id"], None))
            said.append({"jsonrpc": "2.0", "id": stranger, "result": {"who": "nobody"}})
        random.shuffle(said)
        return said


class CrosstalkTests(SynchronousTestCase):
    """Two hundred callers, one child, answers delayed and shuffled."""

    @settings(deadline=None, max_examples=8)
    @given(modern=st.booleans(), seed=st.integers(0, 2**32))
    def test_nobody_hears_another(self, modern: bool, seed: int) -> None:
        """Each caller gets its own progress and its own one answer, under its own id and token."""
        random = Random(seed)
        crowd = Crowd(modern)
        crowd.gather(random)
        before = len(crowd.rig.trail.outcomes)
        said = crowd.answers(random)
        for place, message in enumerate(said):
            if place == len(said) // 4:
                for caller in crowd.callers:
                    if caller.leaves:
                        caller.outlet.leave()
            crowd.child.says(message)
            if random.random() < 0.1:
                crowd.reactor.advance(0.01)
        crowd.reactor.advance(1)
        for caller in crowd.callers:
            self.judge(caller)
        # Sessions have outcomes too: those of their handshakes.
        self.assertEqual(before, SESSIONS * (not modern))
        self.assertEqual(len(crowd.rig.trail.outcomes), before + CALLERS)

    def judge(self, caller: Caller) -> None:
        """What one caller received."""
        outlet = caller.outlet
        if outlet.left:
            self.assertNotIn(b"nobody", outlet.body)
            return
        self.assertTrue(outlet.finished, caller.number)
        self.assertEqual(outlet.status, 200)
        messages = outlet.events if outlet.streamed else [json.loads(outlet.body)]
        *progress, answer = messages
        # The server of the stateless era leaves it out, which means complete.
        answer["result"].pop("resultType", None)
        self.assertEqual(answer, {"jsonrpc": "2.0", "id": 1, "result": {"who": caller.number}})
        self.assertIs(type(answer["id"]), int)
        if not caller.streams:
            self.assertFalse(outlet.streamed)
        for note in progress:
            told = note["params"]
            self.assertEqual((told["progressToken"], told["progress"]), (1, caller.number))
