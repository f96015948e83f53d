"""The schema of TLS: that of the listeners, and that of servers behind a URL."""

from mcpguard.config import grammar, pem_files, rules
from mcpguard.config.kinds import Choice, Text
from mcpguard.config.settings import ClientTlsSettings, ListenerSettings, TlsSettings
from mcpguard.config.shapes import BIND, PORT, PemPath
from mcpguard.config.tables import Table

PEM = PemPath()

PUBLIC_URL = Text(
    "an absolute URL such as https://mcp.example.com, without query", grammar.public_url
)

TLS = Table(
    TlsSettings,
    {
        "cert_path": PEM,
        "key_path": PEM,
        "client_ca_path": PEM,
        "client_crl_path": PEM,
        "client_auth": Choice(("required", "optional")),
        "min_version": Choice(("1.2", "1.3")),
    },
    required=("cert_path", "key_path"),
    rules=(rules.client_certificates, pem_files.listener),
)

LISTENER = Table(
    ListenerSettings,
    {"port": PORT, "host": BIND, "public_url": PUBLIC_URL, "tls": TLS},
    required=("port",),
)

CLIENT_TLS = Table(
    ClientTlsSettings,
    {
        "ca_path": PEM,
        "cert_path": PEM,
        "key_path": PEM,
        "server_name": Text("a host name", grammar.server_name),
    },
    rules=(rules.own_certificate, pem_files.server_known_by),
)
