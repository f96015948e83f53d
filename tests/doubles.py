"""Doubles that more than one room's tests use."""

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from mcpguard.errors import Refusal, Refused
from mcpguard.front.exchange import Incoming, Outlet
from mcpguard.policy.principal import Principal


@define(slots=False)
class RecordingCorridor:
    """A corridor that answers ``ok``, unless told to hold, and keeps what it was given."""

    hold: bool = False
    """Leave requests unanswered; the test answers by the outlets in `handled`."""
    screening: Refusal | None = None
    """What `screen` says."""
    credentials: Principal | Refusal | Deferred[Principal] | None = None
    """What `authenticate` says; None never answers."""
    handled: list[tuple[Incoming, Outlet]] = field(factory=list)
    refused: list[tuple[Incoming, Refusal]] = field(factory=list)
    screened: list[Incoming] = field(factory=list)

    def handle(self, incoming: Incoming, outlet: Outlet) -> None:
        """Keep the request, and answer it unless on hold."""
        self.handled.append((incoming, outlet))
        if not self.hold:
            outlet.answer(200, (("Content-Type", "text/plain"),), b"ok")

    def screen(self, incoming: Incoming) -> Refusal | None:
        """Say what was prepared."""
        self.screened.append(incoming)
        return self.screening

    def authenticate(self, incoming: Incoming) -> Deferred[Principal]:
        """Say what was prepared."""
        if isinstance(self.credentials, Principal):
            return succeed(self.credentials)
        if isinstance(self.credentials, Refusal):
            return fail(Refused(self.credentials))
        return Deferred() if self.credentials is None else self.credentials

    def refuse(self, incoming: Incoming, refusal: Refusal, outlet: Outlet) -> None:
        """Keep the refusal and answer with its status and reason."""
        self.refused.append((incoming, refusal))
        outlet.answer(refusal.shape.status, refusal.headers, refusal.reason.value.encode())
