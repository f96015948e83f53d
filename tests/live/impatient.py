"""The gateway as it is, but for how often it looks whether certificate files have changed.

A test that changes them several times would mostly wait. How often it looks elsewhere is what
``test_documented_tls`` runs with.
"""

from mcpguard.cli import main
from mcpguard.gateway import client_listeners, outward_tls

LOOK_SECS = 0.5

if __name__ == "__main__":
    client_listeners.LOOK_SECS = outward_tls.WATCH_SECS = LOOK_SECS
    main()
