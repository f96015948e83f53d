"""Real stdio servers, well and badly behaved, and the means to see what they leave behind."""

import os
import sys
import uuid
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from mcpguard.config.settings import Secret, UpstreamSettings
from mcpguard.upstream.link import Link, Message, Outbound
from mcpguard.upstream.spawning import signal_group
from mcpguard.upstream.stdio import StdioUpstream
from tests.upstream.stdio_rig import ALICE, CLIENT_PARAMS, MODERN_META, Books, InboxDouble, Sink

ROOT = str(Path(__file__).resolve().parents[2])

SERVER = r'''
import json, os, random, signal, subprocess, sys, threading, time

ways = set(sys.argv[1:])
lock = threading.Lock()
waiting = []


def write(message):
    with lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def answer(message, result):
    write({"jsonrpc": "2.0", "id": message["id"], "result": result})


def progress(message, amount):
    token = message["params"].get("_meta", {}).get("progressToken")
    if token is not None:
        params = {"progressToken": token, "progress": amount}
        write({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})


def flood():
    while True:
        sys.stderr.write("noise token=abcdefghijklmnop " + "x" * 200 + "\n")


def gather(message):
    """Hold every call until all are there, then progress and answers in any order."""
    waiting.append(message)
    if len(waiting) < message["params"]["arguments"]["of"]:
        return
    steps = [(progress, m, m["params"]["arguments"]["who"]) for m in waiting]
    steps += [(answer, m, {"who": m["params"]["arguments"]["who"]}) for m in waiting]
    random.shuffle(steps)
    for step in steps:
        step[0](*step[1:])
    del waiting[:]


def call(message):
    name = message["params"]["name"]
    if name == "echo":
        answer(message, {"echo": message["params"].get("arguments")})
    elif name == "gather":
        gather(message)
    elif name == "huge":
        with lock:
            for _ in range(20):
                sys.stdout.write("x" * 1048576)
            sys.stdout.write("\n")
            sys.stdout.flush()
    elif name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "deafen":
        time.sleep(1000)
    elif name == "allocate":
        answer(message, {"length": len(bytes(message["params"]["arguments"]["bytes"]))})
    elif name == "facts":
        answer(message, {
            "environ": dict(os.environ),
            "cwd": os.getcwd(),
            "session": os.getsid(0),
            "group": os.getpgid(0),
            "pid": os.getpid(),
            "sigpipe": open("/proc/self/status").read().split("SigIgn:")[1].split()[0],
            "fds": sorted(os.listdir("/proc/self/fd")),
            "limits": open("/proc/self/limits").read(),
        })


if "die-at-start" in ways:
    sys.exit(3)
if "banner" in ways:
    print("*** Welcome! Listening on stdio ***\n\n{not json}\n[1, 2]", flush=True)
if "stubborn" in ways:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "grandchild" in ways:
    subprocess.Popen(["sleep", "1000"])
if "stubborn-grandchild" in ways:
    # Handed down, so that it is never there without.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "1000"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
if "escapee" in ways:
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
if "flood" in ways:
    threading.Thread(target=flood, daemon=True).start()

for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if "banner" in ways:
        print("got", method, flush=True)
    if method == "initialize":
        answer(message, {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                         "serverInfo": {"name": "live", "version": "1"}})
    elif method == "server/discover":
        if "modern" in ways:
            answer(message, {"supportedVersions": ["2026-07-28"], "capabilities": {}})
        else:
            error = {"code": -32601, "message": "no"}
            write({"jsonrpc": "2.0", "id": message["id"], "error": error})
    elif method == "tools/call":
        call(message)
    elif "id" in message and method:
        answer(message, {})
if "stubborn" in ways:
    while True:
        time.sleep(1000)
'''


def process_table() -> dict[int, int]:
    """Every process and its parent."""
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                table[int(entry)] = int(parent)
    return table


def marked(mark: str) -> list[int]:
    """The living processes with this text in their environment."""
    found = []
    for pid in process_table():
        try:
            environ = Path("/proc", str(pid), "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in environ:
            found.append(pid)
    return found


def children() -> list[int]:
    """Our own children that are alive."""
    ours = os.getpid()
    return [pid for pid, parent in process_table().items() if parent == ours]


def descriptors() -> int:
    """How many descriptors we have open."""
    return len(os.listdir("/proc/self/fd"))


class StdioLiveCase(TestCase):
    """Real children; afterwards no process of theirs, no child and no descriptor may be left."""

    timeout = 180

    async def setUp(self) -> None:  # type: ignore[override]
        """A mark that every descendant inherits."""
        self.mark = f"mark-{uuid.uuid4()}"
        self.script = Path(self.mktemp()).absolute()
        self.script.write_text(SERVER)
        self.books = Books()
        self.upstreams: list[StdioUpstream] = []
        self.signals: list[int] = []
        # The reactor opens a few descriptors of its own as it begins to run.
        await self.pause(0)
        self._before = descriptors()
        self._children = set(children())
        self.addCleanup(self._clean)

    def upstream(self, *ways: str, **changes: Any) -> StdioUpstream:
        """An upstream whose server behaves in these ways."""
        settings = UpstreamSettings(
            name="live",
            command=sys.executable,
            args=("-IS", str(self.script), *ways),
            env={"MARK": Secret(self.mark)},
            era="legacy",
        )
        made = StdioUpstream(
            evolve(settings, **changes),
            reactor=reactor,
            meter=self.books,
            recorder=self.books,
            random=lambda: 0.0,
            environ=os.environ,
            signal_group=self.signal_group,
        )
        self.upstreams.append(made)
        return made

    def signal_group(self, group: int, number: int) -> bool:
        """Signal a child's group, and remember what was sent."""
        if number:
            self.signals.append(number)
        return signal_group(group, number)

    async def _clean(self) -> None:
        for upstream in self.upstreams:
            await upstream.stop()
            self.assertEqual(upstream.child_count, 0)
        await self.until(lambda: not marked(self.mark), "processes were left behind")
        await self.until(lambda: not set(children()) - self._children, "a child was left behind")
        await self.until(lambda: descriptors() <= self._before, "descriptors were left open")

    # -- what tests do -----------------------------------------------------------------------

    async def until(self, condition: Any, what: str, seconds: float = 40.0) -> None:
        """Wait until something is so."""
        for _ in range(int(seconds / 0.02)):
            if condition():
                return
            await self.pause(0.02)
        self.fail(what)

    def pause(self, seconds: float) -> "Deferred[None]":
        """Let time pass."""
        return deferLater(reactor, seconds, lambda: None)

    def watch_log(self, stream: str) -> list[str]:
        """The lines of a child's ``stdout`` or ``stderr`` that reach the log from now on."""
        lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event.get("stream") == stream:
                lines.append(event["line"])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines

    async def open(self, upstream: StdioUpstream, key: str = ALICE) -> tuple[Link, InboxDouble]:
        """A session."""
        inbox = InboxDouble()
        opening = await upstream.open_session(key, CLIENT_PARAMS, inbox, "")
        opening.link.notify("notifications/initialized", None)
        return opening.link, inbox

    def call(
        self, link: Link, name: str, arguments: Message | None = None, *, stateless: bool = False
    ) -> "LiveSink":
        """Call a tool, with id 1 and progress token 1 as everybody does."""
        meta: Message = {"progressToken": 1, **(MODERN_META if stateless else {})}
        params: Message = {"name": name, "arguments": arguments or {}, "_meta": meta}
        sink = LiveSink()
        version = "2026-07-28" if stateless else "2025-11-25"
        sink.call = link.request(Outbound(1, "tools/call", params, version, ALICE), sink)
        return sink


class LiveSink(Sink):
    """A sink that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: Deferred[None] = Deferred()

    def answer(self, message: Message) -> None:
        """An end."""
        super().answer(message)
        self.ended.callback(None)

    def failed(self, failure: Any) -> None:
        """An end."""
        super().failed(failure)
        self.ended.callback(None)
