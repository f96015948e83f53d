"""Where requests lead on the two listeners."""

import json

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from mcpguard.config.settings import CorsSettings
from mcpguard.errors import Reason, Refusal
from mcpguard.front.exchange import Incoming, Outlet
from mcpguard.front.operator import OperatorRoutes
from mcpguard.front.pages import PageAccess
from mcpguard.front.site import GuardSite
from mcpguard.policy.principal import Principal
from tests.front.wire import Answer, Listener, request

BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
ALICE = Principal("alice", "api_key", "Alice")


class TheClientListener(SynchronousTestCase):
    """`ClientRoutes`."""

    def setUp(self) -> None:
        """A listener."""
        self.listener = Listener()

    def ask(self, line: str, *fields: str) -> Answer:
        """The answer to a request without a body."""
        return self.listener.converse(request(line, *fields))

    def handled(self) -> list[tuple[str, str]]:
        """Method and path of what reached the corridor."""
        return [(one.method, one.path) for one, _ in self.listener.corridor.handled]

    def test_mcp(self) -> None:
        """Every method on every MCP path is the corridor's."""
        lines = ["POST /mcp", "GET /mcp", "DELETE /mcp", "PUT /mcp", "OPTIONS /mcp", "BREW /mcp"]
        lines += ["POST /mcp/fs", "GET /mcp/fs/a/b", "POST /mcp/%20x"]
        lines += ["GET /sse", "PUT /sse", "POST /messages", "HEAD /messages", "GET /mcp/fs/sse"]
        for line in lines:
            self.assertEqual(self.ask(line).status, 200)
        self.assertEqual([f"{method} {path}" for method, path in self.handled()], lines)

    def test_not_mcp(self) -> None:
        """What only looks like an MCP path, or like any other, is refused with 404."""
        for line in (
            "POST /",
            "POST /mcpx",
            "POST /MCP",
            "POST /%6dcp",
            "POST /mcp%2ffs",
            "POST /mcp/",
            "POST /mcp//fs",
            "POST //mcp",
            "POST /mcp/../mcp",
            "POST /mcp/./fs",
            "POST /mcp/%2e%2e/x",
            "POST /x/../mcp",
            "GET /health/",
            "GET /health/x",
            "GET /%68ealth",
            "GET /sse/",
            "GET /sse/x",
            "GET /ssex",
            "POST /messages/x",
        ):
            answer = self.ask(line)
            self.assertEqual(answer.status, 404, line)
            self.assertNotIn("Location", answer.headers)
        self.assertEqual(self.handled(), [])
        reasons = {refusal.reason for _, refusal in self.listener.corridor.refused}
        self.assertEqual(reasons, {Reason.NOT_FOUND})

    def test_trailing_slash_is_explained(self) -> None:
        """The commonest slip is named, not redirected: a redirect would repeat the Host."""
        self.ask("POST /mcp/")
        self.assertIn("ends in /", self.listener.corridor.refused[0][1].message)

    def test_odd_methods(self) -> None:
        """Methods are case-sensitive; CONNECT and ``OPTIONS *`` lead nowhere."""
        for line in ("get /health", "Post /mcp", "CONNECT localhost:1", "OPTIONS *"):
            answer = self.ask(line)
            self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, POST, DELETE"))
        self.assertEqual(self.handled(), [])

    def test_wrong_method(self) -> None:
        """The pages are read only."""
        for line in ("POST /health", "DELETE /metrics", "BREW /routes", "TRACE /live"):
            answer = self.ask(line)
            self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD"), line)

    def test_screening(self) -> None:
        """Every route is screened first, unknown ones and probes too."""
        self.listener.corridor.screening = Refusal(Reason.BAD_HOST)
        for line in ("POST /mcp", "GET /health", "GET /metrics", "GET /nowhere", "GET /a//b"):
            self.assertEqual(self.ask(line).status, 421)
        self.assertEqual(len(self.listener.corridor.screened), 5)
        self.assertEqual(self.handled(), [])

    def test_health(self) -> None:
        """Health tells version and age."""
        self.listener.clock.advance(5.7)
        answer = self.ask("GET /health")
        page = {"status": "healthy", "version": "9.9", "uptime_secs": 5}
        self.assertEqual(json.loads(answer.body), page)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(json.loads(self.ask("GET /live").body), {"status": "alive"})

    def test_ready(self) -> None:
        """Readiness tells the truth, and when to ask again."""
        answer = self.ask("GET /ready")
        self.assertEqual((answer.status, json.loads(answer.body)["ready"]), (200, True))
        self.listener.ready = (False, "upstream fs is not available")
        answer = self.ask("GET /ready")
        page = {"ready": False, "version": "9.9", "reason": "upstream fs is not available"}
        self.assertEqual((answer.status, json.loads(answer.body)), (503, page))
        self.assertIn("Retry-After", answer.headers)

    def test_metadata(self) -> None:
        """Resource metadata is open to whoever asks, under its whole path."""
        known = "/.well-known/oauth-protected-resource"
        for path in (known, f"{known}/mcp", f"{known}/mcp/fs/sse", f"{known}/gw/mcp/%20x"):
            self.listener.documents[path] = {"resource": path}
            answer = self.ask(f"GET {path}")
            self.assertEqual((answer.status, json.loads(answer.body)), (200, {"resource": path}))
            self.assertEqual(answer.headers["Content-Type"], "application/json")
            answer = self.ask(f"HEAD {path}")
            self.assertEqual((answer.status, answer.body), (200, b""))
        for path in ("/mcp/none", "/", "//mcp", "/../mcp", "x"):
            self.assertEqual(self.ask(f"GET {known}{path}").status, 404, path)
        answer = self.ask(f"POST {known}")
        self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD"))
        self.assertEqual(self.handled(), [])

    def test_metadata_is_screened(self) -> None:
        """The Host and Origin rules hold for it, and pages of allowed origins may read it."""
        self.listener.documents["/.well-known/oauth-protected-resource"] = {}
        self.listener.corridor.screening = Refusal(Reason.BAD_ORIGIN)
        self.assertEqual(self.ask("GET /.well-known/oauth-protected-resource").status, 403)
        app = "https://app.example"
        listener = Listener(
            cors=CorsSettings(enabled=True, allowed_origins=(app,)),
            documents={"/.well-known/oauth-protected-resource": {}},
        )
        answer = listener.converse(
            request("GET /.well-known/oauth-protected-resource", f"Origin: {app}")
        )
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], app)

    def test_open_pages(self) -> None:
        """On a loopback listener metrics and routes are open."""
        answer = self.ask("GET /metrics")
        self.assertEqual((answer.status, answer.body), (200, b"up 1\n"))
        self.assertEqual(answer.headers["Content-Type"], "text/plain; version=0.0.4")
        page = {"count": 1, "routes": [{"name": "fs", "path": "/mcp/fs"}]}
        self.assertEqual(json.loads(self.ask("GET /routes").body), page)

    def test_metrics_from_elsewhere(self) -> None:
        """Metrics may have to be asked of other processes; a client that has left is nobody's
        matter.
        """
        self.listener.metrics = first = Deferred[bytes]()
        client = self.listener.ask(request("GET /metrics"))
        self.assertEqual(client.received(), b"")
        first.callback(b"up 2\n")
        self.assertEqual(client.answer("GET").body, b"up 2\n")
        self.listener.metrics = second = Deferred[bytes]()
        client = self.listener.ask(request("GET /metrics"))
        client.leave()
        second.callback(b"up 3\n")
        self.assertEqual(client.received(), b"")

    def test_no_metrics(self) -> None:
        """If they cannot be had, that is what the answer says, and no number."""
        self.listener.metrics = fail(OSError("gone"))
        answer = self.ask("GET /metrics")
        self.assertEqual(answer.status, 503)
        self.assertIn("Retry-After", answer.headers)
        self.assertEqual(list(json.loads(answer.body)), ["reason"])
        self.assertNotIn(b"gone", answer.body)

    def test_absent_pages(self) -> None:
        """With an operator listener they are not here."""
        self.listener = Listener(access=PageAccess.ABSENT)
        self.listener.corridor.credentials = ALICE
        for line in ("GET /metrics", "GET /routes"):
            self.assertEqual(self.ask(line).status, 404)

    def test_authenticated_pages(self) -> None:
        """Elsewhere they are for those who can say who they are."""
        self.listener = Listener(access=PageAccess.AUTHENTICATED)
        challenge = (("WWW-Authenticate", "Bearer"),)
        self.listener.corridor.credentials = Refusal(Reason.NO_CREDENTIALS, headers=challenge)
        for line in ("GET /metrics", "GET /routes"):
            answer = self.ask(line)
            self.assertEqual((answer.status, answer.headers["WWW-Authenticate"]), (401, "Bearer"))
        self.listener.corridor.credentials = ALICE
        self.assertEqual(self.ask("GET /metrics").body, b"up 1\n")

    def test_pending_authentication(self) -> None:
        """Authentication may take its time; a client that leaves meanwhile is let go."""
        self.listener = Listener(access=PageAccess.AUTHENTICATED)
        cancelled: list[str] = []
        pending: Deferred[Principal] = Deferred(lambda _: cancelled.append("yes"))
        self.listener.corridor.credentials = pending
        client = self.listener.ask(request("GET /metrics"))
        self.assertEqual(client.received(), b"")
        client.leave()
        self.assertEqual(cancelled, ["yes"])
        self.listener.corridor.credentials = later = Deferred[Principal]()
        client = self.listener.ask(request("GET /metrics"))
        later.callback(ALICE)
        self.assertEqual(client.answer("GET").body, b"up 1\n")

    def test_broken_authentication(self) -> None:
        """An error in authentication lets nobody in."""
        self.listener = Listener(access=PageAccess.AUTHENTICATED)
        self.listener.corridor.credentials = broken = Deferred[Principal]()
        client = self.listener.ask(request("GET /metrics"))
        broken.errback(ZeroDivisionError("secret words"))
        self.assertEqual(client.answer("GET").status, 500)
        self.assertNotIn(b"secret", client.received())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_browser(self) -> None:
        """A person sees a page instead of an error; it asks for nothing the CSP forbids."""
        for line in ("GET /mcp", "GET /mcp/fs"):
            answer = self.ask(line, BROWSER)
            self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
            self.assertIn(b"Model Context Protocol", answer.body)
            for forbidden in (b"<script", b"<style", b"style=", b"src=", b"href="):
                self.assertNotIn(forbidden, answer.body)
        self.assertEqual(self.handled(), [])

    def test_not_a_browser(self) -> None:
        """Whoever has a session, takes events or does not GET is an MCP client."""
        self.ask("GET /mcp", BROWSER, "Mcp-Session-Id: x")
        self.ask("GET /mcp", "Accept: text/html, text/event-stream")
        self.ask("GET /mcp", "Accept: */*")
        self.ask("GET /mcp")
        self.ask("POST /mcp", BROWSER)
        self.assertEqual(len(self.handled()), 5)


class OurOwnErrors(SynchronousTestCase):
    """What the front does when something in the gateway raises."""

    def broken(self, *, after: str) -> Listener:
        """A listener whose corridor fails after this much of an answer."""
        listener = Listener()

        def handle(incoming: Incoming, outlet: Outlet) -> None:
            if after == "begin":
                outlet.open(200, ())
            elif after == "answer":
                outlet.answer(200, (), b"ok")
            raise ZeroDivisionError("secret words")

        listener.corridor.handle = handle  # type: ignore[method-assign]
        return listener

    def test_before_the_answer(self) -> None:
        """The client gets 500 without a word of what happened."""
        listener = self.broken(after="")
        client = listener.ask(request())
        self.assertEqual(client.answer().status, 500)
        self.assertNotIn(b"secret", client.received())
        self.assertIs(listener.corridor.refused[0][1].reason, Reason.INTERNAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_refusal_fails_too(self) -> None:
        """When even the refusal fails, a bare 500 is left."""
        listener = self.broken(after="")
        listener.corridor.refuse = None  # type: ignore[method-assign,assignment]
        client = listener.ask(request())
        self.assertEqual((client.answer().status, client.answer().body), (500, b""))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError, TypeError)), 2)

    def test_during_the_answer(self) -> None:
        """An answer that cannot be completed is cut, so that nobody takes it for whole."""
        listener = self.broken(after="begin")
        client = listener.ask(request())
        self.assertTrue(client.transport.aborted)
        self.assertEqual(listener.dropped, ["failed"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_after_the_answer(self) -> None:
        """A complete answer stays what it is."""
        listener = self.broken(after="answer")
        client = listener.ask(request())
        self.assertEqual(client.answer().body, b"ok")
        self.assertFalse(client.closed)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_screen_that_fails(self) -> None:
        """Screening that fails lets nothing through."""
        listener = Listener()
        listener.corridor.screen = None  # type: ignore[method-assign,assignment]
        self.assertEqual(listener.ask(request()).answer().status, 500)
        self.assertEqual(listener.corridor.handled, [])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_resource_that_writes_by_itself(self) -> None:
        """A resource that answers past the outlet is an error, not an answer without headers."""
        listener = Listener()
        listener.site.resource = Resource()
        self.assertEqual(listener.ask(request("GET /x")).answer("GET").status, 500)
        self.assertEqual(len(self.flushLoggedErrors()), 1)


class TheOperatorListener(SynchronousTestCase):
    """`OperatorRoutes`."""

    def setUp(self) -> None:
        """An operator listener."""
        self.listener = Listener()
        site: GuardSite = self.listener.site
        site.resource = OperatorRoutes(self.listener.vitals()).resource()

    def ask(self, line: str) -> Answer:
        """The answer to a request without a body."""
        return self.listener.converse(request(line))

    def test_pages(self) -> None:
        """Every page is there, without credentials."""
        for page in ("health", "live", "ready", "metrics", "routes"):
            self.assertEqual(self.ask(f"GET /{page}").status, 200)
        self.assertEqual(self.ask("GET /metrics").body, b"up 1\n")

    def test_never_mcp(self) -> None:
        """MCP does not exist here."""
        for line in ("POST /mcp", "GET /mcp", "DELETE /mcp/fs"):
            self.assertEqual(self.ask(line).status, 404)
        self.assertEqual(self.listener.corridor.handled, [])

    def test_no_resource(self) -> None:
        """Nor is this a resource that tokens are for."""
        for path in ("", "/mcp"):
            known = f"/.well-known/oauth-protected-resource{path}"
            self.listener.documents[known] = {"resource": "x"}
            self.assertEqual(self.ask(f"GET {known}").status, 404)

    def test_screening(self) -> None:
        """The Host rule holds here as well."""
        self.listener.corridor.screening = Refusal(Reason.BAD_HOST)
        self.assertEqual(self.ask("GET /metrics").status, 421)

    def test_read_only(self) -> None:
        """Nothing can be sent."""
        self.assertEqual(self.ask("POST /metrics").status, 405)
