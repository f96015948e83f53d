"""Tests of what a configuration file becomes, key by key."""

import os
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.document import Bounds
from mcpguard.config.load import (
    expired_keys,
    format_of,
    load,
    loads,
    parse,
    read_text,
    with_listener,
)
from mcpguard.config.settings import (
    AdminSettings,
    ApiKeySettings,
    ChildLimits,
    CorsSettings,
    IdentityKeys,
    RedactionRule,
    RotationSettings,
    Secret,
    ToolLimit,
    UpstreamSettings,
)
from mcpguard.errors import ConfigurationError
from tests.config.samples import HASH, UPSTREAM, problems, read

OTHER_HASH = "LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564="


class EverythingTests(SynchronousTestCase):
    """A file in which every key has another value than its default."""

    def test_toml(self) -> None:
        """Each key arrives in its setting."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        text = f"""
        [server]
        host = "::1"
        port = 8443
        public_url = "https://mcp.example.com/base/"
        max_request_size = 2
        allowed_hosts = ["A.example", "b:80", "::1"]
        allowed_origins = ["HTTPS://App.example:443", "app://panel"]
        drain_timeout_secs = 0
        denial_status = 200
        [server.cors]
        enabled = true
        allowed_origins = ["*", "http://x:80"]
        allowed_methods = ["POST"]
        allowed_headers = ["X-Team"]
        max_age = 0
        [admin]
        host = "localhost"
        port = 1
        [upstream]
        command = "/bin/true"
        args = ["-x", ""]
        cwd = "."
        env = {{ A = "1", B = {{ env = "SECRET" }} }}
        inherit_env = ["LANG"]
        isolation = "shared"
        max_children = 3
        idle_timeout_secs = 1.5
        limits = {{ memory = 1048576, cpu_secs = 1, open_files = 16 }}
        timeout_secs = 0.5
        max_timeout_secs = 0.5
        max_concurrency = 7
        max_message_size = 1024
        era = "modern"
        [[upstream.servers]]
        name = "web_2"
        path_prefix = "/team/web"
        strip_prefix = true
        transport = "http"
        url = "https://web.example/mcp?x=1"
        headers = {{ Authorization = "Bearer t", X-Team = {{ env = "SECRET" }} }}
        allow_private_networks = true
        bridge = "fallback"
        [[auth.api_keys]]
        id = "alice"
        key_hash = "{HASH}"
        name = "Alice"
        allowed_tools = []
        denied_tools = ["rm_*"]
        allowed_servers = ["default"]
        allowed_resources = ["file:///pub/*"]
        denied_resources = ["web_2:http://x/*"]
        allowed_prompts = ["?"]
        denied_prompts = ["p"]
        rate_limit = 0.5
        burst_size = 1
        max_concurrency = 2
        expires_at = 2030-01-01T01:00:00+01:00
        allowed_ips = ["10.0.0.0/8", "::1"]
        [[auth.api_keys]]
        id = "bob"
        key_hash = "{OTHER_HASH}"
        expires_at = "2030-01-01T00:00:00.25z"
        [rate_limit]
        enabled = false
        requests_per_second = 1
        burst_size = 2
        failed_auth_per_minute = 3
        [[rate_limit.tool_limits]]
        tool_pattern = "web_2:*"
        requests_per_second = 0.1
        burst_size = 4
        [audit]
        enabled = false
        events = ["ToolCall"]
        stdout = true
        file = "audit.log"
        log_arguments = true
        [audit.rotation]
        enabled = true
        max_size_bytes = 4096
        max_age_secs = 1
        max_backups = 1
        compress = true
        [[audit.redaction_rules]]
        name = "n"
        pattern = "[0-9]+"
        replacement = ""
        """
        environ = {"SECRET": "hush"}
        loaded = loads(text, "toml", environ=environ, base=directory)
        settings, server = loaded.settings, loaded.settings.server
        self.assertEqual(loaded.warnings, ())
        self.assertEqual((server.host, server.port), ("::1", 8443))
        self.assertEqual(server.public_url, "https://mcp.example.com/base")
        self.assertEqual((server.max_request_size, server.drain_timeout_secs), (2, 0.0))
        self.assertEqual(server.allowed_hosts, ("a.example", "b:80", "[::1]"))
        self.assertEqual(server.allowed_origins, ("https://app.example", "app://panel"))
        self.assertEqual(server.denial_status, 200)
        self.assertEqual(
            server.cors, CorsSettings(True, ("*", "http://x"), ("POST",), ("X-Team",), 0)
        )
        self.assertEqual(settings.admin, AdminSettings("localhost", 1))
        hush = Secret("hush", "environment variable SECRET")
        single = UpstreamSettings(
            command="/bin/true",
            args=("-x", ""),
            cwd=directory,
            env={"A": Secret("1"), "B": hush},
            inherit_env=("LANG",),
            isolation="shared",
            max_children=3,
            idle_timeout_secs=1.5,
            limits=ChildLimits(1048576, 1, 16),
            timeout_secs=0.5,
            max_timeout_secs=0.5,
            max_concurrency=7,
            max_message_size=1024,
            era="modern",
        )
        web = UpstreamSettings(
            name="web_2",
            path_prefix="/team/web",
            strip_prefix=True,
            transport="http",
            url="https://web.example/mcp?x=1",
            headers={"Authorization": Secret("Bearer t"), "X-Team": hush},
            allow_private_networks=True,
            bridge="fallback",
        )
        self.assertEqual(settings.upstreams, (single, web))
        identity = IdentityKeys(
            name="Alice",
            allowed_tools=(),
            denied_tools=("rm_*",),
            allowed_servers=("default",),
            allowed_resources=("file:///pub/*",),
            denied_resources=("web_2:http://x/*",),
            allowed_prompts=("?",),
            denied_prompts=("p",),
            rate_limit=0.5,
            burst_size=1,
            max_concurrency=2,
        )
        alice, bob = settings.auth.api_keys
        networks = (ip_network("10.0.0.0/8"), ip_network("::1"))
        moment = datetime(2030, 1, 1, tzinfo=UTC)
        self.assertEqual(alice, ApiKeySettings("alice", alice.key_hash, identity, moment, networks))
        self.assertEqual(alice.key_hash.hex()[:8], "34cfdcb4")
        self.assertEqual(bob.expires_at, moment.replace(microsecond=250_000))
        limits, audit = settings.rate_limit, settings.audit
        self.assertEqual((limits.enabled, limits.requests_per_second), (False, 1.0))
        self.assertEqual((limits.burst_size, limits.failed_auth_per_minute), (2, 3))
        self.assertEqual(limits.tool_limits, (ToolLimit("web_2:*", 0.1, 4),))
        self.assertEqual((audit.enabled, audit.events, audit.stdout), (False, ("ToolCall",), True))
        self.assertEqual((audit.file, audit.log_arguments), (directory / "audit.log", True))
        self.assertEqual(audit.rotation, RotationSettings(True, 4096, 1, 1, True))
        self.assertEqual(audit.redaction_rules, (RedactionRule("n", "[0-9]+", ""),))

    def test_yaml(self) -> None:
        """YAML says the same things."""
        text = f"""
        server: {{port: 8443, allowed_hosts: [a]}}
        upstream:
          command: /bin/true
          args: [-x, "3"]
          env: {{A: "1"}}
        audit: {{log_arguments: [path, q], stdout: true}}
        auth:
          api_keys:
            - id: alice
              key_hash: {HASH}
              expires_at: 2030-01-01T00:00:00Z
              rate_limit: 3
        """
        settings = read(text, "yaml").settings
        self.assertEqual(settings.server.port, 8443)
        self.assertEqual(settings.upstreams[0].args, ("-x", "3"))
        self.assertEqual(settings.audit.log_arguments, ("path", "q"))
        key = settings.auth.api_keys[0]
        self.assertEqual(key.expires_at, datetime(2030, 1, 1, tzinfo=UTC))
        self.assertEqual(key.identity.rate_limit, 3.0)


class RefusalTests(SynchronousTestCase):
    """Values that are not accepted, each with its words."""

    def refused(self, section: str, line: str, *words: str) -> None:
        """One wrong key in a section: exactly one problem, which says all this, and the line."""
        found = problems(f"[{section}]\n{line}\n" + ("" if "upstream" in section else UPSTREAM))
        self.assertEqual(len(found), 1, (line, found))
        for part in (*words, "(line 2)"):
            self.assertIn(part, found[0])

    def test_types(self) -> None:
        """Nothing is converted from another type."""
        for line, words in (
            ('port = "3000"', '"3000" is a string; accepted: an integer from 1 to 65535'),
            ("port = true", "true is a boolean"),
            ("port = 3000.0", "3000.0 is a number"),
            ("host = 3", "3 is an integer; accepted: an IP address"),
            ("host = ['a']", "a list stands here"),
            ("host = {}", "a table stands here"),
            ("denial_status = 403.0", "403.0 is a number; accepted: 403 or 200"),
            ('denial_status = "403"', '"403" is a string'),
            ("allowed_hosts = 'a'", '"a" is a string; accepted: a list of hosts'),
            ("allowed_hosts = [1]", "server.allowed_hosts[0]: 1 is an integer"),
            ("drain_timeout_secs = false", "false is a boolean; accepted: a number from 0"),
            ("drain_timeout_secs = 2024-01-01", "2024-01-01 is a date or time"),
            ("cors = true", "true is a boolean; accepted: a table"),
        ):
            self.refused("server", line, f"server.{line.split(' ')[0]}", words)

    def test_null(self) -> None:
        """A YAML key without a value is not a key left out: for a list of rights it would open."""
        text = f"auth:\n  api_keys:\n  - id: a\n    key_hash: {HASH}\n    allowed_tools:\n"
        text += "upstream: {transport: http, url: 'http://h/'}\n"
        self.assertEqual(
            problems(text, "yaml"),
            (
                "auth.api_keys[0].allowed_tools: nothing (null) stands here; accepted: a list of"
                " names or patterns with * and ? (line 5)",
            ),
        )

    def test_ranges(self) -> None:
        """Numbers beyond their limits."""
        for section, line in (
            *(("server", f"port = {port}") for port in (0, -1, 65536, 10**30)),
            ("server", "max_request_size = 0"),
            ("server", "drain_timeout_secs = -0.1"),
            ("server", "drain_timeout_secs = nan"),
            ("server", "drain_timeout_secs = inf"),
            ("rate_limit", "requests_per_second = 0"),
            ("rate_limit", "requests_per_second = -1"),
            ("rate_limit", "requests_per_second = inf"),
            ("rate_limit", "burst_size = 0"),
            ("rate_limit", "failed_auth_per_minute = 0"),
            ("server", "denial_status = 404"),
        ):
            key, _, value = line.partition(" = ")
            shown = value if value != str(10**30) else "10000"
            self.refused(section, line, f"{section}.{key}: {shown}", "accepted: ")

    def test_texts(self) -> None:
        """Strings of the wrong shape."""
        for line, words in (
            ('host = ""', '"": neither an IP address nor a host name'),
            ('host = "*"', 'write "0.0.0.0" or "::"'),
            ('host = "256.1.1.1"', "neither an IP address nor a host name"),
            ('host = "a b"', "neither"),
            ('public_url = "mcp.example.com"', "does not begin with http:// or https://"),
            ('public_url = "ftp://h"', "does not begin with http:// or https://"),
            ('public_url = "https://"', "has no valid host name"),
            ('public_url = "https://h:99999"', "has no valid host and port"),
            ('public_url = "https://h/#x"', "has a fragment"),
            ('public_url = "https://h/a b"', "a character that no URL has"),
            ('allowed_hosts = ["http://h"]', '[0]: "http://h": not a host name'),
            ('allowed_hosts = ["h:x"]', "not a host name"),
            ('allowed_origins = ["h"]', "not scheme://host"),
            ('allowed_origins = ["https://h/x"]', "has more than scheme://host"),
            ('allowed_origins = ["*"]', "not scheme://host"),
        ):
            self.refused("server", line, words)

    def test_control_characters_are_escaped(self) -> None:
        """A value cannot forge a line of the message, nor move the cursor."""
        found = problems('[server]\nhost = "\\n\\u001b[2J\\u202e"\n' + UPSTREAM)
        self.assertIn('"\\n\\x1b[2J\\u202e"', found[0])

    def test_long_values_are_cut(self) -> None:
        """A message stays readable."""
        found = problems(f'[server]\nhost = "{"x" * 5000}"\n{UPSTREAM}')
        self.assertLess(len(found[0]), 250)

    def test_length(self) -> None:
        """A string has a limit, and so has a list."""
        self.refused("server", f'host = "{"x" * 8193}"', "longer than 8192 characters")
        many = ",".join(['"h"'] * 1001)
        self.refused("server", f"allowed_hosts = [{many}]", "more than 1000 entries")

    def test_unknown_keys(self) -> None:
        """They are errors, with the key that was most likely meant."""
        self.refused("server", "prot = 1", 'server.prot: unknown key; did you mean "port"?')
        self.refused("server", "zzz = 1", "server.zzz: unknown key; known: host, port, public_url")
        found = problems("[sever]\nhost = 'x'\n" + UPSTREAM)
        self.assertEqual(found, ('sever: unknown key; did you mean "server"? (line 1)',))
        self.refused("auth", 'api_key = "x"', 'did you mean "api_keys"?')

    def test_keys_in_the_wrong_place(self) -> None:
        """A key of [[upstream.servers]] in [upstream] is told where it belongs."""
        found = problems('[upstream]\nname = "a"\nurl = "http://h/"\ntransport = "http"\n')
        self.assertIn("upstream.name: unknown key here: only in [[upstream.servers]]", found[0])

    def test_everything_at_once(self) -> None:
        """All problems of all sections come together, in the order of the lines."""
        text = """
        [server]
        port = 0
        prot = 1
        [audit]
        events = ["toolcall"]
        redaction_rules = [{ name = "x", pattern = "(" }]
        [[auth.api_keys]]
        id = ""
        [[rate_limit.tool_limits]]
        tool_pattern = ""
        """
        found = problems(text)
        self.assertEqual(
            [problem.split(":")[0] for problem in found],
            [
                "no MCP server is configured",
                "server.port",
                "server.prot",
                "audit.events[0]",
                "audit.redaction_rules[0].pattern",
                "auth.api_keys[0]",
                "auth.api_keys[0].id",
                "rate_limit.tool_limits[0]",
                "rate_limit.tool_limits[0].tool_pattern",
            ],
        )
        self.assertIn('did you mean "ToolCall"?', found[3])

    def test_api_keys(self) -> None:
        """Ids and hashes are unique, hashes well formed; a hash is never shown."""

        def entry(**values: str) -> str:
            rows = {"id": '"a"', "key_hash": f'"{HASH}"', **values}
            return "[[auth.api_keys]]\n" + "".join(f"{k} = {v}\n" for k, v in rows.items())

        cases: tuple[tuple[str, str], ...] = (
            (
                entry() + entry(key_hash=f'"{OTHER_HASH}"'),
                "another API key has this id (entry 0 has it already) (line 5)",
            ),
            (entry() + entry(id='"b"'), "so it is the same key (entry 0 has it already) (line 6)"),
            (entry(key_hash='"mcp_SECRETKEY"'), "key_hash: this is a key itself"),
            (entry(key_hash=f'"{"ab" * 32}"'), "key_hash: hexadecimal"),
            (entry(key_hash='"SECRET!"'), "key_hash: not standard base64"),
            (entry(key_hash='"U0VDUkVU"'), "key_hash: 6 bytes instead of 32"),
            (entry(key_hash=f'"{HASH[:-2]}V="'), "key_hash: not canonical base64"),
            (entry(key_hash='"-_-_"'), "key_hash: not standard base64"),
            (entry(id='" a"'), "begins or ends with a blank"),
            (entry(id=f'"{"a" * 129}"'), "longer than 128 characters"),
            (entry(id='"a\\nb"'), "contains a control character"),
            (entry(rate_limit="0"), "rate_limit: 0: out of range; accepted: a number above 0"),
            (entry(rate_limit="nan"), "rate_limit: nan: out of range"),
            (entry(burst_size="0"), "burst_size: 0: out of range"),
            (entry(allowed_tools='[""]'), 'allowed_tools[0]: "": empty'),
            (entry(allowed_tools=f'["{"*" * 513}"]'), "longer than 512 characters"),
            (entry(allowed_tools='"a"'), "accepted: a list of names or patterns"),
            (entry(expires_at="2030-01-01T00:00:00"), "has no offset"),
            (entry(expires_at="2030-01-01"), "is a date or time; accepted: a date-time with"),
            (entry(expires_at='"2030-01-01"'), "not RFC 3339 with an offset"),
            (entry(expires_at='"2030-02-31T00:00:00Z"'), "no such point in time"),
            (entry(expires_at='"9999-12-31T23:59:59-23:59"'), "no such point in time"),
            (entry(allowed_ips='["10.0.0.1/8"]'), "did you mean 10.0.0.0/8?"),
            (entry(allowed_ips='["x"]'), "not an IP address or CIDR range"),
            (entry(allowed_tols="[]"), 'allowed_tols: unknown key; did you mean "allowed_tools"?'),
        )
        for text, words in cases:
            found = problems(text + UPSTREAM)
            self.assertEqual(len(found), 1, found)
            self.assertIn(words, found[0])
            self.assertNotIn("SECRET", found[0])

    def test_audit(self) -> None:
        """The audit file's directory exists, patterns are RE2 and match something."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        for line, words in (
            (f'file = "{directory}"', "this is a directory"),
            (f'file = "{directory}/none/x"', "its directory does not exist"),
            (f'file = "{"x" * 300}/x"', "audit.file: "),
            ('log_arguments = "path"', "accepted: true, false or a list of argument names"),
            ('log_arguments = [""]', 'log_arguments[0]: "": empty'),
            ('redaction_rules = [{name = "n", pattern = "(?=a)"}]', "not an RE2 expression"),
            ('redaction_rules = [{name = "n", pattern = "a*"}]', "matches the empty text"),
            ('redaction_rules = [{name = "n"}]', "pattern is missing; accepted: a regular"),
            ("rotation = {max_backups = 0}", "rotation.max_backups: 0: out of range"),
            ("rotation = {enabled = true}", "there is no file to rotate"),
        ):
            self.refused("audit", line, words)

    def test_twins(self) -> None:
        """Rules and limits with one name are errors."""
        rule = '[[audit.redaction_rules]]\nname = "a"\npattern = "x"\n'
        self.assertIn("another rule has this name", problems(rule * 2 + UPSTREAM)[0])
        limit = '[[rate_limit.tool_limits]]\ntool_pattern = "a"\nrequests_per_second = 1\n'
        self.assertIn("another limit has this pattern", problems(limit * 2 + UPSTREAM)[0])


class FileTests(SynchronousTestCase):
    """Files that are read, and files that cannot be."""

    def write(self, data: bytes, name: str = "mcp-guard.toml") -> Path:
        """A file in a directory of its own."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        path = directory / name
        path.write_bytes(data)
        return path

    def refused(self, path: Path) -> str:
        """The one reason."""
        error = self.assertRaises(ConfigurationError, load, path, environ=os.environ)
        self.assertEqual(len(error.problems), 1)
        return str(error.problems[0])

    def test_format_by_name(self) -> None:
        """YAML by suffix, TOML otherwise."""
        formats = {
            name: format_of(Path(name)) for name in ("a.yaml", "a.YML", "a.toml", "a", "a.x")
        }
        self.assertEqual(list(formats.values()), ["yaml", "yaml", "toml", "toml", "toml"])
        path = self.write(b"upstream: {transport: http, url: 'http://h/'}\n", "x.yml")
        self.assertEqual(load(path, environ={}).settings.upstreams[0].url, "http://h/")

    def test_relative_paths(self) -> None:
        """They start at the file's directory, not at the current one."""
        path = self.write(UPSTREAM.encode() + b'[audit]\nfile = "a.log"\n')
        self.assertEqual(load(path, environ={}).settings.audit.file, path.parent / "a.log")

    def test_unreadable(self) -> None:
        """Each kind of file that cannot be read has its reason; none of them blocks."""
        missing = Path(self.mktemp()).absolute() / "mcp-guard.toml"
        self.assertEqual(
            self.refused(missing),
            f"Config file not found: {missing}. Create one with `mcp-guard init`,"
            " or name another with --config FILE.",
        )
        path = self.write(b"a = '\xff'")
        self.assertIn("is not UTF-8 text (byte 5)", self.refused(path))
        self.assertIn("is not a regular file", self.refused(path.parent))
        self.assertIn("cannot be read: Not a directory", self.refused(path / "x"))
        self.assertIn("cannot be read: ", self.refused(Path("a\0b")))
        pipe = path.parent / "pipe"
        os.mkfifo(pipe)
        self.assertIn("is not a regular file", self.refused(pipe))

    def test_size(self) -> None:
        """A file is read up to its limit only."""
        path = self.write(b"#" * 11)
        read_text(path, 11)
        error = self.assertRaises(ConfigurationError, read_text, path, 10)
        self.assertIn("is larger than 10 bytes", error.problems[0])
        error = self.assertRaises(ConfigurationError, parse, "#####", "toml", Bounds(4, 10, 10))
        self.assertIn("larger than 4 bytes", error.problems[0])


class ListenerTests(SynchronousTestCase):
    """What the command line changes."""

    def changed(self, host: str | None, port: int | None, text: str = UPSTREAM) -> Any:
        """The server settings."""
        return with_listener(read(text), host, port)

    def test_replaced(self) -> None:
        """Host and port are replaced one by one; port 0 is allowed here only."""
        server = self.changed("::1", None).settings.server
        self.assertEqual((server.host, server.port), ("::1", 3000))
        server = self.changed(None, 0).settings.server
        self.assertEqual((server.host, server.port), ("127.0.0.1", 0))

    def test_refused(self) -> None:
        """What is no address or port, and the operator listener's port."""
        for host, port, words in (
            ("*", None, '--host "*": for every interface write'),
            (None, 65536, "--port 65536: accepted: 0"),
            (None, -1, "--port -1: accepted: 0"),
            (None, 9090, "--port 9090 is that of the operator listener"),
            (None, 3001, "--port 3001 is that of another listener"),
            ("0.0.0.0", 3002, "--port 3002 is that of another listener"),
        ):
            text = f"{UPSTREAM}[admin]\n[[server.listeners]]\nport = 3001\n"
            text += '[[server.listeners]]\nport = 3002\nhost = "::1"\n'
            error = self.assertRaises(ConfigurationError, self.changed, host, port, text)
            self.assertIn(words, error.problems[0])

    def test_exposure(self) -> None:
        """Listening beyond loopback is warned of as if the file said it."""
        self.assertIn("answers to any Host name", self.changed("0.0.0.0", None).warnings[-1])
        self.assertFalse([w for w in self.changed("::1", None).warnings if "Host" in w])


class ExpiredKeyTests(SynchronousTestCase):
    """Warnings that depend on the time."""

    def test_expired(self) -> None:
        """A key counts as expired from its very moment."""
        text = (
            f'[[auth.api_keys]]\nid = "a"\nkey_hash = "{HASH}"\nexpires_at = 2030-01-01T00:00:00Z\n'
        )
        settings = read(text + UPSTREAM).settings
        moment = datetime(2030, 1, 1, tzinfo=UTC)
        self.assertEqual(expired_keys(settings, moment.replace(year=2029)), ())
        self.assertEqual(
            expired_keys(settings, moment),
            ('the API key "a" expired at 2030-01-01T00:00:00+00:00',),
        )
