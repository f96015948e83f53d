"""``python -m mcpguard``."""

import runpy
import signal
import sys
from types import ModuleType
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Command(ModuleType):
    """Stands for ``mcpguard.cli``, and knows who listens to signals while that is imported."""

    def __init__(self) -> None:
        super().__init__("mcpguard.cli")
        self.ignored: list[list[bool]] = []

    def __getattr__(self, name: str) -> object:
        if name != "main":
            raise AttributeError(name)
        self.ignored.append([signal.getsignal(one) is signal.SIG_IGN for one in SIGNALS])
        return lambda prog_name: None


class SignalTests(SynchronousTestCase):
    """Signals that a terminal sends to parent and workers alike."""

    def ignored(self, *arguments: str) -> list[list[bool]]:
        """Which are ignored when the command is imported."""
        for number in SIGNALS:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        command = Command()
        self.patch(sys, "argv", ["mcpguard", *arguments])
        # The dictionary itself: the interpreter does not look at `sys` for it.
        with patch.dict(sys.modules, {"mcpguard.cli": command}):
            runpy.run_module("mcpguard", run_name="__main__")
        return command.ignored

    def test_worker(self) -> None:
        """A worker ignores them before it imports anything that takes time."""
        self.assertEqual(self.ignored("worker", "--log-level", "info"), [[True] * 3])

    def test_others(self) -> None:
        """Every other command is left as it is."""
        self.assertEqual(self.ignored("run"), [[False] * 3])
