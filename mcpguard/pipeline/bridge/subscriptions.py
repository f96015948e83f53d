"""The resources one session is subscribed to, for all who want to hear of them."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.upstream.link import Message, UpstreamFailure

log = Logger()


@define(eq=False)
class Subscriptions:
    """Subscribes with the first who wants a resource, unsubscribes with the last.

    ``ask`` sends a request on the session (method, URI); it errbacks with `UpstreamFailure`. There
    is one such request at a time, so that they cannot overtake each other.
    """

    ask: Callable[[str, str], Deferred[Message]]
    _holders: dict[str, int] = field(init=False, factory=dict)
    _there: set[str] = field(init=False, factory=set)
    """What the server has accepted."""
    _due: dict[str, None] = field(init=False, factory=dict)
    """What may differ between the two above, in order."""
    _waiting: dict[str, list[Deferred[bool]]] = field(init=False, factory=dict)
    _working: bool = field(init=False, default=False)

    @property
    def uris(self) -> frozenset[str]:
        """What somebody wants and the server has accepted."""
        return frozenset(self._there & self._holders.keys())

    def add(self, uri: str) -> Deferred[bool]:
        """One more wants a resource; fires with whether the server has accepted that.

        Who is told True gives it back with `remove`; who is told False has nothing to give back,
        nor has who is told by an `UpstreamFailure` that the server has said nothing.
        """
        self._holders[uri] = self._holders.get(uri, 0) + 1
        if uri in self._there and uri not in self._due:
            return succeed(True)
        waiting: Deferred[bool] = Deferred()
        self._waiting.setdefault(uri, []).append(waiting)
        self._look_at(uri)
        return waiting

    def remove(self, uri: str) -> None:
        """One less wants it."""
        left = self._holders.get(uri, 0) - 1
        if left > 0:
            self._holders[uri] = left
        elif self._holders.pop(uri, None) is not None:
            self._look_at(uri)

    def _look_at(self, uri: str) -> None:
        self._due[uri] = None
        if not self._working:
            self._working = True
            Deferred.fromCoroutine(self._work()).addErrback(
                lambda failure: log.failure("subscriptions went wrong", failure=failure)
            )

    async def _work(self) -> None:
        try:
            while self._due:
                uri = next(iter(self._due))
                wanted = uri in self._holders
                if wanted != (uri in self._there):
                    try:
                        await self._change(uri, wanted)
                    except UpstreamFailure as failure:
                        self._give_up(failure)
                        continue
                if (uri in self._holders) == (uri in self._there):
                    del self._due[uri]
                    self._tell(uri, uri in self._there)
        finally:
            self._working = False

    async def _change(self, uri: str, wanted: bool) -> None:
        method = "resources/subscribe" if wanted else "resources/unsubscribe"
        try:
            accepted = "result" in await self.ask(method, uri)
        except UpstreamFailure:
            raise
        except Exception as problem:
            log.failure("asking for {method} went wrong", method=method)
            raise UpstreamFailure(Reason.INTERNAL, "an error of the gateway") from problem
        if wanted and accepted:
            self._there.add(uri)
        elif wanted:
            self._holders.pop(uri, None)
        else:
            # Whatever it said to that, nobody here hears of the resource any more.
            self._there.discard(uri)

    def _give_up(self, failure: UpstreamFailure) -> None:
        """The server says nothing: all that is due fails now, not one after the other in time."""
        due, self._due = self._due, {}
        failed: list[Deferred[bool]] = []
        for uri in due:
            wanted, there = uri in self._holders, uri in self._there
            if wanted and not there:
                del self._holders[uri]
                failed += self._waiting.pop(uri, [])
            elif wanted:
                self._tell(uri, True)
            else:
                self._there.discard(uri)
        for one in failed:
            one.errback(failure)

    def _tell(self, uri: str, accepted: bool) -> None:
        for one in self._waiting.pop(uri, []):
            one.callback(accepted)
