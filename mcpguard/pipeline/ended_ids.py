"""Which sessions have ended, though their ids could still be read."""

from collections import OrderedDict
from hashlib import sha256

from attrs import define, field


@define(eq=False)
class EndedIds:
    """The latest ended ids as digests, bounded in all and for each principal.

    Without a bound for each, a principal that opens and closes sessions could make the gateway
    forget how those of all others have ended.
    """

    total: int
    per_principal: int
    _owners: OrderedDict[bytes, str] = field(init=False, factory=OrderedDict)
    """The principal of each, in order of their ends."""
    _own: dict[str, OrderedDict[bytes, None]] = field(init=False, factory=dict)

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, session_id: object) -> bool:
        return isinstance(session_id, str) and _digest(session_id) in self._owners

    def add(self, session_id: str, principal_key: str) -> None:
        """Remember one, and forget the oldest of this principal, or of all, where too many are."""
        digest = _digest(session_id)
        if digest in self._owners:
            return
        own = self._own.setdefault(principal_key, OrderedDict())
        if len(own) >= self.per_principal:
            self._forget(next(iter(own)))
        elif len(self._owners) >= self.total:
            self._forget(next(iter(self._owners)))
        self._owners[digest] = principal_key
        self._own.setdefault(principal_key, own)[digest] = None

    def _forget(self, digest: bytes) -> None:
        principal_key = self._owners.pop(digest)
        own = self._own[principal_key]
        del own[digest]
        if not own:
            del self._own[principal_key]


def _digest(session_id: str) -> bytes:
    return sha256(session_id.encode()).digest()[:16]
