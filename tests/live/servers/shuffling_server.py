"""A stdio server (standard library only) that does its best to have answers mixed up.

Calls are answered late and in random order, their progress is interleaved, and between them come
second answers, answers to ids nobody asked with, the right id of the wrong type, and progress for
finished calls. ``--era legacy`` or ``--era modern`` says what it speaks; ``--seed N`` fixes the
order.
"""

import argparse
import json
import os
import random
import sys
import threading
from typing import Any

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
WAITING = 24
"""How many calls are held back at most before some are answered."""

options = argparse.ArgumentParser()
options.add_argument("--era", choices=("legacy", "modern"), default="modern")
options.add_argument("--seed", type=int, default=0)
chosen = options.parse_args()
modern = chosen.era == "modern"
dice = random.Random(chosen.seed)
lock = threading.Lock()
waiting: list[dict[str, Any]] = []
finished: list[Any] = []

TOOLS = [
    {
        "name": "echo",
        "description": "Answer with the value, late",
        "inputSchema": {"type": "object", "properties": {"value": {"type": "string"}}},
    }
]


def write(message: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answer(request_id: Any, result: dict[str, Any], **cacheable: Any) -> None:
    """Write a result as the era wants it."""
    if modern:
        result = {"resultType": "complete", **result, **cacheable}
    write({"id": request_id, "result": result})


def progress(call: dict[str, Any], step: int) -> None:
    """Report progress that carries the call's own value."""
    params = call["params"]
    token = params.get("_meta", {}).get("progressToken")
    if token is not None:
        told = {"progressToken": token, "progress": step, "message": params["arguments"]["value"]}
        write({"method": "notifications/progress", "params": told})


def text(value: str) -> dict[str, Any]:
    """A tool's result, with the process it comes from."""
    return {"content": [{"type": "text", "text": value}], "structuredContent": {"pid": os.getpid()}}


def finish(call: dict[str, Any]) -> None:
    """Answer a call, and add to the confusion."""
    progress(call, 2)
    value = call["params"]["arguments"]["value"]
    request_id = call["id"]
    confusion = dice.random()
    if confusion < 0.2:
        answer(str(request_id), text("an id of another type"))
    elif confusion < 0.4:
        answer(dice.randrange(10**6, 10**7), text("an id nobody used"))
    answer(request_id, text(value))
    if 0.4 <= confusion < 0.6:
        answer(request_id, text("a second answer"))
    elif 0.6 <= confusion < 0.8:
        progress(call, 3)
    elif finished:
        answer(dice.choice(finished), text("another second answer"))
    finished.append(request_id)


def answer_some(keep: int) -> None:
    """Answer random ones of the waiting calls until ``keep`` are left."""
    while len(waiting) > keep:
        call = waiting.pop(dice.randrange(len(waiting)))
        for other in dice.sample(waiting, min(2, len(waiting))):
            progress(other, 1)
        finish(call)


def now_and_then() -> None:
    """Answer what waits while nothing else arrives."""
    while True:
        threading.Event().wait(0.02)
        with lock:
            answer_some(len(waiting) // 2)


def take(message: dict[str, Any]) -> None:
    """Act on one message."""
    method = message.get("method")
    if "id" not in message:
        return
    if method == "tools/call":
        waiting.append(message)
        answer_some(WAITING)
    elif method == "tools/list":
        answer(message["id"], {"tools": TOOLS}, ttlMs=60_000, cacheScope="public")
    elif method == "server/discover" and modern:
        discovered = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
        answer(message["id"], discovered, ttlMs=0, cacheScope="public")
    elif method == "initialize" and not modern:
        server = {"name": "shuffling", "version": "1"}
        opened = {"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": server}
        answer(message["id"], opened)
    elif method == "ping":
        answer(message["id"], {})
    else:
        write({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})


threading.Thread(target=now_and_then, daemon=True).start()
for line in sys.stdin:
    with lock:
        take(json.loads(line))
