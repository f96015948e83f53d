"""What has changed between two key sets of an issuer, named for the audit trail."""

from collections.abc import Collection

from mcpguard.policy.jwks import KeySet


def changes(
    before: KeySet | None, after: KeySet | None, max_names: int, max_chars: int
) -> dict[str, list[str]]:
    """Name the keys that are ``added``, ``removed``, or ``replaced``: another key, or one for
    another algorithm, under an old name.

    A key without a ``kid`` is named by its thumbprint (RFC 7638). Of each kind ``max_names`` are
    named, in at most ``max_chars`` characters, and how many there are more.
    """
    old, new = _by_name(before), _by_name(after)
    kept = old.keys() & new
    found = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "replaced": {name for name in kept if old[name] != new[name]},
    }
    return {kind: _named(names, max_names, max_chars) for kind, names in found.items()}


def _by_name(keys: KeySet | None) -> dict[str, set[tuple[str | None, str]]]:
    found: dict[str, set[tuple[str | None, str]]] = {}
    for key in () if keys is None else keys.keys:
        found.setdefault(key.kid or key.thumbprint, set()).add((key.alg, key.thumbprint))
    return found


def _named(names: Collection[str], max_names: int, max_chars: int) -> list[str]:
    shown = [name[:max_chars] for name in sorted(names)[:max_names]]
    more = len(names) - len(shown)
    return [*shown, f"and {more} more"] if more else shown
