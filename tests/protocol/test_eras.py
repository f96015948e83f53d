"""Tests of what a reply to ``server/discover`` says."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.eras import (
    DiscoverVerdict,
    judge_discover,
    refuses_handshake,
    refuses_version,
    wants_handshake,
    wants_metadata,
)
from mcpguard.protocol.mcp import LEGACY_VERSIONS, MODERN_VERSIONS

MODERN = MODERN_VERSIONS[0]


class JudgeTests(SynchronousTestCase):
    """`judge_discover` concludes no more than the reply says."""

    def test_results(self) -> None:
        """A well-formed result is kept, and its list decides."""
        for listed, modern, legacy in (
            ([MODERN], (MODERN,), None),
            (["2025-11-25", MODERN], (MODERN,), True),
            (["2025-11-25"], (), True),
            (["2099-01-01"], (), False),
            (["2099-01-01", MODERN], (MODERN,), None),
        ):
            result = {"supportedVersions": listed, "capabilities": {}}
            verdict = judge_discover({"jsonrpc": "2.0", "id": 1, "result": result})
            self.assertEqual(verdict, DiscoverVerdict(modern, legacy, result))

    def test_version_refused(self) -> None:
        """An unsupported version with a list says what would be supported."""
        for listed, modern, legacy in (
            (["2025-11-25", "2025-06-18"], (), True),
            ([MODERN], (MODERN,), None),
            ([MODERN, "2024-11-05"], (MODERN,), True),
        ):
            error = {"code": -32022, "message": "", "data": {"supported": listed}}
            self.assertEqual(judge_discover({"error": error}), DiscoverVerdict(modern, legacy))

    def test_modern_errors(self) -> None:
        """Errors only a stateless server has make it one."""
        for code in (-32020, -32021):
            verdict = judge_discover({"error": {"code": code, "message": ""}})
            self.assertEqual(verdict, DiscoverVerdict(MODERN_VERSIONS))

    def test_no_conclusion(self) -> None:
        """Silence, other errors and malformed replies leave it to ``initialize``."""
        answers: list[dict[str, Any] | None] = [
            None,
            {},
            {"error": None},
            {"error": {"code": -32601, "message": "Method not found"}},
            {"error": {"code": -32600}},
            {"error": {"code": -32022}},
            {"error": {"code": -32022, "data": {"supported": []}}},
            {"error": {"code": -32022, "data": {"supported": "2026-07-28"}}},
            {"result": None},
            {"result": {}},
            {"result": {"supportedVersions": []}},
            {"result": {"supportedVersions": [1, MODERN]}},
            {"result": {"supportedVersions": MODERN}},
        ]
        for answer in answers:
            self.assertEqual(judge_discover(answer), DiscoverVerdict())

    @settings(deadline=None, max_examples=100)
    @given(
        st.dictionaries(
            st.sampled_from(["result", "error"]),
            st.recursive(
                st.none() | st.integers() | st.sampled_from([*LEGACY_VERSIONS, MODERN]),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["supportedVersions", "code", "data", "supported"]),
                        inner | st.sampled_from([-32020, -32021, -32022]),
                        max_size=3,
                    )
                ),
            ),
        )
    )
    def test_anything(self, answer: dict[str, object]) -> None:
        """No reply breaks it, and only versions we speak come out."""
        verdict = judge_discover(answer)
        self.assertLessEqual(set(verdict.modern), set(MODERN_VERSIONS))


class RefutationTests(SynchronousTestCase):
    """Errors that show that a server does not speak what it was thought to speak."""

    def test_version(self) -> None:
        """Only -32022 says it, unless it lists that very version."""
        for data in (None, {}, {"supported": None}, {"supported": ["2025-11-25"]}):
            self.assertTrue(refuses_version({"code": -32022, "data": data}, MODERN))
        self.assertFalse(refuses_version({"code": -32022, "data": {"supported": [MODERN]}}, MODERN))
        for code in (-32601, -32602, -32020, None, "x"):
            self.assertFalse(refuses_version({"code": code}, MODERN))

    def test_handshake_wanted(self) -> None:
        """What handshake-era servers say of a request without a session, and nothing like it."""
        for code, words in (
            (-32600, "Bad Request: Missing session ID"),
            (-32000, "Bad Request: No valid session ID provided"),
            (-32000, "Bad Request: Server not initialized"),
            (-32600, "Bad Request: Unsupported protocol version: 2026-07-28"),
            (-32002, "Server has not been initialized"),
        ):
            self.assertTrue(wants_handshake({"code": code, "message": words}))
        for error in (
            {"code": -32602, "message": "Missing session ID"},
            {"code": -32600, "message": "Malformed request"},
            {"code": -32600},
            {"message": "session"},
        ):
            self.assertFalse(wants_handshake(error))

    def test_metadata_wanted(self) -> None:
        """The names of the metadata are the sign: PyPI ``mcp`` 2.x says it like this."""
        words = (
            "params._meta must be an object carrying the required "
            "'io.modelcontextprotocol/protocolVersion' and "
            "'io.modelcontextprotocol/clientCapabilities' envelope keys"
        )
        self.assertTrue(wants_metadata({"code": -32602, "message": words}))
        self.assertTrue(refuses_handshake({"code": -32602, "message": words}))
        for error in (
            {"code": -32603, "message": words},
            {"code": -32602, "message": "protocolVersion is required"},
            {"code": -32602, "message": "_meta must be an object"},
            {"code": -32602},
        ):
            self.assertFalse(wants_metadata(error))

    def test_handshake_refused(self) -> None:
        """Codes that only stateless servers have, and no such method."""
        for code, refused in ((-32022, True), (-32020, True), (-32601, True), (-32602, False)):
            self.assertEqual(refuses_handshake({"code": code}), refused)
