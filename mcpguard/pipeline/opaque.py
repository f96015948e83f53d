"""What a server hands out to be brought back is sealed for whom it was handed out to.

Servers behind a gateway see one caller, so they cannot tell whose a cursor or a ``requestState``
is. A client gets each in a token that opens for the same principal, server, path and method only,
and for a while; the server gets its own words back exactly. Where tasks are handed out nobody
gets any.

A state that the gateway made itself, for a call that waits in one of several workers, begins with
that worker's number; its token does too, so that the client's next round finds its way there.
"""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.protocol.input_requests import INPUT_REQUIRED, InputBounds, input_problem
from mcpguard.protocol.mcp import META_CAPABILITIES, METHODS
from mcpguard.protocol.opaque import STATED, pack, params_digest, unpack
from mcpguard.protocol.ownership import marked, unmarked
from mcpguard.protocol.sealing import Seal
from mcpguard.protocol.tasks import is_task, without_task, without_task_support

Message = dict[str, Any]

_WORDS = frozenset(
    {"_meta", "task", "inputResponses", "requestState", "resultType", "inputRequests"}
)
"""Members of params and results that need a look; lists, which have cursors, need one anyway."""


@frozen
class OpaqueBounds:
    """For how long tokens count, and how big what is in them may be."""

    state_secs: float
    cursor_secs: float
    words: int
    """Characters of a server's cursor or state: a client must be able to send it back."""
    inputs: InputBounds


@frozen
class Opaque:
    """Makes each request's `Custody`. ``wall`` gives Unix seconds."""

    states: Seal
    cursors: Seal
    wall: Callable[[], float]
    bounds: OpaqueBounds
    owner: int | None = None
    """This worker's number; None for a process on its own."""

    def custody(
        self, principal_key: str, server: str, path: str, method: str, *, modern: bool
    ) -> "Custody":
        """What one request may bring, and its result take along; ``modern``: stateless era."""
        return Custody(self, (principal_key, server, path, method), method, modern)


@frozen
class Custody:
    """The tokens of one request and of its result."""

    opaque: Opaque
    context: tuple[str, ...] = field(repr=False)
    method: str
    modern: bool

    def opened(self, params: Mapping[str, Any] | None) -> Message | None:
        """A client's params as the server is to see them; raises Refused (``INVALID_PARAMS``)."""
        if params is None:
            return None
        if self.method == "tools/call" and _WORDS.isdisjoint(params):
            # Nothing in them is for us, so they may pass as they are.
            return params if isinstance(params, dict) else dict(params)
        plain = without_task(params)
        if METHODS[self.method].lists is not None and "cursor" in plain:
            plain["cursor"] = self._cursor(plain["cursor"])
        if not self.modern:
            # Handshake versions have no rounds: these are no words of a server we know.
            for member in ("inputResponses", "requestState"):
                plain.pop(member, None)
        elif "requestState" in plain:
            plain["requestState"] = self._state(plain)
        return plain

    def sealed(self, params: Mapping[str, Any] | None, result: Message) -> Message:
        """A server's result as the client is to see it, ``params`` being what the server saw.

        Raises Refused (``UPSTREAM_FAILED``) for what must not reach this client.
        """
        if self.method == "tools/call" and _WORDS.isdisjoint(result):
            return result
        if is_task(result):
            raise _bad("a task, which nobody asked for")
        if self.method == "tools/list":
            result = without_task_support(result)
        if METHODS[self.method].lists is not None and result.get("nextCursor") is not None:
            words = self._words(result["nextCursor"], "nextCursor")
            content = pack(words, self.opaque.wall() + self.opaque.bounds.cursor_secs)
            token = self.opaque.cursors.seal(self.context, content)
            result = {**result, "nextCursor": token}
        if result.get("resultType") == INPUT_REQUIRED:
            self._check_input(params, result)
        if self.modern and result.get("requestState") is not None:
            result = {**result, "requestState": self._sealed_state(params, result["requestState"])}
        return result

    def _cursor(self, token: object) -> str:
        content = None
        if isinstance(token, str):
            content = self.opaque.cursors.open(self.context, token)
        words = None if content is None else unpack(content, self.opaque.wall())
        if words is None:
            raise Refused(Refusal(Reason.INVALID_PARAMS, "Invalid params: unknown cursor"))
        return words

    def _state(self, params: Message) -> str:
        token, content = params["requestState"], None
        if isinstance(token, str):
            number, sealed = unmarked(token)
            content = self.opaque.states.open(self._numbered(number), sealed)
        words = None
        if content is not None:
            words = unpack(content, self.opaque.wall(), params_digest(params))
        if words is None:
            raise Refused(
                Refusal(
                    Reason.INVALID_PARAMS,
                    "Invalid params: requestState is not of this request, or too old",
                )
            )
        return words

    def _check_input(self, params: Mapping[str, Any] | None, result: Message) -> None:
        if not self.modern or self.method not in STATED:
            raise _bad("it asks for input where nobody can be asked")
        meta = (params or {}).get("_meta")
        declared = meta.get(META_CAPABILITIES) if isinstance(meta, dict) else None
        problem = input_problem(result, declared, self.opaque.bounds.inputs)
        if problem is not None:
            raise _bad(f"inputRequests: {problem}")

    def _sealed_state(self, params: Mapping[str, Any] | None, state: object) -> str:
        words = self._words(state, "requestState")
        expires_at = self.opaque.wall() + self.opaque.bounds.state_secs
        content = pack(words, expires_at, params_digest(params))
        number = unmarked(words)[0]
        if number != str(self.opaque.owner):
            # Whatever a server puts in front of its words, they are no worker's.
            return self.opaque.states.seal(self.context, content)
        return marked(self.opaque.owner, self.opaque.states.seal(self._numbered(number), content))

    def _numbered(self, number: str) -> tuple[str, ...]:
        return (*self.context, number) if number else self.context

    def _words(self, given: object, what: str) -> str:
        if not isinstance(given, str):
            raise _bad(f"{what} is no string")
        if len(given) > self.opaque.bounds.words:
            raise _bad(f"{what} of {len(given)} characters")
        return given


def _bad(detail: str) -> Refused:
    return Refused(Refusal(Reason.UPSTREAM_FAILED, detail=f"the result cannot be used: {detail}"))
