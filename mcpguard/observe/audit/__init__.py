"""The audit trail: one JSON line per event, in a file and on standard output."""
