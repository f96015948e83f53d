"""Tests of base64url."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.base64url import decode, encode


class Base64UrlTests(SynchronousTestCase):
    """One text for each value."""

    @given(st.binary(max_size=64))
    def test_round_trip(self, data: bytes) -> None:
        """What is encoded is read again."""
        self.assertEqual(decode(encode(data)), data)

    def test_examples(self) -> None:
        """RFC 4648's own, without their padding, and the two letters of the URL alphabet."""
        for data, text in ((b"", ""), (b"f", "Zg"), (b"foob", "Zm9vYg"), (b"\xfb\xff", "-_8")):
            self.assertEqual((encode(data), decode(text)), (text, data))

    def test_refused(self) -> None:
        """Padding, the other alphabet, blanks, bits that are left over and odd lengths."""
        for text in ("Zg==", "Zg=", "+/8", "Zm 9v", "Zm9v\n", "Zh", "Zm9", "Z", "Zm9vY", "Zé", "="):
            with self.assertRaises(ValueError, msg=text):
                decode(text)

    @given(st.text("AZaz09-_+/= é\n", max_size=12))
    def test_canonical(self, text: str) -> None:
        """What is read at all is what would be written."""
        try:
            data = decode(text)
        except ValueError:
            return
        self.assertEqual(encode(data), text)
