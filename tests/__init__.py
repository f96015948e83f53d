"""Tests of mcpguard."""

import os
from pathlib import Path

# What Hypothesis has found out, examples that failed among it, outlives a run: without this each
# of trial's workers begins anew in a directory of its own, which takes seconds.
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", str(Path(__file__).resolve().parents[1] / ".hypothesis")
)
