"""Tests with real sockets, processes and SDKs."""
