"""What an idle session keeps on the server's side, beside the socket."""

import gc

from mcpguard.upstream.http1_dial import Dial
from mcpguard.upstream.http1_wire import Http1Wire
from mcpguard.upstream.http_session import HttpSession
from tests.upstream.http1_doubles import OK, URL, WireCase
from tests.upstream.http_doubles import HttpCase
from tests.upstream.socket_doubles import DirectSocket


def dials() -> int:
    """How many there are, of whatever test."""
    gc.collect()
    return sum(isinstance(one, Dial) for one in gc.get_objects())


class OfASession(HttpCase):
    """`HttpSession` with its stream."""

    def test_slim(self) -> None:
        """No attribute dicts, no room for posts before there are any, one reference back."""
        link = self.ready()
        assert isinstance(link, HttpSession)
        stream = link._stream
        assert stream is not None
        assert stream._reader is not None
        for one in (link, stream, stream._reader):
            self.assertFalse(hasattr(one, "__dict__"), type(one))
        self.assertIsNone(link._posts)
        self.assertIs(stream.owner, link)
        link.notify("notifications/roots/list_changed", None)
        self.assertEqual(len(link._posts or ()), 1)
        self.wire.last("POST").status(202)
        self.assertIsNone(link._posts)


class OfAConnection(WireCase):
    """`Http1Connection` with a stream on it."""

    socket = DirectSocket

    def test_dialling(self) -> None:
        """Nothing of how it was dialled is kept with it."""
        before = dials()
        self.send(URL)
        self.assertEqual(dials(), before + 1)
        self.reactor.accept().receive(OK)
        self.assertEqual(dials(), before)

    def test_poller(self) -> None:
        """It is asked whether it lives when it is used again; a stream stands without the means."""
        self.send(URL)
        socket = self.reactor.accept()
        wire: Http1Wire = next(iter(self.wires.values()))
        (connection,) = wire._open
        self.assertIsNone(connection._poll)
        socket.receive(OK)
        self.send(URL)
        self.assertIsNotNone(connection._poll)
        socket.receive(OK)
        heard, stream = self.send(URL, None)
        self.assertIs(stream.connection, connection)  # type: ignore[attr-defined]
        self.assertIsNone(connection._poll)
        socket.receive(OK)
        self.assertEqual(heard.ended, 1)
        socket.lose()
        self.send(URL)
        self.assertEqual(len(self.reactor.dialled), 2)
