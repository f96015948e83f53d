"""What a gateway leaves unimported until it is needed, and the routes it then imports."""

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.pages import PageAccess, Vitals
from mcpguard.gateway.routing import client_routes, operator_routes
from tests.doubles import RecordingCorridor

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import os
import sys
from pathlib import Path
from mcpguard.config.load import loads
from twisted.internet import reactor
from mcpguard.gateway import Gateway
from mcpguard.gateway.routing import operator_routes
cold = sys.argv[3:]
for text in sys.argv[1:3]:
    # Each in a process of its own, after what is imported for both.
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            sys.exit("a gateway was not made")
        continue
    loaded = loads(text, "toml", environ={}, base=Path("/"))
    Gateway(loaded.settings, reactor)
    print(*[name for name in cold if name in sys.modules])
    operator_routes(None)
    print(*[name for name in cold if name in sys.modules], flush=True)
    os._exit(0)
"""
URL = 'transport = "http"\nurl = "http://127.0.0.1:9/mcp"\n'
CHILD = 'transport = "stdio"\ncommand = "true"\n'
ROUTER = ("klein", "werkzeug")
BY_URL = ("mcpguard.upstream.url_upstream",)
BY_CHILD = ("mcpguard.upstream.stdio",)
NEVER = (
    *("ruamel.yaml", "mcpguard.config.yaml_source", "tomlkit", "treq", "txredisapi"),
    *("mcpguard.config.edit", "mcpguard.gateway.parent", "mcpguard.limits.redis"),
)


class WhatIsLeftOut(SynchronousTestCase):
    """Memory of a gateway that has nothing to do: what it imports is most of it."""

    def imported(self, *upstreams: str) -> list[list[str]]:
        """What of the cold parts is there, once a gateway is made and once a router is, each."""
        texts = [f"[upstream]\n{upstream}[audit]\nenabled = false\n" for upstream in upstreams]
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *texts, *ROUTER, *BY_URL, *BY_CHILD, *NEVER],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return [line.split() for line in done.stdout.splitlines()]

    def test_by_its_server(self) -> None:
        """No router, no YAML, no Redis, no other processes to start; behind a URL no child
        processes, and no HTTP client either where servers are child processes.
        """
        by_url, by_child = [[*BY_URL], [*ROUTER, *BY_URL]], [[*BY_CHILD], [*ROUTER, *BY_CHILD]]
        self.assertEqual(self.imported(URL, CHILD), [*by_url, *by_child])


class TheRoutes(SynchronousTestCase):
    """`client_routes` and `operator_routes`."""

    def test_leaves(self) -> None:
        """Both are resources that route by themselves; see the tests of the front."""
        vitals = Vitals("0", 0.0, lambda: 0.0, lambda: (True, ""), lambda: b"", "text/plain", list)
        clients = client_routes(RecordingCorridor(), vitals, PageAccess.OPEN, lambda _: None)
        for one in (clients, operator_routes(vitals)):
            self.assertTrue(one.isLeaf)
