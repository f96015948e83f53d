"""Finding out which eras a stdio server speaks, on children that serve for nothing else.

The first message fixes the era of a child for good, so each question gets a child of its own.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from attrs import define
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mcpguard.config.settings import EraChoice
from mcpguard.errors import Reason
from mcpguard.protocol.eras import DiscoverVerdict, judge_discover
from mcpguard.upstream.conversation import GATEWAY, Conversation
from mcpguard.upstream.greeting import discover, gateway_params, initialize
from mcpguard.upstream.link import Eras, InitializeRejected, UpstreamFailure
from mcpguard.upstream.supervision import Supervision

log = Logger()

PROBES = ("probe:initialize", "probe:discover")
"""The keys under which crashes of probe children count: a server may end itself at either."""

_NOT_ASKED = frozenset({Reason.UPSTREAM_UNAVAILABLE, Reason.UPSTREAM_BUSY})
"""Reasons that say nothing about the server's eras."""

T = TypeVar("T")


@define(eq=False)
class Probe:
    """The questions to a server; times in seconds."""

    supervision: Supervision
    clock: IReactorTime
    discover_secs: float
    """Silence after ``server/discover`` for so long means a handshake-era server, if it was quick
    to answer ``initialize``."""
    start_secs: float
    """How long the first answer of a freshly started server may take."""

    async def eras(self, choice: EraChoice) -> Eras:
        """Ask, and forget the crashes of earlier attempts when there is an answer."""
        eras = await self._eras(choice)
        for key in PROBES:
            self.supervision.crashes.of(key).healthy()
        return eras

    async def _eras(self, choice: EraChoice) -> Eras:
        """Ask what ``choice`` leaves open; raises `UpstreamFailure` when nothing is understood.

        ``initialize`` is asked first, although `discover` would suit the protocol's taste better:
        a first start may take long (``npx`` downloads), and silence has a meaning only for
        ``server/discover``.
        """
        if choice == "modern":
            verdict = await self._discover(self.start_secs)
            if not verdict.modern:
                raise UpstreamFailure(
                    Reason.UPSTREAM_FAILED, "server/discover was not understood, yet era = modern"
                )
            return Eras(False, verdict.modern, verdict.discovered)
        began = self.clock.seconds()
        legacy, problem = await self._initialize()
        took = self.clock.seconds() - began
        if choice == "legacy":
            if problem is not None:
                raise problem
            return Eras(legacy=True)
        # A child that takes its time to start takes it for this question as well: with no more than
        # `discover_secs` every slow one would pass for a handshake-era server, or for none.
        patience = min(self.start_secs, self.discover_secs + 2 * took)
        verdict = await self._discover(patience)
        if not legacy and not verdict.modern:
            raise problem or UpstreamFailure(
                Reason.UPSTREAM_FAILED, "it speaks no protocol version known here"
            )
        return Eras(legacy, verdict.modern, verdict.discovered)

    async def _initialize(self) -> tuple[bool, UpstreamFailure | None]:
        """Whether the handshake works, and if not, why."""
        try:
            await self._on_a_child(
                PROBES[0], lambda child: initialize(child, gateway_params()), self.start_secs
            )
        except InitializeRejected as rejected:
            code = rejected.error.get("code")
            return False, UpstreamFailure(
                Reason.UPSTREAM_FAILED, f"initialize was answered with error {code}"
            )
        except UpstreamFailure as failure:
            if failure.reason in _NOT_ASKED:
                raise
            return False, failure
        return True, None

    async def _discover(self, seconds: float) -> DiscoverVerdict:
        try:
            return judge_discover(await self._on_a_child(PROBES[1], discover, seconds))
        except UpstreamFailure as failure:
            if failure.reason in _NOT_ASKED:
                raise
            # Silence, or a server that ends when it does not understand.
            return judge_discover(None)

    async def _on_a_child(
        self, key: str, question: Callable[[Conversation], Awaitable[T]], seconds: float
    ) -> T:
        """Ask one question of a fresh child, which is stopped whatever comes."""
        conversation = self.supervision.spawn(key, GATEWAY, None, None)
        asking = Deferred.fromCoroutine(_coroutine(question(conversation)))
        asking.addTimeout(seconds, self.clock)
        try:
            answer = await asking
        except Exception as problem:
            # Not `finally`: a coroutine that is thrown away unfinished would run this while the
            # collector takes it apart, and resume others that are being taken apart as well.
            self.supervision.dismiss(conversation)
            if isinstance(problem, TimeoutError):
                silence = f"no answer in {seconds:g} s"
                raise UpstreamFailure(Reason.UPSTREAM_TIMEOUT, silence) from problem
            raise
        self.supervision.dismiss(conversation)
        return answer


async def _coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable
