"""Latency under calls that arrive at a constant rate."""

from collections.abc import Callable
from typing import Any

from benchmarks.bench import Bench, Target
from benchmarks.extras.extra import Extra, arrive
from benchmarks.gateway import start_gateway
from benchmarks.program import Unavailable
from benchmarks.references import start_nginx, start_twisted

RATES = (250, 500, 1000, 2000, 4000, 8000)
MOST = 0.8
"""Of what a row can do in a closed loop: beyond, the waiting never ends."""
STARTS: dict[str, Callable[[Bench], Target]] = {
    "twisted-const": start_twisted,
    "nginx": start_nginx,
    "gateway-http": lambda bench: start_gateway(bench, "latency-http", "http"),
    "gateway-stdio": lambda bench: start_gateway(bench, "latency-stdio", "stdio"),
}


def run(bench: Bench, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Every rate in turn, each with all that can take it."""
    rates, seconds = ((500, 1000), 1.0) if quick else (RATES, 3.0)
    up: dict[str, tuple[Target, float]] = {}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, start in STARTS.items():
        try:
            target = start(bench)
            target.open()
        except Unavailable as problem:
            say(f"latency: {name} left out, {problem}")
            continue
        up[name] = target, target.load(16, 1.0).rate
        found[name] = []
    for rate in rates:
        for name, (target, most) in up.items():
            if rate > MOST * most:
                continue
            target.program.rest(5.0)
            result = arrive(bench, target, rate, seconds)
            found[name].append(result)
            say(
                f"latency: {name:<14} {rate:>5}/s  p50 {result['p50_ms']:.2f}"
                f"  p99 {result['p99_ms']:.2f}  p99.9 {result['p999_ms']:.2f} ms"
            )
    for target, _ in up.values():
        target.stop()
    return {"seconds": seconds, "connections": 64, "targets": found}


LATENCY = Extra("latency", "open loop: latency at constant arrival rates", run)
