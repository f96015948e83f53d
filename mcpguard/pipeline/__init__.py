"""The corridor: the one place that holds the order of a request's steps (docs/architecture.md)."""
