"""What a client does with each server, and what it must see: the same through any SDK."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

SECONDS = 60.0
"""How long one step may take; ten children may be starting at the same time."""

Check = Callable[[Any], bool]


@frozen
class Step:
    """One thing to do, and what must come of it."""

    name: str
    do: Mapping[str, Any]
    expected: Any = None
    """The result, or a function that judges it."""
    error: str | None = None
    """Instead of a result: words that the error must contain."""
    feature: str = ""
    """What it shows, of `matrix.FEATURES`."""

    def complaint(self, outcome: Mapping[str, Any] | None) -> str | None:
        """What is wrong with an outcome; None when nothing is."""
        if outcome is None:
            return f"{self.name}: was not reached"
        if self.error is not None:
            words = str(outcome.get("error", {}).get("message", ""))
            return None if self.error in words else f"{self.name}: no such error in {outcome}"
        if "ok" not in outcome:
            return f"{self.name}: {outcome}"
        found = outcome["ok"]
        good = self.expected(found) if callable(self.expected) else found == self.expected
        return None if good else f"{self.name}: {found!r} instead of {self.expected!r}"


@frozen
class Scenario:
    """The steps before one server."""

    server: str
    """The name that the server gives itself."""
    steps: tuple[Step, ...]
    content: Mapping[str, Any]
    """What the user enters when asked; a ``?`` in it is the question."""
    asked: frozenset[str]
    """What the server must have asked of the client by the end."""
    roots: tuple[str, ...] = ("file:///srv/data",)
    stays: bool = False
    """Whether a child of it stays for callers without a session, as one that knows 2026 does."""

    def job(self, url: str, key: str, mode: str, *, transport: str = "http") -> dict[str, Any]:
        """The job for a client; ``transport`` is ``http`` (Streamable HTTP) or ``sse`` (2024)."""
        return {
            "url": url,
            "transport": transport,
            "key": key,
            "mode": mode,
            "timeout": SECONDS,
            "content": dict(self.content),
            "roots": list(self.roots),
            "steps": [{"name": step.name, **step.do} for step in self.steps],
        }

    def complaints(self, report: Mapping[str, Any], version: str, *, named: bool) -> list[str]:
        """What is wrong with a client's report of it; ``named``: it asks for the server's name."""
        connected = report["connect"].get("ok")
        if connected is None:
            return [f"connect: {report['connect']}"]
        found: list[str | None] = []
        if connected["version"] != version:
            found.append(f"version {connected['version']} instead of {version}")
        if named and connected["server"] != self.server:
            found.append(f"server {connected['server']!r}")
        found += [step.complaint(report["steps"].get(step.name)) for step in self.steps]
        if set(report["asked"]) != self.asked:
            found.append(f"asked for {report['asked']}")
        if "close" in report:
            found.append(f"close: {report['close']}")
        return [one for one in found if one is not None]


def text(words: str, *, failed: bool = False) -> Check:
    """A tool result with this text."""

    def check(result: Any) -> bool:
        return bool(result["text"] == words and result["error"] is failed)

    return check


def containing(words: str, *, failed: bool = False) -> Check:
    """A tool result with this in its text."""

    def check(result: Any) -> bool:
        return bool(words in result["text"] and result["error"] is failed)

    return check


def call(
    name: str, tool: str, expected: Any = None, error: str | None = None, **arguments: Any
) -> Step:
    """A call of a tool."""
    return Step(name, {"do": "call", "tool": tool, "arguments": arguments}, expected, error)


def includes(*wanted: str) -> Check:
    """A list with these in it."""

    def check(found: Any) -> bool:
        return set(wanted) <= set(found)

    return check


def progress(
    tool: str, words: str, first: list[list[float]], /, *, said: str = "", **arguments: Any
) -> Step:
    """A call with progress, in order, each with ``said`` in its message.

    The TypeScript SDKs lose what comes with the answer, or is read together with it: the last
    progress must be well before it.
    """

    def check(result: Any) -> bool:
        # What has no total is npm's client itself, telling of a question in the call's course.
        reported = zip(result["progress"], result["said"], strict=True)
        told = [(amount, message) for amount, message in reported if amount[1] is not None]
        own = all(said in (message or "") for _, message in told)
        seen = [amount for amount, _ in told]
        return bool(words in result["text"] and seen[: len(first)] == first and own)

    return Step(
        "progress", {"do": "call", "tool": tool, "arguments": arguments, "progress": True}, check
    )


def together(
    count: int,
    tool: str,
    argument: str,
    prefix: str = "",
    who: str = "",
    name: str = "together",
) -> Step:
    """Calls side by side in one session, each with its own answer."""
    expected = {f"{who}together {n}": f"{prefix}{who}together {n}" for n in range(count)}
    do = {"do": "together", "tool": tool, "argument": argument, "count": count, "who": who}
    return Step(name, do, expected)


def crowd(
    count: int, rounds: int, tool: str, argument: str, prefix: str = "", who: str = ""
) -> tuple[Step, ...]:
    """Sessions side by side, each calling with values of its own; no step when there are none."""
    if not count:
        return ()
    expected = {
        f"{who}session {n}": [f"{prefix}{who}session {n} {turn}" for turn in range(rounds)]
        for n in range(count)
    }
    do = {"do": "crowd", "tool": tool, "argument": argument, "count": count, "rounds": rounds}
    return (Step("crowd", {**do, "who": who}, expected),)


def demo(*, sessions: int) -> Scenario:
    """The bundled demo server."""
    return Scenario(
        server="mcp-guard-demo",
        stays=True,
        content={"answer": "Ada"},
        asked=frozenset({"elicitation", "sampling", "roots"}),
        steps=(
            Step("list", {"do": "list"}, includes("read_file", "echo", "slow", "ask", "roots")),
            call("echo", "echo", text("hello"), message="hello"),
            call("region", "echo", text("hello (Süd)"), message="hello", region="Süd"),
            call("error result", "read_file", containing("", failed=True), path="absent.txt"),
            call("unknown tool", "nope", error="Unknown tool"),
            progress("slow", "Done", [[1, 4], [2, 4], [3, 4], [4, 4]], seconds=2, steps=4),
            call("elicitation", "ask", text("The user answered: Ada"), question="Who?"),
            call("sampling", "summarize", containing("long story>"), text="long story"),
            call("roots", "roots", text("file:///srv/data")),
            Step("resources", {"do": "resources"}, includes("demo://readme", "demo://counter")),
            Step("read", {"do": "read", "uri": "demo://readme"}, lambda found: "demo" in found),
            Step("prompts", {"do": "prompts"}, ["greet"]),
            Step(
                "prompt",
                {"do": "prompt", "prompt": "greet", "arguments": {"name": "Ada"}},
                lambda found: "Ada" in found,
            ),
            Step(
                "subscription",
                {
                    "do": "watch",
                    "uri": "demo://counter",
                    "tool": "echo",
                    "arguments": {"message": "count"},
                },
                only("demo://counter"),
            ),
            Step(
                "log",
                {
                    "do": "log",
                    "level": "debug",
                    "tool": "slow",
                    "arguments": {"seconds": 0.1, "steps": 1},
                    "expect": "slow: 1 steps in 0.1 s",
                },
                includes("slow: 1 steps in 0.1 s"),
            ),
            Step(
                "cancel",
                {
                    "do": "cancel",
                    "tool": "slow",
                    "arguments": {"seconds": 60, "steps": 1},
                    "after": 0.3,
                },
                {"cancelled": True},
            ),
            together(10, "echo", "message"),
            *crowd(sessions, 3, "echo", "message"),
        ),
    )


def everything(*, sessions: int) -> Scenario:
    """The npm ``server-everything``, which shakes hands."""
    subject = "demo://resource/dynamic/text/1"
    return Scenario(
        server="mcp-servers/everything",
        content={"name": "Ada", "check": True, "integer": 7},
        asked=frozenset({"elicitation", "sampling", "roots"}),
        steps=(
            Step(
                "list",
                {"do": "list"},
                includes("echo", "get-sum", "trigger-sampling-request", "get-roots-list"),
            ),
            call("echo", "echo", text("Echo: hello"), message="hello"),
            call("error result", "get-sum", containing("", failed=True), a="one", b=2),
            call("unknown tool", "nope", containing("not found", failed=True)),
            progress(
                "trigger-long-running-operation",
                "completed",
                [[1, 4], [2, 4], [3, 4]],
                duration=2,
                steps=4,
            ),
            call("elicitation", "trigger-elicitation-request", containing("Ada")),
            call(
                "sampling", "trigger-sampling-request", containing("context: Why?>"), prompt="Why?"
            ),
            call("roots", "get-roots-list", containing("file:///srv/data")),
            Step("resources", {"do": "resources"}, lambda found: len(found) > 0),
            Step(
                "read", {"do": "read", "uri": subject}, lambda found: "plaintext resource" in found
            ),
            Step("prompts", {"do": "prompts"}, includes("simple-prompt")),
            Step(
                "prompt",
                {"do": "prompt", "prompt": "simple-prompt"},
                lambda found: "prompt" in found,
            ),
            Step(
                "subscription",
                {"do": "watch", "uri": subject, "tool": "toggle-subscriber-updates"},
                only(subject),
            ),
            Step(
                "log",
                {"do": "log", "level": "debug", "tool": "toggle-simulated-logging", "expect": None},
                lambda found: len(found) > 0,
            ),
            Step(
                "cancel",
                {
                    "do": "cancel",
                    "tool": "trigger-long-running-operation",
                    "arguments": {"duration": 1, "steps": 1},
                    "after": 0.3,
                },
                {"cancelled": True},
            ),
            call("still there", "echo", text("Echo: still"), message="still"),
            # Its timers would keep the server from ending with its input.
            call("updates off", "toggle-subscriber-updates", containing("Stopped")),
            call("logging off", "toggle-simulated-logging", containing("Stopped")),
            together(10, "echo", "message", "Echo: "),
            *crowd(sessions, 3, "echo", "message", "Echo: "),
        ),
    )


def filesystem(directory: str) -> Scenario:
    """The npm ``server-filesystem``; ``directory`` holds ``hello.txt`` with the text ``hello``."""
    return Scenario(
        server="secure-filesystem-server",
        content={},
        asked=frozenset({"roots"}),
        roots=(f"file://{directory}",),
        steps=(
            Step("list", {"do": "list"}, includes("read_text_file", "write_file")),
            # The server asks for the roots of its own accord, and is not ready before it has them.
            Step(
                "roots",
                {"do": "call", "tool": "list_allowed_directories", "until": directory},
                text(f"Allowed directories:\n{directory}"),
            ),
            call("read", "read_text_file", text("hello"), path=f"{directory}/hello.txt"),
            call(
                "outside", "read_text_file", containing("denied", failed=True), path="/etc/passwd"
            ),
            call("directory", "list_directory", text("[FILE] hello.txt"), path=directory),
        ),
    )


def only(uri: str) -> Check:
    """At least one notification, all of this resource."""

    def check(found: Any) -> bool:
        return len(found) > 0 and set(found) == {uri}

    return check
