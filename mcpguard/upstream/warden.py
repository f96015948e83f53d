"""The process that outlives a gateway killed by SIGKILL just long enough to end its children.

`launch` ties the life of a server to the gateway's, but not the life of what that server started
itself (``npx`` starts node). So one warden for each upstream reads from a pipe which process groups
exist, and when the pipe ends without a farewell it kills those that are left.
Run by ``python -I -S warden.py``; standard library only.
"""

import os
import sys

SIGKILL = 9


def arguments() -> list[str]:
    """The command line of this script."""
    return [__file__]


def born(group: int) -> bytes:
    """The line that tells of a new process group."""
    return b"+%d\n" % group


def gone(group: int) -> bytes:
    """The line that tells of a group's end."""
    return b"-%d\n" % group


def main() -> None:
    """Keep the list until the pipe ends, then kill what is on it."""
    # Out of the gateway's session: Ctrl-C at a terminal must not end the warden first.
    os.setsid()
    groups: set[int] = set()
    with os.fdopen(0, "rb", buffering=0, closefd=False) as pipe:
        rest = b""
        while data := pipe.read(4096):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                change = groups.add if line[:1] == b"+" else groups.discard
                change(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, SIGKILL)
        except OSError:
            # Gone in the meantime.
            pass


if __name__ == "__main__":
    main()
    sys.exit(0)
