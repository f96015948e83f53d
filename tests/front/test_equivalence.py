"""The same bytes before a listener with the fast channel and before one without: one outcome."""

import re
from collections.abc import Iterator
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.front.corpus import corpus
from tests.front.replay import replay, replay_held
from tests.front.wire import limited

CORPUS = tuple(dict.fromkeys(corpus()))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


def manners(data: bytes, random: Random) -> Iterator[list[bytes]]:
    """Cut where a generator says, and before and after each line end."""
    yield cut(data, [random.randrange(5000) for _ in range(3)])
    yield cut(data, [match.start() for match in re.finditer(rb"[\r\n]", data)])


class TheCorpus(SynchronousTestCase):
    """Every stream of the corpus, whole, in pieces, byte by byte.

    What the general channel makes of one way to send it is what the fast one must make of each.
    """

    def setUp(self) -> None:
        """The same places to cut at in every run."""
        self.random = Random(20260728)

    def test_its_size(self) -> None:
        """There are hundreds."""
        self.assertGreater(len(CORPUS), 500)

    def test_whole(self) -> None:
        """In one piece, and each deadline at its time."""
        for data in CORPUS:
            fast, plain = (replay(one, [data], finely=True) for one in (True, False))
            self.assertEqual(fast, plain, data)

    def test_in_pieces(self) -> None:
        """In the smallest, and in others."""
        for data in CORPUS:
            smallest = [data[at : at + 1] for at in range(len(data))]
            expected = replay(False, smallest)
            for pieces in (smallest, *manners(data, self.random)):
                self.assertEqual(replay(True, pieces), expected, data)

    def test_answered_late(self) -> None:
        """When requests come while others wait, whole, in pieces, each deadline at its time."""
        for data in CORPUS:
            expected = replay_held(False, [data], finely=True)
            self.assertEqual(replay_held(True, [data], finely=True), expected, data)
            if expected[0].handled:
                for pieces in manners(data, self.random):
                    self.assertEqual(replay_held(True, pieces, finely=True), expected, data)


class Mutations(SynchronousTestCase):
    """Streams of the corpus after an accident or two."""

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from(CORPUS),
        st.sampled_from(CORPUS),
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "drop", "insert", "twice", "splice", "case"]),
                st.integers(0, 3000),
                st.sampled_from([b"\r", b"\n", b"\r\n", b":", b" ", b"\t", b"\x00", b",", b"0"]),
            ),
            max_size=3,
        ),
        st.lists(st.integers(0, 3000), max_size=5),
    )
    def test_mutated(
        self, data: bytes, other: bytes, accidents: list[tuple[str, int, bytes]], places: list[int]
    ) -> None:
        """However the bytes are damaged and cut, both do the same."""
        for kind, place, some in accidents:
            at = place % (len(data) + 1)
            if kind == "flip":
                data = data[:at] + some + data[at + 1 :]
            elif kind == "drop":
                data = data[:at] + data[at + len(some) :]
            elif kind == "insert":
                data = data[:at] + some + data[at:]
            elif kind == "twice":
                data = data[:at] + data[max(0, at - 20) :]
            elif kind == "splice":
                data = data[:at] + other[place % (len(other) + 1) :]
            else:
                data = data[:at] + data[at : at + 10].swapcase() + data[at + 10 :]
        pieces = cut(data, places)
        self.assertEqual(replay(True, pieces), replay(False, pieces))
        self.assertEqual(replay_held(True, pieces), replay_held(False, pieces))


class TightBounds(SynchronousTestCase):
    """Listeners that have little room."""

    def test_bodies(self) -> None:
        """Bodies that do not fit together with others are refused alike."""
        tight = limited(body_bytes=60, body_bytes_total=100, header_count=8)
        for data in CORPUS:
            expected = replay(False, [data], limits=tight)
            for pieces in ([data], cut(data, [97, 130, 200])):
                self.assertEqual(replay(True, pieces, limits=tight), expected, data)
