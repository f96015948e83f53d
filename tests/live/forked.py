"""Programs over the SDKs of others, each loaded once for all tests of a run.

An SDK takes most of a second to load, and the tests start programs over it some hundred times.
"""

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

from tests.live.processes import SETPRIV
from tests.live.software import HERE, python_sdk

_loaded: dict[tuple[Path, int], tuple[str, "subprocess.Popen[bytes]"]] = {}
"""The socket of each, and its process: outside the reactor, since it outlives a test."""


def forked(program: Path, major: int = 2) -> list[str]:
    """The command of a Python program over ``mcp`` 1.x or 2.x that starts at once.

    Its main module has a function ``main(arguments)``. Raises `SkipTest` without the SDK.
    """
    key = (program, major)
    if key not in _loaded:
        _loaded[key] = _load(program, python_sdk(major))
    return [sys.executable, "-IS", str(HERE / "prefork_child.py"), _loaded[key][0]]


def _load(program: Path, python: Path) -> tuple[str, "subprocess.Popen[bytes]"]:
    """Start what forks for everybody who connects, once it is ready; they may connect before."""
    name = f"mcp-guard-{secrets.token_hex(8)}"
    argv = [str(python), str(HERE / "prefork.py")]
    if SETPRIV is not None:
        argv = [SETPRIV, "--pdeathsig", "KILL", "--", *argv]
    inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(128)
        process = subprocess.Popen(
            [*argv, str(listener.fileno()), str(program)],
            stdin=subprocess.PIPE,  # it ends when this is closed, as it is with this process
            stdout=subprocess.PIPE,  # as those of programs are, which cannot be sought in
            env={**inherited, "PYTHONUNBUFFERED": "1"},
            pass_fds=[listener.fileno()],
        )
    return name, process
