"""Tests of `mcpguard.pipeline.bridge`."""
