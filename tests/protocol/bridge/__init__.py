"""Tests of `mcpguard.protocol.bridge`."""
