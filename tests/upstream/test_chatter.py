"""What children write besides the protocol, before it reaches the log."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.buckets import Rate
from mcpguard.upstream.chatter import Chatter, cleaner, margin_for


class SecretsTests(SynchronousTestCase):
    """The values a child was given do not come back in the log."""

    def said(self, text: bytes, *secrets: str) -> str:
        """What the log gets, in one string."""
        lines: list[str] = []
        chatter = Chatter(
            lines.append, cleaner(secrets), 2048, Rate(1, 100), margin=margin_for(secrets)
        )
        chatter.feed(text, 0.0)
        chatter.end(0.0)
        return "\n".join(lines)

    def test_one_line(self) -> None:
        """A value is replaced, the longest first; short ones are no secrets."""
        self.assertEqual(
            self.said(b"a hunter2-extra b hunter2 c 1\n", "hunter2", "hunter2-extra", "1"),
            "a [REDACTED] b [REDACTED] c 1",
        )

    def test_value_of_several_lines(self) -> None:
        """A key in several lines is printed in several lines, and each of them is secret."""
        lines = ["first-half-of-it", "second-half-of-it"]
        for end in ("\n", "\r\n"):
            said = self.said("\n".join(lines).encode() + b"\nplain\n", end.join(lines) + end)
            self.assertEqual(said, "[REDACTED]\n[REDACTED]\nplain")

    def test_value_longer_than_what_is_looked_at(self) -> None:
        """Of a value that does not fit into what is kept of a line, no part is shown."""
        secret = "".join(f"<{number}>" for number in range(2000))
        for before in (0, 100, 2000):
            said = self.said(b"x" * before + secret.encode() + b"\n", secret)
            self.assertNotIn("<0>", said)
            self.assertLessEqual(len(said), 2049)

    def test_cut_value_behind_replaced_ones(self) -> None:
        """Replacing shortens a line; what was cut in half at its end must not move into view."""
        secret = "s3cret-" + "z" * 993
        said = self.said((secret + " ").encode() * 10 + b"\n", secret)
        self.assertNotIn("s3cret", said)
