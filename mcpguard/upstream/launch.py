"""The last step before a stdio server runs: a script that readies its own process and becomes it.

Twisted spawns without a hook between fork and exec, so this runs in between, by
``python -I -S launch.py …`` (about 11 ms), and then replaces itself. Standard library only.
"""

import ctypes
import os
import resource
import sys

PR_SET_PDEATHSIG = 1
SIGKILL, SIGPIPE, SIGXFSZ = 9, 13, 25
NOTHING = "-"
"""Stands for an argument that is not given."""

CANNOT_PREPARE = 126
CANNOT_EXECUTE = 127
"""Exit codes as shells give them."""


def arguments(
    parent: int,
    memory: int | None,
    cpu_secs: int | None,
    open_files: int | None,
    ctype: str | None,
    cwd: str | None,
    executable: str,
    argv: tuple[str, ...],
) -> list[str]:
    """The command line of this script: what `main` reads.

    ``parent`` is the pid of the gateway, ``executable`` an absolute path, ``argv`` the whole
    argument vector of the server, ``ctype`` the ``LC_CTYPE`` of its environment, if any.
    """
    limits = [NOTHING if limit is None else str(limit) for limit in (memory, cpu_secs, open_files)]
    flags = [str(parent), *limits, NOTHING if ctype is None else f"={ctype}", cwd or NOTHING]
    return [__file__, *flags, executable, *argv]


def main(argv: list[str]) -> None:
    """Start a session, tie our life to the gateway's, set the limits, become the server."""
    parent, memory, cpu_secs, open_files, ctype, cwd, executable, *server = argv[1:]
    os.setsid()
    libc = ctypes.CDLL(None)
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != int(parent):
        # The gateway died before the line above; nobody would ever end this process.
        os._exit(CANNOT_PREPARE)
    # This interpreter ignores these two, and a server would inherit that.
    libc.signal(SIGPIPE, None)
    libc.signal(SIGXFSZ, None)
    try:
        if cwd != NOTHING:
            os.chdir(cwd)
        _limit(resource.RLIMIT_CPU, cpu_secs)
        _limit(resource.RLIMIT_NOFILE, open_files)
        # Last, since importing or raising anything could fail below it.
        _limit(resource.RLIMIT_AS, memory)
    except (OSError, ValueError) as problem:
        _fail(CANNOT_PREPARE, f"cannot prepare the server's process: {problem}")
    environment = dict(os.environ)
    # This interpreter has set it by itself if the locale was C (PEP 538).
    environment.pop("LC_CTYPE", None)
    if ctype != NOTHING:
        environment["LC_CTYPE"] = ctype[1:]
    try:
        os.execve(executable, server, environment)  # noqa: S606 - that there is no shell is the point
    except OSError as problem:
        _fail(CANNOT_EXECUTE, f"cannot execute the server: {problem}")


def _limit(which: int, value: str) -> None:
    if value == NOTHING:
        return
    wanted = int(value)
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(which, (wanted, wanted))


def _fail(code: int, text: str) -> None:
    os.write(2, f"{text}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv)
