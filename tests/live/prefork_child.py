"""Stands for a program that ``prefork.py`` runs: ``prefork_child.py SOCKET [ARGUMENT ...]``."""

import json
import os
import socket
import sys

if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as parent:
        parent.connect(sys.argv[1])
        socket.send_fds(parent, [b"."], [0, 1, 2])
        state = {"arguments": sys.argv[2:], "environment": dict(os.environ)}
        parent.sendall(json.dumps(state).encode() + b"\n")
        status = parent.recv(1)
    sys.exit(status[0] if status else 1)
