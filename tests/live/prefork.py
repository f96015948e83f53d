"""Programs that start at once: forked by one that has loaded them already.

Loading an SDK of others takes most of a second, and some tests start it a hundred times.
``prefork.py SOCKET FILE`` loads a Python file that has a function ``main(arguments)`` and, for
each ``prefork_child.py`` that connects to the listening socket of that number, calls it in a
process of its own, with that one's arguments, environment, standard input, output and error.
"""

import fcntl
import gc
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

LATE = (
    *("anyio._backends._asyncio", "h11", "httpcore", "httpcore2", "jsonschema"),
    *("uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto"),
    "uvicorn.protocols.websockets.auto",
)
"""What is below the SDKs and loaded only when it is used first, which would be in each child."""


def wait_for_child(number: int) -> tuple[socket.socket, list[int]]:
    """Fork for everybody who connects; returns in the child, with what it was sent.

    Ends with standard input, so that a test that was killed leaves nothing behind.
    """
    with socket.socket(fileno=number) as listener:
        while True:
            if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
                sys.exit()
            client, _ = listener.accept()
            _, given, _, _ = socket.recv_fds(client, 1, 3)
            if os.fork() == 0:
                return client, list(given)
            for number in given:
                os.close(number)
            client.close()


def run(client: socket.socket, given: list[int], file: Path) -> NoReturn:
    """Be the program that was asked for."""
    with client.makefile("rb") as reader:
        size = int(reader.read(8))
        count, *state = os.fsdecode(reader.read(size)).split("\0")
    arguments, variables = state[: int(count)], state[int(count) :]
    # By SIGIO the kernel ends this process with the one that stands for it, however that ends.
    fcntl.fcntl(client, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(client, fcntl.F_SETFL, fcntl.fcntl(client, fcntl.F_GETFL) | os.O_ASYNC)
    for standard, number in enumerate(given):
        os.dup2(number, standard)
        os.close(number)
    os.environ.clear()
    for variable in variables:
        name, _, value = variable.partition("=")
        os.environ[name] = value
    status = 1
    try:
        status = import_module(file.stem).main(arguments) or 0
    except Exception:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:  # as mcp 1.x leaves it
            stream.flush()
    client.sendall(bytes([status]))
    # To take everything down in order would touch all the memory that is shared till now.
    os._exit(status)


def start(number: int, file: Path) -> None:
    """Load the program, then wait; returns in no process."""
    sys.path.insert(0, str(file.parent))
    import_module(file.stem)
    for name in LATE:
        with suppress(ImportError):
            import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they are nobody's to wait for
    gc.collect()
    gc.freeze()  # what a collection in a child would touch it would copy
    client, given = wait_for_child(number)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    run(client, given, file)


if __name__ == "__main__":
    start(int(sys.argv[1]), Path(sys.argv[2]))
