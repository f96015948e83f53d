"""The rows that are compared with: what could be had without a gateway, and with nginx as one."""

import shutil
import sys
from pathlib import Path

from benchmarks.bench import SERVERS, Bench, Row, Target
from benchmarks.program import Program, Unavailable, free_port

NGINX = """\
daemon off;
master_process off;
worker_processes 1;
pid {directory}/{name}.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    map_hash_bucket_size 256;
    keepalive_timeout 300;
    keepalive_requests 100000000;
    client_body_temp_path {directory}/{name}-body;
    proxy_temp_path {directory}/{name}-proxy;
    fastcgi_temp_path {directory}/{name}-fastcgi;
    uwsgi_temp_path {directory}/{name}-uwsgi;
    scgi_temp_path {directory}/{name}-scgi;
    map $http_authorization $known {{
        default 0;
        "Bearer {token}" 1;
    }}
    upstream mcp {{
        server {upstream};
        keepalive 256;
        keepalive_requests 100000000;
        keepalive_timeout 300;
    }}
    server {{
        listen 127.0.0.1:{port}{ssl};
        {certificate}
        location /mcp {{
            if ($known = 0) {{ return 401; }}
            proxy_pass http://mcp;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "";
        }}
    }}
}}
"""


def start_nginx(bench: Bench, *, tls: bool = False) -> Target:
    """One nginx process that checks the key and keeps connections to the upstream."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        raise Unavailable("nginx is not installed")
    name = "nginx-tls" if tls else "nginx"
    port = free_port()
    lines = ""
    if tls:
        certificate, key = bench.certificate
        lines = f"ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;"
    config = bench.directory / f"{name}.conf"
    config.touch(0o600)
    config.write_text(
        NGINX.format(
            directory=bench.directory,
            name=name,
            token=bench.token,
            upstream=bench.http_upstream().removeprefix("http://").removesuffix("/mcp"),
            port=port,
            ssl=" ssl" if tls else "",
            certificate=lines,
        )
    )
    program = bench.start(name, [nginx, "-p", bench.directory, "-c", config])
    program.listens(port)
    return Target(
        program,
        f"{'https' if tls else 'http'}://127.0.0.1:{port}/mcp",
        bench.layout,
        token=bench.token,
        certificate=bench.certificate[0] if tls else None,
    )


def _direct(bench: Bench) -> Target:
    return Target(bench.upstream_program(), bench.http_upstream(), bench.layout)


def start_twisted(bench: Bench, *more: str) -> Target:
    """Twisted's own web server with a constant answer."""
    name = "-".join(["twisted-const", *(word.strip("-") for word in more)])
    command: list[str | Path] = [sys.executable, SERVERS / "twisted_constant.py", *more]
    program: Program = bench.start(name, command)
    port = program.says(r"listening on (\d+)")[1]
    return Target(program, f"http://127.0.0.1:{port}/mcp", bench.layout, expect="constant")


REFERENCES = (
    Row("direct", "reference", "none", "none", "the upstream alone, beside the load", _direct),
    Row(
        "twisted-const",
        "reference",
        "none",
        "none",
        "a constant answer from twisted.web's Site as it comes",
        start_twisted,
    ),
    Row(
        "twisted-const-tuned",
        "reference",
        "none",
        "none",
        "the same without the parsing of form bodies",
        lambda bench: start_twisted(bench, "--tuned"),
    ),
    Row("nginx", "reference", "http", "bearer", "nginx with one bearer token", start_nginx),
    Row(
        "nginx-tls",
        "reference",
        "http",
        "bearer",
        "the same over TLS 1.3",
        lambda bench: start_nginx(bench, tls=True),
    ),
)
