"""Requests at the wire: RFC 9112, and those who do not keep to it."""

from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from tests.front.wire import Client, Listener, WireTransport, limited, read_answers, request

SOUND = request("POST /mcp", body=b"{}")


class SoundRequests(SynchronousTestCase):
    """Requests that keep to RFC 9112."""

    def setUp(self) -> None:
        """A listener."""
        self.listener = Listener()

    def bodies(self) -> list[bytes]:
        """The bodies that reached the corridor."""
        return [incoming.body for incoming, _ in self.listener.corridor.handled]

    def test_whole(self) -> None:
        """A request reaches the corridor as it was sent."""
        client = self.listener.ask(request("POST /mcp/a?b=c", "X-One: 1", "x-one: 2", body=b"{}"))
        (incoming,) = [incoming for incoming, _ in self.listener.corridor.handled]
        self.assertEqual(
            (incoming.method, incoming.path, incoming.query), ("POST", "/mcp/a", "b=c")
        )
        self.assertEqual(incoming.headers["x-one"], ("1", "2"))
        self.assertEqual((incoming.body, incoming.peer), (b"{}", "203.0.113.9"))
        self.assertEqual((incoming.local_port, incoming.request_id), (3000, "request-1"))
        self.assertEqual(client.answer().status, 200)
        self.assertFalse(client.closed)

    def test_byte_by_byte(self) -> None:
        """It makes no difference how the bytes arrive."""
        client = self.listener.connect()
        for byte in SOUND:
            client.send(bytes([byte]))
        self.assertEqual(self.bodies(), [b"{}"])
        self.assertEqual(client.answer().body, b"ok")

    def test_chunked(self) -> None:
        """A chunked body is put together; extensions and trailers are dropped."""
        body = b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nTrailer: t\r\n\r\n"
        client = self.listener.ask(request("POST /mcp", "Transfer-Encoding: chunked", body=body))
        self.assertEqual(self.bodies(), [b"abc"])
        self.assertNotIn("trailer", self.listener.corridor.handled[0][0].headers)
        self.assertFalse(client.closed)

    def test_pipelined(self) -> None:
        """Pipelined requests are answered one after the other, in order."""
        self.listener.corridor.hold = True
        pipelined = b"".join(request("POST /mcp", body=b"%d" % number) for number in range(3))
        client = self.listener.ask(pipelined)
        for number in range(3):
            self.assertEqual(len(self.bodies()), number + 1)
            self.listener.corridor.handled[number][1].answer(200, (), b"to %d" % number)
        self.assertEqual(self.bodies(), [b"0", b"1", b"2"])
        answers = client.answers("POST POST POST")
        self.assertEqual([answer.body for answer in answers], [b"to 0", b"to 1", b"to 2"])

    def test_half_a_line_behind_a_request_without_a_body(self) -> None:
        """Wherever the bytes are cut, the rest of a line is not taken for the start of one."""
        data = request("DELETE /mcp") + SOUND
        for cut in range(1, len(data)):
            client = self.listener.connect()
            client.send(data[:cut])
            client.send(data[cut:])
            self.assertEqual([one.status for one in client.answers("DELETE POST")], [200, 200])
            client.leave()

    def test_pipelined_beyond_the_buffer(self) -> None:
        """Who pipelines more than a little is not read until the answer is out."""
        self.listener.corridor.hold = True
        client = self.listener.ask(SOUND)
        client.send(SOUND * 400)
        self.assertEqual(client.transport.producerState, "paused")
        self.listener.corridor.hold = False
        self.listener.corridor.handled[0][1].answer(200, (), b"")
        self.assertEqual(client.transport.producerState, "producing")
        self.assertEqual(len(client.answers("POST " * 401)), 401)

    def test_close(self) -> None:
        """``Connection: close`` in any list ends the connection; what follows is not read."""
        for fields in (["Connection: close"], ["Connection: TE,close", "TE: trailers"]):
            client = self.listener.ask(request("POST /mcp", *fields, body=b"1") + SOUND)
            self.assertEqual(client.answer().headers["Connection"], "close")
            self.assertTrue(client.closed)
        self.assertEqual(self.bodies(), [b"1", b"1"])

    def test_http_1_0(self) -> None:
        """An HTTP/1.0 request with a Host is served, and the connection closed."""
        client = self.listener.ask(SOUND.replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertEqual(client.answer().headers["Connection"], "close")
        self.assertTrue(client.closed)

    def test_absolute_form(self) -> None:
        """An absolute target leads where its path leads."""
        self.listener.ask(request("GET http://localhost:3000/mcp/x?y"))
        incoming = self.listener.corridor.handled[0][0]
        self.assertEqual((incoming.path, incoming.query), ("/mcp/x", "y"))

    def test_expect_continue(self) -> None:
        """Who waits for it is told to continue, before the body; without a body nobody is."""
        client = self.listener.connect()
        client.send(request("POST /mcp", "Expect: 100-continue", "Content-Length: 2"))
        self.assertEqual(client.received(), b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"{}")
        self.assertEqual(client.answer().status, 200)
        client = self.listener.ask(request("GET /mcp", "Expect: 100-continue"))
        self.assertNotIn(b"100 Continue", client.received())

    def test_unknown_expectation_and_upgrade(self) -> None:
        """Other expectations and offers to upgrade change nothing."""
        fields = (
            "Expect: tea",
            "Upgrade: websocket, h2c",
            "Connection: Upgrade",
            "HTTP2-Settings: AA",
        )
        client = self.listener.ask(request("POST /mcp", *fields, body=b"{}"))
        answer = client.answer()
        self.assertEqual(answer.status, 200)
        self.assertNotIn("Upgrade", answer.headers)

    def test_empty_line_before(self) -> None:
        """The empty line some clients send after a body is skipped, once."""
        client = self.listener.ask(SOUND + b"\r\n" + SOUND)
        self.assertEqual(len(client.answers("POST POST")), 2)
        client.send(b"\r\n\r\n")
        self.assertTrue(client.closed)
        self.assertEqual(client.answers("POST POST GET")[2].status, 400)

    def test_head(self) -> None:
        """The answer to HEAD has the length of the body and no body."""
        client = self.listener.ask(request("HEAD /health"))
        answer = client.answer("HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertGreater(int(answer.headers["Content-Length"]), 10)
        self.assertTrue(client.received().endswith(b"\r\n\r\n"))

    def test_form_bodies_are_left_alone(self) -> None:
        """A form is a body like any other; nothing parses it."""
        kind = "Content-Type: multipart/form-data; boundary=x"
        self.listener.ask(request("POST /mcp", kind, body=b"--x\r\ngarbage"))
        self.assertEqual(self.bodies(), [b"--x\r\ngarbage"])

    def test_socket_options(self) -> None:
        """Small answers leave at once, and dead peers are found."""
        self.assertEqual(self.listener.connect().transport.options, {"nodelay", "keepalive"})

    def test_client_leaves(self) -> None:
        """A client that leaves in the middle of anything leaves nothing behind."""
        for data in (b"", b"GET /mc", request("POST /mcp", "Content-Length: 9"), SOUND):
            self.listener.corridor.hold = True
            self.listener.ask(data).leave()
        self.assertEqual(self.listener.site.connections, 0)
        self.assertTrue(self.listener.corridor.handled[0][1].gone)
        self.listener.corridor.handled[0][1].answer(200, (), b"late")
        self.assertEqual(self.listener.clock.getDelayedCalls(), [])


class MalformedRequests(SynchronousTestCase):
    """Requests whose head can be read but that break a rule: refused in the house form."""

    def assert_refused(self, data: bytes, words: str, status: int = 400) -> None:
        """The corridor is asked to refuse, the client reads it, and nothing after it counts."""
        listener = Listener()
        client = listener.ask(data + SOUND)
        client.send(SOUND)
        ((_, refusal),) = listener.corridor.refused
        self.assertIn(words, refusal.message)
        answer = client.answer()
        self.assertEqual((answer.status, answer.headers["Connection"]), (status, "close"))
        self.assertTrue(client.closed)
        self.assertEqual(listener.corridor.handled, [])
        self.assertEqual(listener.dropped, [])

    def test_two_lengths(self) -> None:
        """Content-Length beside Transfer-Encoding, in either order, ends the connection."""
        chunked, length = "Transfer-Encoding: chunked", "Content-Length: 5"
        for fields in ((chunked, length), (length, chunked)):
            data = request("POST /mcp", *fields, body=b"0\r\n\r\n")
            self.assert_refused(data, "Content-Length and Transfer-Encoding")

    def test_repeated_length(self) -> None:
        """Several Content-Length fields are refused, equal or not, listed or not."""
        for fields in (("Content-Length: 2",) * 2, ("Content-Length: 2", "content-length: 3")):
            self.assert_refused(request("POST /mcp", *fields), "Content-Length is repeated")
        self.assert_refused(request("POST /mcp", "Content-Length: 2, 2"), "not a number")
        self.assert_refused(request("POST /mcp", "Content-Length: -1"), "not a number")

    def test_transfer_codings(self) -> None:
        """Only ``chunked`` alone is a transfer coding here."""
        for coding in ("chunked, identity", "identity", "gzip, chunked", "x"):
            data = request("POST /mcp", f"Transfer-Encoding: {coding}", body=b"0\r\n\r\n")
            self.assert_refused(data, "Transfer-Encoding is not supported")
        # A vertical tab would be a blank to some; as a control it is no part of a field.
        data = request("POST /mcp", "Transfer-Encoding: chunked\x0b", body=b"0\r\n\r\n")
        self.assertEqual(Listener().ask(data).answer().status, 400)
        data = request("POST /mcp", "Transfer-Encoding: chunked", "Transfer-Encoding: identity")
        self.assert_refused(data, "Transfer-Encoding is not supported")
        data = request("POST /mcp", "Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0")
        self.assert_refused(data, "HTTP/1.0 has no Transfer-Encoding")

    def test_host(self) -> None:
        """Without exactly one valid Host nothing is served, in HTTP/1.0 neither."""
        self.assert_refused(request(host=None), "Host is missing")
        self.assert_refused(request(host=None).replace(b"1.1", b"1.0"), "Host is missing")
        self.assert_refused(request("GET /mcp", "Host: localhost:3000"), "Host is repeated")
        self.assert_refused(request(host="a, b"), "Host is not valid")
        self.assert_refused(request("GET http://evil/mcp"), "Host differs")

    def test_targets(self) -> None:
        """Targets that are none of the four forms are refused."""
        self.assert_refused(request("GET mcp"), "target")
        self.assert_refused(request("GET localhost:3000"), "target")
        self.assert_refused(request("GET /mcp#x"), "fragment")

    def test_bad_chunks(self) -> None:
        """Chunks with a bad size, end or extension end the connection."""
        for body in (
            b"x\r\n",
            b"0x2\r\nab\r\n0\r\n\r\n",
            b"+2\r\nab\r\n0\r\n\r\n",
            b"-1\r\n",
            b" 2\r\nab\r\n",
            b"2 \r\nab\r\n",
            b"\r\n",
            b"2\r\nabc\r\n0\r\n\r\n",
            b"2\r\nab\n0\r\n\r\n",
            b"2\nab\r\n0\r\n\r\n",
            b"2;\x00\r\nab\r\n0\r\n\r\n",
            b"2;" + b"x" * 2000 + b"\r\n",
        ):
            data = request("POST /mcp", "Transfer-Encoding: chunked", body=body)
            self.assert_refused(data, "the chunks are not valid")

    def test_endless_trailers(self) -> None:
        """Trailers have a bound."""
        body = b"0\r\n" + b"A: b\r\n" * 12_000
        data = request("POST /mcp", "Transfer-Encoding: chunked", body=body)
        self.assert_refused(data, "the chunks are not valid")


class Oversized(SynchronousTestCase):
    """Bodies beyond the bound."""

    def setUp(self) -> None:
        """A listener that takes 1000 bytes."""
        self.listener = Listener()

    def assert_too_large(self, client: Client) -> None:
        """The client was told, nothing was handled, and what still comes is not kept."""
        self.assertEqual(client.answer().status, 413)
        ((_, refusal),) = self.listener.corridor.refused
        self.assertIs(refusal.reason, Reason.TOO_LARGE)
        client.send(b"x" * 100_000)
        self.assertEqual(self.listener.corridor.handled, [])
        self.assertTrue(client.transport.half_closed)
        self.assertEqual(client.channel.clearLineBuffer(), b"")
        self.assertEqual(client.answer().status, 413)

    def test_at_the_bound(self) -> None:
        """A body of exactly the bound is served, announced or in chunks."""
        self.listener.ask(request("POST /mcp", body=b"x" * 1000))
        body = b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n"
        self.listener.ask(request("POST /mcp", "Transfer-Encoding: chunked", body=body))
        self.assertEqual([len(one.body) for one, _ in self.listener.corridor.handled], [1000, 1000])

    def test_announced(self) -> None:
        """An announced length beyond the bound is refused before any of it is read."""
        client = self.listener.ask(request("POST /mcp", "Content-Length: 1001"))
        self.assert_too_large(client)

    def test_announced_beyond_reason(self) -> None:
        """Also when the number is too long to be one."""
        self.assert_too_large(
            self.listener.ask(request("POST /mcp", "Content-Length: 1" + "0" * 900))
        )

    def test_announced_with_expectation(self) -> None:
        """Nobody is told to continue with a body that will be refused."""
        fields = ("Expect: 100-continue", "Content-Length: 1001")
        client = self.listener.ask(request("POST /mcp", *fields))
        self.assertNotIn(b"Continue", client.received())
        self.assert_too_large(client)

    def test_chunked(self) -> None:
        """A chunked body is refused at the byte that passes the bound."""
        head = request("POST /mcp", "Transfer-Encoding: chunked")
        client = self.listener.ask(head + b"fffffff\r\n" + b"x" * 1000)
        self.assertEqual(client.received(), b"")
        client.send(b"x")
        self.assert_too_large(client)

    def test_chunked_in_one_piece(self) -> None:
        """Also when its end came in the same breath; it is then answered once."""
        body = b"258\r\n" + b"x" * 600 + b"\r\n258\r\n" + b"x" * 600 + b"\r\n0\r\n\r\n"
        data = request("POST /mcp", "Transfer-Encoding: chunked", body=body)
        self.assert_too_large(self.listener.ask(data + SOUND))

    def test_refusal_later(self) -> None:
        """While the refusal is pending, what arrives is bounded as for any pipelined request."""
        held: list[object] = []
        with patch.object(type(self.listener.corridor), "refuse", lambda *args: held.append(args)):
            client = self.listener.ask(request("POST /mcp", "Content-Length: 100000"))
            client.send(b"x" * 20_000)
        self.assertEqual(client.transport.producerState, "paused")
        self.assertEqual(len(held), 1)

    def test_lingering_ends(self) -> None:
        """Who goes on sending is cut after the lingering time."""
        client = self.listener.ask(request("POST /mcp", "Content-Length: 1001"))
        self.assertFalse(client.transport.aborted)
        self.listener.pass_time(4)
        client.send(b"x")
        self.assertFalse(client.transport.aborted)
        self.listener.pass_time(2)
        self.assertTrue(client.transport.aborted)
        self.assertEqual(self.listener.site.connections, 0)


class Garbage(SynchronousTestCase):
    """What is no request: a bare status, a closed connection, a count."""

    def assert_turned_away(self, data: bytes, status: int, word: str = "malformed") -> None:
        """The client reads a bare status; no one else hears of it but the counter."""
        listener = Listener()
        client = listener.ask(data)
        client.send(SOUND)
        answer = client.answer()
        self.assertEqual((answer.status, answer.body), (status, b""))
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertEqual(answer.headers["Date"], "Tue, 14 Nov 2023 22:13:20 GMT")
        self.assertNotIn("Server", answer.headers)
        self.assertTrue(client.closed)
        self.assertEqual(listener.dropped, [word])
        self.assertEqual((listener.corridor.handled, listener.corridor.refused), ([], []))

    def test_other_protocols(self) -> None:
        """HTTP/0.9, the preface of HTTP/2, a TLS hello, and noise."""
        self.assert_turned_away(b"GET /\r\n", 400)
        self.assert_turned_away(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)
        self.assert_turned_away(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400)
        self.assert_turned_away(b"\x00", 400)

    def test_lines(self) -> None:
        """Bare CR or LF, NUL, blanks before the colon, folded lines."""
        start = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n"
        for line in (
            b"X : y",
            b"X\t: y",
            b"X: a\r\n b",
            b"X: a\r\n\tb",
            b" X: y",
            b"X: a\x00b",
            b"X: a\rContent-Length: 5",
            b"X: a\nContent-Length: 5",
            b"no colon",
            b": no name",
        ):
            self.assert_turned_away(start + line + b"\r\n\r\n", 400)

    def test_bare_line_feeds(self) -> None:
        """Line feeds alone end no line."""
        self.assert_turned_away(b"GET /mcp HTTP/1.1\nHost: x\n\n\r\n", 400)

    def test_bounds_of_the_head(self) -> None:
        """Too long a request line, head or list of fields; also without the end of a line."""
        start = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n"
        too_large = "head_too_large"
        self.assert_turned_away(b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n", 414, too_large)
        self.assert_turned_away(b"GET /" + b"x" * 3000, 414, too_large)
        self.assert_turned_away(start + b"X: " + b"y" * 3000 + b"\r\n", 431, too_large)
        self.assert_turned_away(start + b"X: " + b"y" * 3000, 431, too_large)
        self.assert_turned_away(start + b"X: y\r\n" * 20, 431, too_large)

    def test_head_is_not_kept_beyond_the_bound(self) -> None:
        """However slowly a line grows, it is refused at the bound."""
        listener = Listener()
        client = listener.connect()
        sent = 0
        while not client.closed:
            client.send(b"x" * 10)
            sent += 10
        self.assertLess(sent, listener.limits.header_bytes + 20)

    def test_after_a_sound_request(self) -> None:
        """Garbage after an answered request is told so as well."""
        client = Listener().ask(SOUND + b"oh no\r\n")
        self.assertEqual([one.status for one in client.answers("POST GET")], [200, 400])

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(st.data())
    def test_any_stream(self, data: st.DataObject) -> None:
        """Whatever comes, in whatever pieces: nothing raises, what is kept is bounded.

        What reaches the corridor was a POST with a body within the bound.
        """
        piece = st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [
                    SOUND,
                    SOUND[:20],
                    b"\r\n",
                    b"POST /mcp HTTP/1.1\r\n",
                    b"Host: a\r\n",
                    b"Content-Length: 3\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"\r\nabc",
                    b"1\r\na\r\n",
                    b"0\r\n\r\n",
                    b"Connection: close\r\n",
                ]
            ),
        )
        listener = Listener(limits=limited(body_bytes=50))
        client = listener.connect()
        for one in data.draw(st.lists(piece, max_size=12)):
            client.send(one)
        for incoming, _ in listener.corridor.handled:
            self.assertLessEqual(len(incoming.body), 50)
            self.assertEqual(len(incoming.headers["host"]), 1)
        answered = len(listener.corridor.handled) + len(listener.corridor.refused)
        turned_away = len(listener.dropped)
        self.assertLessEqual(turned_away, 1)
        text = client.received()
        methods = " ".join(["POST"] * (answered + turned_away))
        self.assertEqual(len(read_answers(text, methods)), answered + turned_away)
        listener.pass_time(31)
        self.assertEqual(listener.site.connections, 0 if client.closed else 1)


class TwoParsers(SynchronousTestCase):
    """Twisted's parser behind ours."""

    def test_both_must_agree(self) -> None:
        """A head that only Twisted refuses is refused, and no line of it is read further."""
        listener = Listener(fast=False)
        client = listener.connect()
        client.channel.maxHeaders = 1
        client.send(request("POST /mcp", "X: y", "Content-Length: 3") + b"abc" + SOUND)
        self.assertEqual(client.answer().status, 400)
        self.assertEqual(listener.corridor.handled, [])
        self.assertEqual(listener.dropped, ["malformed"])

    def test_host_never_reaches_the_router(self) -> None:
        """A Host the router's map cannot encode is no error: it never sees it."""
        client = Listener().ask(request("GET /health", host="a" * 70))
        self.assertEqual(client.answer("GET").status, 200)


class LateBytes(SynchronousTestCase):
    """Transports that deliver after `loseConnection`, as TLS does."""

    def test_nothing_is_parsed(self) -> None:
        """A request that arrives after the closing is not served."""
        listener = Listener()
        client = listener.connect()
        transport: WireTransport = client.transport
        transport.stuck = True
        client.send(request("POST /mcp", "Connection: close", body=b"1"))
        self.assertTrue(transport.disconnecting)
        client.send(SOUND)
        self.assertEqual(len(listener.corridor.handled), 1)
