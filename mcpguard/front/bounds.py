"""The bounds of a listener: what one client, and all of them, may take of it."""

from attrs import frozen


@frozen
class Limits:
    """Every bound of the front; the worst case of memory is `connections` times the bytes."""

    body_bytes: int
    """Of one request body; more is refused with 413 while it is read."""
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
    keepalive_secs: float
    """How long an event stream may be silent before a comment is sent."""
