"""Where the requests of operators and probes go, and their own listener."""

from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from mcpguard.errors import Reason, Refusal
from mcpguard.front.pages import OperatorPages, Vitals
from mcpguard.front.request import GuardRequest

PROBES = "/<any(health, live, ready):page>"
GUARDED_PAGES = "/<any(metrics, routes):page>"


def answered(request: GuardRequest) -> Deferred[None]:
    """Give Klein a Deferred for the end of the answer, which leaves by the outlet.

    Klein would finish the request itself when a route returns, and log the loss of a client as
    an error of the route.
    """
    return request.notifyFinish().addErrback(lambda _: None)


def refuse_unrouted(request: Any, failure: Failure) -> Deferred[None]:
    """Turn what the router raises into a refusal: 405 with ``Allow``, else 404."""
    error = failure.value
    # Klein tells a lost client by these Deferreds too, so this one is made before the answer.
    done = answered(request)
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        request.refuse(Refusal(Reason.METHOD_NOT_ALLOWED, headers=(("Allow", allowed),)))
    else:
        request.refuse(Refusal(Reason.NOT_FOUND))
    return done


class OperatorRoutes:
    """The ``[admin]`` listener: operator pages, open to whoever reaches it; never MCP."""

    app = Klein()

    def __init__(self, vitals: Vitals) -> None:
        self._pages = OperatorPages(vitals)

    def resource(self) -> IResource:
        """What a `GuardSite` serves."""
        resource: IResource = self.app.resource()
        return resource

    @app.route(PROBES, methods=["GET"])
    @app.route(GUARDED_PAGES, methods=["GET"])
    def page(self, request: GuardRequest, page: str) -> Deferred[None]:
        """Show a page."""
        done = answered(request)
        self._pages.show(page, request)
        return done

    @app.handle_errors(HTTPException)
    def unrouted(self, request: Any, failure: Failure) -> Deferred[None]:
        """Refuse everything else."""
        return refuse_unrouted(request, failure)
