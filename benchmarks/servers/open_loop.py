"""Calls that arrive whether or not the earlier ones are answered, as those of many clients do.

Arrivals are a Poisson process of a constant rate, the same ones in every run. A latency counts from
the moment a call was due, also when no connection was free for it: what is slow is not asked less
often. Prints one line of JSON.

    python open_loop.py --url http://127.0.0.1:PORT/mcp --rate 1000 --seconds 3 --connections 64

Header lines come in the environment as BENCH_HEADERS, what an answer holds as BENCH_EXPECT.
"""

import argparse
import gc
import json
import os
import random
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urlsplit

WARM_UP_SECS = 0.5
MAX_BACKLOG = 20_000
ANSWER_SECS = 20.0
BODY = (
    '{"jsonrpc":"2.0","id":%d,"method":"tools/call",'
    '"params":{"name":"echo","arguments":{"message":"hello %d xxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}}'
)
FIRST_ID = 100_000_000


@dataclass(eq=False)
class Connection:
    """One keep-alive connection with at most one call on it."""

    socket: socket.socket
    number: int = -1
    """Of the call that it waits for."""
    received: bytes = b""


@dataclass
class Load:
    """The calls of one run."""

    address: tuple[str, int]
    head: bytes
    expect: str
    due: list[float]
    """Seconds from the start, in order."""
    connections: int
    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """How long after its moment a call was sent although a connection was free."""
    wrong: int = 0
    overloaded: bool = False

    def run(self) -> None:
        """Send every call and wait for every answer."""
        free = [self._connect() for _ in range(self.connections)]
        busy: dict[int, Connection] = {}
        waiting: deque[int] = deque()
        position, count = 0, len(self.due)
        start = time.perf_counter() + 0.05
        limit = start + self.due[-1] + ANSWER_SECS
        had_free = True
        while position < count or waiting or busy:
            now = time.perf_counter()
            if now > limit or len(waiting) > MAX_BACKLOG:
                self.overloaded = True
                break
            while position < count and start + self.due[position] <= now:
                waiting.append(position)
                position += 1
            while waiting and free:
                number, connection = waiting.popleft(), free.pop()
                if had_free:
                    self.late.append(now - start - self.due[number])
                self._send(connection, number)
                busy[connection.socket.fileno()] = connection
            had_free = bool(free)
            pause = start + self.due[position] - time.perf_counter() if position < count else 0.5
            readable = select.select(list(busy), [], [], max(0.0, pause))[0]
            for descriptor in readable:
                connection = busy[descriptor]
                if self._receive(connection, start):
                    del busy[descriptor]
                    free.append(connection)
        for connection in [*free, *busy.values()]:
            connection.socket.close()

    def _connect(self) -> Connection:
        made = socket.create_connection(self.address, 10.0)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(made)

    def _send(self, connection: Connection, number: int) -> None:
        connection.number, connection.received = number, b""
        body = (BODY % (FIRST_ID + number, FIRST_ID + number)).encode()
        connection.socket.sendall(self.head + b"%d\r\n\r\n" % len(body) + body)

    def _receive(self, connection: Connection, start: float) -> bool:
        data = connection.socket.recv(65_536)
        connection.received += data
        if data and not complete(connection.received):
            return False
        if self.due[connection.number] >= WARM_UP_SECS:
            self.latencies.append(time.perf_counter() - start - self.due[connection.number])
        if not self._right(connection):
            self.wrong += 1
        if not data:
            connection.socket.close()
            connection.socket = self._connect().socket
        return True

    def _right(self, connection: Connection) -> bool:
        text = connection.received.decode("utf-8", "replace")
        if not text.startswith("HTTP/1.1 200 "):
            return False
        if self.expect != "echo":
            return self.expect in text
        number = FIRST_ID + connection.number
        return f"hello {number} x" in text and f'"id":{number}' in text.replace('"id": ', '"id":')


def complete(received: bytes) -> bool:
    """Whether a whole answer is there."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = received[:end].lower()
    mark = head.find(b"\r\ncontent-length:")
    if mark >= 0:
        length = int(head[mark + 17 :].split(b"\r", 1)[0])
        return len(received) >= end + 4 + length
    return received.endswith(b"\r\n0\r\n\r\n")


def percentile(ordered: list[float], share: float) -> float:
    """A percentile in milliseconds; 0 of nothing."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 4)


def arrivals(rate: float, seconds: float) -> list[float]:
    """The moments of a Poisson process, the same ones each time."""
    source, moments, at = random.Random(20_261), [], 0.0
    while (at := at + source.expovariate(rate)) < seconds:
        moments.append(at)
    return moments


def main() -> None:
    """Read the options, send, print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    url = urlsplit(options.url)
    lines = [f"POST {url.path} HTTP/1.1", f"Host: {url.netloc}"]
    lines += os.environ.get("BENCH_HEADERS", "").splitlines()
    head = "".join(f"{line}\r\n" for line in lines) + "Content-Length: "
    load = Load(
        address=(str(url.hostname), int(url.port or 80)),
        head=head.encode(),
        expect=os.environ.get("BENCH_EXPECT", "echo"),
        due=arrivals(options.rate, options.seconds + WARM_UP_SECS),
        connections=options.connections,
    )
    gc.disable()
    load.run()
    ordered, late = sorted(load.latencies), sorted(load.late)
    print(
        json.dumps(
            {
                "rate": options.rate,
                "sent": len(load.due),
                "answered": len(ordered),
                "wrong": load.wrong,
                "overloaded": load.overloaded,
                "p50_ms": percentile(ordered, 0.5),
                "p90_ms": percentile(ordered, 0.9),
                "p99_ms": percentile(ordered, 0.99),
                "p999_ms": percentile(ordered, 0.999),
                "max_ms": percentile(ordered, 1.0),
                "late_p99_ms": percentile(late, 0.99),
            }
        )
    )


if __name__ == "__main__":
    main()
