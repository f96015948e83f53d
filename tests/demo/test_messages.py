"""Tests of the demo server's JSON-RPC messages."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.messages import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ProtocolError,
    encode,
    error,
    is_id,
    is_request,
    is_response,
    meta_of,
    parse,
)


class ParseTests(SynchronousTestCase):
    """What counts as a message."""

    def refused(self, data: bytes) -> ProtocolError:
        """The error that ``data`` is refused with."""
        problem: ProtocolError = self.assertRaises(ProtocolError, parse, data)
        return problem

    def test_not_json(self) -> None:
        """Anything but strict UTF-8 JSON is a parse error."""
        for data in (
            b"",
            b"{",
            b"\xff",
            b'{"jsonrpc":"2.0","id":NaN,"method":"x"}',
            b'{"jsonrpc":"2.0","id":"\\ud800","method":"x"}',
            b"[" * 100_000,
            b'{"a":' + b"1" * 5000 + b"}",
        ):
            self.assertEqual(self.refused(data).code, PARSE_ERROR, data[:40])

    def test_paired_surrogates(self) -> None:
        """An escaped character outside the BMP is two surrogates and valid."""
        message = parse(b'{"jsonrpc":"2.0","id":"\\ud83d\\ude00","method":"x"}')
        self.assertEqual(message["id"], "\N{GRINNING FACE}")

    def test_wrong_shape(self) -> None:
        """Valid JSON that is no JSON-RPC 2.0 message is an invalid request."""
        for data in (
            b"[]",
            b"1",
            b'{"id":1,"method":"x"}',
            b'{"jsonrpc":"2.0","id":null,"method":"x"}',
            b'{"jsonrpc":"2.0","id":true,"method":"x"}',
            b'{"jsonrpc":"2.0","id":1.0,"method":"x"}',
            b'{"jsonrpc":"2.0","id":1,"method":2}',
            b'{"jsonrpc":"2.0","id":1,"method":"x","params":[]}',
            b'{"jsonrpc":"2.0","id":1}',
            b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
        ):
            self.assertEqual(self.refused(data).code, INVALID_REQUEST, data)

    def test_error_names_the_request(self) -> None:
        """The id stands in the error wherever it could be read, with its type."""
        self.assertEqual(
            self.refused(b'{"jsonrpc":"2.0","id":"1","method":"x","params":3}').request_id, "1"
        )
        self.assertIsNone(self.refused(b'{"jsonrpc":"2.0","id":[],"method":"x"}').request_id)

    def test_kinds(self) -> None:
        """Requests have a method and an id, notifications a method, responses neither method."""
        request = parse(b'{"jsonrpc":"2.0","id":0,"method":"x"}')
        notification = parse(b'{"jsonrpc":"2.0","method":"x"}')
        response = parse(b'{"jsonrpc":"2.0","id":0,"result":{}}')
        self.assertEqual(
            [is_request(message) for message in (request, notification, response)],
            [True, False, False],
        )
        self.assertEqual(
            [is_response(message) for message in (request, notification, response)],
            [False, False, True],
        )

    def test_meta(self) -> None:
        """A missing or odd ``_meta`` reads as an empty one."""
        for message in (b"", b',"params":{}', b',"params":{"_meta":3}'):
            self.assertEqual(meta_of(parse(b'{"jsonrpc":"2.0","method":"x"%b}' % message)), {})

    @settings(deadline=None, max_examples=60)
    @given(st.binary(max_size=60))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever the bytes, they are a message or a protocol error, never another exception."""
        try:
            self.assertEqual(parse(data)["jsonrpc"], "2.0")
        except ProtocolError as problem:
            self.assertIn(problem.code, (PARSE_ERROR, INVALID_REQUEST))

    @settings(deadline=None, max_examples=60)
    @given(st.text())
    def test_round_trip(self, text: str) -> None:
        """What is encoded is one line that decodes to the same message."""
        message = {"jsonrpc": "2.0", "id": text, "method": text, "params": {text: [text]}}
        line = encode(message)
        self.assertNotIn(b"\n", line)
        self.assertEqual(parse(line), message)


class ErrorTests(SynchronousTestCase):
    """Error responses."""

    def test_shape(self) -> None:
        """The id is always there, data only where there is some."""
        self.assertEqual(
            json.loads(encode(error(None, ProtocolError(-1, "no")))),
            {"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": "no"}},
        )
        self.assertEqual(error(1, ProtocolError(-1, "no", {"a": 1}))["error"]["data"], {"a": 1})

    def test_ids(self) -> None:
        """Booleans are integers to Python and no ids to JSON-RPC."""
        values: list[object] = ["", 0, -1, True, None, 1.5, []]
        self.assertEqual(
            [is_id(value) for value in values], [True, True, True, False, False, False, False]
        )
