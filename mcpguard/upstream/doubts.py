"""When what is known of a server's eras proves wrong: whether to ask it again."""

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mcpguard.config.settings import EraChoice
from mcpguard.errors import Reason
from mcpguard.upstream.link import UpstreamFailure

log = Logger()


@define(eq=False)
class Doubts:
    """The doubts about one server; `raised` says what follows from each.

    A server can make the gateway doubt with every answer, so it is asked again only so often.
    """

    name: str
    choice: EraChoice
    """What the configuration says it speaks; nothing is asked unless that is ``auto``."""
    clock: IReactorTime
    least_secs: float
    """Between two doubts that have consequences."""
    retry_secs: float
    """How long clients are asked to wait for what comes of it."""
    _last: float = field(init=False, default=float("-inf"))

    def raised(self, detail: str) -> tuple[bool, UpstreamFailure]:
        """Whether to ask the server again, and what whoever came upon it is told."""
        now = self.clock.seconds()
        wait = self._last + self.least_secs - now
        if wait <= 0:
            self._last = now
        if self.choice != "auto":
            if wait <= 0:
                log.error(
                    "upstream {name}: {detail}, yet era = {era} is configured",
                    name=self.name,
                    detail=detail,
                    era=self.choice,
                )
            words = f"{detail}, yet era = {self.choice}"
            return False, UpstreamFailure(Reason.UPSTREAM_FAILED, words)
        if wait <= 0:
            log.warn("upstream {name}: {detail}, asking again", name=self.name, detail=detail)
        retry = self.retry_secs if wait <= 0 else max(wait, self.retry_secs)
        return wait <= 0, UpstreamFailure(Reason.UPSTREAM_CHANGED, detail, retry)
