"""What each feature costs: the same gateway with one thing changed, measured in turn."""

import secrets
import socket
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from benchmarks.bench import Bench, Target
from benchmarks.extras.extra import Extra, arrive
from benchmarks.gateway import start_gateway
from benchmarks.program import Program, Unavailable, free_port

RULES = [
    {"name": "badges", "pattern": "B-[0-9]{6}"},
    {"name": "accounts", "pattern": "[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}"},
    {"name": "mail", "pattern": "[a-z0-9._-]+@[a-z0-9.-]+"},
]
BASE = "everything on"
REDIS = "limits in Redis"
JWT = "signed in by a token (JWT), tools by its scopes"
ISSUER, AUDIENCE = "https://login.example/", "https://mcp.example/mcp"
SECRET = secrets.token_hex(32)
LIFE_SECS = 3600
VARIANTS: dict[str, dict[str, Mapping[str, Any]]] = {
    BASE: {},
    "no audit": {"audit": {"enabled": False, "file": None, "rotation": None}},
    "all arguments recorded, three redaction rules": {
        "audit": {"log_arguments": True, "redaction_rules": RULES}
    },
    JWT: {
        "auth": {
            "api_keys": None,
            "jwt": {
                "mode": "simple",
                "secret": SECRET,
                "issuer": ISSUER,
                "audience": AUDIENCE,
                "denied_tools": ["read_secret"],
                "scope_tool_mapping": {"bench": ["echo", "read_*"]},
            },
        }
    },
    "no limits": {"rate_limit": {"enabled": False, "tool_limits": None}},
    "every call traced": {
        "tracing": {
            "enabled": True,
            "otlp_endpoint": "http://127.0.0.1:4317",
            "sample_rate": 1.0,
        }
    },
}
CONNECTIONS = 16
ROUND_TRIPS = ("eval", "evalsha", "fcall", "script", "ping", "hello", "auth", "select", "client")
RATE = 1000
ALLOWED = 5 * RATE
"""Of the identity and of the tool: two buckets, so two leases at a time."""


def access_token() -> str:
    """A token of the issuer of the variant with tokens."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "bench",
        "scope": "bench",
        "exp": int(time.time()) + LIFE_SECS,
    }
    return jwt.encode(claims, SECRET, "HS256")


def start_redis(bench: Bench) -> tuple[Program, int]:
    """A Redis of this run on the load's processors, which keeps nothing; its port."""
    port = free_port()
    program = bench.start(
        "redis",
        [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""),
            *("--appendonly", "no", "--dir", bench.directory),
        ],
        cpus=bench.layout.load,
    )
    program.says("Ready to accept connections")
    return program, port


def redis_limits(port: int) -> dict[str, Any]:
    """The section that puts the limits there."""
    return {
        "rate_limit": {
            "redis": {"url": f"redis://127.0.0.1:{port}/0", "timeout_ms": 500, "on_error": "deny"}
        }
    }


def round_trips(port: int) -> int:
    """How many commands Redis has been sent so far, those inside scripts not counted."""
    with socket.create_connection(("127.0.0.1", port), 5.0) as connection:
        connection.sendall(b"INFO commandstats\r\n")
        data = connection.recv(65_536)
        length = int(data[1 : data.index(b"\r\n")])
        while len(data) < length:
            data += connection.recv(65_536)
    total = 0
    for line in data.decode().splitlines():
        name, _, figures = line.partition(":calls=")
        if name.removeprefix("cmdstat_").partition("|")[0] in ROUND_TRIPS:
            total += int(figures.partition(",")[0])
    return total


def run_features(bench: Bench, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """All variants in turn, several rounds; differences are taken within a round."""
    rounds, seconds = (2, 1.0) if quick else (5, 2.0)
    variants = dict(VARIANTS)
    up: dict[str, Target] = {}
    found: dict[str, Any] = {"connections": CONNECTIONS, "rounds": rounds, "variants": {}}
    try:
        _, port = start_redis(bench)
        variants[REDIS] = redis_limits(port)
    except Unavailable as problem:
        found["variants"][REDIS] = {"unavailable": str(problem)}
    for number, (name, changes) in enumerate(variants.items()):
        try:
            token = access_token() if name == JWT else None
            up[name] = start_gateway(
                bench, f"feature-{number}", "stdio", changes=changes, token=token
            )
            before = round_trips(port) if name == REDIS else 0
            up[name].open()
            up[name].load(CONNECTIONS, 1.0)
            if name == REDIS and round_trips(port) == before:
                raise Unavailable("Redis was asked nothing: the limits are not there")
        except Unavailable as problem:
            if name in up:
                up.pop(name).stop()
            found["variants"][name] = {"unavailable": str(problem)}
            say(f"features: {name} left out, {problem}")
    costs: dict[str, list[float]] = {name: [] for name in up}
    for _ in range(rounds):
        for name, target in up.items():
            result = target.load(CONNECTIONS, seconds)
            costs[name].append(1e6 * result.cpu_share / result.rate)
    for name, values in costs.items():
        extra = [one - base for one, base in zip(values, costs[BASE], strict=True)]
        found["variants"][name] = {
            "us_per_request": round(statistics.median(values), 1),
            "difference_us": round(statistics.median(extra), 1),
            "spread_us": round(max(extra) - min(extra), 1),
        }
        say(f"features: {name}: {found['variants'][name]}")
    for target in up.values():
        target.stop()
    order = (*VARIANTS, REDIS)
    found["variants"] = {n: found["variants"][n] for n in order if n in found["variants"]}
    return found


def run_redis(bench: Bench, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Round trips to Redis for each request of one caller, at a constant rate."""
    _, port = start_redis(bench)
    changes = redis_limits(port)
    changes["rate_limit"].update(
        requests_per_second=ALLOWED,
        burst_size=ALLOWED,
        tool_limits=[
            {"tool_pattern": "ech*", "requests_per_second": ALLOWED, "burst_size": ALLOWED}
        ],
    )
    target = start_gateway(bench, "redis-rate", "stdio", changes=changes)
    before = round_trips(port)
    target.open()
    result = arrive(bench, target, RATE, 2.0 if quick else 10.0)
    trips = round_trips(port) - before
    target.stop()
    if not trips:
        raise Unavailable("Redis was asked nothing: the limits are not there")
    found = {
        **result,
        "limit_per_second": ALLOWED,
        "round_trips": trips,
        "round_trips_per_request": round(trips / result["sent"], 5),
    }
    say(f"redis: {found['round_trips_per_request']} round trips for each request")
    return found


FEATURES = (
    Extra("features", "the cost of each feature, as a difference", run_features),
    Extra("redis", "round trips to Redis at 1000 requests a second", run_redis),
)
