"""What a server is started with."""

import os
import sys
from pathlib import Path

from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import ChildLimits, Secret, SecretText, UpstreamSettings
from mcpguard.errors import Reason
from mcpguard.upstream.link import UpstreamFailure
from mcpguard.upstream.spawning import locate, program_of, signal_group, spawn
from tests.process_doubles import ProcessReactor

ENVIRON = {
    "HOME": "/home/x",
    "PATH": "/usr/bin:/bin",
    "TERM": "dumb",
    "AWS_SECRET": "gateway's own",
    "SHELL": "() { evil; }",
    "LANG": "C.UTF-8",
}


class EnvironmentTests(SynchronousTestCase):
    """The server's environment."""

    def test_only_the_allow_list(self) -> None:
        """Nothing of the gateway's environment leaks but the list, and no exported function."""
        program = program_of(UpstreamSettings(command="true"), ENVIRON)
        self.assertEqual(program.env, {"HOME": "/home/x", "PATH": "/usr/bin:/bin", "TERM": "dumb"})

    def test_named_variables(self) -> None:
        """``inherit_env`` adds the gateway's, ``env`` adds configured ones and wins."""
        settings = UpstreamSettings(
            command="true",
            inherit_env=("LANG", "MISSING"),
            env={"TOKEN": Secret("s3cret-value"), "TERM": Secret("vt100")},
        )
        program = program_of(settings, ENVIRON)
        self.assertEqual(program.env["LANG"], "C.UTF-8")
        self.assertEqual(program.env["TOKEN"], "s3cret-value")
        self.assertEqual(program.env["TERM"], "vt100")
        self.assertNotIn("MISSING", program.env)
        self.assertIn("s3cret-value", program.secrets)
        self.assertNotIn("s3cret-value", repr(program))

    def test_secrets_by_every_way(self) -> None:
        """What was named by reference or by variable is a secret in the log, however it is passed;
        what stands in the file as an argument is not.
        """
        settings = UpstreamSettings(
            command="true",
            args=("--token", SecretText("t0ken-value", "environment variable T"), "--plain"),
            inherit_env=("API_KEY",),
        )
        program = program_of(settings, {**ENVIRON, "API_KEY": "k3y-value"})
        self.assertEqual(set(program.secrets), {"t0ken-value", "k3y-value"})
        self.assertNotIn("k3y-value", repr(program))


class LocateTests(SynchronousTestCase):
    """Finding the executable before anything is started."""

    def locate(self, command: str, cwd: Path | None = None) -> str:
        """The path found for a command."""
        return locate(program_of(UpstreamSettings(command=command, cwd=cwd), ENVIRON))

    def test_in_path(self) -> None:
        """A bare name is looked up in the server's PATH."""
        self.assertTrue(self.locate("sh").endswith("/sh"))

    def test_relative_to_cwd(self) -> None:
        """A relative path is relative to the server's directory, not to ours."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        script = directory / "server"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        self.assertEqual(self.locate("./server", directory), str(script))

    def assert_refused(self, words: str, command: str, cwd: Path | None = None) -> None:
        """Not found, with these words for the log."""
        failure = self.assertRaises(UpstreamFailure, self.locate, command, cwd)
        self.assertEqual(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertIn(words, failure.detail)

    def test_refusals(self) -> None:
        """Missing, not executable, no directory: each says what is wrong."""
        plain = Path(self.mktemp()).absolute()
        plain.write_text("text")
        self.assert_refused("not found", "no-such-command-anywhere")
        self.assert_refused("not found", str(plain))
        self.assert_refused("not found", "")
        self.assert_refused("no directory", "sh", Path("/no/such/directory"))


class SpawnTests(SynchronousTestCase):
    """The start itself."""

    def test_launcher(self) -> None:
        """The server is started by the launcher, without a shell, with exactly its environment."""
        reactor = ProcessReactor()
        settings = UpstreamSettings(
            command="sh",
            args=("-c", "echo $HOME; rm -rf /"),
            cwd=Path("/"),
            limits=ChildLimits(memory=1000, open_files=20),
        )
        program = program_of(settings, ENVIRON)
        spawn(reactor, program, ProcessProtocol())
        (child,) = reactor.children
        self.assertEqual(child.argv[:3], [sys.executable, "-I", "-S"])
        self.assertEqual(child.argv[4:10], [str(os.getpid()), "1000", "-", "20", "-", "/"])
        self.assertEqual(child.argv[11:], ["sh", "-c", "echo $HOME; rm -rf /"])
        self.assertEqual(child.env, program.env)

    def test_no_resources(self) -> None:
        """A kernel that cannot start a process is reported as such."""
        reactor = ProcessReactor()
        reactor.refuses = OSError(11, "Resource temporarily unavailable")
        program = program_of(UpstreamSettings(command="sh"), ENVIRON)
        failure = self.assertRaises(UpstreamFailure, spawn, reactor, program, ProcessProtocol())
        self.assertEqual(failure.reason, Reason.UPSTREAM_UNAVAILABLE)

    def test_zero_bytes(self) -> None:
        """An argument the kernel cannot take is a failure of the start, not of the gateway."""
        reactor = ProcessReactor()
        reactor.refuses = ValueError("embedded null byte")
        program = program_of(UpstreamSettings(command="sh", args=("a\0b",)), ENVIRON)
        self.assertRaises(UpstreamFailure, spawn, reactor, program, ProcessProtocol())

    def test_never_our_own_group(self) -> None:
        """Group 0 is ours and 1 is everybody's: neither is ever signalled."""
        self.assertFalse(signal_group(0, 15))
        self.assertFalse(signal_group(1, 15))
        self.assertFalse(signal_group(-1, 15))
