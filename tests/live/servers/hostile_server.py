"""A stdio server that answers a few calls properly and does everything else wrong.

``--era`` is the one it speaks, ``--journal`` a file in which it notes the requests it was told to
cancel. Further arguments are what it does all the time: ``banner`` and ``flood`` (stderr). Its
tools are the things it does wrong once. Standard library only.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from typing import Any

MODERN = "2026-07-28"
lock = threading.Lock()
cancelled: set[Any] = set()


def write(data: bytes) -> None:
    """Write to stdout, whole."""
    with lock:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def say(message: dict[str, Any]) -> None:
    """Write one message."""
    write(json.dumps(message).encode() + b"\n")


def answer(id: Any, text: str) -> None:
    """Answer a call with a text."""
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
    if options.era == "modern":
        result["resultType"] = "complete"
    say({"jsonrpc": "2.0", "id": id, "result": result})


def tell(id: Any, count: int, size: int) -> None:
    """Send many log lines, until told to stop; then the answer."""
    for _ in range(count):
        if id in cancelled:
            return
        params = {"level": "info", "data": "x" * size}
        say({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
    answer(id, "told")


def babble(id: Any) -> None:
    """Answer what nobody asked, in every wrong way, then the call, twice."""
    for stranger in (id + 1000, -1, str(id), None, True, 1.5, [id], {"id": id}):
        say({"jsonrpc": "2.0", "id": stranger, "result": {"content": []}})
    say({"jsonrpc": "2.0", "result": {}})
    say({"jsonrpc": "2.0", "id": id + 1000, "error": "no object"})
    say({"jsonrpc": "1.0", "id": id + 1000, "result": {}})
    say({"jsonrpc": "2.0", "id": id + 1000, "result": {}, "error": {}})
    write(b'[]\n"text"\n{"jsonrpc":"2.0","id":1,"id":2,"result":{}}\n\xff\x00\n{\n')
    for method in ("notifications/progress", "notifications/cancelled", "no/such", ""):
        for params in ({}, [], None, {"progressToken": [1], "requestId": {}}):
            say({"jsonrpc": "2.0", "method": method, "params": params})
    answer(id, "babbled")
    answer(id, "babbled again")


def ask(id: Any) -> None:
    """Ask the client for things it never offered, and for things nobody knows; then answer."""
    for number, method in enumerate(("sampling/createMessage", "roots/list", "no/such", "ping")):
        for one in (number, f"s{number}", id):
            say({"jsonrpc": "2.0", "id": one, "method": method, "params": {}})
    answer(id, "asked")


def call(id: Any, tool: str, arguments: dict[str, Any]) -> None:
    """Do what a tool does."""
    if tool == "echo":
        answer(id, arguments["text"])
    elif tool == "big":
        answer(id, "x" * arguments["bytes"])
    elif tool == "line":
        for _ in range(arguments["bytes"] // 65_536):
            write(b"y" * 65_536)
        write(b"\n")
    elif tool == "slow":
        threading.Timer(arguments["seconds"], answer, (id, "slow")).start()
    elif tool == "deafen":
        time.sleep(1000)
    elif tool == "tell":
        threading.Thread(target=tell, args=(id, arguments["count"], arguments["bytes"])).start()
    elif tool == "babble":
        babble(id)
    elif tool == "ask":
        ask(id)
    # Everything else ("hang") is never answered.


def hear(message: dict[str, Any]) -> None:
    """Deal with one message."""
    method, id = message.get("method"), message.get("id")
    params = message.get("params") or {}
    if method == "initialize" and options.era == "legacy":
        result = {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}, "logging": {}},
            "serverInfo": {"name": "hostile", "version": "1"},
        }
        say({"jsonrpc": "2.0", "id": id, "result": result})
    elif method == "server/discover" and options.era == "modern":
        result = {
            "resultType": "complete",
            "supportedVersions": [MODERN],
            "capabilities": {"tools": {}, "logging": {}},
        }
        say({"jsonrpc": "2.0", "id": id, "result": result})
    elif method == "tools/list":
        say({"jsonrpc": "2.0", "id": id, "result": {"resultType": "complete", "tools": []}})
    elif method == "tools/call":
        call(id, params["name"], params.get("arguments") or {})
    elif method == "notifications/cancelled":
        cancelled.add(params["requestId"])
        if options.journal:
            with open(options.journal, "a") as journal:
                journal.write(f"{params['requestId']}\n")
    elif id is not None and method is not None:
        say({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}})


def flood() -> None:
    """Write to stderr without end."""
    while True:
        sys.stderr.write("noise " * 50 + "\n")


parser = argparse.ArgumentParser()
parser.add_argument("--era", choices=("legacy", "modern"), default="modern")
parser.add_argument("--journal")
parser.add_argument("ways", nargs="*")
options = parser.parse_args()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "banner" in options.ways:
        write(b"*** hostile server, ready ***\n\n{not json}\n")
    if "flood" in options.ways:
        threading.Thread(target=flood, daemon=True).start()
    for line in sys.stdin:
        if "banner" in options.ways:
            write(b"got a line\n")
        hear(json.loads(line))
    # Threads that still talk must not keep it alive.
    os._exit(0)
