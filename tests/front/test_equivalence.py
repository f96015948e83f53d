"""The same bytes before a listener with the fast channel and before one without: one outcome."""

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


class TheCorpus(SynchronousTestCase):
    """Every stream of the corpus, whole, in pieces, byte by byte."""

    def assert_equal_outcomes(self, pieces: list[bytes], *, finely: bool = False) -> None:
        """Both listeners do the same with these pieces, at once and when answers come late."""
        data = b"".join(pieces)
        for play in (replay, replay_held):
            fast, plain = (play(one, pieces, finely=finely) for one in (True, False))
            self.assertEqual(fast, plain, data)

    def test_its_size(self) -> None:
        """There are hundreds."""
        self.assertGreater(len(CORPUS), 500)

    def test_whole(self) -> None:
        """In one piece, and each deadline at its time."""
        for data in CORPUS:
            self.assert_equal_outcomes([data], finely=True)

    def test_byte_by_byte(self) -> None:
        """In the smallest pieces."""
        for data in CORPUS:
            pieces = [data[at : at + 1] for at in range(len(data))]
            self.assertEqual(replay(True, pieces), replay(False, pieces), data)

    def test_in_pieces(self) -> None:
        """Cut where a generator with a fixed seed says, and before and after each line end."""
        random = Random(20260728)
        for data in CORPUS:
            self.assert_equal_outcomes(cut(data, [random.randrange(5000) for _ in range(3)]))
            ends = [at for at in range(len(data)) if data[at : at + 1] in b"\r\n"]
            self.assert_equal_outcomes(cut(data, ends))


class Mutations(SynchronousTestCase):
    """Streams of the corpus after an accident or two."""

    @settings(max_examples=300, deadline=None)
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
            for pieces in ([data], cut(data, [97, 130, 200])):
                first = replay(True, pieces, limits=tight)
                self.assertEqual(first, replay(False, pieces, limits=tight), data)
