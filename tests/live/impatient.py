"""The gateway as it is, but for how often it looks whether certificate files have changed, and how
soon it asks a server again that has changed a moment ago.

A test in which they change several times would mostly wait. How often it looks elsewhere is what
``test_documented_tls`` runs with.
"""

from mcpguard.cli import main
from mcpguard.gateway import client_listeners, outward_tls
from mcpguard.upstream import url_upstream

LOOK_SECS = 0.5
DOUBT_SECS = 4.0

if __name__ == "__main__":
    client_listeners.LOOK_SECS = outward_tls.WATCH_SECS = LOOK_SECS
    url_upstream.DOUBT_SECS = DOUBT_SECS
    main()
