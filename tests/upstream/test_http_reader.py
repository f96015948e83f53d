"""Tests of reading one HTTP answer."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.protocol.jsonrpc import Bounds
from mcpguard.protocol.sse import ServerEvent
from mcpguard.upstream.deadlines import Deadlines
from mcpguard.upstream.http_reader import (
    Form,
    MessageReader,
    ReaderBounds,
    may_answer,
    refusal_of,
    retry_after,
)
from mcpguard.upstream.link import Message, UpstreamFailure
from mcpguard.upstream.wire import Head

BOUNDS = ReaderBounds(
    max_message_size=100,
    max_discarded=50,
    discard_secs=2.0,
    max_words=10,
    structure=Bounds(5, 20),
)
NOW = 1_800_000_000.0


def head(status: int = 200, length: int | None = None, **headers: str) -> Head:
    """A head; underscores in names stand for dashes."""
    given = {name.replace("_", "-").lower(): (value,) for name, value in headers.items()}
    return Head(status, given, length)


class Owner:
    """Keeps what it hears, in order."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def opened(self, head: Head, form: Form) -> None:
        """Keep it."""
        self.heard.append(form)

    def message(self, message: Message) -> None:
        """Keep it."""
        self.heard.append(message)

    def mark(self, event_id: str | None, retry: int | None) -> None:
        """Keep it."""
        self.heard.append(("mark", event_id, retry))

    def closed(self) -> None:
        """Keep it."""
        self.heard.append("closed")

    def lost(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.heard.append(failure.reason)


class Exchange:
    """Knows whether it was aborted."""

    sent = True
    aborted = False

    def abort(self) -> None:
        """Note it."""
        self.aborted = True


class MessageReaderTests(SynchronousTestCase):
    """`MessageReader`."""

    def setUp(self) -> None:
        """Make one."""
        self.clock, self.owner, self.exchange = Clock(), Owner(), Exchange()
        self.contacts: list[UpstreamFailure | None] = []
        self.overs = 0
        self.reader = MessageReader(
            self.owner,
            BOUNDS,
            Deadlines(self.clock),
            self.contacts.append,
            lambda _: self.count(),
        )
        self.reader.exchange = self.exchange

    def count(self) -> None:
        """Count an end."""
        self.overs += 1

    def test_json(self) -> None:
        """A JSON body is one message, however it was cut."""
        self.reader.head(head(content_type="application/json; charset=utf-8"))
        for piece in (b'{"json', b'rpc":"2.', b'0"}'):
            self.reader.data(piece)
        self.reader.end()
        self.assertEqual(self.owner.heard, ["json", {"jsonrpc": "2.0"}, "closed"])
        self.assertEqual(self.overs, 1)

    def test_not_json_rpc(self) -> None:
        """What is not JSON-RPC, or too deep, or has duplicates, is no message."""
        for body in (
            b"<html>",
            b"[]",
            b"{}",
            b'{"jsonrpc":"2.0","a":[[[[[[]]]]]]}',
            b'{"jsonrpc":"2.0","id":1,"id":2}',
            b'{"jsonrpc":"2.0","id":NaN}',
            b'\xff{"jsonrpc":"2.0"}',
        ):
            self.setUp()
            self.reader.head(head(content_type="application/json"))
            self.reader.data(body)
            self.reader.end()
            self.assertEqual(self.owner.heard, ["json", "closed"], body)

    def test_told_length(self) -> None:
        """A Content-Length over the bound is refused before any of it is read."""
        self.reader.head(head(length=101, content_type="application/json"))
        self.assertEqual(self.owner.heard, [Reason.ANSWER_TOO_LARGE])
        self.assertTrue(self.exchange.aborted)

    def test_events(self) -> None:
        """Events are messages; bad ones are dropped alone; marks come before their message."""
        self.reader.head(head(content_type="Text/Event-Stream"))
        self.reader.data(b'id: 1\nretry: 5\ndata: {"jsonrpc":"2.0"}\n\ndata: nonsense\n\n')
        self.reader.data(b'event: other\ndata: {"jsonrpc":"2.0"}\n\ndata: {"jsonrpc":')
        self.reader.data(b'"2.0","n":1}\r\n\r\n')
        self.reader.end()
        self.assertEqual(
            self.owner.heard,
            ["events", ("mark", "1", 5), {"jsonrpc": "2.0"}, {"jsonrpc": "2.0", "n": 1}, "closed"],
        )

    def test_other_events(self) -> None:
        """Events of other types go to whoever asked for them, in order with the messages."""
        self.reader.on_event = self.owner.heard.append
        self.reader.head(head(content_type="text/event-stream"))
        self.reader.data(
            b'event: endpoint\ndata: /x\n\nevent: message\ndata: {"jsonrpc":"2.0"}\n\n'
        )
        self.assertEqual(
            self.owner.heard, ["events", ServerEvent("/x", "endpoint"), {"jsonrpc": "2.0"}]
        )

    def test_words(self) -> None:
        """Of a body that is no JSON the first bytes are kept, and no more than the bound."""
        self.reader.head(head(400, content_type="text/plain"))
        for piece in (b"No se", b"ssion of th", b"at name"):
            self.reader.data(piece)
        self.reader.end()
        self.assertEqual((self.reader.words, self.owner.heard), ("No session", ["other", "closed"]))

    def test_event_stream_under_an_error(self) -> None:
        """An event stream under an error status is not listened to."""
        self.reader.head(head(500, content_type="text/event-stream"))
        self.reader.data(b'data: {"jsonrpc":"2.0"}\n\n')
        self.reader.end()
        self.assertEqual(self.owner.heard, ["other", "closed"])

    def test_other_bodies(self) -> None:
        """Other bodies are read up to the bound, then cut; the owner knows the status only."""
        self.reader.head(head(502, content_type="text/html"))
        self.reader.data(b"x" * 50)
        self.assertEqual(self.owner.heard, ["other"])
        self.reader.data(b"x")
        self.assertEqual(self.owner.heard, ["other", "closed"])
        self.assertTrue(self.exchange.aborted)

    def test_two_content_types(self) -> None:
        """A repeated Content-Type is believed in neither reading."""
        types = ("application/json", "text/html")
        self.reader.head(Head(200, {"content-type": types}))
        self.assertEqual(self.owner.heard, ["other"])

    def test_lost(self) -> None:
        """A broken body yields no message, not even of the part that came."""
        self.reader.head(head(content_type="application/json"))
        self.reader.data(b'{"jsonrpc":"2.0"}')
        self.reader.lost(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.assertEqual(self.owner.heard, ["json", Reason.UPSTREAM_FAILED])

    def test_contact(self) -> None:
        """Answers prove life, a proxy's 502 and a refusal of our credentials do not."""
        for status, alive in ((200, 1), (404, 1), (401, 0), (403, 0), (502, 0), (503, 0)):
            self.setUp()
            self.reader.head(head(status))
            self.assertEqual(len(self.contacts), alive, status)

    def test_unreachable(self) -> None:
        """Only not being reached at all is news of that kind."""
        self.reader.lost(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.assertEqual(self.contacts, [])
        self.setUp()
        failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE)
        self.reader.lost(failure)
        self.assertEqual(self.contacts, [failure])

    def test_discard(self) -> None:
        """After `discard` nothing is told, and the rest is bounded in bytes."""
        self.reader.head(head(content_type="text/event-stream"))
        self.reader.discard()
        self.reader.data(b'data: {"jsonrpc":"2.0"}\n\n')
        self.assertFalse(self.exchange.aborted)
        self.reader.data(b"x" * 50)
        self.assertTrue(self.exchange.aborted)
        self.assertEqual((self.owner.heard, self.overs), (["events"], 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_abort(self) -> None:
        """After `abort` nothing is told, whatever still comes."""
        self.reader.abort()
        self.reader.head(head(content_type="application/json"))
        self.reader.data(b"{}")
        self.reader.end()
        self.reader.lost(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.assertEqual((self.owner.heard, self.overs), ([], 1))

    def test_abort_within_an_event(self) -> None:
        """An owner that gives up at one event hears none of the others in the same chunk."""
        self.owner.message = lambda message: self.reader.abort()  # type: ignore[method-assign]
        self.reader.head(head(content_type="text/event-stream"))
        self.reader.data(b'data: {"jsonrpc":"2.0"}\n\nid: 1\ndata: {"jsonrpc":"2.0"}\n\n')
        self.assertEqual(self.owner.heard, ["events"])


class RefusalTests(SynchronousTestCase):
    """`refusal_of`, `may_answer`, `retry_after`."""

    def test_statuses(self) -> None:
        """What each status means; the details are ours, none of the server's words."""
        for given, reason, wait, words in (
            (head(401), Reason.UPSTREAM_FAILED, None, "upstream credentials"),
            (head(403), Reason.UPSTREAM_FAILED, None, "upstream credentials"),
            (head(301), Reason.UPSTREAM_FAILED, None, "redirects"),
            (head(307), Reason.UPSTREAM_FAILED, None, "redirects"),
            (head(429), Reason.UPSTREAM_BUSY, 1.0, "429"),
            (head(429, retry_after="7"), Reason.UPSTREAM_BUSY, 7.0, "429"),
            (head(503, retry_after="7"), Reason.UPSTREAM_BUSY, 7.0, "503"),
            (head(503), Reason.UPSTREAM_FAILED, None, "503"),
            (head(500), Reason.UPSTREAM_FAILED, None, "500"),
            (head(418), Reason.UPSTREAM_FAILED, None, "418"),
        ):
            failure = refusal_of(given, NOW)
            self.assertEqual((failure.reason, failure.retry_after), (reason, wait))
            self.assertIn(words, failure.detail)

    def test_statuses_that_speak_for_themselves(self) -> None:
        """A JSON-RPC error answers except where the status is about credentials or load."""
        for given, answers in (
            (head(400), True),
            (head(404), True),
            (head(500), True),
            (head(503), True),
            (head(503, retry_after="1"), False),
            (head(429), False),
            (head(401), False),
            (head(403), False),
            (head(302), False),
        ):
            self.assertEqual(may_answer(given), answers)

    def test_retry_after(self) -> None:
        """Seconds or a date, never negative, never above the bound, never an error."""
        for value, seconds in (
            (None, None),
            ("0", 0.0),
            ("120", 120.0),
            ("999999999", 3600.0),
            ("99999999999", None),
            ("-1", None),
            ("soon", None),
            ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
            ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
            ("Sat, 99 Foo 2027 07:00:00 GMT", None),
            ("Fri, 15 Jan 2029 08:00:30 GMT", 3600.0),
        ):
            self.assertEqual(retry_after(value, NOW), seconds, value)
