"""``python -m mcpguard``: the same as the ``mcp-guard`` command."""

import signal
import sys

if sys.argv[1:2] == ["worker"]:
    # First of all: Ctrl-C reaches a worker that is still importing too, and is its parent's.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)

from mcpguard.cli import main

main(prog_name="mcp-guard")
