"""Where the time of the gateway's thread goes: samples of its innermost Python frame."""

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

from benchmarks import machine
from benchmarks.bench import TOOLS, Bench, Target
from benchmarks.extras.extra import Extra
from benchmarks.gateway import start_gateway
from benchmarks.program import Unavailable

RATE = 400
CONNECTIONS = 16
TRANSPARENT = frozenset({"twisted/python"})
"""The log context and the retries around system calls."""
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]+?)(?::\d+)?\)$")


def place(frame: str) -> tuple[str, str]:
    """The part of the program a frame belongs to, and its function."""
    found = _FRAME.match(frame)
    if found is None:
        return "other", frame
    file, function = found["file"], found["function"]
    for package, depth in (("mcpguard", 2), ("twisted", 2)):
        mark = file.rfind(f"{package}/")
        if mark >= 0:
            parts = file[mark:].removesuffix(".py").split("/")
            return "/".join(parts[:depth]), f"{'/'.join(parts)}:{function}"
    return "libraries", f"{file.rpartition('/')[2]}:{function}"


def innermost(frames: Sequence[str]) -> tuple[str, str]:
    """Where a stack is, as `place` has it; what only passes a call on does not count."""
    for frame in reversed(frames):
        part, function = place(frame)
        if part not in TRANSPARENT:
            return part, function
    return place(frames[-1])


def digest(raw: str) -> dict[str, Any]:
    """Shares of the main thread's samples by part and by function, out of what py-spy wrote."""
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        # Threads that wait in C for work look busy to py-spy.
        if frames and thread.endswith(": MainThread"):
            part, function = innermost(frames)
            parts[part] += int(count)
            functions[function] += int(count)
    total = sum(parts.values()) or 1
    return {
        "samples": sum(parts.values()),
        "parts": {name: round(100 * n / total, 1) for name, n in parts.most_common(20)},
        "functions": {name: round(100 * n / total, 1) for name, n in functions.most_common(25)},
    }


def _sample(bench: Bench, target: Target, name: str, seconds: int) -> dict[str, Any]:
    program = TOOLS / "tools" / "bin" / "py-spy"
    if not program.exists():
        raise Unavailable("py-spy is not installed: run benchmarks/install.sh")
    written = bench.directory / f"{name}.profile"
    load = Thread(target=target.load, args=(CONNECTIONS, seconds + 2.0))
    load.start()
    try:
        done = subprocess.run(
            [
                *("taskset", "-c", machine.spelled(target.layout.load), program, "record"),
                *("--pid", str(target.program.pid), "--duration", str(seconds)),
                *("--rate", str(RATE), "--threads", "--format", "raw", "--output", written),
            ],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
    finally:
        load.join()
    if done.returncode or not written.exists():
        raise Unavailable(f"py-spy failed: {done.stderr[-300:]}")
    return digest(written.read_text())


def run(bench: Bench, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Sample both kinds of upstream under load."""
    found: dict[str, Any] = {}
    for kind in ("http", "stdio"):
        target = start_gateway(bench, f"profile-{kind}", kind)
        target.open()
        target.load(CONNECTIONS, 1.0)
        found[f"gateway-{kind}"] = _sample(bench, target, f"profile-{kind}", 2 if quick else 8)
        say(f"profile: gateway-{kind}: {found[f'gateway-{kind}']['parts']}")
        target.stop()
    return found


PROFILE = Extra("profile", "where the time goes", run)
