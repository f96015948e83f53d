"""What the command line says about settings and servers: pure text, no secrets."""

import json
from urllib.parse import urlsplit

from mcpguard import __version__
from mcpguard.config.settings import (
    RateLimitSettings,
    SecretText,
    Settings,
    TlsSettings,
    UpstreamSettings,
    shown,
)
from mcpguard.upstream.report import UpstreamReport

MAX_TEXT = 200
MAX_TOOLS = 500


def startup_summary(
    settings: Settings, urls: tuple[str, ...], *, workers: int = 1, plain: bool = False
) -> str:
    """Tell what has been started, in how many processes that serve.

    ``urls`` are those of the listeners, in their order. ``plain`` keeps to ASCII. Ends without a
    line end.
    """
    lines = _box(f"MCP Guard v{__version__}", plain=plain)
    listeners = zip(urls, settings.server.every_listener, strict=False)
    rows = [("Server", url + _security(one.tls), True) for url, one in listeners]
    if workers > 1:
        rows.append(("Workers", str(workers), True))
    if settings.admin is not None:
        rows.append(("Admin", f"{shown(settings.admin.host)} port {settings.admin.port}", True))
    rows.append(("Auth", *_authentication(settings)))
    arrow = "->" if plain else "→"
    upstreams = [f"{one.transport} {arrow} {target(one)}" for one in settings.upstreams]
    if len(upstreams) == 1 and settings.upstreams[0].name == UpstreamSettings().name:
        rows.append(("Transport", upstreams[0], True))
    else:
        for one, words in zip(settings.upstreams, upstreams, strict=True):
            rows.append(("Transport", f"{words} at {public_path(one)}", True))
    rows.append(("Rate Limit", *_rate_limit(settings.rate_limit)))
    rows.append(("Audit", *_on_or_off(settings.audit.enabled)))
    for name, value, good in rows:
        lines.append(f"{mark(good, plain=plain)} {name + ':':<11} {_printable(value)}")
    return "\n".join([*lines, "", "Ready for requests!"])


def mark(good: bool, *, plain: bool) -> str:
    """The sign before a line; ``!`` where the reader should look twice."""
    if not good:
        return "! " if plain else "!"
    return "ok" if plain else "✓"


def _box(title: str, *, plain: bool) -> list[str]:
    width = 46
    if plain:
        return [title, ""]
    return [f"╭{'─' * width}╮", f"│  {title:<{width - 2}}│", f"╰{'─' * width}╯", ""]


def _security(tls: TlsSettings | None) -> str:
    if tls is None:
        return ""
    if tls.client_ca_path is None:
        return " (TLS)"
    return f" (TLS, client certificates {tls.client_auth})"


def _authentication(settings: Settings) -> tuple[str, bool]:
    auth = settings.auth
    ways = []
    if auth.mtls is not None and auth.mtls.enabled:
        ways.append("Client Certificates")
    if auth.api_keys:
        ways.append(f"API Keys ({len(auth.api_keys)})")
    if auth.jwt is not None:
        ways.append(f"JWT ({auth.jwt.mode})")
    if not ways:
        return "none configured: every MCP request is refused", False
    return ", ".join(ways), True


def _rate_limit(limits: RateLimitSettings) -> tuple[str, bool]:
    if not limits.enabled:
        return "Disabled", False
    shared = "" if limits.redis is None else ", shared through Redis"
    return f"{limits.requests_per_second:.15g} req/s, burst {limits.burst_size}{shared}", True


def _on_or_off(enabled: bool) -> tuple[str, bool]:
    return ("Enabled", True) if enabled else ("Disabled", False)


def public_path(upstream: UpstreamSettings) -> str:
    """Where clients find a server."""
    if upstream.path_prefix is not None:
        return f"/mcp{upstream.path_prefix}"
    single = upstream.name == UpstreamSettings().name
    return "/mcp" if single else f"/mcp/{upstream.name}"


def target(upstream: UpstreamSettings) -> str:
    """The program or URL behind the gateway, without what may be secret in a URL."""
    if upstream.transport == "stdio":
        return shown(upstream.command or "")
    url = upstream.url or ""
    if isinstance(url, SecretText):
        return shown(url)
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def upstream_heading(upstream: UpstreamSettings, *, several: bool) -> str:
    """What is about to be asked, one fact a line."""
    lines = [f"Upstream:  {upstream.name}"] if several else []
    lines.append(f"Transport: {upstream.transport}")
    if upstream.transport == "stdio":
        args = json.dumps([shown(arg) for arg in upstream.args], ensure_ascii=False)
        lines += [f"Command:   {target(upstream)}", f"Args:      {args}"]
    else:
        lines.append(f"URL:       {target(upstream)}")
    return "\n".join(_printable(line, 2000) for line in lines)


def upstream_findings(report: UpstreamReport, *, plain: bool) -> str:
    """What was found out about it. The server's own words are cut and made printable."""
    if not report.ok:
        error = _printable(report.error) or "no reason given"
        return f"{'failed' if plain else '✗'} Upstream did not answer: {error}"
    name, version = _printable(report.server_name), _printable(report.server_version)
    tools = [_printable(tool) for tool in report.tools[:MAX_TOOLS]]
    if len(report.tools) > MAX_TOOLS:
        tools.append(f"and {len(report.tools) - MAX_TOOLS} more")
    eras = f" ({', '.join(report.eras)})" if report.eras else ""
    return "\n".join(
        (
            f"Server: {name} v{version}",
            f"Protocol: {_printable(report.protocol)}{eras}",
            f"Tools ({len(report.tools)}): {', '.join(tools)}".rstrip(": "),
            f"{mark(True, plain=plain)} Upstream is reachable and responding",
        )
    )


def _printable(text: str, limit: int = MAX_TEXT) -> str:
    """Text that cannot move the cursor or forge a line."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else "?" for c in cut)
