"""Certificates on their way between workers."""

import msgspec
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.ops.workers.passport import MAX_PASSPORT, packed, unpacked
from mcpguard.policy.certificates import Verified, peer_certificate
from tests.pki import Authority

ISSUING = Authority("Issuing", Authority("Root"))
FACTS = peer_certificate(
    ISSUING.issue("alice", dns=("a.example",), uris=("spiffe://x/a",)).certificate,
    [ISSUING.certificate],
    Verified(3, b"a" * 32, (b"one", b"another")),
)


class PassportTests(SynchronousTestCase):
    """`packed` and `unpacked`."""

    def test_there_and_back(self) -> None:
        """Every fact of it is the same at the other end; serial numbers of 20 bytes, too."""
        self.assertEqual(unpacked(packed(FACTS)), FACTS)
        large = evolve(FACTS, authorities=((b"issuer", 2**159 - 1), (b"", 1)))
        self.assertEqual(unpacked(packed(large)), large)
        self.assertEqual(unpacked(packed(evolve(FACTS, authorities=()))).authorities, ())

    def test_of_workers_that_know_less(self) -> None:
        """Those of another version say nothing of how it was verified, and read on beyond that."""
        shorter = msgspec.msgpack.encode(msgspec.msgpack.decode(packed(FACTS))[:2])
        self.assertEqual(unpacked(shorter), evolve(FACTS, verified=None))
        longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(packed(FACTS)), "more"])
        self.assertEqual(unpacked(longer), FACTS)

    def test_bound(self) -> None:
        """More than the bound is not packed."""
        self.assertLess(len(packed(FACTS)), 2_000)
        huge = evolve(FACTS, authorities=((b"x" * MAX_PASSPORT, 1),))
        self.assertRaises(ValueError, packed, huge)
        huge = evolve(FACTS, verified=Verified(0, b"", (b"x" * MAX_PASSPORT,)))
        self.assertRaises(ValueError, packed, huge)

    @settings(max_examples=200)
    @given(st.binary(max_size=60), st.integers(0, 400), st.binary(max_size=3))
    def test_anything_else(self, garbage: bytes, at: int, change: bytes) -> None:
        """What was not packed so is no certificate; nothing but ValueError comes of it."""
        whole = packed(FACTS)
        cut = whole[:at] + change
        for data in (garbage, cut):
            self.assertRaises(ValueError, unpacked, data)
