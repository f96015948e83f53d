"""Tests of `mcpguard.tls`."""
