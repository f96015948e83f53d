"""What ``check-upstream`` found out about one server."""

from attrs import frozen


@frozen
class UpstreamReport:
    """One server, asked as a client of its era would."""

    name: str
    transport: str
    ok: bool
    error: str
    """Why not, in one line for the operator; empty when ok."""
    server_name: str
    server_version: str
    protocol: str
    """The protocol version the conversation used."""
    eras: tuple[str, ...]
    """Which generations of the protocol it speaks, in words: ``handshake``, ``stateless``."""
    tools: tuple[str, ...]
    seconds: float
