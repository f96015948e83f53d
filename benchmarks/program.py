"""The programs of a run: started in a process group of their own, always ended."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import machine

START_SECS = 60.0
STOP_SECS = 15.0
IDLE_SHARE = 0.02
"""Of one processor: a program that uses less is at rest."""

SETPRIV = shutil.which("setpriv")
WITH_US = () if SETPRIV is None else (SETPRIV, "--pdeathsig", "TERM", "--")
"""Has a program end with the harness, also with one that was killed."""


class Unavailable(Exception):
    """A row that cannot be measured here; the text says why."""


def free_port() -> int:
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Program:
    """A running program whose output goes to a file.

    Raises `Unavailable` when it is not installed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path,
        cpus: tuple[int, ...],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._directory = directory
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [*WITH_US, "taskset", "-c", machine.spelled(cpus), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=directory,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
            except FileNotFoundError as problem:
                raise Unavailable(f"{problem.filename} is not installed") from None
        self.pid = self._process.pid

    def says(self, pattern: str, seconds: float = START_SECS) -> re.Match[str]:
        """Wait for words in its output; raises `Unavailable` when they do not come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.log.read_text(errors="replace")):
                return found
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise Unavailable(f"{self.name} did not start: {self.last_words()}")

    def listens(self, port: int, seconds: float = START_SECS) -> None:
        """Wait until a port of loopback answers; raises `Unavailable` when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                return
            except OSError:
                time.sleep(0.05)
        raise Unavailable(f"{self.name} did not start: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its output, in one line, without the directory of the run."""
        text = self.log.read_text(errors="replace").replace(f"{self._directory}/", "")
        return " ".join(text.split())[-400:]

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def rest(self, seconds: float) -> bool:
        """Wait until it has nothing left to do, for at most so long; whether it came to that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            used, began = machine.cpu_seconds(self.pid), time.monotonic()
            time.sleep(0.15)
            share = (machine.cpu_seconds(self.pid) - used) / (time.monotonic() - began)
            if share <= max(IDLE_SHARE, 1.01 / machine.TICKS / 0.15):
                return True
        return False

    def stop(self) -> None:
        """End it and what it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(STOP_SECS)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait(STOP_SECS)
