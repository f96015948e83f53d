"""The number in front of what workers hand out."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.ownership import marked, marked_state, place_of, unmarked

NUMBERS = st.integers(1, 9_999)


class MarkTests(SynchronousTestCase):
    """Tokens with and without a number."""

    @given(NUMBERS, st.text())
    @settings(deadline=None, max_examples=100)
    def test_round_trip(self, number: int, token: str) -> None:
        """What is marked is unmarked exactly, whatever the token is."""
        self.assertEqual(unmarked(marked(number, token)), (str(number), token))

    def test_alone(self) -> None:
        """A process on its own marks nothing."""
        self.assertEqual(marked(None, "token"), "token")
        self.assertEqual(unmarked("token"), ("", "token"))

    def test_no_numbers(self) -> None:
        """A number has one form only."""
        for token in (
            "0.a",
            "01.a",
            "-1.a",
            "+1.a",
            "12345.a",
            "1",
            "1,a",
            ".a",
            " 1.a",
            "\u0661.a",
        ):
            self.assertEqual(unmarked(token), ("", token), token)

    @given(st.text(), st.integers(1, 64))
    @settings(deadline=None, max_examples=200)
    def test_every_token_has_one_place(self, token: str, workers: int) -> None:
        """Any text is somewhere, always at the same worker."""
        place = place_of(token, workers)
        self.assertTrue(1 <= place <= workers)
        self.assertEqual(place_of(token, workers), place)

    @given(NUMBERS, st.text(), st.integers(1, 64))
    @settings(deadline=None, max_examples=100)
    def test_place_is_the_number(self, number: int, token: str, workers: int) -> None:
        """A marked token is at the worker of its number, as long as there is one."""
        place = place_of(marked(number, token), workers)
        self.assertEqual(place, number if number <= workers else (number - 1) % workers + 1)

    def test_lone_surrogates(self) -> None:
        """What cannot be encoded is somewhere too."""
        self.assertIn(place_of("\ud800", 3), (1, 2, 3))


class StateTests(SynchronousTestCase):
    """The state of a request in its body."""

    def test_found(self) -> None:
        """The params' own state is found, however it is written."""
        for text in (
            '{"params":{"requestState":"2.abc"}}',
            '{ "params" : { "a": {"requestState":"3.x"}, "requestState" :\n"2.abc" } }',
            '{"params":{"requestState":"\\u0032.abc","arguments":{"requestState":"4.d"}}}',
        ):
            self.assertEqual(marked_state(text.encode()), "2.abc", text)

    def test_not_there(self) -> None:
        """Bodies without one, or with one that no worker marked, are nobody's."""
        for text in (
            "",
            "{}",
            '{"params":{}}',
            '{"params":{"requestState":"abc"}}',
            '{"params":{"requestState":null}}',
            '{"params":{"requestState":2.5}}',
            '{"params":{"arguments":{"requestState":"2.abc"}}}',
            '{"params":["requestState"]}',
            '[{"params":{"requestState":"2.abc"}}]',
            '"requestState"',
            '{"params":{"requestState":"2.abc"}',
            '{"requestState":"2.abc"}',
        ):
            self.assertIsNone(marked_state(text.encode()), text)

    def test_unreadable(self) -> None:
        """What the decoder has no word of its own for is nobody's, like all that is no JSON."""
        state = b'"params":{"requestState":"1.a"}}'
        for body in (
            b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"," + state,
            b'{"x":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"," + state,
            b'{"x":' + b"[" * 100_000 + b"," + state,
            b'{"params":{"requestState":"\xff1.a"}}',
            b'{"params":{"requestState":"1.\xc3"}}',
        ):
            self.assertIsNone(marked_state(body), body[:30])

    @given(st.binary(max_size=200))
    @settings(deadline=None, max_examples=200)
    def test_any_bytes(self, data: bytes) -> None:
        """No body is too odd."""
        for body in (data, b'{"params":{"requestState":"2.abc"' + data, b"requestState" + data):
            state = marked_state(body)
            self.assertTrue(state is None or state.startswith("2."))
