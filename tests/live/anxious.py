"""The gateway as it is, but for how often it looks whether its workers are well.

It would be three quarters of a minute until one that hangs is killed. A worker that is well has
seconds to answer all the same, and three times in a row.
"""

from attrs import evolve

from mcpguard.cli import main
from mcpguard.gateway import parent

if __name__ == "__main__":
    parent.PROCESS_BOUNDS = evolve(parent.PROCESS_BOUNDS, ping_secs=0.2, pong_secs=3.0)
    main()
