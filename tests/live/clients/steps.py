"""What the Python clients do and report, whatever SDK is below: steps of a job, as JSON.

The job comes on stdin: ``{"jobs": {name: {"url", "key", "mode", "timeout", "content", "roots",
"steps": [{"name", "do", ...}]}}}``. The report goes to stdout:
``{name: {"connect": outcome, "steps": {name: outcome}, "asked": [kind], "questions": [words],
"heard": [[kind, value]]}}``, an outcome being ``{"ok": ...}`` or
``{"error": {"type", "code", "message"}}``.
"""

import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import anyio

Words = dict[str, Any]


Begun = Callable[[], Awaitable[None]]


class Heard:
    """What the server said unasked: ``(kind, value)`` pairs, and a way to wait for one."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []
        self.asked: list[str] = []
        self.questions: list[str] = []
        self._changed = anyio.Event()

    def add(self, kind: str, value: Any) -> None:
        """Note one thing."""
        self.all.append((kind, value))
        self._changed.set()
        self._changed = anyio.Event()

    def ask(self, kind: str, words: str) -> None:
        """Note that the server asked something of the client."""
        self.asked.append(kind)
        self.questions.append(words)

    def values(self, kind: str) -> list[Any]:
        """All of a kind."""
        return [value for found, value in self.all if found == kind]

    async def wait_for(self, kind: str, value: Any) -> None:
        """Return once this (None: anything) was said; the step's own timeout bounds the wait."""
        while not self.values(kind) or value not in (None, *self.values(kind)):
            await self._changed.wait()


class Face(Protocol):
    """One connected client of some SDK, with the SDK's names taken off."""

    version: str
    server: str

    async def tools(self) -> list[str]:
        """Names of all tools."""
        ...

    async def call(self, tool: str, arguments: Words, **more: Any) -> Words:
        """Call a tool: its text, whether it failed, its progress and the words of that."""
        ...

    async def cancelled_call(self, tool: str, arguments: Words, begun: Begun) -> Words:
        """Call a tool and cancel it once ``begun`` returns."""
        ...

    async def resources(self) -> list[str]:
        """URIs of the resources."""
        ...

    async def templates(self) -> list[str]:
        """The URI templates."""
        ...

    async def complete(self, ref: Words, name: str, value: str) -> list[str]:
        """Completions of an argument of what ``ref`` names."""
        ...

    async def read(self, uri: str) -> str:
        """A resource's text."""
        ...

    async def prompts(self) -> list[str]:
        """Names of the prompts."""
        ...

    async def prompt(self, name: str, arguments: dict[str, str]) -> str:
        """A prompt's text."""
        ...

    def watching(self, uri: str) -> AbstractAsyncContextManager[None]:
        """Subscribed to a resource meanwhile."""
        ...

    def watching_tools(self) -> AbstractAsyncContextManager[None]:
        """Told of changed tools meanwhile."""
        ...

    async def log_level(self, level: str) -> Words:
        """Ask for log messages; gives the ``_meta`` that calls need for it."""
        ...


Connect = Callable[[Words, Heard], AbstractAsyncContextManager[Face]]


def entered(job: Words, question: str) -> Words:
    """What the user enters when asked: the job's content, the question itself in place of a ?."""
    return {
        name: one.replace("?", question) if isinstance(one, str) else one
        for name, one in job["content"].items()
    }


def leaf(error: BaseException) -> BaseException:
    """The first real error inside groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def described(error: BaseException) -> Words:
    """An error as the caller of the SDK sees it."""
    error = leaf(error)
    inner = getattr(error, "error", None)
    code = getattr(inner, "code", getattr(error, "code", None))
    return {"type": type(error).__name__, "code": code, "message": str(error)}


async def _list(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    return sorted(await face.tools())


async def _call(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    while True:
        arguments, progress = step.get("arguments", {}), step.get("progress")
        result = await face.call(step["tool"], arguments, progress=progress)
        if step.get("until", "") in result["text"]:
            return result
        await anyio.sleep(0.05)


async def _cancel(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    async def begun() -> None:
        await anyio.sleep(step["after"])
        if "begun" in step:
            await _call(face, heard, step["begun"], again, job)

    return await face.cancelled_call(step["tool"], step.get("arguments", {}), begun)


async def given_up(calling: Callable[[], Awaitable[object]], begun: Begun) -> bool:
    """Await a call and leave it once ``begun`` returns; whether it was still under way then."""

    async def leave() -> None:
        await begun()
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await calling()
            group.cancel_scope.cancel()
    return scope.cancelled_caught


async def _resources(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    return sorted(await face.resources())


async def _read(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    return await face.read(step["uri"])


async def _templates(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    return await face.templates()


async def _complete(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    return await face.complete(step["ref"], *step["argument"])


async def _size(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    return len((await face.call(step["tool"], step.get("arguments", {})))["text"])


async def _prompts(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    return sorted(await face.prompts())


async def _prompt(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    return await face.prompt(step["prompt"], step.get("arguments", {}))


async def _watch(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    async with face.watching(step["uri"]):
        await face.call(step["tool"], step.get("arguments", {}))
        await heard.wait_for("updated", step["uri"])
    return heard.values("updated")


async def _grow(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    async with face.watching_tools():
        await face.call(step["tool"], step.get("arguments", {}))
        await heard.wait_for("tools changed", True)
    return sorted(await face.tools())


async def _log(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    meta = await face.log_level(step["level"])
    # A server that many share may not tell whose line it is while another call with lines runs.
    for _ in range(step.get("tries", 1)):
        await face.call(step["tool"], step.get("arguments", {}), meta=meta)
        with anyio.move_on_after(1 if step.get("tries") else None):
            for line in step["expect"] if isinstance(step["expect"], list) else [step["expect"]]:
                await heard.wait_for("log", line)
            break
    return heard.values("log")


async def _together(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    answers: Words = {}

    async def one(value: str) -> None:
        arguments = {**step.get("arguments", {}), step["argument"]: value}
        answers[value] = (await face.call(step["tool"], arguments))["text"]

    async with anyio.create_task_group() as group:
        for number in range(step["count"]):
            group.start_soon(one, f"{step.get('who', '')}together {number}")
    return answers


async def _crowd(face: Face, heard: Heard, step: Words, again: Connect, job: Words) -> Any:
    answers: dict[str, list[str]] = {}

    async def one(value: str) -> None:
        mine: list[str] = []
        async with again(job, heard) as other:
            for turn in range(step["rounds"]):
                arguments = {**step.get("arguments", {}), step["argument"]: f"{value} {turn}"}
                mine.append((await other.call(step["tool"], arguments))["text"])
        answers[value] = mine

    async with anyio.create_task_group() as group:
        for number in range(step["count"]):
            group.start_soon(one, f"{step.get('who', '')}session {number}")
    return answers


Step = Callable[[Face, Heard, Words, Connect, Words], Awaitable[Any]]
STEPS: dict[str, Step] = {
    "list": _list,
    "call": _call,
    "cancel": _cancel,
    "resources": _resources,
    "read": _read,
    "templates": _templates,
    "complete": _complete,
    "size": _size,
    "prompts": _prompts,
    "prompt": _prompt,
    "watch": _watch,
    "grow": _grow,
    "log": _log,
    "together": _together,
    "crowd": _crowd,
}


async def _run(connect: Connect, job: Words) -> Words:
    heard = Heard()
    report: Words = {"connect": None, "steps": {}, "asked": heard.asked}
    report |= {"questions": heard.questions, "heard": heard.all}
    try:
        async with connect(job, heard) as face:
            report["connect"] = {"ok": {"version": face.version, "server": face.server}}
            for step in job["steps"]:
                try:
                    with anyio.fail_after(step.get("timeout", job["timeout"])):
                        done = await STEPS[step["do"]](face, heard, step, connect, job)
                    report["steps"][step["name"]] = {"ok": done}
                except Exception as error:
                    report["steps"][step["name"]] = {"error": described(error)}
    except Exception as error:
        # The context's exit reports what went wrong in the background as well.
        report["connect" if report["connect"] is None else "close"] = {"error": described(error)}
    return report


async def _run_all(connect: Connect, jobs: dict[str, Words]) -> Words:
    reports: Words = {}

    async def one(name: str, job: Words) -> None:
        reports[name] = await _run(connect, job)

    async with anyio.create_task_group() as group:
        for name, job in jobs.items():
            group.start_soon(one, name, job)
    return reports


def report_all(connect: Connect) -> None:
    """Read the jobs, run them side by side, print the reports."""
    jobs = json.load(sys.stdin)["jobs"]
    reports = anyio.run(_run_all, connect, jobs)
    print(json.dumps(reports))
