"""Tests of the twistd entry."""

import os
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mcpguard import gateway, tap
from mcpguard.config.settings import Settings
from mcpguard.errors import ConfigurationError
from mcpguard.gateway import parent
from tests.config.samples import HASH, UPSTREAM
from tests.pki import Authority


class OptionsTests(SynchronousTestCase):
    """The command line of ``twistd mcp-guard``."""

    def setUp(self) -> None:
        """A configuration file."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "guard.toml"
        self.path.write_text(
            f"{UPSTREAM}[admin]\n[audit]\nstdout = true\n"
            f'[[auth.api_keys]]\nid = "a"\nkey_hash = "{HASH}"\n'
        )

    def parse(self, *args: str) -> tap.Options:
        """Options as twistd would parse them."""
        options = tap.Options()
        options.parseOptions(["--config", str(self.path), *args])
        return options

    def refused(self, *args: str) -> str:
        """The words of the usage error, which twistd prints before it exits with status 1."""
        return str(self.assertRaises(usage.UsageError, self.parse, *args))

    def test_listener(self) -> None:
        """--host and --port replace the file's."""
        server = self.parse().loaded.settings.server
        self.assertEqual((server.host, server.port), ("127.0.0.1", 3000))
        server = self.parse("--host", "::1", "--port", "0").loaded.settings.server
        self.assertEqual((server.host, server.port), ("::1", 0))

    def test_every_problem(self) -> None:
        """Each on a line of its own."""
        self.path.write_text("[server]\nport = 0\nprot = 1\n" + UPSTREAM)
        self.assertEqual(
            self.refused(),
            f"cannot use the configuration {self.path}:\n"
            "  - server.port: 0: out of range; accepted: an integer from 1 to 65535 (line 2)\n"
            '  - server.prot: unknown key; did you mean "port"? (line 3)',
        )

    def test_certificates(self) -> None:
        """Files that the configuration names are looked into, at the start and at each reload."""
        with self.path.open("a") as file:
            file.write('[server.tls]\ncert_path = "s.crt"\nkey_path = "s.key"\n')
        self.assertIn("s.crt does not exist", self.refused())
        authority = Authority("CA")
        authority.server().write(self.directory, "s")
        options = self.parse()
        authority.server(days=-0.1).write(self.directory, "s")
        error = self.assertRaises(ConfigurationError, options.read)
        self.assertIn("s.crt has expired", error.problems[0])

    def test_missing_file(self) -> None:
        """The cure is in the words."""
        self.path.unlink()
        self.assertIn("Create one with `mcp-guard init`", self.refused())

    def test_wrong_ports(self) -> None:
        """No number, out of range, the operator listener's."""
        self.assertIn("invalid literal", self.refused("--port", "x"))
        for port in ("65536", "-1", "9090"):
            self.assertIn("port", self.refused("--port", port))

    def test_service(self) -> None:
        """The gateway of these settings, on twistd's reactor; warnings go to its log."""
        built: list[tuple[Settings, object]] = []

        class Built(Service):
            def __init__(self, settings: Settings, reactor: object) -> None:
                built.append((settings, reactor))
                self.started: Deferred[str] = Deferred()

        settled: list[bool] = []
        self.patch(gateway, "Gateway", Built)
        self.patch(gateway, "settle_down", lambda: settled.append(True))
        warned: list[str] = []
        self.patch(tap.log, "warn", lambda format, warning: warned.append(warning))
        self.path.write_text(UPSTREAM)
        options = self.parse()
        service: Any = tap.makeService(options)
        verifyObject(IService, service)
        self.assertEqual(settled, [])
        service.started.callback("http://127.0.0.1:3000")
        self.assertEqual(settled, [True])
        self.assertEqual(
            built, [(options.loaded.settings, sys.modules["twisted.internet.reactor"])]
        )
        self.assertEqual(len(warned), 2)
        self.assertIn("no authentication is configured", " ".join(warned))

    def test_workers(self) -> None:
        """With several workers, their parent; it finds the file again from any directory."""
        given: list[dict[str, Any]] = []

        class Built(Service):
            def __init__(self, settings: Settings, reactor: object, **how: Any) -> None:
                given.append({"settings": settings, **how})

        self.patch(parent, "WorkerParent", Built)
        self.patch(tap.log, "warn", lambda format, warning: None)
        self.path.write_text(f"[server]\nworkers = 2\n{UPSTREAM}")
        verifyObject(IService, tap.makeService(self.parse()))
        self.assertEqual(given[0]["settings"].server.workers, 2)
        self.assertTrue(given[0]["keep_trying"])
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir("/")
        self.assertEqual(given[0]["reread"]().settings, given[0]["settings"])
