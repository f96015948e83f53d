"""What all rows of a run share: directories, processors, the key, the reference upstream."""

import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.certificate import make_certificate
from benchmarks.mcp_client import Client
from benchmarks.program import Program, Unavailable
from benchmarks.wrk import Measurement, measure

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".bench"
SERVERS = Path(__file__).with_name("servers")
REFERENCE = SERVERS / "reference.py"
REST_SECS = 20.0


def tool_python(name: str) -> Path:
    """The interpreter of one of the environments that ``install.sh`` makes."""
    python = TOOLS / name / "bin" / "python"
    if not python.exists():
        raise Unavailable(f"the environment {name} is not installed: run benchmarks/install.sh")
    return python


@dataclass
class Target:
    """Something that is up and takes requests."""

    program: Program
    url: str
    layout: machine.Layout
    expect: str = "echo"
    """What a right answer holds, see ``load.lua``."""
    token: str = ""
    certificate: Path | None = None
    further: list[Program] = field(default_factory=list)
    """What else was started for it."""
    sessions: int = 1
    headers: str = ""
    """Of the sessions that were opened, one a line, an empty line between two sessions."""

    def open(self) -> None:
        """Open the sessions of the load; raises `Unavailable`."""
        if self.expect != "echo":
            self.headers = "Content-Type: application/json"
            return
        clients = []
        for _ in range(self.sessions):
            # Each while the others are connected, so that they are shared out over the workers.
            client = Client(self.url, token=self.token, certificate=self.certificate)
            client.open()
            clients.append(client)
        for client in clients:
            client.close()
        self.headers = "\n\n".join(client.lines() for client in clients)

    def load(self, connections: int, seconds: float) -> Measurement:
        """Measure once; what it has still to do after an earlier run is waited for."""
        if not self.program.alive:
            raise Unavailable(f"it has ended: {self.program.last_words()}")
        self.program.rest(REST_SECS)
        return measure(
            self.url,
            headers=self.headers,
            expect=self.expect,
            pid=self.program.pid,
            cpus=self.layout.load,
            connections=connections,
            seconds=seconds,
        )

    def stop(self) -> None:
        """End all of it."""
        for one in (self.program, *self.further):
            one.stop()


@dataclass
class Bench:
    """One run of the harness."""

    directory: Path
    """For configurations, logs and audit files; goes away with the run."""
    layout: machine.Layout
    token: str = field(default_factory=lambda: "mcp_" + secrets.token_urlsafe(32))
    _started: list[Program] = field(default_factory=list)
    _upstreams: dict[str, str] = field(default_factory=dict)
    _certificate: tuple[Path, Path] | None = None

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        layout: machine.Layout | None = None,
        cpus: tuple[int, ...] | None = None,
        env: dict[str, str] | None = None,
    ) -> Program:
        """Start a program that ends with the run, on the gateway's processor if not told else."""
        program = Program(
            name,
            [str(word) for word in command],
            directory=self.directory,
            cpus=cpus or (layout or self.layout).gateway,
            env=env,
        )
        self._started.append(program)
        return program

    @property
    def upstream_python(self) -> Path:
        """The interpreter of the reference upstream: one with uvloop, where that is installed."""
        try:
            return tool_python("tools")
        except Unavailable:
            return Path(sys.executable)

    def stdio_upstream(self, layout: machine.Layout | None = None) -> list[str]:
        """The command of the reference upstream over stdio."""
        cpus = machine.spelled((layout or self.layout).load)
        return [str(self.upstream_python), str(REFERENCE), "stdio", "--cpus", cpus]

    def http_upstream(self, answer: str = "json") -> str:
        """The URL of the reference upstream over HTTP, started when it is first asked for.

        ``answer`` is ``json`` or ``sse``.
        """
        if answer not in self._upstreams:
            cpus = self.layout.load
            command: list[str | Path] = [
                self.upstream_python,
                REFERENCE,
                "http",
                "--answer",
                answer,
            ]
            program = self.start(f"upstream-{answer}", command, cpus=cpus)
            port = program.says(r"listening on (\d+)")[1]
            self._upstreams[answer] = f"http://127.0.0.1:{port}/mcp"
        return self._upstreams[answer]

    def upstream_program(self, answer: str = "json") -> Program:
        """The process behind `http_upstream`."""
        self.http_upstream(answer)
        return next(one for one in self._started if one.name == f"upstream-{answer}")

    @property
    def certificate(self) -> tuple[Path, Path]:
        """The files of a certificate for loopback and of its key, made for this run."""
        if self._certificate is None:
            self._certificate = make_certificate(self.directory)
        return self._certificate

    def close(self) -> None:
        """End everything that was started."""
        for program in self._started:
            program.stop()


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    kind: str
    """``reference``, ``gateway`` or ``peer``."""
    upstream: str
    """``none``, ``http`` or ``stdio``."""
    auth: str
    what: str
    start: Callable[[Bench], Target]
    slow: bool = False
    """Answers take so long that a run must be longer to count enough of them."""
