"""The memory that requests under way take up, whether or not their clients still wait."""

from attrs import define, field, frozen


@frozen
class RequestBytes:
    """How many bytes of bodies may be under way; one request alone is never too much."""

    per_principal: int
    total: int


@define(eq=False)
class AcceptedBytes:
    """The bodies of requests that have no outcome yet.

    The front counts a body until its POST is answered or its sender has left. But a request of
    HTTP+SSE is answered elsewhere, and one of the handshake eras runs on when its client leaves.
    """

    bounds: RequestBytes
    total: int = field(init=False, default=0)
    _own: dict[str, int] = field(init=False, factory=dict)

    def take(self, principal_key: str, size: int) -> bool:
        """Hold so many bytes more; False, and nothing changes, when they do not fit."""
        own = self._own.get(principal_key, 0)
        if own and own + size > self.bounds.per_principal:
            return False
        if self.total and self.total + size > self.bounds.total:
            return False
        self._own[principal_key] = own + size
        self.total += size
        return True

    def give(self, principal_key: str, size: int) -> None:
        """Hold so many no more."""
        self.total -= size
        left = self._own[principal_key] - size
        if left:
            self._own[principal_key] = left
        else:
            del self._own[principal_key]
