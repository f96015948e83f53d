"""What a client does with ``servers/python_server.py`` or its twin for the handshake.

Every value a client sends and every answer it gives carries the caller's own word, so that what
reaches somebody else is seen at once.
"""

from typing import Any

from attrs import evolve

from tests.live.scenarios import (
    Scenario,
    Step,
    call,
    containing,
    crowd,
    includes,
    only,
    progress,
    text,
    together,
)

TOOLS = (
    *("ask", "cancellations", "echo", "fail", "grow", "log", "sample", "slow", "touch"),
    *("wait", "where"),
)
COUNTER = "test://counter"
LOG_TRIES = 20
"""How often a log line is asked for, each a second apart, where others may be asking too."""


def python(
    *,
    sessions: int,
    who: str = "ada",
    first: int = 0,
    server: str = "python-server",
    stays: bool = True,
) -> Scenario:
    """Everything; ``sessions`` is the size of the crowd, ``first`` where progress begins."""
    return Scenario(
        server=server,
        stays=stays,
        content={"answer": f"{who} says ?"},
        asked=frozenset({"elicitation", "sampling", "roots"}),
        roots=(f"file:///srv/{who}",),
        steps=(
            *_calls(who, first),
            *_questions(who),
            *_lists(who),
            *_events(who, first),
            together(10, "echo", "message", who=f"{who} "),
            *crowd(sessions, 3, "ask", "question", f"answered: {who} says ", f"{who} "),
        ),
    )


def _calls(who: str, first: int) -> tuple[Step, ...]:
    """Calls, and what becomes of them."""
    words = f"{who}: Grüße, 世界 \u2028 🎈"
    steps: list[list[float]] = [[first + step, first + 4] for step in (1, 2, 3, 4)]
    slow = {"seconds": 2, "steps": 4, "first": first, "who": who}
    wait = {"seconds": 60, "who": who}
    # A cancellation that overtakes the call would be counted by nobody.
    begun = {"tool": "waits", "arguments": {"who": who}, "until": "1"}
    counted = {"do": "call", "tool": "cancellations", "arguments": {"who": who}, "until": "1"}
    return (
        *_shows(
            "calls",
            call("echo", "echo", text(words), message=words),
            # Not more: an answer that is late comes as an event, and in those of HTTP PyPI's `mcp`
            # 2.x takes a mebibyte.
            Step("big", {"do": "size", "tool": "big", "arguments": {"size": 10**6}}, 10**6),
        ),
        *_shows(
            "errors",
            call("error result", "fail", containing(who, failed=True), reason=who),
            call("unknown tool", "nope", containing("Unknown tool", failed=True)),
            Step("unknown resource", {"do": "read", "uri": "other://x"}, error="other://x"),
        ),
        *_shows("progress", progress("slow", f"{who} 4 steps", steps, said=who, **slow)),
        *_shows(
            "cancellation",
            Step(
                "cancel",
                {"do": "cancel", "tool": "wait", "arguments": wait, "after": 0.1, "begun": begun},
                {"cancelled": True},
            ),
            # Over HTTP it is the lost connection that cancels, which a server notices later.
            Step("cancelled there", counted, text("1")),
        ),
    )


def _questions(who: str) -> tuple[Step, ...]:
    """What the server asks of the client in the course of a call."""
    question = f"Who is {who}?"
    answered = text(f"answered: {who} says {question}")
    said = f"answered: {who} says "
    sampled = f"test-model said: <Why, {who}?>"
    return (
        *_shows(
            "elicitation",
            call("elicitation", "ask", answered, question=question),
            together(4, "ask", "question", said, who=f"{who} ", name="asked together"),
        ),
        *_shows("sampling", call("sampling", "sample", text(sampled), text=f"Why, {who}?")),
        *_shows("roots", call("roots", "where", text(f"file:///srv/{who}"))),
    )


def _lists(who: str) -> tuple[Step, ...]:
    """What there is, and some of it."""
    prompt = {"type": "ref/prompt", "name": "greet"}
    item = {"type": "ref/resource", "uri": "test://item/{name}"}
    found = [f"{who}a", f"{who}b"]
    greet = {"do": "prompt", "prompt": "greet", "arguments": {"name": who}}
    return (
        *_shows(
            "lists",
            Step("list", {"do": "list"}, includes(*TOOLS)),
            Step("resources", {"do": "resources"}, [COUNTER]),
            Step("templates", {"do": "templates"}, [COUNTER + "/{who}", "test://item/{name}"]),
            Step("prompts", {"do": "prompts"}, ["greet"]),
        ),
        *_shows(
            "calls",
            Step("read", {"do": "read", "uri": f"test://item/{who}"}, f"item {who}"),
            Step("prompt", greet, f"Say hello to {who}"),
            Step(
                "prompt word", {"do": "complete", "ref": prompt, "argument": ["name", who]}, found
            ),
            Step("uri word", {"do": "complete", "ref": item, "argument": ["name", who]}, found),
        ),
    )


def _events(who: str, first: int) -> tuple[Step, ...]:
    """What the server says unasked."""
    uri = f"{COUNTER}/{who}"
    touch = {"do": "watch", "uri": uri, "tool": "touch", "arguments": {"who": who}}
    grow = {"do": "grow", "tool": "grow", "arguments": {"name": f"extra_{first}"}}
    # Where others may be asking too, one of the lines may be lost alone.
    wanted = [f"warning: {who}", f"critical: {who}"]
    log = {"tool": "log", "arguments": {"text": who}, "expect": wanted}

    def lines(found: Any) -> bool:
        return set(found) == set(wanted)

    return (
        *_shows("resource subscriptions", Step("subscription", touch, only(uri))),
        *_shows("changed lists", Step("list changed", grow, includes(f"extra_{first}", *TOOLS))),
        *_shows(
            "log messages",
            Step("log", {"do": "log", "level": "warning", "tries": LOG_TRIES, **log}, lines),
        ),
    )


def _shows(feature: str, *steps: Step) -> tuple[Step, ...]:
    return tuple(evolve(step, feature=feature) for step in steps)
