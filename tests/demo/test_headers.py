"""Tests of the header rules of the demo server."""

import base64

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.headers import (
    accepts,
    check_modern,
    check_params,
    decode,
    host_of,
    is_local_origin,
    media_type,
    refuse_repeats,
    speaks_modern,
)
from mcpguard.demo.messages import HEADER_MISMATCH, META_VERSION, Message, ProtocolError
from mcpguard.demo.schemas import object_of
from mcpguard.demo.wire import Request


def request(**headers: str | list[str]) -> Request:
    """A request with these headers, underscores for hyphens."""
    return Request(
        "POST",
        "/mcp",
        {
            name.replace("_", "-"): [value] if isinstance(value, str) else value
            for name, value in headers.items()
        },
    )


class AuthorityTests(SynchronousTestCase):
    """Host and Origin."""

    def test_host(self) -> None:
        """A host is read without port and brackets; what is none is None."""
        for authority, host in (
            ("localhost", "localhost"),
            ("LOCALHOST:80", "localhost"),
            ("[::1]:8000", "::1"),
            ("evil.example", "evil.example"),
            ("localhost@evil.example", None),
            ("localhost/x", None),
            ("localhost:port", None),
            ("[::1", None),
            ("", None),
        ):
            self.assertEqual(host_of(authority), host, authority)

    def test_origin(self) -> None:
        """Only pages of this machine may call."""
        for origin in ("http://localhost", "https://127.0.0.1:8443", "http://[::1]:1"):
            self.assertTrue(is_local_origin(origin), origin)
        for origin in (
            "null",
            "",
            "http://evil.example",
            "http://localhost.evil.example",
            "http://evil.example#localhost",
            "file://localhost",
        ):
            self.assertFalse(is_local_origin(origin), origin)


class NegotiationTests(SynchronousTestCase):
    """Accept and Content-Type."""

    def test_accepts(self) -> None:
        """A type is accepted by name or wildcard, parameters aside, and not by silence."""
        self.assertFalse(accepts(request(), "application/json"))
        for value in ("application/json", "text/html, Application/JSON;q=0.1", "*/*"):
            self.assertTrue(accepts(request(accept=value), "application/json"), value)
        self.assertTrue(accepts(request(accept=["text/html", "text/*"]), "text/event-stream"))
        self.assertFalse(accepts(request(accept="application/jsonx"), "application/json"))

    def test_media_type(self) -> None:
        """Parameters and case do not matter."""
        self.assertEqual(
            media_type(request(content_type="Application/JSON; charset=utf-8")), "application/json"
        )
        self.assertEqual(media_type(request()), "")


class ModernTests(SynchronousTestCase):
    """The rules of 2026-07-28."""

    MESSAGE: Message = {
        "method": "tools/call",
        "params": {"name": "e", "_meta": {META_VERSION: "2026-07-28"}},
    }

    def test_era(self) -> None:
        """Header or body make a request modern; a legacy header on an old body does not."""
        old: Message = {"method": "tools/list"}
        for version, message, modern in (
            (None, old, False),
            ("2025-06-18", old, False),
            ("2026-07-28", old, True),
            ("nonsense", old, True),
            (None, self.MESSAGE, True),
            ("2025-06-18", self.MESSAGE, True),
            (None, {"method": "server/discover"}, True),
            (None, {"id": 1, "result": {}}, False),
        ):
            headers = {} if version is None else {"mcp_protocol_version": version}
            self.assertEqual(speaks_modern(request(**headers), message), modern)

    def headers(self, **other: str | list[str]) -> Request:
        """A request whose headers fit ``MESSAGE``, with changes."""
        fitting: dict[str, str | list[str]] = {
            "mcp_protocol_version": "2026-07-28",
            "mcp_method": "tools/call",
            "mcp_name": "e",
        }
        return request(**{**fitting, **other})

    def test_fitting(self) -> None:
        """Headers that repeat the body pass, plain or encoded."""
        check_modern(self.headers(), self.MESSAGE)
        check_modern(self.headers(mcp_name="=?base64?ZQ==?="), self.MESSAGE)
        refuse_repeats(self.headers())
        bare = self.headers(mcp_method="tools/list", mcp_name=[])
        check_modern(bare, {**self.MESSAGE, "method": "tools/list"})

    def test_not_fitting(self) -> None:
        """A header that is missing, repeated, different or badly encoded is a mismatch."""
        for changed in (
            self.headers(mcp_method="tools/list"),
            self.headers(mcp_method="TOOLS/CALL"),
            self.headers(mcp_method="=?base64?dG9vbHMvY2FsbA==?="),
            self.headers(mcp_name="f"),
            self.headers(mcp_name=[]),
            self.headers(mcp_name=["e", "e"]),
            self.headers(mcp_name="=?base64?ZR==?="),
            self.headers(mcp_protocol_version="2025-11-25"),
            self.headers(mcp_protocol_version=[]),
        ):
            problem = self.assertRaises(ProtocolError, check_modern, changed, self.MESSAGE)
            self.assertEqual(problem.code, HEADER_MISMATCH)
        twice = self.headers(mcp_name=["e", "e"])
        self.assertRaises(ProtocolError, refuse_repeats, twice)

    def test_params(self) -> None:
        """An annotated argument and its header come together or not at all."""
        schema = object_of(region={"type": "string", "x-mcp-header": "Region"})
        check_params(request(), schema, {})
        check_params(request(), schema, {"region": None})
        check_params(request(), schema, "odd")
        check_params(request(mcp_param_region="eu"), schema, {"region": "eu"})
        check_params(request(mcp_param_other="eu"), schema, {})
        check_params(request(mcp_param_region="=?base64?w7w=?="), schema, {"region": "ü"})
        for headers, arguments in (
            (request(), {"region": "eu"}),
            (request(mcp_param_region="us"), {"region": "eu"}),
            (request(mcp_param_region=["eu", "eu"]), {"region": "eu"}),
            (request(mcp_param_region="eu"), {}),
            (request(mcp_param_region="\xfc"), {"region": "ü"}),
        ):
            self.assertRaises(ProtocolError, check_params, headers, schema, arguments)

    @settings(deadline=None, max_examples=100)
    @given(st.text())
    def test_encoded_text(self, text: str) -> None:
        """Any text survives the base64 form."""
        coded = base64.b64encode(text.encode("utf-8")).decode("ascii")
        self.assertEqual(decode(f"=?base64?{coded}?="), text)

    def test_malformed_encoding(self) -> None:
        """Padding, alphabet and canonical form must be right; other text stands for itself."""
        for value in (
            "=?base64?ZQ?=",
            "=?base64?Z Q==?=",
            "=?base64?_w==?=",
            "=?base64?/w==?=",
            "=?base64?ZR==?=",
        ):
            self.assertIsNone(decode(value), value)
        for value in ("plain", "=?base64?", "=?BASE64?ZQ==?=", "=?base64?=", ""):
            self.assertEqual(decode(value), value)
