"""Tests of who was seen lately."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.gateway.active_identities import ActiveIdentities
from mcpguard.policy.principal import Principal
from tests.pipeline.rig import api_key


class ActiveIdentitiesTests(SynchronousTestCase):
    """The gauge of identities seen lately."""

    def test_window_and_bound(self) -> None:
        """Those of the last window are counted, each once, and never more than the bound."""
        now = [0.0]
        seen = ActiveIdentities(lambda: now[0], window=10.0, max_tracked=3)
        alice = Principal(id=api_key("alice").id, provider="api_key", name="alice")
        seen.note(alice)
        seen.note(alice)
        self.assertEqual(len(seen.keys()), 1)
        for number in range(9):
            seen.note(Principal(id=str(number), provider="api_key", name="x"))
        self.assertEqual(len(seen.keys()), 3)
        now[0] = 11.0
        self.assertEqual(len(seen.keys()), 0)
