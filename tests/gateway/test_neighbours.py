"""A worker's place among others: homes of principals, and what it stood in for."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.gateway.neighbours import Neighbours, Seat
from mcpguard.limits.limiter import Grant
from mcpguard.policy.buckets import Rate
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.policy.principal import Allowance, Principal, Rights
from mcpguard.protocol.ownership import home_of, unmarked
from mcpguard.upstream.link import Eras, UpstreamFailure
from tests.front.wire import Listener
from tests.ops.workers.postal import SelectClock
from tests.pipeline.rig import MODERN, MemoryUpstream, Rig, api_key

KEY = b"k" * 32
WORKERS = 3
PEER = "203.0.113.9"
NAMES = ("alice", *(f"user{number}" for number in range(12)))


class Looked:
    """A limiter that gives one answer."""

    def __init__(self, answer: Grant | Deferred[Grant]) -> None:
        self.answer = answer

    def peek(self, key: str, rate: Rate) -> Grant | Deferred[Grant]:
        """Give it."""
        return self.answer

    def take(self, key: str, rate: Rate) -> Grant:
        """Not here."""
        raise AssertionError("nothing is charged for finding out whose a request is")


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
        certificate: PeerCertificate | None = None,
    ) -> int | None:
        """Where a worker sends a principal's request; None where it stays."""
        given = {"authorization": (f"Bearer mcp_{name}",)} if headers is None else dict(headers)
        given.setdefault("host", ("127.0.0.1:3000",))
        if version is not None:
            given["mcp-protocol-version"] = (version,)
        return worker[0].home_of(path, given, PEER, certificate, notes)


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

    def test_certificates_are_not_noted(self) -> None:
        """A head comes on many connections, a certificate on one: what follows from it is not
        kept with the head, nor taken from there.
        """
        worker = self.worker(1)
        name = next(one for one in NAMES if home_of(f"api_key:{one}", WORKERS) == 2)
        shown: list[object] = []

        def by_certificate(_: object, incoming: Incoming, now: float) -> Principal:
            shown.append(incoming.certificate)
            return Principal("vault", "mtls", "vault", Rights(), Allowance(), None)

        notes: dict[str, Any] = {}
        self.assertEqual(self.home(worker, name, notes=notes), 2)
        self.assertEqual(list(notes.values()), [2])
        chain: Any = worker[1].pipeline.callers.authenticator
        self.patch(type(chain), "authenticate", by_certificate)
        certificate: Any = object()
        home = home_of("mtls:vault", WORKERS)
        expected = None if home == 1 else home
        self.assertEqual(self.home(worker, name, notes=notes, certificate=certificate), expected)
        self.assertEqual((shown, list(notes.values())), ([certificate], [2]))
        # By the word of a proxy: the header is in the head, but not who sent it.
        fresh: dict[str, Any] = {}
        self.assertEqual(self.home(worker, name, notes=fresh), expected)
        self.assertEqual(fresh, {})

    def test_guesses_are_bounded(self) -> None:
        """Nobody's credentials are looked at here more often than failures are allowed."""
        name = next(one for one in NAMES if home_of(f"api_key:{one}", WORKERS) != 1)
        limits = RateLimitSettings(failed_auth_per_minute=3)
        worker = self.worker(1, limits=limits)
        self.assertIsNone(self.home(worker, name, headers={}), "no credentials are no guess")
        for _ in range(2):
            self.home(worker, "nobody")
        self.assertIsNotNone(self.home(worker, name))
        self.home(worker, "nobody")
        self.assertIsNone(self.home(worker, name))

    def test_barred_addresses(self) -> None:
        """An address whose failures are used up is refused where it comes to; where that is not
        known at once, it is found out with the request.
        """
        name = next(one for one in NAMES if home_of(f"api_key:{one}", WORKERS) != 1)
        worker = self.worker(1)
        callers = worker[1].pipeline.callers
        for looked, stays in (
            (Grant(False, 1, 0, 0.0, 1.0), True),
            (Grant(True, 1, 1, 0.0, 0.0), False),
            (Deferred(), False),
            (fail(Refused(Refusal(Reason.LIMITS_UNAVAILABLE))), False),
        ):
            callers.limiter = Looked(looked)
            self.assertEqual(self.home(worker, name) is None, stays, looked)

    def test_nothing_waits(self) -> None:
        """Who has to be asked for first is asked for with the request itself, and the asking counts
        as a guess.
        """
        worker = self.worker(1, limits=RateLimitSettings(failed_auth_per_minute=2))
        asked: list[Deferred[Principal]] = []

        def wait(_: object, incoming: Incoming, now: float) -> Deferred[Principal]:
            asked.append(Deferred())
            return asked[-1]

        chain: Any = worker[1].pipeline.callers.authenticator
        self.patch(type(chain), "authenticate", wait)
        for _ in range(5):
            self.assertIsNone(self.home(worker, "alice"))
        self.assertEqual([one.called for one in asked], [True, True])

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
