"""The rows of the gateway, configured as it is meant to be run: everything on."""

import base64
import hashlib
import ssl
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from benchmarks import machine
from benchmarks.bench import ROOT, Bench, Row, Target
from benchmarks.machine import Layout
from benchmarks.program import Unavailable

AUDIT_BYTES = 104_857_600
GENEROUS = 1_000_000
"""A limit that is checked and never reached."""


def upstream_of(bench: Bench, kind: str, layout: Layout) -> dict[str, Any]:
    """The ``[upstream]`` section: ``http``, ``http-sse`` (answers as event streams), ``stdio``."""
    if kind == "stdio":
        command, *args = bench.stdio_upstream(layout)
        return {"transport": "stdio", "command": command, "args": args}
    answer = "sse" if kind == "http-sse" else "json"
    return {"transport": "http", "url": bench.http_upstream(answer)}


def settings(
    bench: Bench, name: str, upstream: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The whole configuration; ``changes`` are keys of sections, put over those of the rows.

    A key changed to None is left out.
    """
    key_hash = base64.b64encode(hashlib.sha256(bench.token.encode()).digest()).decode()
    sections: dict[str, Any] = {
        "server": {"port": 3000},
        "upstream": dict(upstream),
        "rate_limit": {
            "requests_per_second": GENEROUS,
            "burst_size": GENEROUS,
            "tool_limits": [
                {
                    "tool_pattern": "ech*",
                    "requests_per_second": GENEROUS,
                    "burst_size": GENEROUS,
                }
            ],
        },
        "audit": {
            "file": str(bench.directory / f"{name}-audit.log"),
            # So that a long run cannot fill the disk.
            "rotation": {"enabled": True, "max_size_bytes": AUDIT_BYTES, "max_backups": 1},
        },
        "auth": {
            "api_keys": [
                {
                    "id": "bench",
                    "key_hash": key_hash,
                    "allowed_tools": ["echo", "read_*"],
                    "denied_tools": ["read_secret"],
                }
            ]
        },
    }
    for section, keys in changes.items():
        table = sections.setdefault(section, {})
        for key, value in keys.items():
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value
    return sections


READY_SECS = 10.0
SESSIONS_EACH = 2
"""Sessions for each worker, where there are several."""


def start_gateway(
    bench: Bench,
    name: str,
    kind: str,
    *,
    workers: int = 1,
    tls: bool = False,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    token: str | None = None,
) -> Target:
    """Start a gateway; raises `Unavailable` when it does not take the configuration.

    ``token`` is what clients sign in by, the run's own API key unless it is given.
    """
    layout = bench.layout.for_workers(workers)
    written = settings(bench, name, upstream_of(bench, kind, layout), changes or {})
    if workers > 1:
        written["server"]["workers"] = workers
    if tls:
        certificate, key = map(str, bench.certificate)
        written["server"]["tls"] = {
            "cert_path": certificate,
            "key_path": key,
            "min_version": "1.3",
        }
    config = bench.directory / f"{name}.toml"
    config.touch(0o600)
    config.write_text(tomlkit.dumps(written))
    environment = {"PYTHONPATH": str(ROOT)}
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "mcpguard",
        "-c",
        config,
        "run",
        "--port",
        "0",
    ]
    program = bench.start(name, command, layout=layout, env=environment)
    base = program.says(r"(https?://127\.0\.0\.1:\d+)[\s\S]*Ready")[1]
    _await_ready(f"{base}/ready", bench.certificate[0] if tls else None)
    if workers > 1 and len(machine.tree(program.pid)) <= workers:
        raise Unavailable(f"it was told to start {workers} workers and has none")
    return Target(
        program,
        f"{base}/mcp",
        layout,
        token=token or bench.token,
        certificate=bench.certificate[0] if tls else None,
        # A session is served by one worker: with a single one the others would have nothing to do.
        sessions=1 if workers == 1 else SESSIONS_EACH * workers,
    )


def _await_ready(url: str, certificate: Path | None) -> None:
    """Wait until the gateway has all it needs: its limits may be in Redis, say."""
    context = ssl.create_default_context(cafile=certificate) if certificate else None
    until = time.monotonic() + READY_SECS
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=READY_SECS, context=context) as page:
                if page.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise Unavailable(f"it is not ready after {READY_SECS} s")


def _row(kind: str, what: str, suffix: str = "", **more: Any) -> Row:
    name = f"gateway-{kind}{suffix}"
    upstream = kind.partition("-")[0]
    return Row(
        name,
        "gateway",
        upstream,
        "bearer",
        what,
        lambda bench: start_gateway(bench, name, kind, **more),
    )


GATEWAY = (
    _row("http", "everything on"),
    _row("http-sse", "the upstream answers with event streams"),
    _row("stdio", "everything on"),
    _row("http", "2 workers", "-2w", workers=2),
    _row("stdio", "2 workers", "-2w", workers=2),
    _row("http", "TLS 1.3 before the client", "-tls", tls=True),
    _row("stdio", "TLS 1.3 before the client", "-tls", tls=True),
)
