"""The bounds of a listener: what one client, and all of them, may take of it."""

from attrs import define, frozen


@frozen
class Limits:
    """Every bound of the front; the worst case of memory is `connections` times the bytes."""

    body_bytes: int
    """Of one request body; more is refused with 413 while it is read."""
    body_bytes_total: int
    """Of all request bodies held at once, each from its first byte to the end of its answer; a
    further one is refused with 503. No smaller than `body_bytes`."""
    header_bytes: int
    """Of one request line and its header lines together; more is 431, a longer first line 414."""
    header_count: int
    """Header lines of one request; more is 431."""
    connections: int
    """Open at once; a further one is dropped as it comes."""
    connections_per_address: int
    """Open at once from one IPv4 address or one IPv6 /64."""
    idle_secs: float
    """How long a connection may stay open between two requests."""
    head_secs: float
    """From the first byte (or the connection, TLS handshake included) to the end of the head."""
    body_secs: float
    """From the end of the head to the end of the body; with `head_secs` the request's deadline."""
    stall_secs: float
    """How long a client may leave a full send buffer untouched before it is dropped."""
    linger_secs: float
    """How long a connection being closed may take to flush, or the client to stop sending."""
    stream_buffer_bytes: int
    """Of answer waiting behind the piece being sent; more drops the client."""
    answer_bytes_total: int
    """Of answers waiting for all clients together; above it those are dropped who have left a
    full send buffer untouched for longest."""
    keepalive_secs: float
    """How long an event stream may be silent before a comment is sent."""


@define
class Budget:
    """Bytes that all requests of one listener may hold together."""

    limit: int
    held: int = 0

    def fits(self, size: int) -> bool:
        """Whether so many more may be held."""
        return self.held + size <= self.limit

    def take(self, size: int) -> bool:
        """Hold so many more; False, and nothing changes, when they do not fit."""
        if not self.fits(size):
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """Hold so many no more."""
        self.held -= size
