"""What was measured with what: versions of everything that takes part."""

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import ROOT, TOOLS

LIBRARIES = (
    *("twisted", "klein", "treq", "orjson", "msgspec", "httptools", "pyopenssl", "cryptography"),
    *("prometheus-client", "txredisapi", "hiredis"),
)
PEERS = {"fastmcp": ("fastmcp", "mcp", "uvicorn"), "mcp-proxy": ("mcp-proxy", "mcp", "uvicorn")}


def versions() -> dict[str, str]:
    """Names and versions, as far as they can be had."""
    found = {"mcp-guard": _own(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    node = TOOLS / "node" / "node_modules" / "node" / "bin" / "node"
    for name, command, pattern in (
        ("wrk", ["wrk", "-v"], r"wrk \S*?([\d.]+)"),
        ("nginx", [nginx, "-v"], r"nginx/([\d.]+)"),
        ("redis", ["redis-server", "--version"], r"v=([\d.]+)"),
        ("node of supergateway", [str(node), "--version"], r"v([\d.]+)"),
        ("openssl", ["openssl", "version"], r"OpenSSL ([\d.a-z]+)"),
    ):
        if said := re.search(pattern, _said(command)):
            found[name] = said[1]
    for environment, packages in PEERS.items():
        python = TOOLS / environment / "bin" / "python"
        code = f"import importlib.metadata as m; print(*map(m.version, {packages!r}))"
        words = _said([str(python), "-c", code]).split()
        if len(words) == len(packages):
            first, *rest = zip(packages, words, strict=True)
            found[first[0]] = f"{first[1]} ({', '.join(f'{n} {v}' for n, v in rest)})"
    package = TOOLS / "node" / "node_modules" / "supergateway" / "package.json"
    if package.exists():
        found["supergateway"] = json.loads(package.read_text())["version"]
    return found


def _own() -> str:
    version = importlib.metadata.version("mcp-guard")
    commit = _said(["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]).strip()
    changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", "--", "mcpguard"]).strip()
    if not re.fullmatch(r"[0-9a-f]{10}", commit):
        return version
    return f"{version} ({commit}{', changed' if changed else ''})"


def _said(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None and not Path(command[0]).exists():
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr
