"""The gateway's own TLS before a site in the process of the tests."""

import ssl
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor

from mcpguard.config.settings import TlsSettings
from mcpguard.front.site import GuardSite
from mcpguard.tls.handshake import Doorkeeping, Ended, GuardTlsFactory
from mcpguard.tls.material import MaterialBounds
from mcpguard.tls.server import ServerTls
from tests.pki import Authority

reactor: Any = global_reactor


class Secure:
    """Certificates in a directory; whoever has one of ours may show it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.servers, self.clients = Authority("Servers"), Authority("Clients")
        certificate, key = self.servers.server().write(directory, "server")
        ca = directory / "clients.crt"
        ca.write_bytes(self.clients.pem)
        self.settings = TlsSettings(certificate, key, client_ca_path=ca, client_auth="optional")
        self.ended: list[Ended] = []

    def factory(self, site: GuardSite) -> GuardTlsFactory:
        """What a port is to be opened with."""
        tls = ServerTls(
            listener="test",
            where="server.tls",
            settings=self.settings,
            clock=reactor,
            wall=time.time,
            bounds=MaterialBounds(pem_bytes=100_000, crl_bytes=100_000),
            every_secs=2.0,
            retry_secs=60.0,
            strict=True,
            on_rotation=lambda rotation: None,
        )
        keeping = Doorkeeping(
            peer_of=lambda transport: str(transport.getPeer().host),
            admits=lambda peer: "",
            on_ended=self.ended.append,
            handshake_secs=site.limits.head_secs,
            handshake_bytes=site.limits.header_bytes,
        )
        return GuardTlsFactory(tls, site, reactor, keeping)

    def context(self, name: str | None = None) -> ssl.SSLContext:
        """A client's, with a certificate by that name."""
        context = ssl.create_default_context(cadata=self.servers.pem.decode())
        context.check_hostname = False
        if name is not None:
            context.load_cert_chain(*self.clients.issue(name).write(self.directory, name))
        return context
