"""Tests of the strict JSON-RPC layer."""

import json
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.protocol import members
from mcpguard.protocol.jsonrpc import (
    Batch,
    Bounds,
    Malformed,
    Notification,
    Request,
    Response,
    encode,
    parse,
    parse_object,
)
from mcpguard.protocol.mcp import META_CAPABILITIES

BOUNDS = Bounds(max_depth=32, max_nodes=2_000)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(
    st.integers(min_value=-(2**80), max_value=2**80),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=3)


def spelled(value: object, **options: Any) -> bytes:
    """Write JSON by another writer than ours."""
    return json.dumps(value, **options).encode()


def call(id: object = 1, **arguments: object) -> dict[str, Any]:
    """A plain tools/call."""
    return {
        "jsonrpc": "2.0",
        "id": id,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": arguments},
    }


def depth_of(value: object) -> int:
    """Containers within each other, counted the obvious way."""
    if isinstance(value, dict):
        return 1 + max((depth_of(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(inner) for inner in value), default=0)
    return 0


def nodes_of(value: object) -> int:
    """Values in all, counted the obvious way."""
    if isinstance(value, dict):
        return 1 + sum(nodes_of(inner) for inner in value.values())
    if isinstance(value, list):
        return 1 + sum(nodes_of(inner) for inner in value)
    return 1


class RefusalCase(SynchronousTestCase):
    """Base of the tests that expect a refusal."""

    def refused(self, body: bytes, bounds: Bounds = BOUNDS, *, max_batch: int = 0) -> Malformed:
        """The refusal of ``body``; fails if it passes."""
        try:
            parse(body, bounds, max_batch=max_batch)
        except Malformed as malformed:
            return malformed
        raise self.failureException(f"{body!r} passed")

    def assertInvalid(self, body: bytes, id: str | int | None) -> None:
        """``body`` is JSON but no message, and its id was read as ``id``."""
        malformed = self.refused(body)
        self.assertIs(malformed.reason, Reason.INVALID_REQUEST, body)
        self.assertEqual(malformed.id, id, body)
        self.assertIs(type(malformed.id), type(id), body)


class ShapeTests(RefusalCase):
    """`parse` tells messages apart by their shape."""

    def test_request(self) -> None:
        """A method and an id make a request; unknown members stay."""
        body = b'{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{"cursor":""},"x":[1]}'
        message = parse(body, BOUNDS)
        assert isinstance(message, Request)
        self.assertEqual((message.id, message.method), ("a", "tools/list"))
        self.assertEqual(message.params, {"cursor": ""})
        self.assertEqual(message.fields["x"], [1])

    def test_notification(self) -> None:
        """A method without an id makes a notification, with or without params."""
        message = parse(b'{"jsonrpc":"2.0","method":"notifications/initialized"}', BOUNDS)
        assert isinstance(message, Notification)
        self.assertIsNone(message.params)

    def test_responses(self) -> None:
        """A result or an error makes a response; any result will do, null too."""
        for body, id in (
            (b'{"jsonrpc":"2.0","id":7,"result":null}', 7),
            (b'{"jsonrpc":"2.0","id":"7","result":{"a":1}}', "7"),
            (b'{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"no"}}', 7),
            (b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}', None),
        ):
            message = parse(body, BOUNDS)
            assert isinstance(message, Response)
            self.assertEqual(message.id, id)
            self.assertEqual(message.fields, json.loads(body))

    def test_id_types(self) -> None:
        """Strings and integers of any size are ids and keep their type; ``true`` is no 1."""
        for literal, id in (
            (b"0", 0),
            (b"-5", -5),
            (b'"1"', "1"),
            (b'""', ""),
            (b"123456789012345678901234567890", 123456789012345678901234567890),
        ):
            message = parse(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % literal, BOUNDS)
            assert isinstance(message, Request)
            self.assertEqual(message.id, id)
            self.assertIs(type(message.id), type(id))

    def test_wrong_ids(self) -> None:
        """Null, fractions, floats that look whole, booleans and containers are no ids."""
        for literal in (b"null", b"1.5", b"1.0", b"1e2", b"true", b"[]", b"{}"):
            self.assertInvalid(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % literal, None)
            self.assertInvalid(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % literal, None)

    def test_no_message(self) -> None:
        """What is JSON but no message is refused as such, with the id where there is one."""
        for members_, id in (
            ('"id":3,"method":"ping"', 3),
            ('"jsonrpc":"1.0","id":3,"method":"ping"', 3),
            ('"jsonrpc":2.0,"id":3,"method":"ping"', 3),
            ('"jsonrpc":"2.0","id":3', 3),
            ('"jsonrpc":"2.0","id":3,"method":5', 3),
            ('"jsonrpc":"2.0","id":3,"method":""', 3),
            ('"jsonrpc":"2.0","id":3,"method":null', 3),
            ('"jsonrpc":"2.0","id":3,"method":"ping","result":{}', 3),
            ('"jsonrpc":"2.0","id":3,"method":"ping","error":{}', 3),
            ('"jsonrpc":"2.0","id":3,"method":"ping","params":[]', 3),
            ('"jsonrpc":"2.0","id":3,"method":"ping","params":null', 3),
            ('"jsonrpc":"2.0","id":3,"result":{},"error":{}', 3),
            ('"jsonrpc":"2.0","id":3,"result":{},"params":{}', 3),
            ('"jsonrpc":"2.0","id":3,"error":"no"', 3),
            ('"jsonrpc":"2.0","result":{}', None),
            ("", None),
        ):
            self.assertInvalid(b"{" + members_.encode() + b"}", id)
        for body in (b"1", b'"text"', b"null", b"true"):
            self.assertInvalid(body, None)


class StrictnessTests(RefusalCase):
    """No second parser may read a body otherwise."""

    def test_no_json(self) -> None:
        """What is not exactly one JSON text in UTF-8 is a parse error without an id."""
        good = encode(call())
        for body in (
            b"",
            b" ",
            good[:-1],
            good + b"x",
            good + good,
            b"\xef\xbb\xbf" + good,
            good.decode().encode("utf-16"),
            good.replace(b"echo", b"\xff\xfe"),
            good.replace(b"echo", b"\xed\xa0\x80"),
            good.replace(b"echo", b"\\ud800"),
            good.replace(b"echo", b"\\udc00\\ud800"),
            good.replace(b'"echo"', b"NaN"),
            good.replace(b'"echo"', b"Infinity"),
            good.replace(b'"echo"', b"-Infinity"),
            good.replace(b'"echo"', b"01"),
            good.replace(b'"echo"', b"1."),
            good.replace(b'"echo"', b"'echo'"),
            good.replace(b"echo", b"a\nb"),
            good.replace(b"echo", b"a\x00b"),
            good.replace(b"}}}", b"},}}"),
            good.replace(b"}}}", b"}}/**/}"),
        ):
            malformed = self.refused(body)
            self.assertIs(malformed.reason, Reason.PARSE, body)
            self.assertIsNone(malformed.id)

    def test_numbers_beyond_a_double(self) -> None:
        """A number no double can hold is refused rather than turned into infinity."""
        for literal in (b"1e400", b"-1e400", b"1" + b"0" * 400):
            body = encode(call(n=0)).replace(b'"n":0', b'"n":' + literal)
            self.assertIs(self.refused(body).reason, Reason.PARSE)

    def test_duplicates(self) -> None:
        """A repeated member is refused at every level, however its name is escaped."""
        for body, id in (
            (b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}', 1),
            (b'{"jsonrpc":"2.0","id":1,"method":"a","m\\u0065thod":"a"}', 1),
            (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{},"params":{}}', 1),
            (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","name":"x"}}', 1),
            (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"v":[[{"k":1,"k":1}]]}}', 1),
            (b'{"jsonrpc":"2.0","id":1,"id":1,"method":"a"}', None),
        ):
            self.assertInvalid(body, id)

    def test_many_members(self) -> None:
        """A duplicate among very many members is found without comparing all pairs."""
        many = b",".join(b'"%d":0' % n for n in range(200_000))
        body = b'{"jsonrpc":"2.0","id":1,"method":"a","params":{%b,"0":0}}' % many
        malformed = self.refused(body, Bounds(8, 1_000_000))
        self.assertIs(malformed.reason, Reason.INVALID_REQUEST)

    def test_case_variants(self) -> None:
        """Every protocol member is refused in another case, in its place, beside the right one."""
        spots: list[tuple[members.Names, tuple[str, ...]]] = [
            (members.ENVELOPE, ()),
            (members.PARAMS, ("params",)),
            (members.META, ("params", "_meta")),
            (members.CAPABILITIES, ("params", "capabilities")),
            (members.CAPABILITIES, ("params", "_meta", META_CAPABILITIES)),
            (members.REFERENCE, ("params", "ref")),
            (members.ARGUMENT, ("params", "argument")),
            (members.LISTEN, ("params", "notifications")),
        ]
        for names, path in spots:
            for name in names.exact:
                for variant in {name.upper(), name.capitalize(), name.swapcase()} - {name}:
                    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 4, "method": "m"}
                    place = message
                    for step in path:
                        place = place.setdefault(step, {})
                    place[variant] = {}
                    id = None if name == "id" and not path else 4
                    self.assertInvalid(encode(message), id)

    def test_folding_of_other_alphabets(self) -> None:
        """Letters that fold into ours (long s, Kelvin sign) make a case variant too."""
        for name in ("param\u017f", "PARAM\u017f"):
            body = {"jsonrpc": "2.0", "id": 4, "method": "m", name: {}}
            self.assertInvalid(encode(body), 4)
        token = {"_meta": {"progressTo\u212aen": 1}}
        self.assertInvalid(encode({"jsonrpc": "2.0", "id": 4, "method": "m", "params": token}), 4)

    def test_users_own_names(self) -> None:
        """Names within arguments are the user's: any case, beside each other."""
        mixed = {"Name": 1, "name": 2, "NAME": 3, "URI": 4, "Method": 5}
        message = parse(encode(call(**mixed)), BOUNDS)
        assert isinstance(message, Request)
        assert message.params is not None
        self.assertEqual(message.params["arguments"], mixed)

    def test_public_words(self) -> None:
        """No refusal quotes what the client sent."""
        for body in (b'{"s3cret":1,"s3cret":1}', b"s3cret", b'{"method":"s3cret","Method":1}'):
            self.assertNotIn("s3cret", self.refused(body).text)


class BoundsTests(RefusalCase):
    """Depth and size of a body's structure are bounded."""

    def nested(self, depth: int) -> bytes:
        """A request of exactly this depth."""
        inner = b"[" * (depth - 2) + b"]" * (depth - 2)
        return b'{"jsonrpc":"2.0","id":9,"method":"m","params":{"a":%b}}' % inner

    def test_depth(self) -> None:
        """The deepest allowed passes, one more is refused with its id."""
        for limit in (3, 8, 200):
            bounds = Bounds(limit, 10_000)
            self.assertIsInstance(parse(self.nested(limit), bounds), Request)
            malformed = self.refused(self.nested(limit + 1), bounds)
            self.assertIs(malformed.reason, Reason.INVALID_REQUEST)
            self.assertEqual(malformed.id, 9)

    def test_far_too_deep(self) -> None:
        """Depths no parser of ours reaches end in a refusal, never in an exhausted stack."""
        for depth in (900, 1_000, 1_100, 100_000):
            body = self.nested(depth)
            self.refused(body)
            self.refused(body.replace(b'"a"', b' "a"'))
            try:
                parse(body.replace(b'"a"', b' "a"'), Bounds(10**6, 10**6))
            except Malformed:
                pass

    def test_nodes(self) -> None:
        """The last allowed value passes, one more is refused with its id."""
        body = encode(call(list=[0] * 100))
        exact = nodes_of(json.loads(body))
        self.assertIsInstance(parse(body, Bounds(8, exact)), Request)
        self.assertEqual(self.refused(body, Bounds(8, exact - 1)).id, 1)

    def test_wide(self) -> None:
        """Containers beside each other are not taken for containers within each other."""
        body = encode(call(list=[[], {}, []] * 20))
        self.assertEqual(depth_of(json.loads(body)), 5)
        self.assertIsInstance(parse(body, Bounds(5, 1_000)), Request)
        self.assertEqual(self.refused(body, Bounds(4, 1_000)).id, 1)

    def test_structure_within_text(self) -> None:
        """Brackets and commas within strings do not count."""
        text = "{[," * 5_000
        message = parse(encode(call(text=text)), Bounds(4, 10))
        self.assertIsInstance(message, Request)

    @settings(deadline=None, max_examples=150)
    @given(VALUES, st.integers(1, 8), st.integers(1, 40))
    def test_bounds_are_exact(self, value: object, depth: int, nodes: int) -> None:
        """A body passes exactly if the obvious count says so."""
        message = {"jsonrpc": "2.0", "method": "m", "params": {"arguments": value}}
        fits = depth_of(message) <= depth and nodes_of(message) <= nodes
        for body in (encode(message), spelled(message, indent=1)):
            try:
                parse(body, Bounds(depth, nodes))
            except Malformed as malformed:
                self.assertFalse(fits)
                self.assertIs(malformed.reason, Reason.INVALID_REQUEST)
            else:
                self.assertTrue(fits)


class RoundTripTests(SynchronousTestCase):
    """What was parsed is what is encoded."""

    @settings(deadline=None, max_examples=100)
    @given(ARGUMENTS)
    def test_any_spelling(self, arguments: dict[str, Any]) -> None:
        """Fast and slow path read the same; what is sent on reads the same everywhere."""
        message = call(**{f"a{name}": value for name, value in arguments.items()})
        for body in (
            encode(message),
            spelled(message),
            spelled(message, indent=2),
            spelled(message, ensure_ascii=False, separators=(",", ":")),
            b"\n\t " + spelled(message) + b"\r\n",
        ):
            parsed = parse(body, BOUNDS)
            assert isinstance(parsed, Request)
            self.assertEqual(parsed.fields, message)
            sent = encode(parsed.fields)
            self.assertEqual(json.loads(sent), message)
            self.assertEqual(sent, encode(message))
            self.assertNotIn(b"\n", sent)
            again = parse(sent, BOUNDS)
            self.assertEqual(again, parsed)
            self.assertEqual(parse_object(body, BOUNDS), message)

    @settings(deadline=None, max_examples=150)
    @given(NUMBERS)
    def test_numbers(self, number: float) -> None:
        """Every number comes out as it went in, integers and floats apart."""
        parsed = parse(spelled(call(n=number)), BOUNDS)
        assert isinstance(parsed, Request)
        sent = json.loads(encode(parsed.fields))["params"]["arguments"]["n"]
        self.assertEqual(sent, number)
        self.assertIs(type(sent), type(number))

    @settings(deadline=None, max_examples=100)
    @given(ARGUMENTS, st.data())
    def test_duplicates_anywhere(self, arguments: dict[str, Any], data: st.DataObject) -> None:
        """A member doubled anywhere, with any value and any spelling, is refused."""
        body = spelled(call(**{f"a{name}": value for name, value in arguments.items()}))
        # Any object's opening brace may be given a member twice in front of its own.
        text = body.decode()
        braces = [n for n, one in enumerate(text) if one == "{" and _is_structure(text, n)]
        at = data.draw(st.sampled_from(braces)) + 1
        first, second = data.draw(st.sampled_from([("zz", "zz"), ("zz", "z\\u007a")]))
        comma = "" if text[at] == "}" else ","
        value = data.draw(st.sampled_from("12"))
        doubled = f'{text[:at]}"{first}":1,"{second}":{value}{comma}{text[at:]}'
        json.loads(doubled)
        with self.assertRaises(Malformed) as caught:
            parse(doubled.encode(), BOUNDS)
        self.assertIs(caught.exception.reason, Reason.INVALID_REQUEST)
        with self.assertRaises(Malformed):
            parse_object(doubled.encode(), BOUNDS)

    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_any_source(self, data: st.DataObject) -> None:
        """Whatever way objects, names and texts are written, it is read as the slow decoder does.

        Names and texts are made of what the counting of names could take for something else.
        """
        source = f'{{"jsonrpc":"2.0","method":"m","params":{{"arguments":{_source(data, 3)}}}}}'
        try:
            expected = json.loads(source, object_pairs_hook=_unique)
        except KeyError:
            with self.assertRaises(Malformed):
                parse(source.encode(), BOUNDS)
            return
        parsed = parse(source.encode(), BOUNDS)
        assert isinstance(parsed, Notification)
        self.assertEqual(repr(parsed.fields), repr(expected))

    def test_hidden_doubles(self) -> None:
        """What is lost by a doubled name is not made up for by what the count does not see."""
        for odd in (
            '"b\\u0022:"',
            '"b\\"\\u003a"',
            '"b\\"\\u003A"',
            '{"c" :1}',
            '{"c"\n:1}',
            '"b\\u0022\\u003a"',
        ):
            for count in range(4):
                odds = ",".join(f'"x{number}":{odd}' for number in range(count))
                comma = "," if odds else ""
                body = f'{{"jsonrpc":"2.0","method":"m","params":{{"a":1,"a":2{comma}{odds}}}}}'
                with self.assertRaises(Malformed, msg=body):
                    parse(body.encode(), BOUNDS)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=60) | st.text('{}[]":,12e.-\\u0atrue njsorpc\n', max_size=60))
    def test_noise(self, noise: bytes | str) -> None:
        """Noise is refused, whatever it is; nothing but `Malformed` comes out."""
        body = noise.encode() if isinstance(noise, str) else noise
        with self.assertRaises(Malformed):
            parse(body, BOUNDS, max_batch=3)

    @settings(deadline=None, max_examples=200)
    @given(st.integers(0, 200), st.binary(min_size=1, max_size=2))
    def test_damaged_messages(self, at: int, damage: bytes) -> None:
        """A damaged message is refused, or it means the same to us and to another parser."""
        body = encode(call(text="x", list=[1, 2.5, None, True], deep={"a": {"b": "c"}}))
        at = min(at, len(body))
        damaged = body[:at] + damage + body[at + len(damage) :]
        try:
            parsed = parse(damaged, BOUNDS)
        except Malformed:
            return
        assert not isinstance(parsed, Batch)
        self.assertEqual(parsed.fields, json.loads(damaged))


class EncodeTests(SynchronousTestCase):
    """`encode` writes what JSON can carry, and only that."""

    def test_canonical(self) -> None:
        """Compact, UTF-8, on one line."""
        self.assertEqual(
            encode({"a": [1, "\u00e9\u2028\n"]}), '{"a":[1,"\u00e9\u2028\\n"]}'.encode()
        )

    def test_beyond_the_fast_encoder(self) -> None:
        """Large integers and deep values are written all the same."""
        deep: list[Any] = []
        for _ in range(300):
            deep = [deep]
        message = {"big": 2**200, "deep": deep}
        self.assertEqual(json.loads(encode(message)), message)

    def test_impossible(self) -> None:
        """A lone surrogate raises instead of being written as something else."""
        with self.assertRaises(ValueError):
            encode({"a": "\ud800"})


class BatchTests(RefusalCase):
    """Arrays, for the one version that has them."""

    PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    NOTE = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'

    def test_off(self) -> None:
        """Without a size no array is accepted, not even an empty one."""
        for body in (b"[]", b"[" + self.PING + b"]"):
            self.assertInvalid(body, None)

    def test_size(self) -> None:
        """One to ``max_batch`` messages."""
        batch = parse(b"[" + self.PING + b"," + self.NOTE + b"]", BOUNDS, max_batch=2)
        assert isinstance(batch, Batch)
        self.assertEqual([type(one) for one in batch.messages], [Request, Notification])
        self.refused(b"[]", max_batch=2)
        self.refused(b"[" + b",".join([self.PING] * 3) + b"]", max_batch=2)

    def test_elements(self) -> None:
        """Every element is checked like a single message, and initialize must stand alone."""
        initialize = self.PING.replace(b"ping", b"initialize")
        for element in (b"1", b"[]", self.PING.replace(b"method", b"Method"), initialize):
            self.refused(b"[" + self.PING + b"," + element + b"]", max_batch=5)


class ParseObjectTests(SynchronousTestCase):
    """`parse_object` reads what servers say."""

    def test_any_kind(self) -> None:
        """Results, errors, requests and notifications all pass, whatever their id."""
        for body in (
            b'{"jsonrpc":"2.0","id":1,"result":{"Tools":[],"tools":[]}}',
            b'{"jsonrpc":"2.0","id":null,"error":{}}',
            b'{"jsonrpc":"2.0","method":"notifications/message","params":{"Name":1}}',
        ):
            self.assertEqual(parse_object(body, BOUNDS), json.loads(body))

    def test_refused(self) -> None:
        """Banners, arrays, other versions, doubles, variants and bounds are refused."""
        for body in (
            b"Server started",
            b"[]",
            b'{"id":1,"result":{}}',
            b'{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}',
            b'{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}',
            b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 40 + b"]" * 40 + b"}",
        ):
            with self.assertRaises(Malformed):
                parse_object(body, BOUNDS)


def _is_structure(text: str, at: int) -> bool:
    """Tell whether the character at a place stands outside of strings."""
    inside, n = False, 0
    while n < at:
        if text[n] == "\\":
            n += 1
        elif text[n] == '"':
            inside = not inside
        n += 1
    assume(n == at)
    return not inside


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise KeyError(name)
        members[name] = value
    return members


_CHARACTERS = {
    "a": ("a", "\\u0061"),
    '"': ('\\"', "\\u0022"),
    ":": (":", "\\u003a", "\\u003A"),
    "\\": ("\\\\", "\\u005c"),
    "<": ("<", "\\u003c"),
    "é": ("é", "\\u00e9"),
    "{": ("{",),
    ",": (",",),
}
_NUMBERS = ("1", "-0", "1.0", "1e2", "0.1", "12345678901234567890123", "18446744073709551616")
_BLANKS = ("", "", "", "", " ", "\n", "\t\r ")


def _text(data: st.DataObject) -> str:
    written = [
        data.draw(st.sampled_from(_CHARACTERS[one]))
        for one in data.draw(st.text("".join(_CHARACTERS), max_size=4))
    ]
    return f'"{"".join(written)}"'


def _source(data: st.DataObject, depth: int) -> str:
    """The source of some JSON value, in any spelling, names doubled now and then."""
    kind = data.draw(st.sampled_from("otn" if depth else "tn"))
    if kind == "n":
        return data.draw(st.sampled_from(_NUMBERS))
    if kind == "t":
        return _text(data)
    members = []
    for _ in range(data.draw(st.integers(0, 3))):
        before, behind = (data.draw(st.sampled_from(_BLANKS)) for _ in range(2))
        members.append(f"{_text(data)}{before}:{behind}{_source(data, depth - 1)}")
    return "{" + ",".join(members) + "}"
