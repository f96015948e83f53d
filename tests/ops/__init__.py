"""Tests of running the gateway."""
