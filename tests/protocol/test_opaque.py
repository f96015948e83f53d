"""Tests of what a server gives a client to bring back, packed."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.opaque import DIGEST_BYTES, pack, params_digest, unpack

TEXTS = st.text(max_size=30)
TIMES = st.integers(0, 4_000_000_000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


class PackTests(SynchronousTestCase):
    """`pack` and `unpack`."""

    @settings(deadline=None, max_examples=100)
    @given(TEXTS, TIMES, TIMES, st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES))
    def test_exact_until_the_end(self, text: str, end: int, now: int, digest: bytes) -> None:
        """For every text and time: the same text before the end, nothing from then on."""
        expected = text if now < end else None
        self.assertEqual(unpack(pack(text, end), now), expected)
        self.assertEqual(unpack(pack(text, end, digest), now, digest), expected)

    def test_other_digest(self) -> None:
        """What was packed for one request is not given to another."""
        content = pack("state", 10, params_digest({"name": "a"}))
        self.assertIsNone(unpack(content, 5, params_digest({"name": "b"})))

    def test_fractions(self) -> None:
        """A part of a second counts."""
        self.assertEqual(unpack(pack("x", 1.5), 1.4), "x")
        self.assertIsNone(unpack(pack("x", 1.5), 1.5))


class DigestTests(SynchronousTestCase):
    """`params_digest`."""

    def test_rounds_of_one_request(self) -> None:
        """Answers, state and metadata differ from round to round; the order does not count."""
        first = {"name": "a", "arguments": {"x": 1, "y": 2}}
        later = {
            "_meta": {"progressToken": 1},
            "arguments": {"y": 2, "x": 1},
            "name": "a",
            "inputResponses": {"k": {}},
            "requestState": "s",
        }
        self.assertEqual(params_digest(first), params_digest(later))

    def test_nothing(self) -> None:
        """No params are empty params."""
        self.assertEqual(params_digest(None), params_digest({}))

    @settings(deadline=None, max_examples=100)
    @given(JSON, JSON)
    def test_other_requests(self, one: Any, other: Any) -> None:
        """For all arguments: equal digests for what is written alike, and for nothing else."""
        alike = repr(_sorted(one)) == repr(_sorted(other))
        digests = params_digest({"arguments": one}), params_digest({"arguments": other})
        self.assertEqual(digests[0] == digests[1], alike)


def _sorted(value: Any) -> Any:
    """A value with the members of its objects in order; ``1`` and ``1.0`` stay apart."""
    if isinstance(value, dict):
        return ("object", [(key, _sorted(value[key])) for key in sorted(value)])
    return [_sorted(member) for member in value] if isinstance(value, list) else value
