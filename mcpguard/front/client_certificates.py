"""Which certificate a client has proved to have, from the transport of its connection."""

from typing import Any

from twisted.internet.interfaces import ISSLTransport

from mcpguard.front.relay import Addressed
from mcpguard.policy.certificates import PeerCertificate, Verified, anchor_of, peer_certificate


def certificate_of(transport: Any) -> PeerCertificate | None:
    """The certificate whose chain was verified in the handshake, which must be over.

    None where there is no TLS, or the client has shown none. Raises ValueError for one that
    cannot be read, or whose chain is not known: that is not the same as having none.
    """
    if isinstance(transport, Addressed):
        # TLS is spoken in another process.
        return transport.certificate
    if ISSLTransport(transport, None) is None:
        return None
    connection = transport.getHandle()
    chain = connection.get_verified_chain(as_cryptography=True)
    if chain:
        verified = Verified(transport.listener, anchor_of(chain[-1]), transport.sent_certificates())
        return peer_certificate(chain[0], chain[1:], verified)
    if connection.get_peer_certificate(as_cryptography=True) is not None:
        raise ValueError("a certificate without a verified chain")
    return None
