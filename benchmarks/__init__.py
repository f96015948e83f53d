"""The load harness: `make bench`, or `python -m benchmarks --help`."""
