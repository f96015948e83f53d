"""The pages for operators and probes, and the routes to them, made when first asked for."""

import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource

from mcpguard.front.exchange import Headers, Incoming
from mcpguard.front.request import GuardRequest

log = Logger()

READINESS_RETRY_SECS = 5
"""``Retry-After`` of a gateway that is not ready yet."""


Documents = Callable[[Incoming], Mapping[str, Any] | None]
"""Gives the resource metadata that a request asks for (RFC 9728), None where there is none."""


class PageAccess(Enum):
    """Who sees ``/metrics`` and ``/routes`` on the client listener."""

    OPEN = "open"
    """Everyone who reaches it: bound to loopback."""
    AUTHENTICATED = "authenticated"
    ABSENT = "absent"
    """Nobody: they are on the ``[admin]`` listener."""


class LateRoutes(Resource):
    """Routes that ``make`` gives when the first request is for them.

    The fast channel serves MCP clients without any. The router with what it imports is 3 MiB.
    """

    isLeaf = True

    def __init__(self, make: Callable[[], IResource]) -> None:
        super().__init__()
        self._make = make
        self._routes: IResource | None = None

    def render(self, request: Any) -> Any:
        """See `IResource`; an error of ``make`` is that of the request, the next tries again."""
        if self._routes is None:
            self._routes = self._make()
        return self._routes.render(request)


@frozen
class Vitals:
    """What the operator pages report, asked anew for each page."""

    version: str
    started_at: float
    """By the clock of `seconds`."""
    seconds: Callable[[], float]
    readiness: Callable[[], tuple[bool, str]]
    """Whether the gateway can serve now, and if not, why (public words)."""
    metrics: Callable[[], bytes | Deferred[bytes]]
    """The page; where it must be asked of another process, it comes later or fails."""
    metrics_type: str
    """Content-Type of `metrics`."""
    routes: Callable[[], Sequence[Mapping[str, Any]]]
    """One row for each route."""


@define
class OperatorPages:
    """The pages themselves, for whichever listener shows them."""

    vitals: Vitals

    def show(self, page: str, request: GuardRequest) -> None:
        """Answer with the page of that name."""
        pages = {
            "health": self._health,
            "live": self._live,
            "ready": self._ready,
            "metrics": self._metrics,
            "routes": self._routes,
        }
        pages[page](request)

    def _health(self, request: GuardRequest) -> None:
        """Tell that the process answers, its version and age."""
        age = self.vitals.seconds() - self.vitals.started_at
        page = {"status": "healthy", "version": self.vitals.version, "uptime_secs": int(age)}
        answer_json(request, 200, page)

    def _live(self, request: GuardRequest) -> None:
        """Tell that the process answers."""
        answer_json(request, 200, {"status": "alive"})

    def _ready(self, request: GuardRequest) -> None:
        """Tell whether it can serve; 503 with the reason when it cannot."""
        ready, reason = self.vitals.readiness()
        page: dict[str, Any] = {"ready": ready, "version": self.vitals.version}
        if ready:
            answer_json(request, 200, page)
        else:
            retry = ("Retry-After", str(READINESS_RETRY_SECS))
            answer_json(request, 503, {**page, "reason": reason}, (retry,))

    def _metrics(self, request: GuardRequest) -> None:
        """Show the counters; 503 when they cannot be had."""
        kind = ("Content-Type", self.vitals.metrics_type)
        page = self.vitals.metrics()
        if not isinstance(page, Deferred):
            request.outlet.answer(200, (kind,), page)
            return

        def show(page: bytes) -> None:
            request.outlet.answer(200, (kind,), page)

        def refuse(failure: Failure) -> None:
            log.warn("no metrics: {why}", why=failure.getErrorMessage())
            words = {"reason": "the numbers of the other processes are not available"}
            retry = ("Retry-After", str(READINESS_RETRY_SECS))
            answer_json(request, 503, words, (retry,))

        page.addCallbacks(show, refuse)
        page.addErrback(lambda failure: log.failure("the metrics", failure=failure))

    def _routes(self, request: GuardRequest) -> None:
        """List where requests lead."""
        rows = [dict(row) for row in self.vitals.routes()]
        answer_json(request, 200, {"count": len(rows), "routes": rows})


def answer_json(
    request: GuardRequest, status: int, page: Mapping[str, Any], headers: Headers = ()
) -> None:
    """Answer with one JSON object."""
    kind = ("Content-Type", "application/json")
    request.outlet.answer(status, (kind, *headers), json.dumps(page).encode())
