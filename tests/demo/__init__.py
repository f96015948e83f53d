"""Tests of mcpguard.demo."""
