"""The operator listener's gate."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import AdminSettings
from mcpguard.errors import Reason, Refusal
from mcpguard.front.exchange import Incoming
from mcpguard.gateway.operator_gate import OperatorGate
from mcpguard.pipeline.trip import Books, Clocks
from tests.pipeline.rig import MemoryMeter, MemoryOutlet, MemoryTrail


def asking(path: str, **headers: str) -> Incoming:
    """A GET of the operator listener."""
    return Incoming(
        request_id="r",
        method="GET",
        path=path,
        query="",
        headers={name: (value,) for name, value in headers.items()},
        body=b"",
        peer="127.0.0.1",
        received_at=0.0,
    )


class OperatorGateTests(SynchronousTestCase):
    """Who may look at metrics and routes."""

    def setUp(self) -> None:
        """A gate bound to loopback."""
        self.trail, self.meter = MemoryTrail(), MemoryMeter()
        clocks = Clocks(lambda: 1.0, lambda: 2.0, lambda: "e")
        self.gate = OperatorGate(Books(self.trail, self.meter, clocks, 403), AdminSettings())

    def test_own_names_pass(self) -> None:
        """The loopback names are served."""
        self.assertIsNone(self.gate.screen(asking("/metrics", host="localhost:9090")))

    def test_foreign_host_and_origin(self) -> None:
        """A page that rebinds its name, or sends its origin, is refused."""
        rebound = self.gate.screen(asking("/metrics", host="evil.example"))
        foreign = self.gate.screen(
            asking("/metrics", host="localhost", origin="https://evil.example")
        )
        self.assertEqual(rebound and rebound.reason, Reason.BAD_HOST)
        self.assertEqual(foreign and foreign.reason, Reason.BAD_ORIGIN)

    def test_probes_by_address(self) -> None:
        """Kubernetes probes by address, so probes pass whatever their Host."""
        self.assertIsNone(self.gate.screen(asking("/ready", host="10.1.2.3:9090")))

    def test_refusals_are_recorded(self) -> None:
        """A refusal is answered, counted and written down."""
        outlet = MemoryOutlet()
        self.gate.refuse(asking("/x"), Refusal(Reason.NOT_FOUND), outlet)
        self.assertEqual(outlet.status, 404)
        self.assertEqual([event.reason for event in self.trail.outcomes], ["not_found"])
        self.assertEqual(self.meter.requests, [("other", 404)])
