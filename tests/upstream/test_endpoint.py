"""Tests of where an HTTP+SSE server may have its messages posted."""

from urllib.parse import urlsplit

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.upstream.endpoint import endpoint_url
from mcpguard.upstream.target import Target

MAX = 64
BASE = "http://h:8000/a/sse?key=hush"
TRICKS = (
    *("//evil", "//evil/m", "///evil", "////evil", "//", "/\\evil", "\\\\evil", "\\/evil"),
    *("http://evil/m", "http://h/m", "http://h:80/m", "http://h:8001/m", "https://h:8000/m"),
    *("http://h@evil/m", "http://evil@h:8000/m", "http://h:8000@evil/m", "http://:x@h:8000/"),
    *("http://h:8000\\@evil/", "http://h:8000.evil/m", "http://h:8000%2f@evil/", "http://h%2e/m"),
    *("http://h./m", "http://h:08000x/", "http://h:99999/m", "http://h:/m", "http://[::1/m"),
    *("http:evil", "http:/evil", "http:///evil", "http:////evil", "https:/evil", "HTTP:evil"),
    *("ftp://h:8000/m", "file:///etc/passwd", "javascript:x", "data:,x", "gopher://h:8000/"),
    *(
        "/m\r\nX-Evil: 1",
        "/m\nx",
        "/m\rx",
        "/m\tx",
        "/m\0x",
        " /m",
        "/m ",
        "/m x",
        "/é",
        "\ufeff/m",
    ),
    *("/m#evil", "#evil", "http://h:8000/m#x", "", "/.//evil", "http://h:8000//evil"),
    *("http://h\t:8000/m", "ht\ntp://evil/", "\thttp://evil/", "/m<x>", '/m"x', "/m{x}", "/m|x"),
)


class EndpointTests(SynchronousTestCase):
    """`endpoint_url`."""

    def url(self, reference: str, base: str = BASE, max_bytes: int = MAX) -> str:
        """Resolve it."""
        return endpoint_url(Target.parse(base), base, reference, max_bytes)

    def test_as_servers_send_it(self) -> None:
        """Absolute paths (every SDK), relative ones, a query alone, whole URLs of the origin."""
        for reference, expected in (
            ("/messages/?session_id=0f", "http://h:8000/messages/?session_id=0f"),
            ("/message?sessionId=0f-1", "http://h:8000/message?sessionId=0f-1"),
            ("messages?x", "http://h:8000/a/messages?x"),
            ("../m", "http://h:8000/m"),
            ("../../../m", "http://h:8000/m"),
            ("?s=1", "http://h:8000/a/sse?s=1"),
            ("//h:8000/m", "http://h:8000/m"),
            ("http://h:8000/m?s=1", "http://h:8000/m?s=1"),
            ("HTTP://H:8000/m", "http://h:8000/m"),
            ("/m?next=http://evil/", "http://h:8000/m?next=http://evil/"),
            ("/a%2f..%2fb", "http://h:8000/a%2f..%2fb"),
        ):
            self.assertEqual(self.url(reference), expected)

    def test_default_ports(self) -> None:
        """A port that the scheme implies may be written or not."""
        self.assertEqual(self.url("https://h:443/m", "https://h/sse"), "https://h/m")
        self.assertEqual(self.url("http://h/m", "http://h:80/sse"), "http://h/m")
        self.assertEqual(self.url("http://[0::1]:9/m", "http://[::1]:9/"), "http://[::1]:9/m")

    def test_other_names_of_the_host(self) -> None:
        """A host under another name is another origin, as it is to the SDKs' clients."""
        for reference in ("http://localhost:9/m", "http://127.1:9/m", "http://2130706433:9/m"):
            self.assertRaises(ValueError, self.url, reference, "http://127.0.0.1:9/sse")

    def test_tricks(self) -> None:
        """Nothing that some parser might read as another place is accepted."""
        for reference in TRICKS:
            with self.assertRaises(ValueError, msg=repr(reference)):
                self.url(reference)

    def test_origin_is_named_and_nothing_else(self) -> None:
        """The log tells the operator the foreign origin, but no secret of a session."""
        error = self.assertRaises(ValueError, self.url, "http://evil:1/m?session=hush")
        self.assertIn("http://evil:1,", str(error))
        self.assertIn("http://h:8000", str(error))
        for reference in ("http://evil:1/m?session=hush", "http://h:hush/", "hush:x", "/hush x"):
            error = self.assertRaises(ValueError, self.url, reference)
            self.assertNotIn("hush", str(error))

    def test_length(self) -> None:
        """The bound is reached and not passed."""
        self.url("/" + "x" * (MAX - 1))
        error = self.assertRaises(ValueError, self.url, "/" + "x" * MAX)
        self.assertIn("too long", str(error))

    @given(
        st.one_of(
            st.text(max_size=40),
            st.text(alphabet="/\\:@?#.%h8-0evil[]\t\r\n", max_size=24),
            st.builds("{}{}{}".format, *[st.sampled_from(TRICKS)] * 3),
        )
    )
    @example("//h:8000//evil")
    @settings(deadline=None, max_examples=150)
    def test_never_elsewhere(self, reference: str) -> None:
        """Whatever a server says, messages go to the configured origin or nowhere."""
        try:
            found = endpoint_url(Target.parse(BASE), BASE, reference, 4096)
        except ValueError:
            return
        parts = urlsplit(found)
        self.assertEqual((parts.scheme, parts.netloc), ("http", "h:8000"))
        self.assertTrue(found.startswith("http://h:8000/") and found.isascii())
        self.assertTrue(found.isprintable() and not set(found) & set(" \\#"))
        self.assertFalse(parts.path.startswith("//"))
