"""Stands for a program that ``prefork.py`` runs: ``prefork_child.py NAME [ARGUMENT ...]``.

It is started some hundred times in a run of the tests, so it imports next to nothing.
"""

import os
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SOL_SOCKET, socket


def run(name: str, arguments: list[str]) -> int:
    """Hand over what this process has, and wait for the exit status."""
    parent = socket(AF_UNIX)
    parent.connect(f"\0{name}")
    standard = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
    parent.sendmsg([b"."], [(SOL_SOCKET, SCM_RIGHTS, standard)])
    variables = [f"{name}={value}" for name, value in os.environ.items()]
    state = os.fsencode("\0".join([str(len(arguments)), *arguments, *variables]))
    parent.sendall(b"%8d" % len(state) + state)
    status = parent.recv(1)
    return status[0] if status else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
