"""The ``mcp-guard`` command.

Exit status: 0, 1 when something is wrong, 2 for a wrong command line. Results go to stdout,
everything else to stderr. Imports stand inside the functions where they are slow or would install
a reactor.
"""

import platform
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from mcpguard import __version__
from mcpguard.config.api_keys import MAX_KEY, NewKey, digest, lifetime, mint
from mcpguard.config.load import Format, format_of, loads, with_listener
from mcpguard.config.settings import Settings
from mcpguard.errors import ConfigurationError
from mcpguard.terminal import Common, common, fail, plain, say
from mcpguard.upstream.report import UpstreamReport

MAX_CHECK_SECS = 600
FEATURES = (
    *("api-keys", "tool-authorization", "list-filtering", "rate-limit", "audit", "metrics"),
    *("stdio", "streamable-http", "http-sse", "multi-server", "stateless-2026-07-28", "bridging"),
    *("workers", "redis-rate-limit", "tls", "jwt", "mtls", "resource-metadata"),
)


def done() -> str:
    """The sign before a result on stdout."""
    from mcpguard.summary import mark

    return mark(True, plain=plain(sys.stdout))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mcp-guard", message="%(prog)s %(version)s")
@common
@click.pass_context
def main(context: click.Context) -> None:
    """Security gateway in front of MCP servers."""
    context.ensure_object(Common)


@main.command(short_help="Write a configuration that works at once.")
@click.option(
    "--format", "written", type=click.Choice(["toml", "yaml"]), help="By default from -c, or toml."
)
@click.option("--force", is_flag=True, help="Replace a file that is already there.")
@common
@click.pass_obj
def init(shared: Common, written: Format | None, force: bool) -> None:
    """Write a configuration that works at once, in front of the bundled demo server."""
    from mcpguard.config.files import create
    from mcpguard.config.template import template

    path = shared.config or Path(f"mcp-guard.{written or 'toml'}")
    if written is not None and format_of(path) != written:
        raise click.UsageError(f"{path} is {format_of(path)} by its name, not {written}")
    try:
        create(path, template(format_of(path), sys.executable), overwrite=force)
    except ConfigurationError as error:
        fail(error.problems[0])
    click.echo(f"{done()} Created {path}")
    _next_steps(shared, "keygen --user-id my-agent --apply-to-config", "validate", "run")


def _next_steps(shared: Common, *commands: str) -> None:
    click.echo("\nNext steps:")
    for command in commands:
        click.echo(f"  {shared.hint(command)}")


def _lifetime(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> timedelta | None:
    try:
        return None if value is None else lifetime(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@main.command()
@click.option("--user-id", required=True, metavar="ID", help="The name of the key's holder.")
@click.option("--rate-limit", type=float, metavar="N", help="Requests per second.")
@click.option("--tools", metavar="A,B", help="Allowed tools, names or patterns; default all.")
@click.option("--expires", metavar="90d", callback=_lifetime, help="m, h, d or w from now.")
@click.option("--apply-to-config", is_flag=True, help="Add the key to the configuration file.")
@common
@click.pass_obj
def keygen(
    shared: Common,
    user_id: str,
    rate_limit: float | None,
    tools: str | None,
    expires: timedelta | None,
    apply_to_config: bool,
) -> None:
    """Make an API key; only its hash is written down."""
    from mcpguard.config.edit import snippet

    key = mint(secrets.token_bytes)
    try:
        until = None if expires is None else datetime.now(UTC).replace(microsecond=0) + expires
    except OverflowError:
        raise click.BadParameter("too long", param_hint="--expires") from None
    allowed = None if tools is None else tuple(t.strip() for t in tools.split(",") if t.strip())
    new = NewKey(user_id, digest(key), allowed, rate_limit, until)
    _check(new)
    if apply_to_config:
        _apply(shared, new)
        click.echo(f"{done()} API key for '{user_id}' added to {shared.path}\n")
    click.echo(f"API Key (save this, shown only once):\n  {key}")
    if apply_to_config:
        _next_steps(shared, "validate", "run")
    else:
        click.echo(f"\nAdd to {shared.path}:\n\n{snippet(new, format_of(shared.path))}", nl=False)


def _check(new: NewKey) -> None:
    """Refuse a key that no configuration would accept."""
    from mcpguard.config.edit import snippet

    text = snippet(new, "toml") + '\n[upstream]\ntransport = "http"\nurl = "http://localhost/"\n'
    try:
        loads(text, "toml", environ={}, base=Path("/"))
    except ConfigurationError as error:
        fail("no such key can be made", *error.problems)


def _apply(shared: Common, new: NewKey) -> None:
    """Put a key into the configuration file, unless that would break it."""
    from mcpguard.config.edit import with_api_key
    from mcpguard.config.files import edit

    path = shared.path

    def change(text: str) -> str:
        changed = with_api_key(text, format_of(path), new)
        # A file may be fine only where its secrets are; it must not get worse.
        worse = _problems(shared, changed) - _problems(shared, text)
        if worse:
            raise ConfigurationError(tuple(sorted(worse)))
        return changed

    try:
        edit(path, change)
    except ConfigurationError as error:
        if len(error.problems) == 1:
            fail(error.problems[0])
        fail(f"{path} is left as it was", *error.problems)


def _problems(shared: Common, text: str) -> set[str]:
    """What is wrong with a text, without the lines."""
    path = shared.path
    try:
        loads(text, format_of(path), environ=shared.environ, base=path.absolute().parent)
    except ConfigurationError as error:
        return {problem.rpartition(" (line ")[0] or problem for problem in error.problems}
    return set()


@main.command("hash-key", short_help="Print the hash of a key.")
@click.argument("key", required=False)
@common
def hash_key(key: str | None) -> None:
    """Print the hash of KEY for key_hash; without KEY, or with -, reads it from stdin."""
    if key is None or key == "-":
        if sys.stdin.isatty():
            key = click.prompt("API key", hide_input=True, err=True)
        else:
            key = sys.stdin.readline(MAX_KEY + 2).rstrip("\r\n")
    try:
        click.echo(digest(str(key)))
    except ValueError as error:
        fail(str(error))


@main.command()
@common
@click.pass_obj
def validate(shared: Common) -> None:
    """Check the configuration file and everything it refers to."""
    shared.load()
    click.echo(f"Configuration is valid: {shared.path}")


def _seconds(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 < value <= MAX_CHECK_SECS:  # NaN too, which click's own range lets pass
        raise click.BadParameter(f"accepted: a number above 0, at most {MAX_CHECK_SECS}")
    return value


@main.command("check-upstream", short_help="Connect to every server and list its tools.")
@click.option(
    "--timeout",
    type=float,
    default=10,
    callback=_seconds,
    metavar="SECONDS",
    show_default=True,
    help="For each server.",
)
@click.option("--server", metavar="NAME", help="Only this one.")
@common
@click.pass_obj
def check_upstream(shared: Common, timeout: float, server: str | None) -> None:
    """Connect to every configured server as a client would, and list its tools."""
    from mcpguard.summary import upstream_findings, upstream_heading

    settings = shared.load().settings
    chosen = [one for one in settings.upstreams if server in (None, one.name)]
    if not chosen:
        known = ", ".join(one.name for one in settings.upstreams)
        fail(f"no server is named {server!r}; configured: {known}")
    several = len(settings.upstreams) > 1
    headings = {one.name: upstream_heading(one, several=several) for one in chosen}
    click.echo("Checking upstream connectivity...\n")
    if len(chosen) == 1:  # several are asked at once, so each is shown with its answer
        click.echo(headings[chosen[0].name] + "\n")
    reports = {one.name: one for one in ask_upstreams(settings, timeout, server, shared.verbosity)}
    for index, one in enumerate(chosen):
        if len(chosen) > 1:
            click.echo(("\n" if index else "") + headings[one.name] + "\n")
        report = reports.get(one.name)
        if report is None:
            fail("interrupted")
        click.echo(upstream_findings(report, plain=plain(sys.stdout)))
    if not all(report.ok for report in reports.values()):
        raise SystemExit(1)


def ask_upstreams(
    settings: Settings, timeout: float, server: str | None, verbosity: int
) -> tuple[UpstreamReport, ...]:
    """Run a reactor for as long as the servers take to answer."""
    from twisted.internet.task import react
    from twisted.python.failure import Failure

    from mcpguard.foreground import begin_logging
    from mcpguard.gateway import check_upstreams

    begin_logging(sys.stderr, verbosity)
    reports: list[UpstreamReport] = []

    async def ask(reactor: Any) -> None:
        found = await check_upstreams(reactor, settings, timeout=timeout, server=server)
        for report in found:
            if isinstance(report, Failure):  # a fault of the check, not of the server
                report.raiseException()
            reports.append(report)

    try:
        react(ask)
    except SystemExit as end:
        if end.code:
            fail("the check itself failed; the log above says why")
    return tuple(reports)


@main.command()
@click.option("--host", metavar="ADDRESS", help="Listen here instead of [server] host.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Instead of [server] port; 0 = any free one.",
)
@common
@click.pass_obj
def run(shared: Common, host: str | None, port: int | None) -> None:
    """Run the gateway in the foreground until Ctrl-C or SIGTERM."""
    try:
        loaded = with_listener(shared.load(), host, port)
    except ConfigurationError as error:
        fail(error.problems[0])

    from twisted.internet import reactor

    from mcpguard.config.load import load
    from mcpguard.foreground import begin_logging, run_service
    from mcpguard.gateway import Gateway, settle_down, worker_count
    from mcpguard.summary import startup_summary

    settings = loaded.settings
    path = shared.path.absolute()
    begin_logging(sys.stderr, shared.verbosity)
    gateway: Any
    workers = worker_count(settings)
    try:
        if workers == 1:
            gateway = Gateway(settings, reactor)
        else:
            from mcpguard.gateway.parent import WorkerParent

            gateway = WorkerParent(
                settings,
                reactor,
                reread=lambda: with_listener(
                    load(path, environ=shared.environ, now=datetime.now(UTC)), host, port
                ),
                log_level="debug" if shared.verbosity > 1 else "info",
                keep_trying=False,
            )
    except ConfigurationError as error:
        fail(f"Configuration is not valid: {shared.path}", *error.problems)

    def announce(_: str) -> None:
        # On stderr: with [audit] stdout, stdout holds JSON lines and nothing else.
        say(startup_summary(settings, gateway.urls, workers=workers, plain=plain(sys.stderr)))
        settle_down()

    problem = run_service(gateway, reactor, announce, say)
    if problem:
        fail(problem)


@main.command(hidden=True)
@click.option("--log-level", type=click.Choice(["debug", "info"]), default="info")
def worker(log_level: str) -> None:
    """Serve on sockets inherited from the parent process; started by it alone."""
    from twisted.internet import reactor

    from mcpguard.gateway.worker import Worker, begin_worker_logging

    begin_worker_logging(log_level)
    raise SystemExit(Worker(reactor).run())


@main.command()
@common
def version() -> None:
    """Print the version, and what it runs on."""
    from importlib.metadata import version as installed

    from cryptography.hazmat.backends.openssl import backend

    click.echo(f"mcp-guard {__version__}")
    click.echo(f"Python:   {platform.python_version()}")
    click.echo(f"Twisted:  {installed('twisted')}")
    click.echo(f"OpenSSL:  {backend.openssl_version_text().removeprefix('OpenSSL ')}")
    click.echo(f"Features: {', '.join(FEATURES)}")
