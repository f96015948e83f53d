"""Keys of an identity provider over real sockets and TLS, from servers that are up to no good."""

import gc
import resource
import time
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from mcpguard.config.settings import JwtSettings
from mcpguard.gateway.outward_tls import OutwardTls
from mcpguard.identity.jwks_fetch import FetchBounds, FetchFailed, JwksEndpoint
from mcpguard.identity.keyset import KeysBounds, RemoteKeys
from mcpguard.policy.jwks import parse_jwks
from mcpguard.upstream.egress import VettedEndpoint
from tests.identity.test_keyset import Books
from tests.live.clients_case import DEMO, PATH
from tests.live.gateway_process import RunningGateway, stdio
from tests.live.key_server import (
    Behaviour,
    KeyServer,
    bomb,
    drip,
    keys,
    raw,
    redirect,
    status,
)
from tests.live.processes import SLOWER, LiveCase, free_port
from tests.live.raw_client import Exchange, RawCase
from tests.pipeline.rig import MemoryMeter, MemoryTrail
from tests.pki import Authority, Issued
from tests.tokens import SigningKey, ec_key, good, published

ISSUER = "https://login.example/"
KEYS = published(ec_key())
BOUNDS = FetchBounds(total_secs=20.0, answer_bytes=65_536)
SOON_SECS = 2.0
"""For a fetch that is to take too long."""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


class KeyServerCase(LiveCase):
    """A test with servers of keys."""

    async def serve(
        self, behaviour: Behaviour, identity: Issued | None = None
    ) -> tuple[KeyServer, str]:
        """One, until the end of the test."""
        server = KeyServer(self.reactor, behaviour)
        port, url = server.listen(identity)
        self.addCleanup(self._end_server, server, port)
        return server, url

    async def _end_server(self, server: KeyServer, port: IListeningPort) -> None:
        await maybeDeferred(port.stopListening)
        server.cut()
        await self.until(lambda: not server.open, 2.0, "its connections are closed")


class FetchTests(KeyServerCase):
    """One fetch, whatever the server does."""

    def endpoint(
        self, url: str, ca: Path | None = None, bounds: FetchBounds = BOUNDS
    ) -> JwksEndpoint:
        """Where to fetch from, trusting who the configuration says."""
        jwt = JwtSettings("jwks", ISSUER, ("mcp",), jwks_url=url, jwks_ca_path=ca)
        endpoint = VettedEndpoint(
            self.reactor,
            url,
            policy=OutwardTls(self.reactor, MemoryTrail(), MemoryMeter()).key_set(jwt),
            allow_private=False,
            connect_timeout=bounds.total_secs,
            max_addresses=4,
        )
        return JwksEndpoint(url, endpoint, self.reactor, bounds)

    async def failed(self, url: str, ca: Path | None = None, bounds: FetchBounds = BOUNDS) -> str:
        """The word of a fetch that must fail, in time."""
        began = time.monotonic()
        word = "no failure"
        try:
            await self.endpoint(url, ca, bounds).fetch()
        except FetchFailed as failed:
            word = failed.word
        self.assertLess(time.monotonic() - began, bounds.total_secs * SLOWER)
        return word

    async def refused(
        self, behaviour: Behaviour, word: str, own: Issued | None = None, ca: Path | None = None
    ) -> None:
        """What such a server does is refused by this word, and its connection is cut."""
        server, url = await self.serve(behaviour, own)
        bounds = evolve(BOUNDS, total_secs=SOON_SECS) if word == "timeout" else BOUNDS
        self.assertEqual(await self.failed(url, ca, bounds), word)
        await self.until(lambda: not server.open, 2.0, f"cut: {word}")
        self.assertEqual(server.asked, 1)

    async def test_servers_up_to_no_good(self) -> None:
        """Each is refused by its own word, in time, and loses its connection."""
        late = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b" ", 0.1)
        servers = (
            (raw(b""), "timeout"),
            (drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.1), "timeout"),
            (late, "timeout"),
            (drip(CHUNKED, b"2000\r\n" + b"x" * 8192 + b"\r\n", 0.0), "too_large"),
            (drip(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 8000 + b"\r\n", 0.0), "too_large"),
            (keys(b" " * 1_000_000), "too_large"),
            (bomb(200_000_000), "encoded"),
            (redirect("/keys"), "redirect"),
            (redirect("http://169.254.169.254/latest/meta-data/"), "redirect"),
            (status("500 Internal Server Error"), "status"),
            (status("204 No Content"), "status"),
            (raw(b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n"), "malformed"),
            (lambda connection: connection.transport.loseConnection(), "malformed"),
        )
        await self.side_by_side(*(self.refused(*server) for server in servers))
        gc.collect()
        self.assertLess(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 2_000_000)

    async def test_nobody_there(self) -> None:
        """A closed port."""
        self.assertEqual(await self.failed(f"http://127.0.0.1:{free_port()}/"), "unreachable")

    async def test_metadata_address(self) -> None:
        """One of the cloud's own services is not even dialled."""
        self.assertEqual(await self.failed("http://169.254.169.254/keys"), "refused")

    async def test_tls(self) -> None:
        """The certificate must come from the CA of the configuration and be for the host."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        ours, other = Authority("ours"), Authority("other")
        ca, stranger = directory / "ca.crt", directory / "other.crt"
        ca.write_bytes(ours.pem)
        stranger.write_bytes(other.pem)
        server, url = await self.serve(keys(KEYS), ours.server())
        self.assertEqual(await self.endpoint(url, ca).fetch(), KEYS)
        self.assertEqual(await self.failed(url, stranger), "tls")
        self.assertEqual(await self.failed(url), "tls")
        self.assertEqual(server.asked, 1, "nothing is sent to a stranger")
        named = ours.issue("login.example", dns=("login.example",), usages=None)
        _, elsewhere = await self.serve(keys(KEYS), named)
        self.assertEqual(await self.failed(elsewhere, ca), "tls")
        _, old = await self.serve(keys(KEYS), ours.server(days=-0.1))
        self.assertEqual(await self.failed(old, ca), "tls")
        # A bomb and an endless answer over TLS end as they do without.
        hostile = (
            (bomb(200_000_000), "encoded"),
            (drip(CHUNKED, b"2000\r\n" + b"x" * 8192 + b"\r\n", 0.0), "too_large"),
            (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "timeout"),
        )
        own = ours.server()
        await self.side_by_side(*(self.refused(*server, own, ca) for server in hostile))

    async def test_plain_where_tls_should_be(self) -> None:
        """A server that does not speak TLS."""
        _, url = await self.serve(keys(KEYS))
        self.assertEqual(await self.failed(url.replace("http", "https")), "tls")

    async def test_flapping(self) -> None:
        """A server that is good every other time: the keys stay, one fetch runs at a time."""
        server, url = await self.serve(keys(KEYS))
        good_one, bad_ones = server.behaviour, [status("500 Oops"), raw(b"?\r\n\r\n"), keys(b"[]")]

        def flap(connection: Any) -> None:
            bad = bad_ones[server.asked % len(bad_ones)]
            (good_one if server.asked % 2 else bad)(connection)

        server.behaviour = flap
        books = Books()
        remote = RemoteKeys(
            self.endpoint(url),
            parse=lambda data: parse_jwks(data, 10),
            algorithms=("ES256",),
            clock=self.reactor,
            bounds=KeysBounds(
                renew_secs=0.01,
                life_secs=60.0,
                jitter=0.5,
                retry_secs=0.01,
                max_retry_secs=0.02,
                cooldown_secs=0.05,
                waiters=50,
                names=5,
                name_chars=64,
            ),
            recorder=books,
            meter=books,
            wall=time.time,
            random=lambda: 0.5,
        )
        remote.start()
        self.addCleanup(remote.stop)
        loading: Deferred[bool] | None = remote.loading()
        assert loading is not None
        self.assertTrue(await loading)
        while server.asked < 40:
            waiters = [one for _ in range(60) if (one := remote.newer()) is not None]
            self.assertLessEqual(len(waiters), 50)
            await gatherResults(waiters)
            await self.pause(0.01)
            self.assertIsNotNone(remote.current)
        self.assertEqual((remote.generation, server.most), (1, 1))
        self.assertIn("status", books.fetches)
        self.assertIn("unusable", books.fetches)


class GatewayKeysTests(KeyServerCase, RawCase):
    """The real gateway and its provider's keys."""

    async def gateway(self, url: str, *, workers: int = 1, **jwt: Any) -> RunningGateway:
        """A gateway that takes this provider's tokens and nothing else."""
        return await self.start_gateway(
            [stdio("demo", DEMO, env=dict(PATH))],
            identities={"alice": {}},
            server={"workers": workers},
            auth={
                "jwt": {
                    "mode": "jwks",
                    "jwks_url": url,
                    "issuer": ISSUER,
                    "audience": "mcp",
                    **jwt,
                }
            },
        )

    def token(self, key: SigningKey, **claims: Any) -> str:
        """A token that is good now."""
        now = int(time.time())
        return key.token("ES256", good(iss=ISSUER, aud="mcp", iat=now, exp=now + 600, **claims))

    async def ask(self, gateway: RunningGateway, token: str) -> Exchange:
        """List the tools by a token."""
        headers = {"Authorization": f"Bearer {token}"}
        return await (await self.send(gateway, "demo", LIST, headers, who="alice")).over

    async def statuses(self, gateway: RunningGateway, *tokens: str) -> list[int]:
        """What each token is answered with."""
        return [(await self.ask(gateway, token)).status for token in tokens]

    async def page(self, gateway: RunningGateway, path: str) -> Exchange:
        """Get one of the gateway's own pages."""
        data = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        return await (await self.connect(gateway, data.encode(), "GET")).over

    async def test_over_time(self) -> None:
        """What takes its time: each story with a gateway and a provider of its own."""
        await self.side_by_side(
            self._rotation(), self._renewed_in_the_background(), self._workers()
        )

    async def _rotation(self) -> None:
        """No key at all, the first, signs before it is published, another key under an old name,
        taken back; and the provider gone for good.
        """
        server, url = await self.serve(status("500 Not yet"))
        gateway = await self.gateway(url)
        await self._none_yet(gateway, server)
        await self._one_fetch_for_fifty(gateway, server)
        a, b, c = (ec_key(kid=kid) for kid in "abc")
        other_b = ec_key(kid="b", number=2)
        old, new, early = self.token(a), self.token(b), self.token(c)
        asked = server.asked
        # Not published yet; and it was asked just now.
        self.assertEqual(await self.statuses(gateway, early, new, old), [401, 200, 200])
        self.assertEqual(server.asked, asked)
        await self._told_of_fifty(gateway)
        server.behaviour = keys(published(other_b, c))
        began = time.monotonic()
        while await self.statuses(gateway, early) != [200]:
            self.assertLess(time.monotonic() - began, 10 * SLOWER)
            await self.pause(0.5)
        self.assertEqual(server.asked, asked + 1)
        renamed = self.token(other_b)
        self.assertEqual(await self.statuses(gateway, renamed, new, old), [200, 401, 401])
        event = (await self.told(gateway, "KeySetEvent", 5))[-1]
        self.assertEqual(event["details"], {"added": ["c"], "removed": ["a"], "replaced": ["b"]})
        # What is published after it was asked is not there before it is asked again; a hostile
        # server takes nothing away by then.
        server.behaviour = redirect("http://169.254.169.254/")
        self.assertEqual(await self.statuses(gateway, renamed, early), [200, 200])
        self.assertEqual(server.asked, asked + 1)
        await self.account(gateway)

    async def _none_yet(self, gateway: RunningGateway, server: KeyServer) -> None:
        """No key at all is a 503, and the gateway says that it is not ready."""
        self.assertEqual((await self.page(gateway, "/ready")).status, 503)
        early = await self.ask(gateway, self.token(ec_key(kid="a")))
        self.assertEqual(early.status, 503)
        self.assertIn("Retry-After", early.answer.headers)
        server.behaviour = keys(published(ec_key(kid="a")))
        await self.until(lambda: server.asked >= 2, 4.0, "it is asked again")
        self.assertEqual(await self.statuses(gateway, self.token(ec_key(kid="a"))), [200])
        ready = await self.page(gateway, "/ready")
        self.assertEqual((ready.status, ready.messages[0]["ready"]), (200, True))

    async def _one_fetch_for_fifty(self, gateway: RunningGateway, server: KeyServer) -> None:
        """Fifty who come with a new key at once have it fetched once."""
        before = server.asked
        server.behaviour = keys(published(ec_key(kid="a"), ec_key(kid="b")), after=1.0)
        tokens = [self.token(ec_key(kid="b"), jti=str(number)) for number in range(50)]
        asking = [Deferred.fromCoroutine(self.ask(gateway, token)) for token in tokens]
        found = await gatherResults(asking)
        self.assertEqual({one.status for one in found}, {200}, gateway.program.story())
        self.assertEqual((server.asked - before, server.most), (1, 1))

    async def _told_of_fifty(self, gateway: RunningGateway) -> None:
        """What metrics and trail say of it until then."""
        page = (await self.page(gateway, "/metrics")).answer.body.decode()
        self.assertIn("\nmcp_guard_jwks_keys 2.0\n", page)
        self.assertIn('\nmcp_guard_jwks_fetches_total{result="status"}', page)
        events = await self.told(gateway, "KeySetEvent", 4)
        told = [(one["status"], one.get("reason")) for one in events]
        self.assertEqual(
            told, [("failed", "status"), ("recovered", None), ("changed", None), ("changed", None)]
        )
        self.assertEqual(events[-1]["details"]["added"], ["b"])

    async def _renewed_in_the_background(self) -> None:
        """Without a token that would ask for it, a key that was taken back is gone in time, over
        TLS with a CA of one's own.
        """
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        authority = Authority("ours")
        (directory / "ca.crt").write_bytes(authority.pem)
        a, b = ec_key(kid="a"), ec_key(kid="b")
        server, url = await self.serve(keys(published(a)), authority.server())
        gateway = await self.gateway(
            url, jwks_ca_path=str(directory / "ca.crt"), cache_duration_secs=10
        )
        token = self.token(a)
        self.assertEqual(await self.statuses(gateway, token), [200])
        server.behaviour = keys(published(b))
        await self.until(lambda: server.asked >= 2, 9.0, "it is asked again")
        await self.until(lambda: not server.open, 2.0, "it has answered")
        self.assertEqual(await self.statuses(gateway, token, self.token(b)), [401, 200])

    async def _workers(self) -> None:
        """Each worker has keys of its own before it serves; a new key is fetched once by each."""
        a, b = ec_key(kid="a"), ec_key(kid="b")
        server, url = await self.serve(keys(published(a), after=0.5))
        gateway = await self.gateway(url, workers=2)
        page = ""
        while "\nmcp_guard_jwks_keys 1.0\n" not in page:
            # The worker with the fewest counts.
            await self.pause(0.05)
            page = (await self.page(gateway, "/metrics")).answer.body.decode()
        self.assertEqual(server.asked, 2)
        self.assertEqual(await self.statuses(gateway, *[self.token(a)] * 8), [200] * 8)
        server.behaviour = keys(published(a, b))
        tokens = [self.token(b, sub="alice", jti=str(number)) for number in range(20)]
        asking = [Deferred.fromCoroutine(self.ask(gateway, token)) for token in tokens]
        found = await gatherResults(asking)
        self.assertEqual({one.status for one in found}, {200}, gateway.program.story())
        self.assertIn(server.asked, (3, 4))
        page = (await self.page(gateway, "/metrics")).answer.body.decode()
        self.assertRegex(page, r"\nmcp_guard_jwks_keys [12]\.0\n")
        self.assertIn('\nmcp_guard_jwks_fetches_total{result="changed"}', page)
