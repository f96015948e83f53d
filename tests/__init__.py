"""Tests of mcpguard."""
