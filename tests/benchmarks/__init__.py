"""Tests of the load harness: what it makes of results, not how fast anything is."""
