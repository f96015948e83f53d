"""Tests of mcpguard."""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

# What Hypothesis has found out, examples that failed among it, outlives a run: without this each
# of trial's workers begins anew in a directory of its own, which takes seconds.
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", str(Path(__file__).resolve().parents[1] / ".hypothesis")
)

# How fast the machine is that runs the tests is not what is tested.
settings.register_profile(
    "mcpguard", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mcpguard")
