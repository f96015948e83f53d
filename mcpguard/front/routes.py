"""The client listener's routes: MCP, the probes, and the guarded operator pages."""

from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Corridor
from mcpguard.front.head import asks_for_a_page
from mcpguard.front.operator import GUARDED_PAGES, PROBES, answered, refuse_unrouted
from mcpguard.front.pages import Documents, OperatorPages, PageAccess, Vitals, answer_json
from mcpguard.front.request import GuardRequest

HUMAN_PAGE = b"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>mcp-guard</title></head>
<body>
<h1>mcp-guard</h1>
<p>This address speaks the Model Context Protocol. It is meant for MCP clients, not for browsers:
give its URL to your client, together with the key you were issued.</p>
</body>
</html>
"""


class ClientRoutes:
    """Where the requests of clients go."""

    app = Klein()

    def __init__(
        self, corridor: Corridor, vitals: Vitals, access: PageAccess, document: Documents
    ) -> None:
        self._corridor = corridor
        self._pages = OperatorPages(vitals)
        self._access = access
        self._document = document

    def resource(self) -> IResource:
        """What a `GuardSite` serves."""
        resource: IResource = self.app.resource()
        return resource

    @app.route("/mcp")
    @app.route("/mcp/<path:rest>")
    @app.route("/<any(sse, messages):rest>")
    def mcp(self, request: GuardRequest, rest: str = "") -> Deferred[None]:
        """Give every method on an MCP path to the corridor, except a person's look at it."""
        done = answered(request)
        if asks_for_a_page(request.incoming.method, request.incoming.headers):
            kind = ("Content-Type", "text/html; charset=utf-8")
            request.outlet.answer(200, (kind,), HUMAN_PAGE)
        else:
            self._corridor.handle(request.incoming, request.outlet)
        return done

    @app.route(PROBES, methods=["GET"])
    def probe(self, request: GuardRequest, page: str) -> Deferred[None]:
        """Answer a probe."""
        done = answered(request)
        self._pages.show(page, request)
        return done

    @app.route(GUARDED_PAGES, methods=["GET"])
    async def guarded(self, request: GuardRequest, page: str) -> None:
        """Show an operator page to whom it is for."""
        done = answered(request)
        if self._access is PageAccess.ABSENT:
            request.refuse(Refusal(Reason.NOT_FOUND))
        elif self._access is PageAccess.OPEN:
            self._pages.show(page, request)
        else:
            try:
                await self._corridor.authenticate(request.incoming)
            except Refused as refused:
                request.refuse(refused.refusal)
            else:
                self._pages.show(page, request)
        await done

    @app.route("/.well-known/oauth-protected-resource", methods=["GET"])
    @app.route("/.well-known/oauth-protected-resource/<path:rest>", methods=["GET"])
    def metadata(self, request: GuardRequest, rest: str = "") -> Deferred[None]:
        """Say where tokens for an endpoint come from, to whoever asks (RFC 9728)."""
        done = answered(request)
        found = self._document(request.incoming)
        if found is None:
            request.refuse(Refusal(Reason.NOT_FOUND))
        else:
            answer_json(request, 200, found)
        return done

    @app.handle_errors(HTTPException)
    def unrouted(self, request: Any, failure: Failure) -> Deferred[None]:
        """Refuse everything else."""
        return refuse_unrouted(request, failure)
