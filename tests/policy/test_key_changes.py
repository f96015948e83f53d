"""Tests of naming what changed between two key sets."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.jwks import KeySet, VerificationKey
from mcpguard.policy.key_changes import changes


def key(kid: str | None, thumbprint: str, alg: str | None = None) -> VerificationKey:
    """A key of which only the name matters."""
    return VerificationKey(kid, "RSA", None, alg, b"", thumbprint)


class ChangesTests(SynchronousTestCase):
    """`changes` tells new, gone and other keys apart."""

    def changed(
        self, before: list[VerificationKey] | None, after: list[VerificationKey] | None
    ) -> tuple[list[str], list[str], list[str]]:
        """Added, removed, replaced."""
        old, new = (None if one is None else KeySet(tuple(one)) for one in (before, after))
        found = changes(old, new, 3, 5)
        return found["added"], found["removed"], found["replaced"]

    def test_first(self) -> None:
        """At first all are new; when they are given up all are gone."""
        self.assertEqual(self.changed(None, [key("a", "1")]), (["a"], [], []))
        self.assertEqual(self.changed([key("a", "1")], None), ([], ["a"], []))
        self.assertEqual(self.changed([key("a", "1")], [key("a", "1")]), ([], [], []))

    def test_rotation(self) -> None:
        """One comes, one goes, one stays."""
        before, after = [key("a", "1"), key("b", "2")], [key("b", "2"), key("c", "3")]
        self.assertEqual(self.changed(before, after), (["c"], ["a"], []))

    def test_old_name(self) -> None:
        """Another key under an old name, also where several have it or its algorithm differs."""
        self.assertEqual(self.changed([key("a", "1")], [key("a", "2")]), ([], [], ["a"]))
        two = [key("a", "1"), key("a", "2")]
        self.assertEqual(self.changed([key("a", "1")], two), ([], [], ["a"]))
        other = [key("a", "1", "RS512")]
        self.assertEqual(self.changed([key("a", "1", "RS256")], other), ([], [], ["a"]))

    def test_no_name(self) -> None:
        """A key without a name is called by its thumbprint."""
        self.assertEqual(self.changed([], [key(None, "t1")]), (["t1"], [], []))

    def test_bounds(self) -> None:
        """Few names, and none of them long."""
        many = [key(f"{index}234567", "1") for index in range(5)]
        added, _, _ = self.changed([], many)
        self.assertEqual(added, ["02345", "12345", "22345", "and 2 more"])
