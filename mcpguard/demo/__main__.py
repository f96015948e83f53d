"""``python -m mcpguard.demo``: the demo server over stdio, or over HTTP with ``--http``."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mcpguard.demo.files import Folder, seed
from mcpguard.demo.server import Server
from mcpguard.demo.stdio import Stdio

MAX_MESSAGE = 16 * 1024 * 1024
MAX_FILE = 1024 * 1024
MAX_ENTRIES = 256
MAX_DEPTH = 16
MAX_RUNNING = 512
"""Calls in progress; also connections of the HTTP server. Each holds a thread."""
MAX_SESSIONS = 256
MAX_URIS = 100
ASK_TIMEOUT = 300.0
THREAD_STACK = 1024 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the client closes its end, or until SIGTERM, SIGINT or SIGHUP."""
    options = _options(argv)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave)
    threading.stack_size(THREAD_STACK)  # up to MAX_RUNNING of them, perhaps under a memory limit
    eras = {"legacy", "modern"} if options.era == "both" else {options.era}
    with _root(options.root) as root:
        server = Server(
            Folder(root, max_file=MAX_FILE, max_entries=MAX_ENTRIES, max_depth=MAX_DEPTH),
            eras=frozenset(eras),
            secret=os.urandom(32),
            now=time.time,
            max_watchers=MAX_RUNNING,
            max_uris=MAX_URIS,
        )
        if options.http:
            # Imported here only: a stdio server should start without the cost of it.
            from mcpguard.demo.service import serve

            serve(
                server,
                options.host,
                options.port,
                max_connections=MAX_RUNNING,
                max_sessions=MAX_SESSIONS,
                max_body=MAX_MESSAGE,
                ask_timeout=ASK_TIMEOUT,
            )
        else:
            Stdio(
                server,
                sys.stdin.fileno(),
                _own_stdout(),
                max_line=MAX_MESSAGE,
                max_running=MAX_RUNNING,
                ask_timeout=ASK_TIMEOUT,
            ).serve()
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mcpguard.demo", description="A demo MCP server, over stdio or HTTP."
    )
    parser.add_argument("--http", action="store_true", help="serve Streamable HTTP, not stdio")
    parser.add_argument("--host", default="127.0.0.1", help="address for --http")
    parser.add_argument("--port", type=int, default=0, help="port for --http; 0 = any free one")
    parser.add_argument(
        "--root", type=Path, help="folder of the file tools (default: a temporary one with samples)"
    )
    parser.add_argument(
        "--era",
        choices=("legacy", "modern", "both"),
        default="both",
        help="protocol versions: up to 2025-11-25, from 2026-07-28 on, or both",
    )
    options = parser.parse_args(argv)
    if options.root is not None and not options.root.is_dir():
        parser.error(f"--root: {options.root} is not a directory")
    if not 0 <= options.port <= 65535:
        parser.error("--port must be between 0 and 65535")
    return options


@contextmanager
def _root(given: Path | None) -> Iterator[Path]:
    """The folder of the file tools; a temporary one is removed at the end."""
    if given is not None:
        yield given
        return
    made = Path(tempfile.mkdtemp(prefix="mcp-guard-demo-"))
    try:
        seed(made)
        yield made
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(made, ignore_errors=True)


def _own_stdout() -> int:
    """A descriptor for the protocol alone: stray prints go to stderr from here on."""
    descriptor = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return descriptor


def _leave(number: int, frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
