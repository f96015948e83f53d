"""A request being worked on, and the two kinds of client it may come from."""

import itertools
import threading
from collections.abc import Callable
from typing import Any, Protocol

from mcpguard.demo.changes import Watcher
from mcpguard.demo.messages import (
    LOG_LEVELS,
    META_CAPABILITIES,
    META_LOG_LEVEL,
    META_VERSION,
    MISSING_CAPABILITY,
    Message,
    ProtocolError,
    is_id,
    meta_of,
    notification,
)

Send = Callable[[Message], None]
"""Puts one message on a client's stream. Must not raise."""


class Cancelled(Exception):
    """The client gave the request up: nothing more is sent for it."""


class CannotAsk(Exception):
    """The client did not declare the needed capability, or did not answer with a result."""


class InputRequired(Exception):
    """A modern request must come back with answers to these: key -> {method, params}."""

    def __init__(self, requests: dict[str, Message]) -> None:
        super().__init__(", ".join(requests))
        self.requests = requests


class Client(Protocol):
    """What a running request may assume about the other side."""

    modern: bool
    version: str
    log_level: str | None
    """The least severe level it wants to see; None for none."""

    def ask(self, call: "Call", key: str, capability: str, method: str, params: Message) -> Message:
        """The client's answer to a request of ours.

        Raises:
            CannotAsk: The client cannot answer (legacy).
            InputRequired: The answer must come with the next round (modern).
            ProtocolError: MISSING_CAPABILITY (modern).
            Cancelled: The call was given up meanwhile.
        """


class Call:
    """One request and its way back to the client."""

    def __init__(self, message: Message, client: Client, send: Send) -> None:
        self.id: str | int = message["id"]
        self.method: str = message["method"]
        self.params: Message = message.get("params", {})
        self.client = client
        self.cancelled = False
        self._token = meta_of(message).get("progressToken")
        self._send = send
        self._wake = threading.Event()

    def send(self, message: Message) -> None:
        """Put a message on this request's stream, unless the client gave it up."""
        if not self.cancelled:
            self._send(message)

    def progress(self, done: float, total: float, text: str) -> None:
        """Report progress, if the request asked for it with a token."""
        if not is_id(self._token):
            return
        params: Message = {"progressToken": self._token, "progress": done, "total": total}
        if self.client.version != "2024-11-05":  # the member came with 2025-03-26
            params["message"] = text
        self.send(notification("notifications/progress", params))

    def log(self, level: str, text: str) -> None:
        """Send a log line, if the client wants this level."""
        wanted = self.client.log_level
        if wanted is not None and LOG_LEVELS.index(level) >= LOG_LEVELS.index(wanted):
            params = {"level": level, "logger": "demo", "data": text}
            self.send(notification("notifications/message", params))

    def ask(self, key: str, capability: str, method: str, params: Message) -> Message:
        """See `Client.ask`."""
        return self.client.ask(self, key, capability, method, params)

    def pause(self, seconds: float | None) -> bool:
        """Wait to be woken, at most ``seconds``; true when woken.

        Raises:
            Cancelled: The client gave the request up.
        """
        woken = self._wake.wait(seconds)
        self._wake.clear()
        if self.cancelled:
            raise Cancelled
        return woken

    def wake(self) -> None:
        """End a `pause`."""
        self._wake.set()

    def cancel(self) -> None:
        """The client gave the request up."""
        self.cancelled = True
        self._wake.set()


class Running:
    """The calls in progress on one connection or session, at most ``limit``, by request id."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._calls: dict[str | int, list[Call]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def add(self, call: Call) -> bool:
        """Note a call; false when there are too many. A repeated id is a further call."""
        with self._lock:
            if self._count >= self._limit:
                return False
            self._count += 1
            self._calls.setdefault(call.id, []).append(call)
            return True

    def remove(self, call: Call) -> None:
        """The call has ended."""
        with self._lock:
            calls = self._calls.get(call.id, [])
            if call in calls:
                self._count -= 1
                calls.remove(call)
                if not calls:
                    del self._calls[call.id]

    def cancel(self, request_id: object) -> None:
        """Cancel the newest call of that id, if there is one."""
        with self._lock:
            calls = self._calls.get(request_id, []) if isinstance(request_id, str | int) else []
            newest = calls[-1] if calls else None
        if newest is not None:
            newest.cancel()

    def cancel_all(self) -> None:
        """The connection or session has ended."""
        with self._lock:
            calls = [call for same_id in self._calls.values() for call in same_id]
        for call in calls:
            call.cancel()


class ModernClient:
    """The sender of one modern request: everything is in that request's ``_meta``."""

    modern = True

    def __init__(self, message: Message, *, answers: Message) -> None:
        meta = meta_of(message)
        self.version: str = meta[META_VERSION]
        self._capabilities: Message = meta[META_CAPABILITIES]
        level = meta.get(META_LOG_LEVEL)
        self.log_level: str | None = level if level in LOG_LEVELS else None
        self._answers = answers
        """``inputResponses`` of this round."""

    def ask(self, call: Call, key: str, capability: str, method: str, params: Message) -> Message:
        """See `Client.ask`: an answer of this round, or a question for the next (SEP-2322)."""
        if not has_capability(self._capabilities, capability):
            required: Message = {"requiredCapabilities": {capability: {}}}
            raise ProtocolError(
                MISSING_CAPABILITY, f"The client must declare {capability}", required
            )
        answer = self._answers.get(key)
        if not isinstance(answer, dict):
            raise InputRequired({key: {"method": method, "params": params}})
        return answer


class Session:
    """A legacy conversation: what the handshake settled and what is open since."""

    modern = False

    def __init__(self, send: Send, *, max_running: int, ask_timeout: float) -> None:
        self.version = ""
        """Empty until ``initialize``."""
        self.log_level: str | None = "info"
        self.running = Running(limit=max_running)
        self.watcher = Watcher(
            lambda method, params: send(notification(method, params)), lists=True, uris=()
        )
        self._capabilities: Message = {}
        self._ask_timeout = ask_timeout
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Call] = {}
        self._answers: dict[str, Message] = {}

    def agree(self, version: str, capabilities: Message) -> None:
        """The handshake has been done."""
        self.version = version
        self._capabilities = capabilities

    def ask(self, call: Call, key: str, capability: str, method: str, params: Message) -> Message:
        """See `Client.ask`: a request of ours on the call's stream, answered by `reply`."""
        if not has_capability(self._capabilities, capability):
            raise CannotAsk(f"The client does not support {capability}")
        request_id = f"demo-{next(self._numbers)}"
        self._waiting[request_id] = call
        try:
            call.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
            if not call.pause(self._ask_timeout):
                raise CannotAsk("The client did not answer in time")
        except (CannotAsk, Cancelled):
            # Not through the call: a cancelled call is silent, but our request is still open.
            self.watcher.deliver("notifications/cancelled", {"requestId": request_id})
            raise
        finally:
            self._waiting.pop(request_id, None)
            answer = self._answers.pop(request_id, {})
        if not isinstance(answer.get("result"), dict):
            raise CannotAsk("The client answered with an error")
        return dict(answer["result"])

    def reply(self, message: Message) -> None:
        """A response to a request of ours; unknown or late ones are dropped."""
        request_id = message.get("id")
        call = self._waiting.pop(request_id, None) if isinstance(request_id, str) else None
        if call is not None and isinstance(request_id, str):
            self._answers[request_id] = message
            call.wake()


def has_capability(capabilities: Message, name: str) -> bool:
    """Whether a client declared ``name``; for elicitation, whether it can show a form."""
    declared: Any = capabilities.get(name)
    if not isinstance(declared, dict):
        return False
    return name != "elicitation" or not declared or "form" in declared
