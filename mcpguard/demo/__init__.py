"""The bundled demo MCP server, so that every feature can be tried with nothing else installed."""
