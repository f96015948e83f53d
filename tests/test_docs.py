"""Tests of the documentation: what it shows works, what it names exists."""

import ast
import errno
import json
import os
import re
import string
from collections.abc import Iterator
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import __main__ as benchmarks
from benchmarks.catalog import chosen
from mcpguard.cli import FEATURES, main
from mcpguard.config.load import Format, loads
from mcpguard.config.settings import Settings
from mcpguard.errors import ConfigurationError
from mcpguard.gateway.serving import MAX_BRIDGED_PER_PRINCIPAL, MAX_BRIDGED_SESSIONS, RENEWAL
from mcpguard.observe.audit.trail import AUDIT_BOUNDS
from mcpguard.observe.audit.values import FIELDS
from mcpguard.observe.events import EVENT_TYPES
from mcpguard.observe.metrics import FURTHER, Metrics
from mcpguard.observe.numbers import BUCKETS
from tests.config.samples import SESSION_KEY
from tests.live import matrix, test_conformance

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`(?P<code>[^`\n]+)`")

REFERENCE_TYPES = frozenset(
    {
        *("AuthSuccess", "AuthFailure", "Authorized", "AuthorizationDenied", "RateLimited"),
        "ToolCall",
    }
)
"""The event types of the product reference."""

SERVER: dict[Format, tuple[str, str]] = {
    "toml": (
        r"(?m)^\[+upstream",
        '\n[upstream]\nurl = "https://example.com/"\ntransport = "http"\n',
    ),
    "yaml": (r"(?m)^upstream:", "\nupstream: {url: 'https://example.com/', transport: http}\n"),
}
"""How a server is recognised in a block, and what a fragment without one is completed with."""


class Everything(dict[str, str]):
    """An environment in which every variable is set."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "secret"

    def get(self, name: str, default: object = None) -> str:
        """Return some value, whatever the name."""
        return "/usr/bin" if name == "PATH" else "secret"


def blocks(page: Path, *languages: str) -> Iterator[tuple[str, str]]:
    """Yield language and text of each fenced block."""
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if match["language"] in languages:
            yield match["language"], match["text"]


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command line a page shows, in blocks and in running text."""
    for _, text in blocks(page, "console"):
        for line in text.splitlines():
            if line.startswith("$ "):
                yield line[2:].split()
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in _CODE.finditer(prose):
        words = match["code"].split()
        if words[0] in ("mcp-guard", "make") and len(words) > 1:
            yield words


def anchor(heading: str) -> str:
    """Return the anchor that forges give a heading."""
    kept = "".join(c for c in heading.lower() if c in string.ascii_lowercase + "0123456789 -_")
    return kept.replace(" ", "-")


class ConfigurationTests(SynchronousTestCase):
    """Every configuration a page shows."""

    def load(self, text: str, language: Format) -> Settings:
        """Load one block, completed where it is a fragment, its secret files put in place."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        secret = folder / "secret"
        secret.write_text(SESSION_KEY)
        secret.chmod(0o600)
        text = re.sub(r'\{ file = "[^"]+" \}', f'{{ file = "{secret}" }}', text)
        # The directories of an example need not exist where the test runs.
        text = re.sub(r'(?m)^file = "[^"]+"$', f'file = "{folder}/audit.log"', text)
        text = re.sub(r'(?m)^cwd = "[^"]+"$', f'cwd = "{folder}"', text)
        text = re.sub(r"(?m)^(  file): /.+$", rf"\1: {folder}/audit.log", text)
        present, server = SERVER[language]
        if not re.search(present, text):
            text += server
        return loads(text, language, environ=Everything(), base=folder).settings

    def test_blocks(self) -> None:
        """Each block loads without an error."""
        count = 0
        for page in PAGES:
            for language, text in blocks(page, "toml", "yaml"):
                count += 1
                try:
                    settings = self.load(text, "toml" if language == "toml" else "yaml")
                except ConfigurationError as error:
                    self.fail(f"{page.name}: {'; '.join(error.problems)}\n{text}")
                self.assertTrue(settings.upstreams)
        self.assertGreater(count, 10)

    def test_json(self) -> None:
        """Each JSON block, of a client's configuration or an answer, is JSON."""
        count = 0
        for page in PAGES:
            for _, text in blocks(page, "json"):
                count += 1
                try:
                    self.assertIsInstance(json.loads(text), dict)
                except ValueError as problem:
                    self.fail(f"{page.name}: {problem}\n{text}")
        self.assertGreater(count, 5)

    def test_a_wrong_block_is_noticed(self) -> None:
        """The test above can fail."""
        with self.assertRaises(ConfigurationError):
            self.load("[audit]\nfiel = 3\n", "toml")


class CommandTests(SynchronousTestCase):
    """Every command a page names."""

    def test_mcp_guard(self) -> None:
        """Each subcommand and each of its options exists."""
        seen = set()
        for page in PAGES:
            for words in commands(page):
                if words[0] == "mcp-guard":
                    seen.add(self.check(page, words[1:]))
        self.assertLessEqual({"run", "init", "validate", "keygen", "check-upstream"}, seen)

    def check(self, page: Path, words: list[str]) -> str:
        """Check one command line; return its subcommand."""
        known: click.Command = main
        name = ""
        for word in words:
            if word.startswith("-"):
                options = [o for one in known.params for o in (*one.opts, *one.secondary_opts)]
                self.assertIn(word, [*options, "-vv", "-h", "--help"], f"{page.name}: {words}")
            elif not name and isinstance(known, click.Group) and word in known.commands:
                name, known = word, known.commands[word]
        # `--version` and `--help` end before a subcommand is looked for.
        alone = bool({"--version", "--help"} & set(words))
        self.assertTrue(name or alone, f"{page.name}: no subcommand in {words}")
        return name

    def test_make(self) -> None:
        """Each target exists."""
        targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
        named = {w[1] for page in PAGES for w in commands(page) if w[0] == "make"}
        self.assertLessEqual({"run", "test"}, named)
        self.assertLessEqual(named, set(targets))

    def test_benchmarks(self) -> None:
        """Each option of the benchmarks exists, and each row that a page names."""
        count = 0
        for page in PAGES:
            for _, text in blocks(page, "console"):
                for given in re.findall(r'(?m)^\$ make bench BENCH="(.*)"$', text):
                    chosen(benchmarks.parser().parse_args(given.split()).only)
                    count += 1
        self.assertGreater(count, 2)
        text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
        named = re.search(r"(?s)\n\| row \|.*?\n\n", text)
        assert named is not None
        rows = re.findall(r"`([\w-]+)`", re.sub(r"(?m)^(\|[^|]*\|).*", r"\1", named[0]))
        self.assertGreater(len(rows), 5)
        chosen(rows)

    def test_paths(self) -> None:
        """Each file of the project that a page names exists."""
        for page in PAGES:
            prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
            for match in _CODE.finditer(prose):
                path = match["code"]
                if re.fullmatch(r"(mcpguard|conf|docs|tests)/[\w./-]+", path):
                    self.assertTrue((ROOT / path).exists(), f"{page.name}: {path}")


class LinkTests(SynchronousTestCase):
    """Every link inside the project."""

    def test_links(self) -> None:
        """Each leads to a file that exists, and to a heading in it."""
        count = 0
        for page in PAGES:
            prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
            for match in _LINK.finditer(prose):
                target, _, fragment = match["target"].partition("#")
                if "://" in target:
                    continue
                count += 1
                path = (page.parent / target).resolve() if target else page
                self.assertTrue(path.exists(), f"{page.name}: {match['target']}")
                if fragment:
                    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
                    anchors = [anchor(h) for h in re.findall(r"(?m)^#+ (.+)$", text)]
                    self.assertIn(fragment, anchors, f"{page.name}: {match['target']}")
        self.assertGreater(count, 10)

    def test_every_page_is_linked(self) -> None:
        """Each page of the documentation can be found from the README."""
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        for page in PAGES:
            if page.parent.name == "docs":
                self.assertIn(f"(docs/{page.name})", readme)


class FactTests(SynchronousTestCase):
    """What the pages on audit and metrics list, compared with the code."""

    def named(self, page: str) -> set[str]:
        """Return every piece of code a page's text mentions."""
        text = _FENCE.sub("", (ROOT / "docs" / page).read_text(encoding="utf-8"))
        return {match["code"] for match in _CODE.finditer(text)}

    def test_event_types(self) -> None:
        """Each event type is explained."""
        self.assertLessEqual(EVENT_TYPES, self.named("audit.md"))

    def test_features(self) -> None:
        """What `version` is shown to say is what it says."""
        page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
        self.assertIn(f"\nFeatures: {', '.join(FEATURES)}\n", page)

    def test_further_event_types(self) -> None:
        """Those that the reference does not have are named as deviations."""
        page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
        row = next(line for line in page.splitlines() if "further event types" in line)
        self.assertEqual(set(re.findall(r"`(\w+)`", row)), EVENT_TYPES - REFERENCE_TYPES)

    def test_matrix(self) -> None:
        """The matrix is the one that the live tests show, made by the software they use."""
        page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
        self.assertIn(f"\n\n{matrix.table()}\n", page)
        self.assertIn(f"\n\n{matrix.cast()}\n", page)
        for feature in matrix.FEATURES:
            self.assertIn(f"| {feature} |", page)
        for gap in matrix.GAPS:
            self.assertIn(gap.feature, matrix.FEATURES)

    def test_conformance(self) -> None:
        """The page has each exception from the official suite, with its reason."""
        page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
        rows = dict(re.findall(r"(?m)^\| `([\w:*-]+)` \| (.+) \|$", page))
        exceptions = test_conformance.WITHOUT_SESSIONS
        for scenario, reason in exceptions.items():
            name = "tasks-*" if scenario.startswith("tasks-") else scenario
            self.assertTrue(rows[name].startswith(reason), scenario)

    def test_members(self) -> None:
        """Each fixed member of an audit line is explained."""
        self.assertLessEqual(set(FIELDS), self.named("audit.md"))

    def test_bounds(self) -> None:
        """The numbers of the audit page are the ones in force."""
        text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
        line, feed = AUDIT_BOUNDS.line, AUDIT_BOUNDS.feed
        for words in (
            f"clipped at {line.text} characters",
            f"at most {line.items} argument",
            f"{line.depth} levels deep",
            f"at most {line.line // 1024} KiB",
            f"up to {feed.batch_bytes // 1024} KiB",
            f"up to {feed.held_bytes // 1_048_576} MiB",
        ):
            self.assertIn(words, text.replace("\n", " "))
        self.assertEqual((feed.batch_secs, AUDIT_BOUNDS.stop_secs), (1.0, 5.0))

    def test_metrics(self) -> None:
        """The table of metrics has each metric with its labels, and no other."""
        text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
        rows = {
            match[1]: tuple(re.findall(r"`(\w+)`", match[3]))
            for match in re.finditer(r"(?m)^\| `(\w+)` \| (\w+) \|(.*)\|$", text)
        }
        metrics = Metrics(
            active_identities=tuple,
            sessions=lambda: 0,
            connections=lambda: 0,
            children=dict,
        )
        shown = re.findall(r"(?m)^# TYPE (mcp_guard_\w+)", metrics.render().decode())
        self.assertEqual(set(rows), set(shown))
        for name, declared in FURTHER.items():
            self.assertEqual(rows[name], declared.labels, name)
        self.assertEqual(BUCKETS[-4:], (1.0, 2.5, 5.0, 10.0))

    def test_renewal_bounds(self) -> None:
        """What a session begun anew takes along is bounded as the page says."""
        text = (ROOT / "docs" / "upstreams.md").read_text(encoding="utf-8").replace("\n", " ")
        kept = RENEWAL.posture
        for words in (
            f"At most {kept.max_subscriptions} subscriptions of {kept.max_uri} characters",
            f"more than {RENEWAL.max_params // 1024} KiB of parameters",
        ):
            self.assertIn(words, text)
        limits = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
        self.assertIn(f"{RENEWAL.max_waiting} requests wait meanwhile", limits)
        self.assertIn(f"{MAX_BRIDGED_SESSIONS:,}".replace(",", " "), limits)
        self.assertIn(f"and {MAX_BRIDGED_PER_PRINCIPAL} of one identity", limits)

    def test_messages(self) -> None:
        """Each message that troubleshooting quotes is one that the gateway has."""
        known = [os.strerror(errno.EADDRINUSE)]
        for file in (ROOT / "mcpguard").rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    known.append(node.value)
        page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
        cells = re.findall(r"(?m)^\| (.*?) \|", page) + re.findall(r"(?m)^- (`.*? .*?`)", page)
        count = 0
        for code in [code for cell in cells for code in _CODE.findall(cell)]:
            for part in re.split(r"…|'X'|: |, yet |HTTP 404|[a-z_]+ = .*", code):
                if " " in part.strip():
                    count += 1
                    self.assertTrue(any(part.strip() in text for text in known), code)
        self.assertGreater(count, 20)


class UnitTests(SynchronousTestCase):
    """The systemd unit."""

    def test_unit(self) -> None:
        """It starts what exists, and leaves out what OpenSSL's binding cannot live with."""
        unit = (ROOT / "conf" / "mcp-guard.service").read_text(encoding="utf-8")
        settings = [line for line in unit.splitlines() if not line.startswith("#")]
        self.assertIn("--logger=mcpguard.observe.logs.to_stdout", unit)
        self.assertFalse([line for line in settings if "MemoryDenyWriteExecute" in line])
        self.assertIn("Type=simple", settings)
        stop = next(line for line in settings if line.startswith("TimeoutStopSec="))
        drain = Settings().server.drain_timeout_secs
        self.assertGreater(float(stop.partition("=")[2]), drain + AUDIT_BOUNDS.stop_secs)
