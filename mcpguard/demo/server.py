"""The demo server without its transports: one request in, one response out, for both eras."""

import base64
import hmac
import json
import sys
from collections.abc import Callable, Mapping

from mcpguard import __version__
from mcpguard.demo.calls import Call, Cancelled, Client, InputRequired, ModernClient, Session
from mcpguard.demo.catalog import Catalog
from mcpguard.demo.changes import Changes, Watcher
from mcpguard.demo.files import Folder
from mcpguard.demo.messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY_VERSIONS,
    LOG_LEVELS,
    META_CAPABILITIES,
    META_SERVER_INFO,
    META_SUBSCRIPTION,
    META_VERSION,
    METHOD_NOT_FOUND,
    MODERN_VERSIONS,
    UNSUPPORTED_VERSION,
    Message,
    ProtocolError,
    error,
    meta_of,
    notification,
    result,
)
from mcpguard.demo.tools import Tools

SERVER_INFO = {"name": "mcp-guard-demo", "title": "mcp-guard demo server", "version": __version__}
CAPABILITIES: Message = {
    "tools": {},
    "resources": {"subscribe": True, "listChanged": True},
    "prompts": {},
    "completions": {},
    "logging": {},
}
INSTRUCTIONS = "A demo: file tools in a folder of its own, echo, slow, and questions to the client."
STATE_LIFETIME = 600
"""Seconds a modern client may take to come back with its answers."""

_CACHEABLE = {  # method -> ttlMs; the scope is always private
    "server/discover": 60_000,
    "tools/list": 60_000,
    "prompts/list": 60_000,
    "resources/list": 0,
    "resources/templates/list": 60_000,
    "resources/read": 0,
}
_ROUNDS = ("tools/call", "prompts/get", "resources/read")

Method = Callable[[Call], Message]


class Server:
    """Answers requests; the transports bring them, carry the answers and know who is asking."""

    def __init__(
        self,
        folder: Folder,
        *,
        eras: frozenset[str],
        secret: bytes,
        now: Callable[[], float],
        max_watchers: int,
        max_uris: int,
    ) -> None:
        self.eras = eras
        """``legacy`` and/or ``modern``."""
        self._secret = secret
        """Seals ``requestState``."""
        self._now = now
        self._max_uris = max_uris
        """Subscriptions of one session or listen."""
        self._changes = Changes(max_watchers=max_watchers)
        self.tools = Tools(folder, self._changes)
        self._catalog = Catalog(folder, self._changes)
        shared: Mapping[str, Method] = {
            "tools/list": lambda call: _page(call, "tools", self.tools.definitions()),
            "tools/call": self.tools.call,
            "resources/list": lambda call: _page(call, "resources", self._catalog.resources()),
            "resources/templates/list": lambda call: _page(
                call, "resourceTemplates", self._catalog.templates()
            ),
            "resources/read": self._catalog.read,
            "prompts/list": lambda call: _page(call, "prompts", self._catalog.prompts()),
            "prompts/get": self._catalog.prompt,
            "completion/complete": self._catalog.complete,
        }
        self._legacy: Mapping[str, Method] = {
            **shared,
            "ping": lambda call: {},
            "initialize": self._initialize,
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }
        self._modern: Mapping[str, Method] = {
            **shared,
            "server/discover": self._discover,
            "subscriptions/listen": self._listen,
        }

    @property
    def versions(self) -> tuple[str, ...]:
        """Every protocol version served, newest first."""
        return (MODERN_VERSIONS if "modern" in self.eras else ()) + (
            LEGACY_VERSIONS if "legacy" in self.eras else ()
        )

    def is_modern(self, message: Message) -> bool:
        """Whether a request's body alone makes it a modern one (versioning, "Dual-era")."""
        if self.eras != {"legacy", "modern"}:
            return "modern" in self.eras
        return META_VERSION in meta_of(message) or message["method"] == "server/discover"

    def demand_meta(self, message: Message) -> None:
        """A modern request says its version and its client's capabilities in ``_meta``.

        Raises:
            ProtocolError: INVALID_PARAMS.
        """
        meta = meta_of(message)
        version, capabilities = meta.get(META_VERSION), meta.get(META_CAPABILITIES)
        if isinstance(version, str) and isinstance(capabilities, dict):
            return
        # A modern-only server is asked to name its versions to a client that shakes hands.
        shaking = message["method"] == "initialize"
        data: Message | None = {"supported": list(self.versions)} if shaking else None
        raise ProtocolError(
            INVALID_PARAMS, f"_meta needs {META_VERSION} and {META_CAPABILITIES}", data
        )

    def modern_client(self, message: Message) -> ModernClient:
        """Check a modern request's ``_meta`` and ``requestState``.

        Raises:
            ProtocolError: INVALID_PARAMS or UNSUPPORTED_VERSION.
        """
        self.demand_meta(message)
        version = meta_of(message)[META_VERSION]
        if version not in MODERN_VERSIONS:
            data: Message = {"supported": list(self.versions), "requested": version}
            raise ProtocolError(UNSUPPORTED_VERSION, "Unsupported protocol version", data)
        return ModernClient(message, answers=self._answers(message))

    def waits(self, message: Message) -> bool:
        """Whether the answer may take long, so that it must not hold up other requests."""
        if message["method"] == "tools/call":
            try:
                return self.tools.find(message.get("params", {}).get("name")).waits
            except ProtocolError:
                return False
        return bool(message["method"] == "subscriptions/listen")

    def answer(self, call: Call) -> Message | None:
        """The response to a request; None when the client gave it up."""
        try:
            value = self._value(call)
        except Cancelled:
            return None
        except ProtocolError as problem:
            return error(call.id, problem)
        except Exception:
            sys.excepthook(*sys.exc_info())  # the traceback, on stderr
            return error(call.id, ProtocolError(INTERNAL_ERROR, "Internal error"))
        return None if call.cancelled else result(call.id, value)

    def leave(self, session: Session) -> None:
        """A legacy session has ended."""
        self._changes.forget(session.watcher)
        session.running.cancel_all()

    def stop(self) -> None:
        """End every ``subscriptions/listen`` with its result."""
        self._changes.end()

    def _value(self, call: Call) -> Message:
        modern = call.client.modern
        method = (self._modern if modern else self._legacy).get(call.method)
        if method is None:
            raise ProtocolError(METHOD_NOT_FOUND, "Method not found")
        if not modern and not call.client.version and call.method not in ("initialize", "ping"):
            raise ProtocolError(INVALID_REQUEST, "The session has not been initialized")
        if not modern:
            return method(call)
        try:
            value = {"resultType": "complete", **method(call)}
        except InputRequired as needed:
            return _signed(
                {
                    "resultType": "input_required",
                    "inputRequests": needed.requests,
                    "requestState": self._seal(call.method, call.params),
                }
            )
        if call.method in _CACHEABLE:
            value = {**value, "ttlMs": _CACHEABLE[call.method], "cacheScope": "private"}
        return _signed(value)

    def _discover(self, call: Call) -> Message:
        return {
            "supportedVersions": list(self.versions),
            "capabilities": CAPABILITIES,
            "instructions": INSTRUCTIONS,
        }

    def _initialize(self, call: Call) -> Message:
        session = _session(call.client)
        version, capabilities = (
            call.params.get("protocolVersion"),
            call.params.get("capabilities"),
        )
        if not isinstance(version, str) or not isinstance(capabilities, dict):
            raise ProtocolError(INVALID_PARAMS, "protocolVersion and capabilities are required")
        if session.version:
            raise ProtocolError(INVALID_REQUEST, "The session is initialized already")
        if not self._changes.watch(session.watcher):
            raise ProtocolError(INTERNAL_ERROR, "Too many sessions")
        session.agree(version if version in LEGACY_VERSIONS else LEGACY_VERSIONS[0], capabilities)
        return {
            "protocolVersion": session.version,
            "capabilities": CAPABILITIES,
            "serverInfo": SERVER_INFO,
            "instructions": INSTRUCTIONS,
        }

    def _set_level(self, call: Call) -> Message:
        level = call.params.get("level")
        if level not in LOG_LEVELS:
            raise ProtocolError(INVALID_PARAMS, "Unknown log level")
        _session(call.client).log_level = level
        return {}

    def _subscribe(self, call: Call) -> Message:
        uri = call.params.get("uri")
        if not isinstance(uri, str):
            raise ProtocolError(INVALID_PARAMS, "uri must be a string")
        uris = _session(call.client).watcher.uris
        if not self._catalog.exists(uri):
            raise ProtocolError(INVALID_PARAMS, "No such resource", {"uri": uri})
        if len(uris) >= self._max_uris:
            raise ProtocolError(INVALID_PARAMS, "Too many subscriptions")
        uris.add(uri)
        return {}

    def _unsubscribe(self, call: Call) -> Message:
        _session(call.client).watcher.uris.discard(str(call.params.get("uri")))
        return {}

    def _listen(self, call: Call) -> Message:
        """Acknowledge, then deliver changes until the client gives the request up (2026-07-28)."""
        wanted = call.params.get("notifications")
        if not isinstance(wanted, dict):
            raise ProtocolError(INVALID_PARAMS, "notifications must be an object")
        uris = wanted.get("resourceSubscriptions", [])
        if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
            raise ProtocolError(INVALID_PARAMS, "resourceSubscriptions must be a list of strings")
        if len(uris) > self._max_uris:
            raise ProtocolError(INVALID_PARAMS, "Too many subscriptions")
        mark = {"_meta": {META_SUBSCRIPTION: call.id}}
        known = [uri for uri in uris if self._catalog.exists(uri)]
        lists = wanted.get("resourcesListChanged") is True
        honoured: Message = {"resourceSubscriptions": known} if known else {}
        if lists:
            honoured["resourcesListChanged"] = True
        watcher = Watcher(
            lambda method, params: call.send(notification(method, {**params, **mark})),
            lists=lists,
            uris=known,
            end=call.wake,
        )
        acknowledgement = notification(
            "notifications/subscriptions/acknowledged", {**mark, "notifications": honoured}
        )
        if not self._changes.watch(watcher, lambda: call.send(acknowledgement)):
            raise ProtocolError(INTERNAL_ERROR, "Too many subscriptions")
        try:
            call.pause(None)
        finally:
            self._changes.forget(watcher)
        return mark  # woken without being cancelled: the server is shutting down

    def _answers(self, message: Message) -> Message:
        """``inputResponses`` of a further round, its ``requestState`` checked (SEP-2322)."""
        params: Message = message.get("params", {})
        if message["method"] not in _ROUNDS or not params.keys() & {
            "inputResponses",
            "requestState",
        }:
            return {}
        answers, state = params.get("inputResponses", {}), params.get("requestState")
        if not isinstance(answers, dict):
            raise ProtocolError(INVALID_PARAMS, "inputResponses must be an object")
        if not isinstance(state, str) or not self._opens(state, message["method"], params):
            raise ProtocolError(INVALID_PARAMS, "requestState is not valid for this request")
        return answers

    def _seal(self, method: str, params: Message) -> str:
        expires = str(int(self._now()) + STATE_LIFETIME)
        return f"{expires}.{self._mark(expires, method, params)}"

    def _opens(self, state: str, method: str, params: Message) -> bool:
        expires, _, mark = state.partition(".")
        if not hmac.compare_digest(
            mark.encode("utf-8"), self._mark(expires, method, params).encode("ascii")
        ):
            return False
        return int(expires) > self._now()

    def _mark(self, expires: str, method: str, params: Message) -> str:
        """What ties a state to its expiry and its request (without what each round changes)."""
        rounds = ("_meta", "inputResponses", "requestState")
        lasting = {name: value for name, value in params.items() if name not in rounds}
        words = json.dumps([expires, method, lasting], sort_keys=True).encode("ascii")
        return base64.urlsafe_b64encode(hmac.digest(self._secret, words, "sha256")).decode()


def _page(call: Call, member: str, items: list[Message]) -> Message:
    """A list result: everything is on the first page, so no cursor was ever handed out."""
    if call.params.get("cursor") is not None:
        raise ProtocolError(INVALID_PARAMS, "Unknown cursor")
    return {member: items}


def _signed(value: Message) -> Message:
    """The result with the server's name in its ``_meta``."""
    return {**value, "_meta": {**value.get("_meta", {}), META_SERVER_INFO: SERVER_INFO}}


def _session(client: Client) -> Session:
    assert isinstance(client, Session)
    return client
