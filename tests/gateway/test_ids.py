"""Tests of `mcpguard.gateway.ids`."""

import uuid

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.gateway.ids import RandomIds


class RandomIdsTests(SynchronousTestCase):
    """`RandomIds`: UUIDs of version 4."""

    def test_form(self) -> None:
        """Each is what the library takes for a UUID of version 4 and writes in the same way."""
        new_id = RandomIds()
        for _ in range(1000):
            text = new_id()
            parsed = uuid.UUID(text)
            self.assertEqual(str(parsed), text)
            self.assertEqual((parsed.version, parsed.variant), (4, uuid.RFC_4122))

    def test_random(self) -> None:
        """No two are equal, also of two sources, and every free bit takes both values."""
        one, other = RandomIds(), RandomIds()
        found = [uuid.UUID(source()).int for _ in range(1000) for source in (one, other)]
        self.assertEqual(len(set(found)), 2000)
        ever, always = 0, -1
        for number in found:
            ever |= number
            always &= number
        self.assertEqual((ever ^ always).bit_count(), 122)
