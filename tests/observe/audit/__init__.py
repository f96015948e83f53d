"""Tests of `mcpguard.observe.audit`."""
