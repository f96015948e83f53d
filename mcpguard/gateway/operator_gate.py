"""What the operator listener needs of the corridor: screening and recorded refusals, no MCP."""

from attrs import define, field

from mcpguard.config.settings import AdminSettings, ServerSettings
from mcpguard.errors import Reason, Refusal
from mcpguard.front.exchange import Incoming, Outlet
from mcpguard.pipeline.trip import Books, Trip
from mcpguard.policy.origins import OriginRules, build_rules, check_host, check_origin

_PROBES = frozenset({"/health", "/live", "/ready"})


@define(eq=False)
class OperatorGate:
    """The Host and Origin rules of ``[admin]``. Implements `front.exchange.Gate`."""

    books: Books
    settings: AdminSettings
    _rules: OriginRules = field(init=False)

    def __attrs_post_init__(self) -> None:
        as_server = ServerSettings(host=self.settings.host, port=self.settings.port)
        self._rules = build_rules(as_server, self.settings.port)

    def screen(self, incoming: Incoming) -> Refusal | None:
        """Refuse foreign hosts and origins: a page must not read metrics by DNS rebinding."""
        hosts = incoming.headers.get("host", ())
        if incoming.path not in _PROBES and not check_host(hosts, self._rules):
            return Refusal(Reason.BAD_HOST)
        if not check_origin(incoming.headers.get("origin", ()), hosts, self._rules):
            return Refusal(Reason.BAD_ORIGIN)
        return None

    def refuse(self, incoming: Incoming, refusal: Refusal, outlet: Outlet) -> None:
        """Record and answer a refusal."""
        Trip(self.books, incoming, outlet).refuse(refusal)
