"""A Redis in memory that knows one script, for connections over `StringTransport`."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from mcpguard.limits.redis_script import SCRIPT, SHA
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Bucket, lend, take_back


class Turns(Clock):
    """A clock that, as reactors do, leaves calls made in one turn for the next."""

    def advance(self, amount: float) -> None:
        """One turn."""
        self.rightNow += amount
        for call in [one for one in self.calls if one.getTime() <= self.rightNow]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class Wire(StringTransport):
    """A transport whose ends are told when it is cut."""

    def __init__(self, server: "FakeRedis") -> None:
        super().__init__()
        self.server = server
        self.protocol: IProtocol | None = None
        self.unread = b""

    def write(self, data: bytes) -> None:
        """The server reads it when it is not stopped."""
        self.unread += data
        self.server.read(self)

    def loseConnection(self) -> None:
        """End it."""
        self.abortConnection()

    def abortConnection(self) -> None:
        """End it; as with a socket, the protocol hears of it in a later turn."""
        if not self.disconnecting:
            self.disconnecting = True
            self.server.clock.callLater(0, self.cut)

    def cut(self) -> None:
        """The connection is gone."""
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            self.disconnecting = True
            self.server.wires.remove(self)
            protocol.connectionLost(Failure(ConnectionDone()))


@implementer(IStreamClientEndpoint)
@define(eq=False)
class FakeRedis:
    """The server, and the endpoint it is reached at."""

    clock: Clock
    up: bool = True
    """Whether it accepts connections."""
    stopped: bool = False
    """As by SIGSTOP: the kernel accepts connections and bytes, nobody answers."""
    knows: bool = False
    """Whether the script was loaded."""
    password: str | None = None
    refuses: str | None = None
    """What it says to the script instead of running it."""
    garbage: bytes | None = None
    """What it says to everything."""
    commands: list[list[str]] = field(factory=list)
    buckets: dict[str, Bucket] = field(factory=dict)
    wires: list[Wire] = field(factory=list)
    connects: int = 0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Accept."""
        self.connects += 1
        if not self.up:
            return fail(ConnectionRefusedError())
        wire = Wire(self)
        protocol = protocolFactory.buildProtocol(None)  # type: ignore[arg-type]
        assert protocol is not None
        wire.protocol = protocol
        self.wires.append(wire)
        protocol.makeConnection(wire)
        return succeed(protocol)

    def stop(self) -> None:
        """Nobody answers from now on."""
        self.stopped = True

    def go_on(self, *, at_once: bool = False) -> None:
        """Everything that was sent meanwhile is read now, and answered in the next turn."""
        self.stopped = False
        for wire in list(self.wires):
            self.read(wire, at_once=at_once)

    def die(self) -> None:
        """All connections end and none is accepted."""
        self.up = self.knows = False
        for wire in list(self.wires):
            wire.cut()

    def read(self, wire: Wire, *, at_once: bool = False) -> None:
        """Answer every whole command."""
        while not self.stopped and wire.unread:
            words, wire.unread = _command(wire.unread)
            self.commands.append(words)
            if at_once:
                self._reply(wire, words)
            else:
                self.clock.callLater(0, self._reply, wire, words)

    def _reply(self, wire: Wire, words: list[str]) -> None:
        if wire.protocol is not None:
            reply = self.garbage if self.garbage is not None else self.answer(words)
            wire.protocol.dataReceived(reply)

    def answer(self, words: list[str]) -> bytes:
        """The reply to one command."""
        known: dict[str, Callable[[list[str]], bytes]] = {
            "AUTH": self._auth,
            "SELECT": lambda words: b"+OK\r\n",
            "PING": lambda words: b"+PONG\r\n",
            "SCRIPT": self._load,
            "EVAL": self._run,
            "EVALSHA": self._run,
        }
        return known[words[0]](words)

    def _auth(self, words: list[str]) -> bytes:
        return b"+OK\r\n" if words[-1] == self.password else b"-WRONGPASS no such user\r\n"

    def _load(self, words: list[str]) -> bytes:
        assert words[1:] == ["LOAD", SCRIPT]
        self.knows = True
        return b"$%d\r\n%s\r\n" % (len(SHA), SHA.encode())

    def _run(self, words: list[str]) -> bytes:
        if words[0] == "EVALSHA" and not self.knows:
            return b"-NOSCRIPT No matching script.\r\n"
        if self.refuses is not None:
            return f"-{self.refuses}\r\n".encode()
        assert words[1:3] == [SCRIPT if words[0] == "EVAL" else SHA, "1"]
        key, per_second, burst, holder, least, extra, held, lasts, back = words[3:]
        rate, now = Rate(float(per_second), int(burst)), self.clock.seconds()
        bucket = self.buckets.setdefault(key, Bucket(float(burst), now))
        if int(back):
            take_back(bucket, rate, now, holder, int(back))
        ask = Ask(holder, int(least), int(extra), int(held), float(lasts))
        lease = lend(bucket, rate, now, ask)
        text = f"{bucket.tokens!r} {now!r}".encode()
        numbers = (lease.granted, lease.kept, int(lease.elsewhere))
        counts = b"".join(b":%d\r\n" % one for one in numbers)
        return b"*4\r\n%s$%d\r\n%s\r\n" % (counts, len(text), text)


def _command(data: bytes) -> tuple[list[str], bytes]:
    """The first command of what was sent, and the rest."""
    head, _, rest = data.partition(b"\r\n")
    words = []
    for _ in range(int(head[1:])):
        length, _, rest = rest.partition(b"\r\n")
        size = int(length[1:])
        words.append(rest[:size].decode())
        rest = rest[size + 2 :]
    return words, rest
