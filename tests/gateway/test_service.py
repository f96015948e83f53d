"""The gateway as a service, on a reactor in memory."""

from pathlib import Path

from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import (
    AdminSettings,
    AuditSettings,
    ServerSettings,
    Settings,
    UpstreamSettings,
)
from mcpguard.errors import ConfigurationError
from mcpguard.gateway.service import Gateway

HTTP = UpstreamSettings(transport="http", url="http://127.0.0.1:9/mcp", era="legacy")


class BusyReactor(MemoryReactorClock):
    """A reactor on which every address is taken."""

    def listenTCP(self, *args: object, **kwargs: object) -> object:
        """Refuse."""
        raise CannotListenError("127.0.0.1", 3000, OSError("in use"))


class ServiceTests(SynchronousTestCase):
    """Start and stop."""

    def gateway(self, **parts: object) -> Gateway:
        """A gateway before one HTTP server."""
        self.reactor = MemoryReactorClock()
        settings = Settings(upstreams=(HTTP,), audit=AuditSettings(enabled=False))
        for name, value in parts.items():
            object.__setattr__(settings, name, value)
        gateway = Gateway(settings, self.reactor)
        self.addCleanup(self.end, gateway)
        return gateway

    def end(self, gateway: Gateway) -> None:
        """Let a gateway that a test has started give back the process-wide log bridge."""
        if gateway.running:
            gateway.stopService()
        self.reactor.pump([0.0] * 3)

    def stop(self, gateway: Gateway) -> None:
        """Stop it; closing connections takes a turn of the reactor."""
        stopping = gateway.stopService()
        self.reactor.pump([0.0] * 3)
        self.successResultOf(stopping)

    def test_listens_where_it_is_told(self) -> None:
        """The client listener and, when configured, the operator listener are bound."""
        gateway = self.gateway(
            server=ServerSettings(host="127.0.0.1", port=3100), admin=AdminSettings(port=9100)
        )
        gateway.privilegedStartService()
        gateway.startService()
        bound = [(server[3], server[0]) for server in self.reactor.tcpServers]
        self.assertEqual(bound, [("127.0.0.1", 3100), ("127.0.0.1", 9100)])
        self.successResultOf(gateway.started)
        self.stop(gateway)

    def test_address_taken_under_twistd(self) -> None:
        """Twistd sees the error while it starts, and ends with status 1."""
        gateway = Gateway(Settings(upstreams=(HTTP,)), BusyReactor())
        self.assertRaises(CannotListenError, gateway.privilegedStartService)

    def test_address_taken_in_the_foreground(self) -> None:
        """`mcp-guard run` hears of it through `started`."""
        gateway = Gateway(Settings(upstreams=(HTTP,)), BusyReactor())
        gateway.startService()
        self.failureResultOf(gateway.started, CannotListenError)

    def test_audit_file_that_cannot_be_written(self) -> None:
        """A gateway that could not keep its evidence does not start."""
        file = Path(self.mktemp()).absolute() / "missing" / "audit.log"
        gateway = self.gateway(audit=AuditSettings(file=file))
        self.assertRaises(ConfigurationError, gateway.privilegedStartService)
        self.assertEqual(self.reactor.tcpServers, [])

    def test_readiness(self) -> None:
        """Not ready while a server cannot be used, nor while it stops; the reason is said."""
        gateway = self.gateway(auth=Settings().auth)
        gateway.startService()
        ready, reason = gateway.readiness()
        self.assertEqual((ready, reason.startswith("upstream default: ")), (False, True))
        gateway.stopService()
        self.assertEqual(gateway.readiness(), (False, "draining"))

    def test_nobody_can_sign_in(self) -> None:
        """Without authentication it starts, says so, and lets nobody in."""
        gateway = self.gateway()
        gateway.startService()
        self.assertEqual(gateway.settings.auth.api_keys, ())
        self.successResultOf(gateway.started)
        self.stop(gateway)

    def test_stop_without_start(self) -> None:
        """Stopping a gateway that never started is no error."""
        self.stop(self.gateway())
