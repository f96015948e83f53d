"""Gateways that share limits through a real Redis: killed, stopped, restarted, over TLS."""

import datetime
import os
import signal
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, gatherResults

from tests.live.gateway_process import RunningGateway
from tests.live.processes import SLOWER, Program, free_port
from tests.live.redis_case import PASSWORD, URL_PASSWORD, RedisCase, Tally, pid_of

PACE = 0.02
"""Seconds between two requests of a caller: the processor is for others, too."""
PATIENCE = 60.0
"""Seconds after which a load ends by itself."""
SHORT = 10.0
"""Seconds in which a request has its answer whatever Redis does, times `SLOWER`."""


class SharedTests(RedisCase):
    """Redis is there."""

    async def test_shared(self) -> None:
        """Two gateways have one bucket, which Redis may forget, and one count of wrong keys."""
        redis = await self.start_redis()
        rate, burst = 20, 60
        gateways = [
            await self.start_sharing(
                {"tester": {}, "poor": {"rate_limit": 0.001, "burst_size": 3}},
                requests_per_second=rate,
                burst_size=burst,
                failed_auth_per_minute=3,
            )
            for _ in range(2)
        ]
        for gateway in gateways:
            await self.until_up(gateway, 1, 2)
        await self.assert_one_bucket(gateways, rate, burst)
        await self.assert_forgotten(*gateways)
        self.assertIsNone(redis.status)
        await self.assert_failed_attempts(gateways)

    async def assert_one_bucket(
        self, gateways: Sequence[RunningGateway], rate: int, burst: int
    ) -> None:
        """Two gateways under load let by what one bucket holds and what comes, and no more; both
        show the same numbers.
        """
        keys = [gateways[0].keys["tester"], gateways[1].keys["tester"]]
        self.assertNotEqual(*keys)  # one identity all the same: its id is what counts
        callers = [await self.caller(gateway) for gateway in gateways for _ in range(4)]
        tally, began = Tally(), time.monotonic()
        until = self.reactor.seconds() + 3.0
        await gatherResults(
            [Deferred.fromCoroutine(self.keep_asking(one, tally, until, PACE)) for one in callers]
        )
        allowed = tally.statuses.pop(200)
        self.assertLessEqual(allowed, burst + rate * (time.monotonic() - began) + 1)
        self.assertGreaterEqual(allowed, burst + rate * 3.0 * 0.8)
        self.assertEqual(set(tally.statuses), {429})
        refused = await self.metric(gateways[0], "mcp_guard_rate_limit_undecided_total")
        self.assertEqual(refused, 0)

    async def assert_forgotten(self, gateway: RunningGateway, other: RunningGateway) -> None:
        """A Redis that is emptied, of scripts too, goes on with full buckets."""
        caller = await self.caller(gateway, gateway.keys["poor"])
        found = [(await caller.ask())[0] for _ in range(5)]
        self.assertEqual(found, [200, 200, 200, 429, 429])
        for command in (["FLUSHALL"], ["SCRIPT", "FLUSH"]):
            status, out, _ = await self.run_program(
                ["redis-cli", "-p", str(self.port), "-a", PASSWORD, *command], seconds=5
            )
            self.assertEqual((status, out.strip()), (0, "OK"))
        # The one that saw the bucket empty need not ask for a long time.
        caller = await self.caller(other, other.keys["poor"])
        found = [(await caller.ask())[0] for _ in range(5)]
        self.assertEqual(found, [200, 200, 200, 429, 429])
        undecided = await self.metric(other, "mcp_guard_rate_limit_undecided_total")
        self.assertEqual(undecided, 0)

    async def assert_failed_attempts(self, gateways: Sequence[RunningGateway]) -> None:
        """Who guesses keys at one gateway is shut out at the other."""
        found = []
        for turn in range(6):
            caller = await self.caller(gateways[turn % 2], "mcp_wrong")
            found.append((await caller.ask())[0])
        self.assertEqual(found, [401, 401, 401, 429, 429, 429])


class OutageTests(RedisCase):
    """Redis goes away under load."""

    redis: Program

    async def test_local(self) -> None:
        """With ``local`` nobody waits for Redis, which is not there at first and then killed."""
        gateway = await self.start_sharing()
        await self.assert_not_needed_at_first(gateway)
        await self.assert_few_questions(gateway)
        await self.assert_killed(gateway)

    async def assert_not_needed_at_first(self, gateway: RunningGateway) -> None:
        """A gateway starts without its Redis, and uses it once it is there."""
        caller = await self.caller(gateway)
        self.assertEqual((await caller.ask())[0], 200)
        self.redis = await self.start_redis()
        await self.until_up(gateway, 1, 4)
        self.assertEqual((await caller.ask())[0], 200)

    async def assert_few_questions(self, gateway: RunningGateway) -> None:
        """Under load there are far fewer questions to Redis than requests."""
        callers = [await self.caller(gateway) for _ in range(8)]
        tally, until = Tally(), self.reactor.seconds() + 1.0
        await gatherResults(
            [Deferred.fromCoroutine(self.keep_asking(one, tally, until)) for one in callers]
        )
        self.assertEqual(set(tally.statuses), {200})
        asked = await self.metric(gateway, 'mcp_guard_redis_calls_total{result="answered"}')
        self.assertGreater(asked, 0)
        self.assertLessEqual(asked, 0.1 * tally.statuses[200])

    async def assert_killed(self, gateway: RunningGateway) -> None:
        """Every request is answered in time while Redis is killed and started again; afterwards it
        decides again.
        """
        callers = [await self.caller(gateway) for _ in range(4)]
        tally, until = Tally(), self.reactor.seconds() + PATIENCE
        undecided = 'mcp_guard_rate_limit_undecided_total{decided="local"}'
        before = await self.metric(gateway, undecided)
        load = gatherResults(
            [Deferred.fromCoroutine(self.keep_asking(one, tally, until, PACE)) for one in callers]
        )
        await self.until(lambda: tally.statuses[200] > 60, 5, "calls")
        self.redis.signal("KILL")
        await self.until_up(gateway, 0, 2)
        await self.pause(1.0)
        await self.start_redis()
        await self.until_up(gateway, 1, 4)
        answered = await self.metric(gateway, 'mcp_guard_redis_calls_total{result="answered"}')
        await self.pause(1.0)
        tally.over = True
        await load
        self.assertEqual(set(tally.statuses), {200})
        self.assertLess(tally.slowest, SHORT * SLOWER)
        self.assertGreater(await self.metric(gateway, undecided), before)
        now = await self.metric(gateway, 'mcp_guard_redis_calls_total{result="answered"}')
        self.assertGreater(now, answered)

    async def test_stopped(self) -> None:
        """With ``deny`` requests are refused at once while Redis hangs, and the gateway is not
        ready; when Redis goes on so does the gateway.
        """
        redis = await self.start_redis()
        gateway = await self.start_sharing(redis={"on_error": "deny"})
        await self.until_up(gateway, 1, 2)
        callers = [await self.caller(gateway) for _ in range(4)]
        tally, until = Tally(), self.reactor.seconds() + PATIENCE
        load = gatherResults(
            [Deferred.fromCoroutine(self.keep_asking(one, tally, until, PACE)) for one in callers]
        )
        await self.until(lambda: tally.statuses[200] > 60, 5, "calls")
        os.kill(pid_of(redis), signal.SIGSTOP)
        await self.until_up(gateway, 0, 4)
        self.assertEqual(await self.readiness(gateway.base), 503)
        await self.until(lambda: tally.statuses[503] > 60, 5, "refusals")
        os.kill(pid_of(redis), signal.SIGCONT)
        await self.until_up(gateway, 1, 4)
        self.assertEqual(await self.readiness(gateway.base), 200)
        before = tally.statuses[200]
        await self.until(lambda: tally.statuses[200] > before + 20, 5, "calls after it")
        tally.over = True
        await load
        self.assertEqual(set(tally.statuses), {200, 503})
        self.assertEqual(tally.reasons, {"Rate limits cannot be checked now, try again shortly"})
        self.assertLess(tally.slowest, SHORT * SLOWER)
        events = [one for one in gateway.outcomes() if one.get("reason") == "limits_unavailable"]
        self.assertEqual(len(events), tally.statuses[503])

    async def readiness(self, base: str) -> int:
        """The status of ``/ready``."""
        from treq import content, get

        answer = await get(f"{base}/ready", persistent=False)
        await content(answer)
        status: int = answer.code
        return status

    async def test_wrong_password(self) -> None:
        """It is said why, without the password, and ``deny`` lets nobody by."""
        await self.start_redis()
        wrong = {"url": f"redis://:guessed@127.0.0.1:{self.port}", "on_error": "deny"}
        gateway = await self.start_sharing(redis=wrong)
        await gateway.program.said("cannot be asked: .*WRONGPASS")
        self.assertNotIn(b"guessed", gateway.program.err + gateway.program.out)
        caller = await self.caller(gateway)
        self.assertEqual((await caller.ask())[0], 503)


class TlsTests(RedisCase):
    """rediss://"""

    def certificates(self, host: str) -> tuple[Path, Path]:
        """A certificate for a host signed by itself, and its key."""
        directory = Path(self.mktemp())
        directory.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
        now = datetime.datetime.now(datetime.UTC)
        other: x509.GeneralName = x509.DNSName(host)
        if host[0].isdigit():
            other = x509.IPAddress(IPv4Address(host))
        signed = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([other]), False)
            .sign(key, SHA256())
        )
        certificate, private = directory / "cert.pem", directory / "key.pem"
        certificate.write_bytes(signed.public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate.resolve(), private.resolve()

    async def start_tls(self, certificate: Path, key: Path) -> Program:
        """A Redis that speaks nothing but TLS."""
        return await self.start_redis(
            *("--tls-port", str(self.port), "--tls-cert-file", str(certificate)),
            *("--tls-key-file", str(key), "--tls-auth-clients", "no"),
            *("--tls-ca-cert-file", str(certificate)),
        )

    async def assert_verified(self, host: str, other: str, *, trusted: bool, words: str) -> None:
        """A certificate for another host, or that is not trusted, is refused with these words; the
        one that is right, of which the gateway hears later, is not.
        """
        self.port = free_port()
        wrong, right = self.certificates(other), self.certificates(host)
        authorities = Path(self.mktemp()).resolve()
        known = (right, wrong) if trusted else (right,)
        authorities.write_bytes(b"".join(certificate.read_bytes() for certificate, _ in known))
        self.environment = {"SSL_CERT_FILE": str(authorities)}
        redis = await self.start_tls(*wrong)
        url = f"rediss://:{URL_PASSWORD}@{host}:{self.port}"
        gateway = await self.start_sharing(redis={"url": url})
        await gateway.program.said(f"cannot be asked: .*{words}")
        await self.pause(1.5)
        self.assertEqual(await self.metric(gateway, "mcp_guard_redis_up"), 0)
        redis.signal("KILL")
        await redis.ended
        await self.start_tls(*right)
        await self.until_up(gateway, 1, 4)
        caller = await self.caller(gateway)
        self.assertEqual((await caller.ask())[0], 200)

    async def test_by_name(self) -> None:
        """A certificate must be for the host of the URL, whoever signed it."""
        await self.assert_verified("localhost", "elsewhere.example", trusted=True, words="")

    async def test_by_address(self) -> None:
        """A certificate must be of an authority that is trusted; the host may be an address."""
        await self.assert_verified(
            "127.0.0.1", "127.0.0.1", trusted=False, words="certificate verify failed"
        )
