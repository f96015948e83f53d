"""The first words to a child, in the gateway's own name; they fix the era the child speaks."""

from collections.abc import Awaitable, Callable

from attrs import define, field
from twisted.internet.defer import Deferred

from mcpguard import __version__
from mcpguard.errors import Reason
from mcpguard.protocol.eras import judge_discover, refuses_handshake
from mcpguard.protocol.mcp import (
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    META_CAPABILITIES,
    META_CLIENT_INFO,
    META_VERSION,
    MODERN_VERSIONS,
)
from mcpguard.upstream.conversation import GATEWAY, Conversation
from mcpguard.upstream.link import (
    Call,
    InitializeRejected,
    Message,
    Outbound,
    UpstreamFailure,
)

Greeting = Callable[[Conversation], Awaitable[Message]]
"""Says the first words; gives the child's result, raises `UpstreamFailure` if it is of no use.

The reason is ``UPSTREAM_ERA`` where the child shows that it speaks another era.
"""


@define(eq=False)
class OneAnswer:
    """A sink for one request of our own; ``done`` fires with the response."""

    done: Deferred[Message] = field(init=False)
    call: Call | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.done = Deferred(lambda _: self._give_up())

    def notification(self, message: Message) -> None:
        """Nothing that precedes the answer matters."""

    def answer(self, message: Message) -> None:
        """The response."""
        self.done.callback(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """No response will come."""
        self.done.errback(failure)

    def _give_up(self) -> None:
        if self.call is not None:
            self.call.cancel("no longer wanted")


def ask(
    conversation: Conversation, method: str, params: Message, version: str
) -> Deferred[Message]:
    """Send a request of the gateway's own; fires with the response message."""
    sink = OneAnswer()
    outbound = Outbound(0, method, params, version, GATEWAY)
    sink.call = conversation.request(outbound, sink, None)
    return sink.done


def gateway_params() -> Message:
    """What the gateway says of itself in ``initialize``: no capabilities, so nothing is asked."""
    return {
        "protocolVersion": LATEST_LEGACY,
        "capabilities": {},
        "clientInfo": {"name": "mcp-guard", "version": __version__},
    }


async def initialize(conversation: Conversation, params: Message) -> Message:
    """Shake hands; gives the result.

    Raises `InitializeRejected` with the server's error, `UpstreamFailure` for anything else. The
    closing ``notifications/initialized`` is left to the caller.
    """
    version = params.get("protocolVersion")
    answer = await ask(
        conversation, "initialize", params, version if isinstance(version, str) else LATEST_LEGACY
    )
    if "error" in answer:
        raise InitializeRejected(answer["error"])
    result: Message = answer["result"]
    if result.get("protocolVersion") not in LEGACY_VERSIONS:
        raise UpstreamFailure(
            Reason.UPSTREAM_FAILED, f"protocolVersion {result.get('protocolVersion')!r} is unknown"
        )
    return result


async def greet_legacy(conversation: Conversation) -> Message:
    """Shake hands in the gateway's own name, for a child that several sessions will share."""
    try:
        result = await initialize(conversation, gateway_params())
    except InitializeRejected as rejected:
        other = refuses_handshake(rejected.error)
        reason = Reason.UPSTREAM_ERA if other else Reason.UPSTREAM_FAILED
        code = rejected.error.get("code")
        detail = f"initialize was answered with error {code}"
        raise UpstreamFailure(reason, detail) from rejected
    conversation.notify("notifications/initialized", None)
    return result


async def discover(conversation: Conversation) -> Message:
    """Ask ``server/discover``; gives the response message, result or error."""
    meta = {
        META_VERSION: MODERN_VERSIONS[0],
        META_CAPABILITIES: {},
        META_CLIENT_INFO: {"name": "mcp-guard", "version": __version__},
    }
    return await ask(conversation, "server/discover", {"_meta": meta}, MODERN_VERSIONS[0])


async def greet_modern(conversation: Conversation) -> Message:
    """Make sure that a stateless child is there, before anybody's request depends on it."""
    try:
        answer = await discover(conversation)
    except UpstreamFailure as failure:
        if failure.reason is not Reason.UPSTREAM_TIMEOUT:
            raise
        # Only a handshake-era server may ignore the question.
        raise UpstreamFailure(Reason.UPSTREAM_ERA, "no answer to server/discover") from failure
    if not judge_discover(answer).modern:
        raise UpstreamFailure(Reason.UPSTREAM_ERA, "server/discover was not understood")
    return answer
