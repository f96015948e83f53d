"""What a stdio server is started with, and the start itself: nothing of it comes from a client."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping

from attrs import field, frozen
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol

from mcpguard.config.settings import ChildLimits, SecretText, UpstreamSettings
from mcpguard.errors import Reason
from mcpguard.upstream import launch
from mcpguard.upstream.link import UpstreamFailure

PASSED_ON = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
"""The variables every server gets of the gateway's environment; all else is named explicitly."""

ISOLATED = (sys.executable, "-I", "-S")
"""An interpreter that reads no variables, user directories or site packages."""

SignalGroup = Callable[[int, int], bool]
"""Send a signal to a process group; False when there is no such group (any more)."""


@frozen
class Program:
    """One stdio server's command, as configured."""

    argv: tuple[str, ...]
    cwd: str | None
    env: Mapping[str, str] = field(repr=False)
    limits: ChildLimits
    secrets: tuple[str, ...] = field(repr=False)
    """Values that must not show in a log."""


def program_of(settings: UpstreamSettings, environ: Mapping[str, str]) -> Program:
    """The program of a stdio upstream; ``environ`` is the gateway's own environment."""
    env = {
        name: environ[name]
        for name in (*PASSED_ON, *settings.inherit_env)
        # Exported bash functions look like this, and running one is not what was meant.
        if name in environ and not environ[name].startswith("()")
    }
    env.update({name: secret.value for name, secret in settings.env.items()})
    # Passed in one way or another, and printed by many a server when it starts or fails.
    secrets = [secret.value for secret in settings.env.values()]
    secrets += [env[name] for name in settings.inherit_env if name in env]
    secrets += [arg for arg in settings.args if isinstance(arg, SecretText)]
    return Program(
        argv=(settings.command or "", *settings.args),
        cwd=os.path.abspath(settings.cwd) if settings.cwd is not None else None,
        env=env,
        limits=settings.limits,
        secrets=tuple(secrets),
    )


def locate(program: Program) -> str:
    """The absolute path of the executable, found as a shell in ``cwd`` would.

    Raises `UpstreamFailure` when it is not there, may not be executed, or ``cwd`` is no directory.
    """
    if program.cwd is not None and not os.path.isdir(program.cwd):
        raise UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, f"cwd {program.cwd} is no directory")
    command = program.argv[0]
    if os.sep in command:
        path = os.path.abspath(os.path.join(program.cwd or "", command))
        found = shutil.which(path)
    else:
        found = shutil.which(command, path=program.env.get("PATH", os.defpath))
    if not found:
        raise UpstreamFailure(
            Reason.UPSTREAM_UNAVAILABLE, f"command {command!r} was not found or is not executable"
        )
    return os.path.abspath(found)


def spawn(reactor: IReactorProcess, program: Program, protocol: ProcessProtocol) -> None:
    """Start the program with its three pipes held by ``protocol``; raises `UpstreamFailure`.

    It becomes the leader of its own session and process group, and dies when the gateway does.
    """
    executable = locate(program)
    limits = program.limits
    args = [
        *ISOLATED,
        *launch.arguments(
            os.getpid(),
            limits.memory,
            limits.cpu_secs,
            limits.open_files,
            program.env.get("LC_CTYPE"),
            program.cwd,
            executable,
            program.argv,
        ),
    ]
    try:
        # No path=, uid= or gid=: they would make Twisted fork instead of using posix_spawn.
        reactor.spawnProcess(protocol, sys.executable, args, env=dict(program.env))
    except (OSError, ValueError) as problem:
        # ValueError: a zero byte in an argument or variable.
        raise UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, f"cannot start: {problem}") from problem


def signal_group(group: int, number: int) -> bool:
    """Send ``number`` to a process group; False when it has no living members.

    0 only asks, and may be asked only once the group's leader has been reaped.
    """
    if group <= 1:
        # 0 would be our own group, 1 everybody's.
        return False
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Members exist, but under another user by now.
        return True
    return number != PRESENT or _has_living(group)


def _has_living(group: int) -> bool:
    """Whether any member of a group is more than a zombie, which the kernel cannot be asked.

    Orphans are reaped by process 1 in its own time, and if that is the gateway (a container
    without an init), by nobody but this.
    """
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        # None of them is our child.
        pass
    try:
        processes = [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return True
    for process in processes:
        try:
            with open(f"/proc/{process}/stat", "rb") as stat:
                state, _, of = stat.read().rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(of) == group and state not in b"ZX":
            return True
    return False


TERM, KILL, PRESENT = signal.SIGTERM, signal.SIGKILL, 0
