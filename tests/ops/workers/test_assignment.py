"""Tests of what a worker is told when it begins."""

import pickle
from pathlib import Path

from attrs import evolve
from msgspec import msgpack
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import SecretText, Settings
from mcpguard.ops.workers.assignment import Assignment
from tests.config.samples import HASH, SESSION_KEY, read

EVERYTHING = f"""
[server]
workers = 3
session_key = "{SESSION_KEY}"
allowed_hosts = ["gateway.example.com"]
[server.cors]
enabled = true
allowed_origins = ["https://app.example.com"]
[admin]
port = 9091
[[upstream.servers]]
name = "files"
transport = "stdio"
command = "/bin/true"
cwd = "/tmp"
args = ["x", {{ env = "TOKEN" }}]
env = {{ TOKEN = {{ env = "TOKEN" }} }}
limits = {{ memory = 1000000000 }}
[[upstream.servers]]
name = "web"
transport = "http"
url = "http://localhost:1/mcp"
headers = {{ Authorization = {{ env = "TOKEN" }} }}
[audit]
file = "/tmp/audit.log"
[[auth.api_keys]]
id = "a"
key_hash = "{HASH}"
expires_at = 2030-01-01T00:00:00Z
allowed_tools = ["read_*"]
[[rate_limit.tool_limits]]
tool_pattern = "x"
requests_per_second = 1
"""


class AssignmentTests(SynchronousTestCase):
    """From the parent to the worker."""

    def setUp(self) -> None:
        """An assignment with every kind of setting."""
        loaded = read(EVERYTHING, TOKEN="s3cr3t-value")
        self.assignment = Assignment(2, 7, 3, loaded.settings, Path("/run/x"), 1.5)

    def test_there_and_back(self) -> None:
        """A worker gets what the parent has, through the channel's plain data."""
        packed = msgpack.decode(msgpack.encode(self.assignment.pack()))
        self.assertEqual(Assignment.unpack(packed), self.assignment)

    def test_sources(self) -> None:
        """What came by reference still does not show itself."""
        settings = Assignment.unpack(self.assignment.pack()).settings
        word = settings.upstreams[0].args[1]
        assert isinstance(word, SecretText)
        self.assertEqual((word, word.source), ("s3cr3t-value", "environment variable TOKEN"))
        self.assertNotIn("s3cr3t", repr(settings))
        self.assertNotIn("s3cr3t", repr(self.assignment))

    def test_nothing_but_settings(self) -> None:
        """No other object can be made, and nothing else passes for settings."""
        packed = self.assignment.pack()
        for other in (
            pickle.dumps(print),
            pickle.dumps(evolve),
            pickle.dumps(self.assignment),
            b"cos\nsystem\n(S'true'\ntR.",
        ):
            with self.assertRaises(pickle.UnpicklingError):
                Assignment.unpack({**packed, "settings": other})
        with self.assertRaises(TypeError):
            Assignment.unpack({**packed, "settings": pickle.dumps(Settings().server)})
