"""Audit, metrics and logs: told of everything, deciding nothing."""
