"""The rows of other people's gateways, with little logging and otherwise as they come."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import SERVERS, TOOLS, Bench, Row, Target, tool_python
from benchmarks.program import Unavailable, free_port


def _fastmcp(bench: Bench, name: str, *more: str, upstream: Sequence[str]) -> Target:
    port = free_port()
    command: list[str | Path] = [
        *(tool_python("fastmcp"), SERVERS / "fastmcp_peer.py", "--port", str(port)),
        *more,
        *upstream,
    ]
    program = bench.start(name, command, env={"BENCH_TOKEN": bench.token})
    program.listens(port)
    return Target(program, f"http://127.0.0.1:{port}/mcp", bench.layout, token=bench.token)


def _fastmcp_http(bench: Bench) -> Target:
    return _fastmcp(bench, "fastmcp-http", upstream=["--url", bench.http_upstream()])


def _fastmcp_shared(bench: Bench) -> Target:
    url = ["--url", bench.http_upstream()]
    return _fastmcp(bench, "fastmcp-http-shared", "--shared", upstream=url)


def _fastmcp_stdio(bench: Bench) -> Target:
    return _fastmcp(bench, "fastmcp-stdio", "--shared", upstream=["--", *bench.stdio_upstream()])


def _mcp_proxy(bench: Bench) -> Target:
    port = free_port()
    program_file = tool_python("mcp-proxy").with_name("mcp-proxy")
    command: list[str | Path] = [
        *(program_file, "--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"),
        *("--", *bench.stdio_upstream()),
    ]
    program = bench.start("mcp-proxy", command)
    program.listens(port)
    return Target(program, f"http://127.0.0.1:{port}/mcp", bench.layout)


def _supergateway(bench: Bench) -> Target:
    modules = TOOLS / "node" / "node_modules"
    node, script = modules / "node" / "bin" / "node", modules / "supergateway" / "dist" / "index.js"
    if not (node.exists() and script.exists()):
        raise Unavailable("supergateway is not installed: run benchmarks/install.sh")
    port = free_port()
    program = bench.start(
        "supergateway",
        [
            *(node, script, "--stdio", shlex.join(bench.stdio_upstream())),
            *("--outputTransport", "streamableHttp", "--stateful"),
            *("--logLevel", "none", "--port", str(port)),
        ],
    )
    program.listens(port)
    return Target(program, f"http://127.0.0.1:{port}/mcp", bench.layout)


PEERS = (
    Row(
        "fastmcp-http",
        "peer",
        "http",
        "bearer",
        "fastmcp's proxy, a session at the upstream for each request",
        _fastmcp_http,
        slow=True,
    ),
    Row(
        "fastmcp-http-shared",
        "peer",
        "http",
        "bearer",
        "fastmcp's proxy, one session at the upstream for all",
        _fastmcp_shared,
        slow=True,
    ),
    Row(
        "fastmcp-stdio",
        "peer",
        "stdio",
        "bearer",
        "fastmcp's proxy, one process for all",
        _fastmcp_stdio,
        slow=True,
    ),
    Row("mcp-proxy", "peer", "stdio", "none", "PyPI's mcp-proxy", _mcp_proxy),
    Row("supergateway", "peer", "stdio", "none", "npm's supergateway, stateful", _supergateway),
)
