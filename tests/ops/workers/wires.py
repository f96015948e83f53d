"""Two ends of a control channel joined in memory."""

from typing import Any

from attrs import define, field
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mcpguard.ops.workers.channel import Channel, ChannelBounds

BOUNDS = ChannelBounds(frame_bytes=1_000, queued_bytes=2_500, asked=5, served=4, timeout_secs=10.0)


@define(eq=False)
class Wires:
    """Two channels; bytes move when `pump` says so."""

    clock: Clock
    bounds: ChannelBounds = BOUNDS
    parent: Channel = field(init=False)
    worker: Channel = field(init=False)
    lost: list[str] = field(init=False, factory=list)
    """Which ends were told that the other is gone, in order."""
    _ends: list[tuple[Channel, StringTransport, Channel]] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.parent = Channel(self.clock, self.bounds, lambda: self.lost.append("parent"))
        self.worker = Channel(self.clock, self.bounds, lambda: self.lost.append("worker"))
        for channel, other in ((self.parent, self.worker), (self.worker, self.parent)):
            transport = StringTransport()
            channel.makeConnection(transport)
            self._ends.append((channel, transport, other))

    def pump(self) -> None:
        """Carry bytes both ways until there are none; an end that closes ends both."""
        moved = True
        while moved:
            moved = False
            for _, transport, other in self._ends:
                data = transport.value()
                transport.clear()
                if data:
                    other.dataReceived(data)
                    moved = True
        if any(t.disconnecting or t.disconnected for _, t, _ in self._ends) and not self.lost:
            self.cut()

    def cut(self) -> None:
        """Both ends lose the connection."""
        for channel, transport, _ in self._ends:
            transport.disconnected = True
            channel.connectionLost(None)

    def transport_of(self, channel: Channel) -> Any:
        """The transport an end writes to."""
        return next(transport for one, transport, _ in self._ends if one is channel)
