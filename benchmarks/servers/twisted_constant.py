"""The yardstick: what Twisted's own web server gives for a constant answer.

    python twisted_constant.py [--tuned]

``--tuned`` leaves out the parsing of form bodies, which runs every POST's Content-Type through the
standard library's email package. Prints ``listening on PORT``.
"""

import argparse
from typing import Any

from twisted.internet import reactor as installed
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

TEXT = (
    b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"constant"}],'
    b'"isError":false}}'
)


class Constant(Resource):
    """One resource for every path."""

    isLeaf = True

    def render_POST(self, request: Request) -> bytes:
        """Answer without looking at what was asked."""
        request.setHeader(b"content-type", b"application/json")
        return TEXT


class QuietSite(Site):
    """A site without an access log: nothing else here writes one a request either."""

    def startFactory(self) -> None:
        """Open no log."""

    def log(self, request: object) -> None:
        """Write none."""


def main() -> None:
    """Serve on loopback until a signal ends the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tuned", action="store_true")
    options = parser.parse_args()
    more = {"parsePOSTFormSubmission": False} if options.tuned else {}
    site = QuietSite(Constant(), **more)
    reactor: Any = installed
    port = reactor.listenTCP(0, site, backlog=1024, interface="127.0.0.1")
    print(f"listening on {port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
