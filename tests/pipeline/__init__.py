"""Tests of the corridor."""
