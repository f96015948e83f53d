"""Recorded results, made up."""

from typing import Any


def run(connections: int, number: int, rate: float, per_core: float, **more: Any) -> dict[str, Any]:
    """One measurement as the record keeps it."""
    return {
        "round": number,
        "connections": connections,
        "seconds": 2.0,
        "requests": int(rate * 2),
        "rate": rate,
        "cpu_share": 0.9,
        "per_core": per_core,
        "p50_ms": 1.0,
        "p90_ms": 2.0,
        "p99_ms": 3.0,
        "max_ms": 4.0,
        "checked": 10,
        "errors": {},
        "sample": "",
        "steal_percent": 0.1,
        "rss_mib": [60.5, 12.0],
        **more,
    }


def row(kind: str, upstream: str, *runs: dict[str, Any]) -> dict[str, Any]:
    """One row as the record keeps it."""
    return {
        "kind": kind,
        "upstream": upstream,
        "auth": "bearer",
        "what": "a sample",
        "rss_idle_mib": [55.0],
        "runs": list(runs),
    }


def results() -> dict[str, Any]:
    """A record with everything in it."""
    return {
        "machine": {"processor": "Abacus 3000", "processors": "2"},
        "versions": {"mcp-guard": "1", "python": "3.11"},
        "run": {"began": "2030-01-01 00:00 UTC", "rounds": "3"},
        "rows": {
            "gateway-http": row(
                "gateway",
                "http",
                run(16, 1, 8_000, 10_000),
                run(16, 2, 9_000, 11_000),
                run(16, 3, 2_000, 3_000, errors={"status": 7}),
                run(64, 1, 9_000, 12_000),
            ),
            "gateway-http-2w": row("gateway", "http", run(64, 1, 14_400, 9_000)),
            "twisted-const": row(
                "reference", "none", run(16, 1, 4_000, 5_000, p99_ms=2.0), run(64, 1, 4_000, 4_800)
            ),
            "nginx": row("reference", "http", run(16, 1, 40_000, 40_000)),
            "fastmcp-http-shared": row("peer", "http", run(16, 1, 100, 200)),
            "supergateway": {"runs": [], "unavailable": "npm is missing"},
        },
        "extras": {
            "latency": {
                "seconds": 1.0,
                "connections": 64,
                "targets": {
                    "gateway-http": [
                        {
                            "rate": 500.0,
                            "sent": 500,
                            "answered": 480,
                            "wrong": 0,
                            "overloaded": False,
                            "p50_ms": 0.5,
                            "p90_ms": 0.7,
                            "p99_ms": 1.25,
                            "p999_ms": 2.5,
                            "max_ms": 3.0,
                            "late_p99_ms": 0.06,
                        }
                    ]
                },
            },
            "features": {
                "connections": 16,
                "rounds": 2,
                "variants": {
                    "everything on": {
                        "us_per_request": 100.0,
                        "difference_us": 0.0,
                        "spread_us": 0.0,
                    },
                    "no audit": {"us_per_request": 90.0, "difference_us": -10.0, "spread_us": 1.0},
                    "every call traced": {"unavailable": "there is none"},
                },
            },
            "redis": {"unavailable": "redis-server is not installed"},
            "streams": {"opened": 100, "streams_per_gib": 50_000},
            "callers": {"callers": 1_000_000, "new_callers_us": 3.5},
            "million": {
                "wanted": 1_000_000,
                "targets": {
                    "gateway-http": {
                        "samples": [[0, 59.0], [100_000, 61.0], [1_000_000, 61.5]],
                        "rss_idle_mib": 59.0,
                        "rss_most_mib": 61.5,
                        "errors": 0,
                    }
                },
            },
            "profile": {
                "gateway-http": {
                    "samples": 3,
                    "parts": {"twisted/internet": 66.7, "mcpguard/policy": 33.3},
                    "functions": {"twisted/internet/tcp:Connection.doRead": 66.7},
                }
            },
        },
    }
