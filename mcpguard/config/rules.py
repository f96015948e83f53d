"""What must hold between keys. Each rule reads a draft and reports to its place."""

import os
import shutil

from attrs import fields_dict

from mcpguard.config.commands import REASON, runs_a_shell
from mcpguard.config.document import quoted
from mcpguard.config.settings import (
    AdminSettings,
    AuditSettings,
    ListenerSettings,
    ServerSettings,
    UpstreamSettings,
    shown,
)
from mcpguard.config.tables import Draft
from mcpguard.policy.origins import is_loopback

STDIO_ONLY = (
    *("command", "args", "cwd", "env", "inherit_env", "isolation", "max_children"),
    *("idle_timeout_secs", "limits"),
)
HTTP_ONLY = ("url", "headers", "allow_private_networks", "tls")
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104
UNANSWERED = "is http://, and the listener speaks TLS: clients would be told a URL without answer"
OWN_SERVER = ("transport", "command", "url")
"""Any of these makes ``[upstream]`` a server of its own beside ``servers``."""


def transport(draft: Draft) -> None:
    """The keys of one transport, all that it needs and none of the other's."""
    if draft.given("transport") and "transport" not in draft.values:
        return  # already reported; what it needs cannot be told
    chosen = draft.values.get("transport", UpstreamSettings().transport)
    if chosen != "stdio":
        _refuse_keys(draft, STDIO_ONLY, 'only for transport = "stdio"')
        if not draft.given("url"):
            draft.place.complain(f'url is missing: transport = "{chosen}" needs it')
        if draft.given("tls") and str(draft.values.get("url", "")).startswith("http://"):
            draft.at("tls").complain("the url is http://, which has no TLS; make it https://")
        if chosen == "sse" and draft.values.get("era") == "modern":
            draft.at("era").complain(
                'not "modern" for transport = "sse", which is older than stateless versions'
            )
        return
    implied = "" if draft.given("transport") else ', which is the default; set transport = "http"'
    _refuse_keys(draft, HTTP_ONLY, f'not for transport = "stdio"{implied}')
    if draft.given("command"):
        _check_command(draft)
    elif implied and draft.given("url"):
        return  # the key above says what to do
    else:
        draft.place.complain('command is missing: transport = "stdio" needs it')


def _refuse_keys(draft: Draft, keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if draft.given(key):
            draft.at(key).complain(why)


def _check_command(draft: Draft) -> None:
    command = draft.values.get("command")
    if command is None:
        return
    if runs_a_shell(command, draft.values.get("args", ())):
        draft.at("args").complain(f"a shell started by {shown(command)} {REASON}")
        return
    cwd = draft.values.get("cwd", "")
    search = draft.place.report.environ.get("PATH", os.defpath)
    found = os.path.join(cwd, command) if "/" in command else command
    if shutil.which(found, path=search) is None:
        draft.at("command").warn(f"{quoted(shown(command))} is not there, or not executable, now")


def timeouts(draft: Draft) -> None:
    """No request may be given longer than the longest."""
    defaults = UpstreamSettings()
    given = [key for key in ("timeout_secs", "max_timeout_secs") if draft.given(key)]
    if not all(key in draft.values for key in given):
        return
    each = draft.values.get("timeout_secs", defaults.timeout_secs)
    longest = draft.values.get("max_timeout_secs", defaults.max_timeout_secs)
    if given and longest < each:
        draft.at(given[-1]).complain(
            f"max_timeout_secs ({longest:g}) is shorter than timeout_secs ({each:g})"
        )


def restart(draft: Draft) -> None:
    """Only what can end under a session can be restarted for it."""
    if draft.given("restart") and draft.values.get("transport") == "http":
        draft.at("restart").complain(
            'not for transport = "http": there a session that the server has forgotten is always'
            " begun anew"
        )


def bridge(draft: Draft) -> None:
    """A server that knows no handshake cannot be fallen back to."""
    if draft.values.get("era") == "modern" and draft.values.get("bridge") == "fallback":
        draft.at("bridge").complain(
            'not "fallback" for era = "modern": clients cannot shake hands with that server'
        )


def single_or_servers(draft: Draft) -> None:
    """``[upstream]`` is one server, or holds several, or both."""
    has_servers = bool(draft.place.value.get("servers"))
    own = [key for key in draft.place.value if key != "servers"]
    if any(key in OWN_SERVER for key in own) or not has_servers:
        if own or not draft.given("servers"):
            transport(draft)
        else:
            draft.at("servers").complain("no server in it; accepted: at least one server")
    else:
        for key in own:
            if key in UPSTREAM_FIELDS:
                draft.at(key).complain(
                    "belongs to one server: put it into the [[upstream.servers]] it is for"
                )
    if any(key in OWN_SERVER for key in own):
        _refuse_second_default(draft)


def _refuse_second_default(draft: Draft) -> None:
    """The server of ``[upstream]`` itself has a name too."""
    name = UpstreamSettings().name
    for server in draft.values.get("servers", ()):
        if name in (server.name, (server.path_prefix or "")[1:]):
            draft.at("servers").complain(
                f'"{name}" is the name of the server in [upstream] itself; choose another'
            )


UPSTREAM_FIELDS = frozenset(fields_dict(UpstreamSettings)) - {"name", "path_prefix", "strip_prefix"}
"""What ``[upstream]`` says of a server of its own; how the others are reached it cannot say."""


def prefixes_and_names(drafts: list[Draft]) -> None:
    """A prefix that is another server's name would make ``/mcp/<name>`` ambiguous."""
    names = {draft.values["name"]: draft for draft in drafts if "name" in draft.values}
    for draft in drafts:
        prefix = draft.values.get("path_prefix")
        owner = names.get(prefix[1:]) if prefix else None
        if owner is not None and owner is not draft:
            draft.at("path_prefix").refuse(
                f"another server is named so (entry {owner.place.path[-1]}) and answers there"
            )


def cors_without_origins(draft: Draft) -> None:
    """CORS that lets nobody in."""
    if draft.values.get("enabled") and not draft.place.value.get("allowed_origins"):
        draft.at("enabled").complain(
            "no origin is allowed; add allowed_origins, a list of origins such as"
            ' "https://app.example.com"'
        )


def rotation_without_file(draft: Draft) -> None:
    """Only a file can be rotated."""
    rotation = draft.place.value.get("rotation")
    if isinstance(rotation, dict) and rotation.get("enabled") is True and not draft.given("file"):
        draft.at("rotation").complain("there is no file to rotate; set file in [audit]")


def audit_goes_nowhere(draft: Draft) -> None:
    """An audit trail that nobody can read."""
    audit = draft.values.get("audit", AuditSettings())
    if audit.enabled and not audit.stdout and audit.file is None:
        draft.place.warn("audit events are written nowhere: set file or stdout in [audit]")


def some_upstream(draft: Draft) -> None:
    """A gateway to nothing."""
    if not draft.given("upstream"):
        draft.place.complain(
            "no MCP server is configured: add [upstream] with a command or a url"
            " (`mcp-guard init` writes an example)"
        )


def client_certificates(draft: Draft) -> None:
    """What is said about client certificates needs a CA that they come from."""
    if draft.given("client_ca_path"):
        return
    for key in ("client_crl_path", "client_auth"):
        if draft.given(key):
            draft.at(key).complain(
                "client_ca_path is missing: without it no client certificate is asked for"
            )


def own_certificate(draft: Draft) -> None:
    """A certificate is nothing without its key."""
    for key, other in (("cert_path", "key_path"), ("key_path", "cert_path")):
        if draft.given(key) and not draft.given(other):
            draft.at(key).complain(f"{other} is missing")


def listeners(draft: Draft) -> None:
    """Which addresses are listened on, and what that opens."""
    server = draft.values.get("server", ServerSettings())
    admin = draft.values.get("admin")
    if not isinstance(server, ServerSettings) or not isinstance(admin, AdminSettings | None):
        return
    for words in exposure(server):
        draft.at("server").warn(words)
    if server.tls is not None and _is_plain(server.public_url):
        draft.place.item("server").item("public_url").warn(UNANSWERED)
    for index, one in enumerate(server.listeners):
        if one.tls is not None and _is_plain(one.public_url):
            place = draft.place.item("server").item("listeners").item(index)
            place.item("public_url").warn(UNANSWERED)
        if any(clash(one, other) for other in server.every_listener[: index + 1]):
            place = draft.place.item("server").item("listeners").item(index)
            place.complain(f"port {one.port} is already that of another listener")
    if admin is None:
        return
    if not is_loopback(admin.host):
        draft.at("admin").warn(
            f"metrics and routes are open to everyone who can reach {shown(admin.host)}"
        )
    if collide(server, admin):
        draft.at("admin").complain(f"port {admin.port} is already that of a listener for clients")


def _is_plain(url: str | None) -> bool:
    return url is not None and url.startswith("http://")


def exposure(server: ServerSettings) -> tuple[str, ...]:
    """Warnings about the listeners for clients."""
    if server.allowed_hosts is not None or server.public_url:
        return ()
    return tuple(
        f"listens on {shown(one.host)} and answers to any Host name: set allowed_hosts or"
        " public_url"
        for one in server.every_listener
        if not is_loopback(one.host) and not one.public_url
    )


def collide(server: ServerSettings, admin: AdminSettings) -> bool:
    """Whether the operator listener would want a port of the clients'."""
    return any(clash(one, admin) for one in server.every_listener)


def clash(one: ListenerSettings, other: ListenerSettings | AdminSettings) -> bool:
    """Whether two listeners would want the same port."""
    hosts = {one.host, other.host}
    return one.port == other.port and (len(hosts) == 1 or not hosts.isdisjoint(WILDCARDS))
