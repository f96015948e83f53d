"""The listeners for clients, on a reactor in memory."""

import socket
import time
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import (
    AdminSettings,
    ListenerSettings,
    ServerSettings,
    Settings,
    TlsSettings,
)
from mcpguard.errors import ConfigurationError
from mcpguard.gateway import client_listeners
from mcpguard.gateway.client_listeners import ROTATIONS, ClientListeners, key_of, url_of
from mcpguard.gateway.listeners import Sockets
from mcpguard.gateway.outward_tls import EXPIRY
from mcpguard.gateway.parent import without_restart
from mcpguard.observe.metrics import Metrics
from mcpguard.ops.workers.process import LISTENING_FD, listening_descriptors
from mcpguard.policy.certificates import (
    PeerCertificate,
    Verified,
    Withdrawn,
    anchor_of,
    peer_certificate,
)
from mcpguard.tls.handshake import GuardTlsFactory
from tests.front.wire import Listener
from tests.pipeline.rig import MemoryTrail, Rig
from tests.pki import Authority


class Turn:
    """Whose turn it is, as far as anybody here asks."""

    def __init__(self, port: Any, connections: Any) -> None:
        self.port, self.connections, self.state = port, connections, ""

    def begin(self) -> None:
        """Note it."""
        self.state = "begun"

    def end(self) -> None:
        """Note it."""
        self.state = "ended"


class AdoptingReactor(MemoryReactorClock):
    """Takes sockets that are open already."""

    def __init__(self) -> None:
        super().__init__()
        self.adopted: list[tuple[int, Any]] = []

    def adoptStreamPort(self, fileno: int, family: int, factory: Any) -> Any:
        """Note which."""
        with socket.socket(fileno=socket.dup(fileno)) as one:
            port = one.getsockname()[1]
        self.adopted.append((port, factory))
        return self.listenTCP(port, factory)


class ListenersTests(SynchronousTestCase):
    """`ClientListeners`."""

    def setUp(self) -> None:
        """Certificates of two listeners, and a site."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.servers, self.clients = Authority("Servers"), Authority("Clients")
        ca, crl = self.directory / "ca.crt", self.directory / "ca.crl"
        ca.write_bytes(self.clients.pem)
        crl.write_bytes(self.clients.crl())
        self.strict = TlsSettings(
            *self.servers.server().write(self.directory, "strict"),
            client_ca_path=ca,
            client_crl_path=crl,
        )
        self.open = TlsSettings(*self.servers.server(days=3.0).write(self.directory, "open"))
        self.server = ServerSettings(
            tls=self.strict,
            listeners=(
                ListenerSettings(3001),
                ListenerSettings(3002, "::1", "https://mcp.example.com", self.open),
            ),
        )
        self.reactor = AdoptingReactor()
        self.trail = MemoryTrail()
        self.metrics = Metrics(
            active_identities=tuple, sessions=lambda: 0, connections=lambda: 0, children=dict
        )
        self.site = Listener().site
        self.late = 0.0

    def made(self, server: ServerSettings | None = None, **more: Any) -> ClientListeners:
        """The listeners, not open yet."""
        listeners = ClientListeners(
            server or self.server,
            self.reactor,
            lambda: time.time() + self.late,
            self.metrics,
            self.trail,
            **{"strict": True, "warns": True, **more},
        )
        self.addCleanup(listeners.stop)
        return listeners

    def opened(self) -> ClientListeners:
        """Open, and watched."""
        listeners = self.made()
        listeners.open(self.site, Rig().pipeline.callers, None)
        listeners.start()
        return listeners

    def pass_time(self) -> None:
        """Let files be looked at."""
        self.reactor.pump([2.0, 2.0])

    def test_one_site(self) -> None:
        """Every listener serves the same, each by its own policy."""
        listeners = self.opened()
        bound = [(server[3], server[0]) for server in self.reactor.tcpServers]
        self.assertEqual(bound, [("127.0.0.1", 3000), ("127.0.0.1", 3001), ("::1", 3002)])
        factories: list[Any] = [server[1] for server in self.reactor.tcpServers]
        first, second, third = factories
        self.assertIs(second, self.site)
        for factory, asks in ((first, True), (third, False)):
            self.assertIsInstance(factory, GuardTlsFactory)
            self.assertIs(factory.wrappedFactory, self.site)
            self.assertEqual(factory.keeping.handshake_secs, self.site.limits.head_secs)
            self.assertEqual(factory.keeping.handshake_bytes, self.site.limits.header_bytes)
            self.assertEqual(factory.keeping.listener, [first, second, third].index(factory))
            handshakes = factory.keeping.on_ended.__self__
            self.assertEqual(handshakes.asks, asks)
        self.assertEqual(first.keeping.on_ended.__self__.listener, "127.0.0.1:3000")
        self.assertTrue(listeners.listening)
        self.successResultOf(listeners.close())
        self.assertFalse(listeners.listening)

    def test_known_to_clients(self) -> None:
        """Each by its own URL; what was listened on is known after its end, too."""
        listeners = self.opened()
        self.assertEqual([one.url for one in listeners.public][2], "https://mcp.example.com")
        self.assertEqual([one.asks_certificates for one in listeners.public], [True, False, False])
        for port, url in (
            (3000, "https://127.0.0.1:3000"),
            (3002, "https://mcp.example.com"),
            (9, None),
        ):
            self.assertEqual(listeners.public_url(port), url)
        listeners.close()
        self.assertEqual(len(listeners.public), 3)

    def test_urls(self) -> None:
        """Https where there is TLS, and addresses as URLs have them."""
        for one, url in (
            (ListenerSettings(1), "http://127.0.0.1:7"),
            (ListenerSettings(1, "::1", tls=self.open), "https://[::1]:7"),
        ):
            self.assertEqual(url_of(one, 7), url)
        self.assertEqual([key_of(0), key_of(2)], ["server", "server.listeners[1]"])

    def test_bad_files(self) -> None:
        """What cannot be used is said with its key, before anything is opened."""
        self.open.key_path.write_bytes(b"nothing")
        error = self.assertRaises(ConfigurationError, self.made)
        self.assertIn("server.listeners[1].tls.key_path: ", error.problems[0])

    def test_worker_that_comes_back(self) -> None:
        """A certificate that has ended meanwhile does not keep a worker from starting."""
        self.late = 20 * 86_400.0
        self.assertRaises(ConfigurationError, self.made)
        self.made(strict=False)

    def test_workers(self) -> None:
        """A worker takes its sockets in the order of the settings, a turn for each."""
        turns: list[Turn] = []

        def turn(port: Any, connections: Any) -> Any:
            turns.append(Turn(port, connections))
            return turns[-1]

        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [one.getsockname()[1] for one in sockets]
        listeners = self.made()
        descriptors = tuple(one.detach() for one in sockets)
        listeners.open(self.site, Rig().pipeline.callers, Sockets(descriptors, None, turn))
        self.assertEqual([port for port, _ in self.reactor.adopted], ports)
        self.assertIs(self.reactor.adopted[1][1], self.site)
        self.assertEqual([one.state for one in turns], ["begun"] * 3)
        self.assertEqual([one.connections() for one in turns], [0] * 3)
        listeners.leave_turns()
        self.assertEqual([one.state for one in turns], ["ended"] * 3)

    def test_descriptors(self) -> None:
        """Where a worker finds them: those for clients, then the operator's."""
        first = LISTENING_FD
        settings = Settings(server=self.server)
        self.assertEqual(listening_descriptors(settings), ((first, first + 1, first + 2), None))
        self.assertEqual(listening_descriptors(Settings()), ((first,), None))
        with_admin = evolve(settings, admin=AdminSettings())
        self.assertEqual(listening_descriptors(with_admin)[1], first + 3)

    def test_rotation(self) -> None:
        """New files are told of, with what is new; bad ones with every reason."""
        self.opened()
        new = self.servers.server()
        new.write(self.directory, "open")
        self.strict.cert_path.write_bytes(b"nothing")
        self.pass_time()
        events = {event.details["listener"]: event for event in self.trail.events}
        good, bad = events["[::1]:3002"], events["127.0.0.1:3000"]
        self.assertEqual((good.event_type, good.status), ("CertificateEvent", "loaded"))
        self.assertEqual(good.details["changed"], ["server"])
        self.assertEqual((bad.event_type, bad.status), ("CertificateEvent", "rejected"))
        self.assertIn("server.tls.cert_path: ", bad.details["problems"][0])
        counted = self.metrics.numbers().counters[ROTATIONS]
        self.assertEqual(counted, {("loaded",): 1, ("rejected",): 1})
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_revocation(self) -> None:
        """A new list cuts the connections of whom it names, and is asked about every request."""
        listeners = self.opened()
        alice = peer_certificate(self.clients.issue("alice").certificate)
        cut: list[Withdrawn | None] = []

        def note() -> int:
            cut.append(self.site.withdrawn(alice))
            return 3

        self.patch(self.site, "cut_withdrawn", note)
        self.assertIsNone(listeners.withdrawn(alice))
        issued = self.clients.issue("bob")
        assert self.strict.client_crl_path is not None
        self.strict.client_crl_path.write_bytes(self.clients.crl(issued))
        self.pass_time()
        self.assertEqual(cut, [None])
        bob = peer_certificate(issued.certificate)
        self.assertIs(self.site.withdrawn(bob), Withdrawn.REVOKED)
        self.assertIs(listeners.withdrawn(bob), Withdrawn.REVOKED)
        (event,) = self.trail.events
        self.assertEqual(
            dict(event.details),
            {"listener": "127.0.0.1:3000", "changed": ["client_crl"], "connections_cut": 3},
        )

    def verified(self, authority: Authority, listener: int) -> PeerCertificate:
        """A client's certificate that a listener has verified by a CA."""
        verified = Verified(listener, anchor_of(authority.certificate), ())
        return peer_certificate(
            authority.issue("alice").certificate, [authority.certificate], verified
        )

    def test_authority_that_is_taken_out(self) -> None:
        """Certificates by it count no more where that was: each listener's trust is its own."""
        others = Authority("Others")
        directory = self.directory / "others"
        directory.mkdir()
        ca = directory / "ca.crt"
        ca.write_bytes(others.pem + self.clients.pem)
        second = TlsSettings(*self.servers.server().write(directory, "server"), client_ca_path=ca)
        self.server = evolve(self.server, listeners=(ListenerSettings(3001, tls=second),))
        listeners = self.opened()
        first_of_ours, second_of_ours, second_of_others = (
            self.verified(self.clients, 0),
            self.verified(self.clients, 1),
            self.verified(others, 1),
        )
        # As a proxy tells of it.
        passed_on = peer_certificate(others.issue("alice").certificate)
        good = first_of_ours, second_of_ours, second_of_others, passed_on
        self.assertEqual([listeners.withdrawn(one) for one in good], [None] * 4)
        found: list[list[Withdrawn | None]] = []

        def note() -> int:
            found.append([self.site.withdrawn(one) for one in good])
            return 1

        self.patch(self.site, "cut_withdrawn", note)
        untrusted = Withdrawn.UNTRUSTED
        ca.write_bytes(others.pem)
        self.pass_time()
        self.assertEqual(found.pop(), [None, untrusted, None, None])
        self.assertEqual(
            dict(self.trail.events[0].details),
            {"listener": "127.0.0.1:3001", "changed": ["client_ca"], "connections_cut": 1},
        )
        # What another listener trusts is of no account, in whichever order they come.
        assert self.strict.client_ca_path is not None
        assert self.strict.client_crl_path is not None
        self.strict.client_ca_path.write_bytes(others.pem)
        self.strict.client_crl_path.write_bytes(others.crl())
        ca.write_bytes(self.clients.pem)
        self.pass_time()
        self.assertEqual(found.pop(), [untrusted, None, untrusted, None])
        # A list says no more than it said.
        self.strict.client_crl_path.write_bytes(others.crl(others.issue("somebody")))
        self.pass_time()
        self.assertEqual(found.pop(), [untrusted, None, untrusted, None])

    def test_listener_that_asks_no_more(self) -> None:
        """What workers with other settings have verified is vouched for by nobody there."""
        listeners = self.made()
        self.assertIsNone(listeners.withdrawn(self.verified(self.clients, 0)))
        for index in (1, 2, len(self.server.every_listener), -1):
            found = listeners.withdrawn(self.verified(self.clients, index))
            self.assertIs(found, Withdrawn.UNTRUSTED)

    def test_ends(self) -> None:
        """When what ends, by listener; nothing of those that speak in the clear."""
        self.opened()
        shown = self.metrics.numbers().gauges[EXPIRY]
        self.assertEqual(
            set(shown),
            {
                ("127.0.0.1:3000", "server"),
                ("127.0.0.1:3000", "client_ca"),
                ("127.0.0.1:3000", "client_crl"),
                ("[::1]:3002", "server"),
            },
        )
        days = {labels: round((at - time.time()) / 86_400) for labels, at in shown.items()}
        self.assertEqual(days["127.0.0.1:3000", "client_crl"], 5)
        self.assertEqual(days["[::1]:3002", "server"], 3)
        self.assertEqual(days["127.0.0.1:3000", "client_ca"], 30)

    def test_no_tls(self) -> None:
        """A gateway without it has nothing to show, to watch or to say."""
        listeners = self.made(ServerSettings())
        listeners.start()
        self.assertNotIn(EXPIRY, self.metrics.numbers().gauges)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_warnings(self) -> None:
        """Once a day the log says what ends soon or has ended, in one process only."""
        said: list[str] = []

        class Log:
            def warn(self, text: str, **values: Any) -> None:
                said.append("warn " + text.format(**values))

            def error(self, text: str, **values: Any) -> None:
                said.append("error " + text.format(**values))

        self.patch(client_listeners, "log", Log())
        listeners = self.made()
        listeners.start()
        self.late = 2.5 * 86_400
        self.reactor.advance(86_399)
        self.assertEqual(said, [])
        self.reactor.advance(1)
        self.assertEqual(len(said), 1)
        self.assertIn("warn server.listeners[1].tls.cert_path: ", said[0])
        self.late = 3.5 * 86_400
        self.reactor.advance(86_400)
        self.assertIn("error server.listeners[1].tls.cert_path: ", " ".join(said[1:]))
        listeners.stop()
        said.clear()
        other = self.made(warns=False, strict=False)
        other.start()
        self.reactor.advance(86_400)
        self.assertEqual(said, [])


class RestartTests(SynchronousTestCase):
    """`without_restart`: what a reload can bring in."""

    def test_tls_changes(self) -> None:
        """TLS and the URL of a listener change; addresses and their number do not."""
        tls = TlsSettings(Path("/a"), Path("/b"))
        old = Settings(server=ServerSettings(listeners=(ListenerSettings(1), ListenerSettings(2))))
        new = Settings(
            server=ServerSettings(
                tls=tls,
                listeners=(
                    ListenerSettings(1, tls=tls),
                    ListenerSettings(2, public_url="http://x"),
                ),
            )
        )
        self.assertEqual(without_restart(old, new), (new, ()))

    def test_addresses_stay(self) -> None:
        """What would need other sockets is left as it was, whole."""
        old = Settings(server=ServerSettings(listeners=(ListenerSettings(1),)))
        for listeners in (
            (),
            (ListenerSettings(2),),
            (ListenerSettings(1, "::1"),),
            (ListenerSettings(1), ListenerSettings(2)),
        ):
            new = Settings(server=ServerSettings(max_request_size=7, listeners=listeners))
            kept, fixed = without_restart(old, new)
            self.assertEqual(fixed, ("server.listeners",))
            self.assertEqual(kept.server.listeners, old.server.listeners)
            self.assertEqual(kept.server.max_request_size, 7)
