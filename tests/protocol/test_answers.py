"""Tests of how refusals look on the wire."""

import json

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import SHAPES, Reason, Refusal
from mcpguard.protocol.answers import error_object, render, wants_jsonrpc

MCP = "application/json, text/event-stream"


class WantsTests(SynchronousTestCase):
    """`wants_jsonrpc` recognises an MCP client by its Accept."""

    def test_mcp_clients(self) -> None:
        """The event stream may stand anywhere, in any case, with parameters."""
        for accept in (
            MCP,
            "text/event-stream",
            "Text/Event-Stream;q=0.1",
            "a/b;q=1 ,  text/event-stream ; charset=utf-8",
        ):
            self.assertTrue(wants_jsonrpc(accept), accept)

    def test_others(self) -> None:
        """Wildcards, weights of zero and look-alikes are no MCP client's."""
        for accept in (
            None,
            "",
            "*/*",
            "text/*",
            "application/json",
            "text/event-stream;q=0",
            "text/event-stream; Q = 0.000",
            "text/event-streams",
            "x/text/event-stream",
        ):
            self.assertFalse(wants_jsonrpc(accept), accept)


class RenderTests(SynchronousTestCase):
    """`render` makes the two bodies and the headers that belong to a status."""

    def test_every_reason(self) -> None:
        """Each reason has its status, code and text for both kinds of client."""
        for reason, shape in SHAPES.items():
            rendered = render(Refusal(reason), accept=MCP, request_id=1, error_id="e")
            body = json.loads(rendered.body)
            self.assertEqual(rendered.status, shape.status)
            self.assertEqual((body["jsonrpc"], body["id"]), ("2.0", 1))
            self.assertEqual(body["error"]["code"], shape.code)
            self.assertEqual(body["error"]["message"], shape.text)
            self.assertEqual(body["error"]["data"]["error_id"], "e")
            other = render(Refusal(reason), accept="*/*", request_id=1, error_id="e")
            plain = json.loads(other.body)
            self.assertEqual(other.status, shape.status)
            self.assertEqual((plain["error"], plain["error_id"]), (shape.text, "e"))
            for headers in (dict(rendered.headers), dict(other.headers)):
                self.assertEqual(headers["Content-Type"], "application/json")
                self.assertEqual("Retry-After" in headers, shape.status in (429, 503))
                self.assertEqual("WWW-Authenticate" in headers, shape.status == 401)

    def test_ids(self) -> None:
        """The id keeps its type; null stands for one that could not be read."""
        for id in (0, "0", "", 2**70, None):
            body = render(Refusal(Reason.PARSE), accept=MCP, request_id=id, error_id="e").body
            self.assertEqual(json.loads(body)["id"], id)
            self.assertIs(type(json.loads(body)["id"]), type(id))

    def test_retry(self) -> None:
        """Waits are whole seconds, rounded up, at least one, and the same in header and body."""
        for after, shown in ((None, 1), (0.0, 1), (0.2, 1), (2.0, 2), (2.1, 3), (float("inf"), 1)):
            refusal = Refusal(Reason.RATE_LIMITED, retry_after=after)
            rendered = render(refusal, accept=MCP, request_id=1, error_id="e")
            self.assertEqual(dict(rendered.headers)["Retry-After"], str(shown))
            self.assertEqual(json.loads(rendered.body)["error"]["data"]["retry_after"], shown)
            plain = render(refusal, accept=None, request_id=1, error_id="e")
            self.assertEqual(json.loads(plain.body)["retry_after"], shown)

    def test_retry_elsewhere(self) -> None:
        """Only a 429 tells it in the small body."""
        rendered = render(Refusal(Reason.DRAINING), accept=None, request_id=None, error_id="e")
        self.assertNotIn("retry_after", json.loads(rendered.body))
        self.assertEqual(dict(rendered.headers)["Retry-After"], "1")

    def test_denials(self) -> None:
        """A policy denial, and nothing else, may come as 200, and only to an MCP client."""
        for reason in Reason:
            refusal = Refusal(reason)
            shown = render(refusal, accept=MCP, request_id=1, error_id="e", denial_status=200)
            denied = reason in (Reason.DENIED, Reason.SERVER_DENIED)
            self.assertEqual(shown.status, 200 if denied else refusal.shape.status)
            self.assertEqual(json.loads(shown.body)["error"]["code"], refusal.shape.code)
            plain = render(refusal, accept="*/*", request_id=1, error_id="e", denial_status=200)
            self.assertEqual(plain.status, refusal.shape.status)

    def test_given_words_and_headers(self) -> None:
        """Text, data and headers of the refusal are shown; a challenge is not doubled."""
        refusal = Refusal(
            Reason.BAD_CREDENTIALS,
            text="No.",
            data={"supported": ["x"], "error_id": "forged"},
            headers=(("www-authenticate", "Bearer x"), ("Allow", "POST")),
            detail="secret",
        )
        rendered = render(refusal, accept=MCP, request_id=1, error_id="e")
        error = json.loads(rendered.body)["error"]
        self.assertEqual(error["message"], "No.")
        self.assertEqual(error["data"], {"supported": ["x"], "error_id": "e"})
        self.assertEqual(
            rendered.headers,
            (
                ("www-authenticate", "Bearer x"),
                ("Allow", "POST"),
                ("Content-Type", "application/json"),
            ),
        )
        self.assertNotIn(b"secret", rendered.body)

    def test_headers_not_doubled(self) -> None:
        """A header that belongs to the status is added unless the refusal has it, and only then."""
        for reason, name in (
            (Reason.BAD_CREDENTIALS, "WWW-Authenticate"),
            (Reason.RATE_LIMITED, "Retry-After"),
        ):
            for given in ((name.lower(), "given"), ("X-Other", "given")):
                refusal = Refusal(reason, headers=(given,))
                headers = render(refusal, accept=MCP, request_id=1, error_id="e").headers
                names = [one.lower() for one, _ in headers]
                self.assertEqual(names.count(name.lower()), 1)
                self.assertIn(given, headers)

    def test_error_object(self) -> None:
        """The error alone is the one within the rendered body."""
        refusal = Refusal(Reason.UPSTREAM_BUSY, retry_after=1.5)
        body = json.loads(render(refusal, accept=MCP, request_id=1, error_id="e").body)
        self.assertEqual(error_object(refusal, "e"), body["error"])
