"""A worker's place among others: homes of principals, and what it stood in for."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.gateway.neighbours import Neighbours, Seat
from mcpguard.protocol.ownership import home_of, unmarked
from mcpguard.upstream.link import Eras, UpstreamFailure
from tests.front.wire import Listener
from tests.ops.workers.postal import SelectClock
from tests.pipeline.rig import MODERN, MemoryUpstream, Rig, api_key

KEY = b"k" * 32
WORKERS = 3
NAMES = ("alice", *(f"user{number}" for number in range(12)))


class NeighbourCase(SynchronousTestCase):
    """Workers in one directory."""

    def setUp(self) -> None:
        """Make it."""
        self.directory = Path(tempfile.mkdtemp(prefix="mcp-guard-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def worker(
        self, number: int, upstream: MemoryUpstream | None = None, **more: Any
    ) -> tuple[Neighbours, Rig]:
        """One of them, before a server of sessions unless told otherwise."""
        upstream = upstream or MemoryUpstream(
            resumable=True, session_id="s1", reply=lambda _: {"result": {"tools": []}}
        )
        rig = Rig(
            upstream=upstream,
            keys=tuple(api_key(name) for name in NAMES),
            session_key=KEY,
            owner=number,
            bridge="translate",
            **more,
        )
        rig.clock.advance(1_790_000_000)
        neighbours = Neighbours(
            SelectClock(),
            Seat(number, WORKERS, self.directory),
            Listener().site,
            rig.pipeline,
            rig.clock.seconds,
            rig.meter,
        )
        neighbours.start()
        self.addCleanup(neighbours.stop)
        return neighbours, rig

    def home(
        self,
        worker: tuple[Neighbours, Rig],
        name: str,
        *,
        path: str = "/mcp",
        version: str | None = MODERN,
        notes: dict[str, Any] | None = None,
        headers: Mapping[str, tuple[str, ...]] | None = None,
    ) -> int | None:
        """Where a worker sends a principal's request; None where it stays."""
        given = {"authorization": (f"Bearer mcp_{name}",)} if headers is None else dict(headers)
        given.setdefault("host", ("127.0.0.1:3000",))
        if version is not None:
            given["mcp-protocol-version"] = (version,)
        return worker[0].home_of(path, given, "203.0.113.9", notes)


class HomeTests(NeighbourCase):
    """Where stateless requests go that share a session."""

    def test_one_place(self) -> None:
        """All workers agree on it; there they stay. Principals are spread."""
        workers = {number: self.worker(number) for number in range(1, WORKERS + 1)}
        found = set()
        for name in NAMES:
            home = home_of(f"api_key:{name}", WORKERS)
            found.add(home)
            for number, worker in workers.items():
                self.assertEqual(self.home(worker, name), None if number == home else home)
        self.assertEqual(found, set(workers))

    def test_only_those(self) -> None:
        """Sessions, bare requests, unknown paths and unknown callers go nowhere."""
        name = next(one for one in NAMES if home_of(f"api_key:{one}", WORKERS) != 1)
        worker = self.worker(1)
        self.assertIsNotNone(self.home(worker, name))
        self.assertIsNone(self.home(worker, name, version="2025-11-25"))
        self.assertIsNone(self.home(worker, name, version=None))
        self.assertIsNone(self.home(worker, name, path="/mcp/other"))
        self.assertIsNone(self.home(worker, "nobody"))
        self.assertIsNone(self.home(worker, name, headers={}))
        self.assertEqual(worker[1].trail.events, [], "it counts where it is refused")

    def test_servers_that_remember_nothing(self) -> None:
        """Requests to a server of the stateless era stay where they are, once that is known."""
        name = next(one for one in NAMES if home_of(f"api_key:{one}", WORKERS) != 1)
        eras = Eras(legacy=False, modern=(MODERN,), discovered={"supportedVersions": [MODERN]})
        down = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "down")
        upstream = MemoryUpstream(known_eras=eras, failure=down)
        worker = self.worker(1, upstream)
        self.assertIsNotNone(self.home(worker, name), "nobody knows yet")
        upstream.failure = None
        self.assertIsNone(self.home(worker, name))
        served = worker[1].served
        assert served is not None
        served.one_each = True
        self.assertIsNotNone(self.home(worker, name))
        self.assertIsNone(self.home(worker, name, version=None))

    def test_one_child_each(self) -> None:
        """With one child for each principal its handshakes and streams have one home as well."""
        name = next(one for one in NAMES if home_of(f"api_key:{one}", WORKERS) != 1)
        worker = self.worker(1)
        assert worker[1].served is not None
        worker[1].served.one_for_sessions = True
        for path in ("/mcp", "/sse", "/mcp/sse"):
            for version in (None, "2025-11-25"):
                self.assertIsNotNone(self.home(worker, name, path=path, version=version), path)
        self.assertIsNone(self.home(worker, name, path="/health", version=None))

    def test_refused_where_it_is(self) -> None:
        """What the first steps refuse stays, before anybody asks whose it is; so do faults."""
        name = next(one for one in NAMES if home_of(f"api_key:{one}", WORKERS) != 1)
        worker = self.worker(1)
        chain: Any = worker[1].pipeline.callers.authenticator
        asked: list[object] = []

        def fail(_: object, incoming: object, now: float) -> None:
            asked.append(incoming)
            raise RuntimeError("as planned")

        self.assertIsNotNone(self.home(worker, name))
        self.patch(type(chain), "authenticate", fail)
        token = {"authorization": (f"Bearer mcp_{name}",)}
        for more in ({"host": ("evil",)}, {"origin": ("http://evil",)}):
            self.assertIsNone(self.home(worker, name, headers={**token, **more}))
        self.assertEqual(asked, [])
        self.assertIsNone(self.home(worker, name))
        self.assertEqual((len(asked), len(self.flushLoggedErrors(RuntimeError))), (1, 1))

    def test_noted(self) -> None:
        """For a head that is remembered nobody is asked again."""
        name = next(one for one in NAMES if home_of(f"api_key:{one}", WORKERS) != 1)
        worker = self.worker(1)
        notes: dict[str, Any] = {}
        home = self.home(worker, name, notes=notes)
        self.assertIsNotNone(home)
        self.assertEqual(self.home(worker, "nobody", notes=notes), home)
        self.assertIsNone(self.home(self.worker(2), "nobody", notes={}))

    def test_stopped(self) -> None:
        """Who passes nothing on serves everybody."""
        worker = self.worker(1)
        worker[0].retire()
        self.assertIn(2, [self.home(worker, name) for name in NAMES])
        worker[0].stop()
        self.assertEqual({self.home(worker, name) for name in NAMES}, {None})


class StandInTests(NeighbourCase):
    """Sessions of a worker that is gone for a while."""

    def test_left_when_it_is_back(self) -> None:
        """What was taken up in its place is left to it; other sessions stay."""
        sessions = {number: self.worker(number)[1].handshake() for number in (2, 3)}
        self.assertEqual([unmarked(one)[0] for one in sessions.values()], ["2", "3"])
        neighbours, rig = self.worker(1)
        own = rig.handshake()
        for session in (own, *sessions.values()):
            rig.call("tools/list", headers={"Mcp-Session-Id": session})
        self.assertEqual(len(rig.pipeline.table), 3)
        self.worker(2)
        neighbours.reactor.turn()
        self.assertEqual(len(rig.pipeline.table), 2)
        self.assertEqual([link.left for link in rig.upstream.links], [0, 1, 0])

    def test_tokens(self) -> None:
        """What nobody can guess has the number in front."""
        tokens = {Seat(2, 3, self.directory).new_token() for _ in range(10)}
        self.assertEqual(len(tokens), 10)
        self.assertEqual({unmarked(token)[0] for token in tokens}, {"2"})
