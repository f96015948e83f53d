"""The listening sockets: their bounds, and those that the parent process has opened."""

import socket
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from mcpguard.config.settings import Settings
from mcpguard.front.bounds import Limits
from mcpguard.ops.workers.tally import Turns

BACKLOG = 1_024
BODY_BYTES_TOTAL = 134_217_728
ANSWER_BYTES_TOTAL = 268_435_456


@frozen
class Sockets:
    """Listening sockets of another process, as descriptors of this one."""

    clients: tuple[int, ...]
    """In the order of `ServerSettings.every_listener`."""
    admin: int | None
    turns: Callable[[IListeningPort, Callable[[], int]], Turns]
    """When a worker accepts, given the number of its connections."""


def open_socket(host: str, port: int) -> socket.socket:
    """Listen without accepting; raises `CannotListenError`, as Twisted does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # By its name an IPv6 address may have a scope, which bind wants as a number.
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        opened.bind(found[0][4])
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise CannotListenError(host, port, error) from error
    return opened


def adopt(reactor: Any, descriptor: int, factory: IProtocolFactory) -> IListeningPort:
    """Accept on a socket that another process opened; ``descriptor`` is closed."""
    with socket.socket(fileno=descriptor) as inherited:
        port: IListeningPort = reactor.adoptStreamPort(
            inherited.fileno(), inherited.family, factory
        )
    return port


def front_limits(settings: Settings) -> Limits:
    """The bounds of the client listener."""
    max_request_size = settings.server.max_request_size
    largest_answer = max((one.max_message_size for one in settings.upstreams), default=0)
    return Limits(
        body_bytes=max_request_size,
        body_bytes_total=max(BODY_BYTES_TOTAL, max_request_size),
        header_bytes=32_768,
        header_count=100,
        connections=10_000,
        connections_per_address=1_000,
        idle_secs=75.0,
        head_secs=15.0,
        body_secs=60.0,
        stall_secs=30.0,
        linger_secs=5.0,
        stream_buffer_bytes=4_194_304,
        # One answer alone must never be too much.
        answer_bytes_total=max(ANSWER_BYTES_TOTAL, 2 * largest_answer),
        keepalive_secs=15.0,
    )


def operator_limits() -> Limits:
    """The bounds of the operator listener, which takes no bodies worth the name."""
    return Limits(
        body_bytes=1_024,
        body_bytes_total=65_536,
        header_bytes=16_384,
        header_count=100,
        connections=100,
        connections_per_address=100,
        idle_secs=75.0,
        head_secs=15.0,
        body_secs=15.0,
        stall_secs=30.0,
        linger_secs=5.0,
        stream_buffer_bytes=1_048_576,
        answer_bytes_total=16_777_216,
        keepalive_secs=15.0,
    )
