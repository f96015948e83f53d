"""Browser clients on other origins."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import CorsSettings
from mcpguard.errors import Reason, Refusal
from tests.front.wire import Answer, Listener, request

APP = "https://app.example"
RULES = CorsSettings(
    enabled=True, allowed_origins=(APP,), allowed_headers=("X-Extra",), max_age=300
)


def preflight(*fields: str, origin: str = APP) -> bytes:
    """A browser's question whether it may POST."""
    asked = ("Access-Control-Request-Method: POST", f"Origin: {origin}", *fields)
    return request("OPTIONS /mcp", *asked)


class CrossOrigin(SynchronousTestCase):
    """`Cors`, at the wire."""

    def ask(self, data: bytes, rules: CorsSettings | None = RULES) -> Answer:
        """The answer of a listener with these rules."""
        self.listener = Listener(cors=rules)
        return self.listener.converse(data)

    def test_preflight(self) -> None:
        """A preflight is answered without credentials, and asks nobody."""
        answer = self.ask(preflight())
        headers = answer.headers
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(headers["Access-Control-Allow-Origin"], APP)
        self.assertEqual(headers["Access-Control-Allow-Methods"], "GET, POST, DELETE, OPTIONS")
        self.assertEqual(headers["Access-Control-Max-Age"], "300")
        allowed = headers["Access-Control-Allow-Headers"].lower().split(", ")
        for name in (
            "authorization",
            "content-type",
            "accept",
            "mcp-session-id",
            "mcp-protocol-version",
            "last-event-id",
            "mcp-method",
            "mcp-name",
            "x-extra",
        ):
            self.assertIn(name, allowed)
        self.assertNotIn("Access-Control-Allow-Credentials", headers)
        self.assertIn("Origin", headers["Vary"])
        self.assertEqual(headers["X-Frame-Options"], "DENY")
        self.assertEqual(self.listener.corridor.handled, [])

    def test_param_headers(self) -> None:
        """``Mcp-Param-*`` names are echoed when they are that; other names are not."""
        asked = (
            "Access-Control-Request-Headers: mcp-param-region, X-Evil, Mcp-Param-, mcp-param-a b"
        )
        allowed = self.ask(preflight(asked)).headers["Access-Control-Allow-Headers"]
        self.assertTrue(allowed.endswith("X-Extra, mcp-param-region"), allowed)

    def test_param_headers_are_bounded(self) -> None:
        """However many are asked for, 64 are echoed."""
        names = ",".join(f"mcp-param-{number}" for number in range(100))
        asked = preflight("Access-Control-Request-Headers: " + names)
        allowed = self.ask(asked).headers["Access-Control-Allow-Headers"]
        self.assertEqual(allowed.count("mcp-param-"), 64)

    def test_answers(self) -> None:
        """Every answer to an allowed origin can be read by it, with the headers MCP needs."""
        answer = self.ask(request("POST /mcp", f"Origin: {APP.upper()}", body=b"{}"))
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], APP.upper())
        exposed = answer.headers["Access-Control-Expose-Headers"].lower().split(", ")
        for name in (
            "mcp-session-id",
            "www-authenticate",
            "mcp-protocol-version",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
            "retry-after",
            "x-request-id",
        ):
            self.assertIn(name, exposed)
        self.assertEqual(answer.headers["Vary"], "Origin")

    def test_refusals(self) -> None:
        """Refusals can be read as well, those of the front too."""
        for line in ("GET /nowhere", "POST /health"):
            answer = self.ask(request(line, f"Origin: {APP}"))
            self.assertGreaterEqual(answer.status, 400)
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], APP)

    def test_other_origins(self) -> None:
        """Other origins, none, or several get nothing, and no cache mixes the answers up."""
        for fields in (
            ["Origin: https://evil.example"],
            ["Origin: null"],
            [f"Origin: {APP}.evil.example"],
            [f"Origin: {APP}:444"],
            [f"Origin: {APP}", f"Origin: {APP}"],
            [],
        ):
            answer = self.ask(request("POST /mcp", *fields, body=b"{}"))
            self.assertNotIn("Access-Control-Allow-Origin", answer.headers)
            self.assertEqual(answer.headers["Vary"], "Origin")
        self.ask(preflight(origin="https://evil.example"))
        self.assertEqual(self.listener.corridor.handled[0][0].method, "OPTIONS")

    def test_any_origin(self) -> None:
        """``*`` is said as such, without credentials."""
        rules = CorsSettings(enabled=True, allowed_origins=("*",))
        for data in (preflight(), request("POST /mcp", "Origin: null", body=b"{}")):
            headers = self.ask(data, rules).headers
            self.assertEqual(headers["Access-Control-Allow-Origin"], "*")
            self.assertNotIn("Access-Control-Allow-Credentials", headers)

    def test_spellings(self) -> None:
        """The rules are compared by meaning: a default port or a final slash changes nothing."""
        for written in ("HTTPS://App.Example:443", "https://app.example/"):
            rules = CorsSettings(enabled=True, allowed_origins=(written,))
            answer = self.ask(preflight(), rules)
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], APP)

    def test_screening_comes_first(self) -> None:
        """A preflight to a host that is not served here is refused."""
        listener = Listener(cors=RULES)
        listener.corridor.screening = Refusal(Reason.BAD_HOST)
        self.assertEqual(listener.ask(preflight()).answer("OPTIONS").status, 421)

    def test_options_that_are_no_preflight(self) -> None:
        """OPTIONS without the browser's question is a method like any other."""
        self.ask(request("OPTIONS /mcp", f"Origin: {APP}"))
        self.assertEqual(len(self.listener.corridor.handled), 1)
        answer = self.ask(request("OPTIONS /health", f"Origin: {APP}"))
        self.assertEqual(answer.status, 405)

    def test_disabled(self) -> None:
        """Without rules a preflight is 405, and nothing is said of origins."""
        answer = self.ask(preflight().replace(b"/mcp", b"/health"), None)
        self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD"))
        self.assertNotIn("Access-Control-Allow-Origin", answer.headers)
        self.assertNotIn("Vary", answer.headers)
