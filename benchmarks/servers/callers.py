"""The limiter before a million callers: time and memory of its decisions. Prints JSON.

python callers.py --callers 1000000
"""

import argparse
import gc
import json
import time
from pathlib import Path

from mcpguard.gateway.limits import MAX_TRACKED_KEYS
from mcpguard.limits.limiter import Grant
from mcpguard.limits.memory import MemoryLimiter
from mcpguard.policy.buckets import Rate

RATE = Rate(100.0, 50)


def rss_mib() -> float:
    """Resident memory of this process."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in one)
    return int(line.split()[1]) / 1024


def timed(limiter: MemoryLimiter, keys: list[str]) -> tuple[float, int]:
    """Take one token for each key: microseconds for each, and how many were granted."""
    granted = 0
    began = time.process_time()
    for key in keys:
        grant = limiter.take(key, RATE)
        assert isinstance(grant, Grant)
        granted += grant.allowed
    return (time.process_time() - began) / len(keys) * 1e6, granted


def main() -> None:
    """Ask the limiter, print what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--callers", type=int, default=1_000_000)
    options = parser.parse_args()
    limiter = MemoryLimiter(time.monotonic, time.time, max_keys=MAX_TRACKED_KEYS)
    keys = [f"api_key:caller-{number:07}" for number in range(options.callers)]
    gc.collect()
    before = rss_mib()
    one_us, _ = timed(limiter, [keys[0]] * min(options.callers, 200_000))
    new_us, new_granted = timed(limiter, keys[1:])
    again_us, _ = timed(limiter, keys[1:])
    gc.collect()
    print(
        json.dumps(
            {
                "callers": options.callers,
                "one_caller_us": round(one_us, 3),
                "new_callers_us": round(new_us, 3),
                "same_callers_again_us": round(again_us, 3),
                "new_callers_granted": new_granted,
                "buckets_remembered": len(limiter),
                "most_buckets": MAX_TRACKED_KEYS,
                "rss_growth_mib": round(rss_mib() - before, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
