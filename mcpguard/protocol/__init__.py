"""Pure wire formats of MCP: JSON-RPC, headers, Server-Sent Events, line framing."""
