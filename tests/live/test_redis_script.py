"""The script in a real Redis beside the arithmetic that it repeats."""

import random
import sys
from pathlib import Path
from typing import Any

from attrs import evolve

from mcpguard.limits.redis import REDIS_BOUNDS, RedisAuthority, endpoint_for
from mcpguard.limits.redis_script import SCRIPT
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import MAX_HOLDERS, Ask, Bucket, Lease, lend, take_back, wait
from mcpguard.policy.redis_url import parse_redis_url
from tests.live.redis_case import URL_PASSWORD, RedisCase
from tests.live.software import REPOSITORY

STEPS = 1_500


class Silent:
    """A meter that nobody reads."""

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Count nothing."""


class ScriptTests(RedisCase):
    """The script."""

    async def connected(self) -> Any:
        """An authority's own connection."""
        await self.start_redis()
        address = parse_redis_url(f"redis://:{URL_PASSWORD}@127.0.0.1:{self.port}/2")
        meter: Any = Silent()
        authority = RedisAuthority(
            self.reactor,
            endpoint_for(self.reactor, address),
            address,
            meter,
            key_prefix="test:",
            bounds=evolve(REDIS_BOUNDS, timeout_secs=5.0),
        )
        authority.start()
        self.addCleanup(authority.stop)
        await self.until(lambda: authority.up, 5.0, "connected")
        return authority._ready

    async def run_script(
        self, connection: Any, key: str, rate: Rate, ask: Ask, back: int = 0
    ) -> tuple[Lease, float]:
        """What Redis says, and its time."""
        granted, kept, elsewhere, text = await connection.execute_command(
            *("EVAL", SCRIPT, "1", key, repr(rate.per_second), rate.burst, ask.holder),
            *(ask.least, ask.extra, ask.held, repr(ask.lasts), back),
        )
        tokens, now = text.split()
        left = float(tokens)
        lease = Lease(int(granted), int(kept), left, int(elsewhere), wait(left, rate))
        return lease, float(now)

    async def test_same_as_the_arithmetic(self) -> None:
        """Over many random questions to some buckets both give the same answers, to the last
        digit, by the server's time.
        """
        connection = await self.connected()
        seed = random.randrange(1 << 32)
        draw = random.Random(seed)
        rates = (Rate(0.3, 1), Rate(50.0, 30), Rate(1.0 / 60.0, 60), Rate(5_000.0, 400))
        buckets: dict[Rate, Bucket] = {}
        ended = 0
        for step in range(STEPS):
            rate = draw.choice(rates)
            ask = Ask(
                holder=draw.choice("abc"),
                least=draw.choice((0, 0, 1, 1, 2, 40)),
                extra=draw.choice((0, 0, 5, 1_000)),
                held=draw.choice((0, 0, 3, 50)),
                lasts=draw.choice((0.001, 0.02, 0.5, 100.0)),
            )
            back = draw.choice((0, 0, 0, 4))
            if back:
                ask = Ask(ask.holder, 0, 0, 0, 0.0)
            found, now = await self.run_script(connection, str(rate.burst), rate, ask, back)
            bucket = buckets.setdefault(rate, Bucket(float(rate.burst), now))
            loans = len(bucket.loans)
            if back:
                take_back(bucket, rate, now, ask.holder, back)
            wanted = lend(bucket, rate, now, ask)
            ended += len(bucket.loans) < loans
            self.assertEqual(found, wanted, f"seed {seed}, step {step}: {rate} {ask} {back}")
            if draw.random() < 0.02:
                await self.pause(draw.choice((0.002, 0.03)))
        self.assertGreater(ended, 20)

    async def test_without_hiredis(self) -> None:
        """The protocol works with txredisapi's own parser too."""
        code = (
            "import sys; sys.modules['hiredis'] = None; sys.argv = ['trial', *sys.argv[1:]];"
            "from twisted.scripts.trial import run; run()"
        )
        directory = Path(self.mktemp()).absolute()
        status, out, err = await self.run_program(
            [
                *(sys.executable, "-c", code, f"--temp-directory={directory}"),
                *("tests.limits.test_redis", f"{__name__}.ScriptTests.test_expiry"),
            ],
            seconds=20,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
        self.assertEqual(status, 0, out + err)
        self.assertIn("PASSED", out)

    async def test_expiry(self) -> None:
        """A bucket is in Redis for as long as it is not full, and not much longer; what is looked
        at alone leaves nothing.
        """
        connection = await self.connected()
        look = Ask("a", 0, 0, 0, 0.0)
        await self.run_script(connection, "looked", Rate(1.0, 5), look)
        self.assertEqual(await connection.execute_command("EXISTS", "looked"), 0)
        for key, rate, ask, seconds in (
            ("spent", Rate(1.0, 5), Ask("a", 5, 0, 0, 0.0), 5.0),
            ("lent", Rate(1_000.0, 50), Ask("a", 0, 10, 0, 20.0), 20.0),
            ("longest", Rate(1e-9, 1_000_000), Ask("a", 9, 0, 0, 0.0), 10 * 366 * 86_400.0),
        ):
            await self.run_script(connection, key, rate, ask)
            left = await connection.execute_command("PTTL", key) / 1_000
            self.assertGreaterEqual(left, min(seconds, 10 * 366 * 86_400.0 - 60))
            self.assertLessEqual(left, seconds + 2.0)
        quick = Rate(1_000.0, 2)
        await self.run_script(connection, "quick", quick, Ask("a", 2, 0, 0, 0.0))
        await self.pause(0.01)
        await self.run_script(connection, "quick", quick, look)
        self.assertEqual(await connection.execute_command("EXISTS", "quick"), 0)

    async def test_many_holders(self) -> None:
        """No more holders than the bound are noted in one bucket."""
        connection, rate = await self.connected(), Rate(0.001, 100_000)
        for number in range(MAX_HOLDERS + 5):
            ask = Ask(f"h{number}", 1, 5, 0, 50.0)
            lease, _ = await self.run_script(connection, "many", rate, ask)
            self.assertEqual(lease.granted, 6 if number < MAX_HOLDERS else 1)
        self.assertEqual(await connection.execute_command("HLEN", "many"), MAX_HOLDERS + 2)

    async def test_clock_set_back(self) -> None:
        """A bucket counted at a later time than the server's goes on from now."""
        connection, rate = await self.connected(), Rate(0.5, 10)
        _, now = await self.run_script(connection, "a", rate, Ask("a", 4, 0, 0, 0.0))
        await connection.execute_command(
            "HSET", "a", "a", repr(now + 3_600.0), "hb", f"2 {now + 7_200.0!r}"
        )
        lease, _ = await self.run_script(connection, "a", rate, Ask("a", 1, 0, 0, 0.0))
        self.assertEqual((lease.remaining, lease.elsewhere), (5.0, 2))
        finish = float((await connection.execute_command("HGET", "a", "hb")).split()[1])
        self.assertLess(finish, now + 61.0)
