"""The server side: links to MCP servers over stdio and HTTP."""
