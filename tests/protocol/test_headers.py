"""Tests of the header rules of the stateless versions."""

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refusal
from mcpguard.protocol.headers import (
    ALL_VERSIONS,
    check_modern,
    decode_value,
    encode_value,
    routing_headers,
)
from mcpguard.protocol.jsonrpc import Request
from mcpguard.protocol.mcp import (
    LEGACY_VERSIONS,
    META_CAPABILITIES,
    META_VERSION,
    METHODS,
    MODERN_VERSIONS,
)

VERSION = MODERN_VERSIONS[0]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def request(method: str, params: dict[str, Any] | None) -> Request:
    """A request as `parse` would give it."""
    return Request(1, method, params, {})


def params_of(method: str) -> dict[str, Any]:
    """Params that pass for a method."""
    meta = {META_VERSION: VERSION, META_CAPABILITIES: {}}
    return {"_meta": meta, "name": "thing", "uri": "file:///x", "taskId": "t1"}


def headers_of(method: str, params: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The headers a good client sends with it."""
    return {name.lower(): (value,) for name, value in routing_headers(VERSION, method, params)}


class CodecTests(SynchronousTestCase):
    """Header values, plain and wrapped."""

    def test_plain(self) -> None:
        """What a header can carry is left as it is."""
        for value in ("", "a", "read file", "a~!\"'", "=?base64?", "?=", "=?BASE64?YQ==?="):
            self.assertEqual(encode_value(value), value)
            self.assertEqual(decode_value(value), value)

    def test_wrapped(self) -> None:
        """All else is wrapped: other letters, control characters, outer spaces, look-alikes."""
        self.assertEqual(encode_value("\u00e9"), "=?base64?w6k=?=")
        for value in (" a", "a ", "\t", "a\r\nX: 1", "\x7f", "=?base64??=", "=?base64?x?="):
            encoded = encode_value(value)
            self.assertTrue(encoded.startswith("=?base64?"), value)
            self.assertNotEqual(encoded, value)
            self.assertEqual(decode_value(encoded), value)

    def test_malformed(self) -> None:
        """Bad padding, foreign letters, a second spelling, bad UTF-8 and raw bytes are nothing."""
        for value in (
            "=?base64?YQ?=",
            "=?base64?YQ=?=",
            "=?base64?YR==?=",
            "=?base64?Y Q==?=",
            "=?base64?YQ==YQ==?=",
            "=?base64?_w==?=",
            "=?base64?/w==?=",
            "=?base64?\u00e9?=",
            "\u00e9",
            "a\tb",
        ):
            self.assertIsNone(decode_value(value), value)

    def test_short(self) -> None:
        """Opening and closing marks that share characters are plain text."""
        self.assertEqual(decode_value("=?base64?="), "=?base64?=")

    @settings(deadline=None, max_examples=200)
    @given(TEXTS)
    def test_round_trip(self, value: str) -> None:
        """Every text comes back, and travels as printable ASCII without outer spaces."""
        encoded = encode_value(value)
        self.assertEqual(decode_value(encoded), value)
        self.assertTrue(all(" " <= one <= "~" for one in encoded))
        self.assertEqual(encoded, encoded.strip())

    @settings(deadline=None, max_examples=200)
    @given(st.text("aYQ=?/+base64 w\u00e9", max_size=12))
    def test_one_spelling(self, payload: str) -> None:
        """A wrapped value that is read has no second spelling."""
        value = f"=?base64?{payload}?="
        decoded = decode_value(value)
        if decoded is not None and encode_value(decoded) != decoded:
            self.assertEqual(encode_value(decoded), value)


Fault = Callable[[dict[str, tuple[str, ...]], Request], Request]


def _double(name: str) -> Fault:
    def apply(headers: dict[str, tuple[str, ...]], sent: Request) -> Request:
        headers[name] = (*headers.get(name, ("x",)), "x")
        return sent

    return apply


def _drop(name: str) -> Fault:
    def apply(headers: dict[str, tuple[str, ...]], sent: Request) -> Request:
        if len(headers.get(name, ())) <= 1:
            headers.pop(name, None)
        return sent

    return apply


def _differ(name: str) -> Fault:
    def apply(headers: dict[str, tuple[str, ...]], sent: Request) -> Request:
        headers[name] = ("other", *headers.get(name, ())[1:])
        return sent

    return apply


def _without_meta(key: str) -> Fault:
    def apply(headers: dict[str, tuple[str, ...]], sent: Request) -> Request:
        assert sent.params is not None
        meta = {name: value for name, value in sent.params["_meta"].items() if name != key}
        return request(sent.method, {**sent.params, "_meta": meta})

    return apply


def _with_version(version: str) -> Fault:
    def apply(headers: dict[str, tuple[str, ...]], sent: Request) -> Request:
        assert sent.params is not None
        meta = {**sent.params["_meta"], META_VERSION: version}
        headers["mcp-protocol-version"] = (version, *headers["mcp-protocol-version"][1:])
        return request(sent.method, {**sent.params, "_meta": meta})

    return apply


def _with_method(method: str) -> Fault:
    def apply(headers: dict[str, tuple[str, ...]], sent: Request) -> Request:
        headers["mcp-method"] = (method, *headers["mcp-method"][1:])
        return request(method, sent.params)

    return apply


LADDER: list[tuple[Reason, list[Fault]]] = [
    (
        Reason.HEADER_MISMATCH,
        [_double("mcp-protocol-version"), _double("mcp-method"), _double("mcp-name")],
    ),
    (Reason.INVALID_PARAMS, [_without_meta(META_VERSION), _without_meta(META_CAPABILITIES)]),
    (
        Reason.HEADER_MISMATCH,
        [
            fault(name)
            for fault in (_drop, _differ)
            for name in ("mcp-protocol-version", "mcp-method", "mcp-name")
        ],
    ),
    (Reason.UNSUPPORTED_VERSION, [_with_version("2099-01-01"), _with_version("2025-11-25")]),
    (
        Reason.UNKNOWN_METHOD,
        [_with_method(name) for name in ("initialize", "ping", "x/y", "logging/setLevel")],
    ),
]
"""Steps of the ladder, in order, with ways to fail at each."""


class LadderTests(SynchronousTestCase):
    """`check_modern` fails at the first step that does not hold."""

    def check(
        self, headers: Mapping[str, tuple[str, ...]], method: str, params: dict[str, Any] | None
    ) -> Refusal | None:
        """Run the ladder."""
        return check_modern(headers, request(method, params))

    def assertReason(self, refusal: Refusal | None, reason: Reason) -> None:
        """The refusal is this one."""
        assert refusal is not None
        self.assertIs(refusal.reason, reason)

    def test_good(self) -> None:
        """Every relayed method of the era passes with the headers we would send ourselves."""
        for name, method in METHODS.items():
            params = params_of(name)
            refusal = self.check(headers_of(name, params), name, params)
            if method.modern and method.relayed and method.kind == "request":
                self.assertIsNone(refusal, name)
            else:
                self.assertReason(refusal, Reason.UNKNOWN_METHOD)

    def test_codes(self) -> None:
        """The steps carry the codes and statuses that clients negotiate by."""
        codes = [(Refusal(reason).shape.status, Refusal(reason).shape.code) for reason, _ in LADDER]
        self.assertEqual(
            codes, [(400, -32020), (400, -32602), (400, -32020), (400, -32022), (404, -32601)]
        )

    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_order(self, data: st.DataObject) -> None:
        """Of any set of faults the one on the earliest step is reported."""
        method = "tools/call"
        params = params_of(method)
        headers, sent = headers_of(method, params), request(method, params)
        failing = data.draw(st.sets(st.integers(0, len(LADDER) - 1)))
        # From the last step to the first, as later faults must not undo earlier ones.
        for step in sorted(failing, reverse=True):
            _, faults = LADDER[step]
            if step == 2 and 4 in failing:
                # Of a method that names nothing Mcp-Name is not looked at.
                faults = [_differ("mcp-protocol-version"), _drop("mcp-method")]
            sent = data.draw(st.sampled_from(faults))(headers, sent)
        refusal = check_modern(headers, sent)
        if failing:
            self.assertReason(refusal, LADDER[min(failing)][0])
        else:
            self.assertIsNone(refusal)

    def test_meta_shapes(self) -> None:
        """Missing or misshapen ``_meta`` is -32602 before any header is looked at."""
        misshapen: list[dict[str, Any] | None] = [
            None,
            {},
            {"_meta": None},
            {"_meta": []},
            {"_meta": {META_VERSION: 1, META_CAPABILITIES: {}}},
            {"_meta": {META_VERSION: None, META_CAPABILITIES: {}}},
            {"_meta": {META_VERSION: VERSION, META_CAPABILITIES: None}},
            {"_meta": {META_VERSION: VERSION, META_CAPABILITIES: []}},
        ]
        for params in misshapen:
            self.assertReason(self.check({}, "tools/list", params), Reason.INVALID_PARAMS)

    def test_client_info_is_optional(self) -> None:
        """Nothing beyond the two keys is needed."""
        params = {"_meta": {META_VERSION: VERSION, META_CAPABILITIES: {}}}
        headers = headers_of("tools/list", params)
        self.assertIsNone(self.check(headers, "tools/list", params))

    def test_names(self) -> None:
        """The name is compared after decoding, case by case, for each method that has one."""
        for method, member in (
            ("tools/call", "name"),
            ("prompts/get", "name"),
            ("resources/read", "uri"),
        ):
            params = {**params_of(method), member: "Gr\u00fc\u00dfe x"}
            headers = headers_of(method, params)
            self.assertTrue(headers["mcp-name"][0].startswith("=?base64?"))
            self.assertIsNone(self.check(headers, method, params))
            for value in ("Gr\u00fc\u00dfe x", "gr\u00fc\u00dfe x", "=?base64?!?="):
                headers["mcp-name"] = (value,)
                refusal = self.check(headers, method, params)
                self.assertReason(refusal, Reason.HEADER_MISMATCH)

    def test_name_of_wrong_type(self) -> None:
        """A name that is no string is a matter of the params, whatever the header says."""
        for name in (None, 5, ["x"]):
            params = {**params_of("tools/call"), "name": name}
            headers = {**headers_of("tools/call", params), "mcp-name": ("x",)}
            refusal = self.check(headers, "tools/call", params)
            self.assertReason(refusal, Reason.INVALID_PARAMS)

    def test_unneeded_name(self) -> None:
        """A name nobody asked for is ignored."""
        params = params_of("tools/list")
        headers = {**headers_of("tools/list", params), "mcp-name": ("x",)}
        self.assertIsNone(self.check(headers, "tools/list", params))

    def test_supported(self) -> None:
        """An unsupported version is answered with the versions to choose from."""
        params = {"_meta": {META_VERSION: "2099-01-01", META_CAPABILITIES: {}}}
        headers = {"mcp-protocol-version": ("2099-01-01",), "mcp-method": ("tools/list",)}
        refusal = self.check(headers, "tools/list", params)
        assert refusal is not None
        self.assertEqual(refusal.data, {"supported": list(ALL_VERSIONS), "requested": "2099-01-01"})
        narrowed = check_modern(headers, request("tools/list", params), ["2025-11-25"])
        assert narrowed is not None
        self.assertEqual(narrowed.data["supported"], ["2025-11-25"])

    def test_narrowed_to_the_other_era(self) -> None:
        """A version we know is refused where the route does not serve it."""
        params = params_of("tools/list")
        headers = headers_of("tools/list", params)
        refusal = check_modern(headers, request("tools/list", params), LEGACY_VERSIONS)
        self.assertReason(refusal, Reason.UNSUPPORTED_VERSION)


class RoutingTests(SynchronousTestCase):
    """`routing_headers` builds what goes out from the body that goes out."""

    def test_legacy(self) -> None:
        """A handshake version has its own header only."""
        self.assertEqual(
            routing_headers("2025-11-25", "tools/call", {"name": "x"}),
            (("MCP-Protocol-Version", "2025-11-25"),),
        )

    def test_modern(self) -> None:
        """Method and name follow the body, encoded where needed."""
        self.assertEqual(
            routing_headers(VERSION, "resources/read", {"uri": "x:\u00e9", "name": "no"}),
            (
                ("MCP-Protocol-Version", VERSION),
                ("Mcp-Method", "resources/read"),
                ("Mcp-Name", "=?base64?eDrDqQ==?="),
            ),
        )
        for params in (None, {}, {"name": 5}):
            names = [name for name, _ in routing_headers(VERSION, "tools/call", params)]
            self.assertEqual(names, ["MCP-Protocol-Version", "Mcp-Method"])
