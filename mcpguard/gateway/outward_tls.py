"""TLS towards the servers behind the gateway and the issuer of tokens, of one process."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.web.iweb import IPolicyForHTTPS

from mcpguard.config.settings import ClientTlsSettings, JwtSettings, UpstreamSettings
from mcpguard.observe.events import Meter, Recorder

if TYPE_CHECKING:
    from mcpguard.tls.client import ClientPolicy

EXPIRY = "mcp_guard_certificate_expiry_timestamp_seconds"
WATCH_SECS = 2.0
"""Between two looks at the files."""


@define(eq=False)
class OutwardTls:
    """Whom this process trusts and what it shows, for each https server it speaks to."""

    reactor: Any
    recorder: Recorder
    meter: Meter
    wall: Callable[[], float] = time.time
    _policies: dict[str, "ClientPolicy"] = field(init=False, factory=dict)
    """By the word for it in metrics: that of the configuration."""
    _platform: "ClientPolicy | None" = field(init=False, default=None)
    """Shared by all that have no files of their own: a list of authorities is some MiB."""

    def upstream(self, settings: UpstreamSettings) -> IPolicyForHTTPS | None:
        """The policy for a server, None when its URL is none of https.

        Raises `ConfigurationError` for files that cannot be used.
        """
        if not (settings.url or "").lower().startswith("https://"):
            return None
        single = settings.name == UpstreamSettings().name
        prefix = "upstream.tls." if single else f'upstream.servers "{settings.name}".tls.'
        return self._policy(
            settings.tls or ClientTlsSettings(),
            f"upstream:{settings.name}",
            prefix,
            settings.name,
        )

    def key_set(self, settings: JwtSettings) -> IPolicyForHTTPS:
        """The policy for where an issuer publishes its keys; raises as `upstream`."""
        tls = ClientTlsSettings(ca_path=settings.jwks_ca_path)
        return self._policy(tls, "jwks", "auth.jwt.jwks_", None)

    def start(self) -> None:
        """Watch the files from now on."""
        for policy in self._policies.values():
            policy.start()

    def stop(self) -> None:
        """Watch them no more."""
        for policy in self._policies.values():
            policy.stop()

    def ends(self) -> dict[tuple[str, ...], float]:
        """When certificates end, in Unix seconds, by whose they are and their kind."""
        return {
            (name, kind): end
            for name, policy in self._policies.items()
            for kind, end in policy.ends.items()
        }

    def _policy(
        self, tls: ClientTlsSettings, name: str, prefix: str, server: str | None
    ) -> "ClientPolicy":
        if tls == ClientTlsSettings():
            if self._platform is None:
                self._platform = self._made(tls, "platform", prefix, None)
            return self._platform
        policy = self._policies[name] = self._made(tls, name, prefix, server)
        return policy

    def _made(
        self, tls: ClientTlsSettings, name: str, prefix: str, server: str | None
    ) -> "ClientPolicy":
        # Imported here: OpenSSL and what reads certificates are some MiB.
        from mcpguard.policy.certificates import MAX_PEM_BYTES
        from mcpguard.tls.client import ClientBounds, ClientPolicy

        return ClientPolicy(
            tls,
            name=name,
            server=server,
            prefix=prefix,
            clock=self.reactor,
            wall=self.wall,
            recorder=self.recorder,
            meter=self.meter,
            bounds=ClientBounds(pem_bytes=MAX_PEM_BYTES, watch_secs=WATCH_SECS),
        )
