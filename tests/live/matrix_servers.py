"""The servers of the matrix: one of each generation, built on SDKs of others."""

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.live.clients_case import PYTHON_SERVER
from tests.live.forked import forked
from tests.live.gateway_process import http, stdio
from tests.live.processes import LiveCase
from tests.live.software import HERE

HANDSHAKE_SERVER = str(HERE / "servers" / "handshake_server.py")


def server_name(column: str) -> str:
    """The name that the server of a column gives itself."""
    return "python-server" if column.endswith("2026") else "handshake-server"


async def matrix_servers(case: LiveCase) -> list[dict[str, Any]]:
    """One for each column, under its key; those over HTTP run until the end of the test."""
    older = forked(Path(HANDSHAKE_SERVER), 1)
    newer = [*forked(Path(PYTHON_SERVER)), "--stateless"]
    urls: list[str] = await gatherResults(
        [
            Deferred.fromCoroutine(case.start_http_server(command))
            for command in ([*older, "--sse"], [*older, "--http"], [*newer, "--http"])
        ]
    )
    return [
        http("sse-2024", urls[0], transport="sse"),
        http("http-2025", urls[1]),
        http("http-2026", urls[2]),
        stdio("stdio-2025", older),
        stdio("stdio-2026", newer),
    ]
