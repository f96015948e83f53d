"""The gateway with its listener wrapped in TLS 1.3: its own `GuardSite`, nothing else changed.

    python tls_gateway.py --config FILE --certificate PEM --key PEM

Prints its URL and ``Ready`` once it listens, on a free port.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.ssl import CertificateOptions, PrivateCertificate, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOFactory

from mcpguard.config.load import load, with_listener
from mcpguard.foreground import begin_logging, run_service
from mcpguard.gateway import Gateway


def context_factory(certificate: Path, key: Path) -> CertificateOptions:
    """TLS 1.3 with one certificate."""
    pair = PrivateCertificate.loadPEM(certificate.read_bytes() + key.read_bytes())
    return CertificateOptions(
        privateKey=pair.privateKey.original,
        certificate=pair.original,
        raiseMinimumTo=TLSVersion.TLSv1_3,
    )


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("--config", "--certificate", "--key"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    reactor: Any = installed
    context = context_factory(options.certificate, options.key)
    listen = reactor.listenTCP

    def listen_wrapped(port: int, factory: Any, **more: Any) -> Any:
        return listen(port, TLSMemoryBIOFactory(context, False, factory), **more)

    reactor.listenTCP = listen_wrapped
    loaded = with_listener(load(options.config, environ=os.environ), None, 0)
    begin_logging(sys.stderr, 0)
    problem = run_service(
        Gateway(loaded.settings, reactor),
        reactor,
        lambda url: print(f"{url.replace('http:', 'https:')} Ready", flush=True),
        lambda text: None,
    )
    sys.exit(problem)


if __name__ == "__main__":
    main()
