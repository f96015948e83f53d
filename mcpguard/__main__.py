"""``python -m mcpguard``: the same as the ``mcp-guard`` command."""

from mcpguard.cli import main

main(prog_name="mcp-guard")
