"""Tests of what the harness decides: what is measured where, and what is kept of it."""

import json
from pathlib import Path
from unittest.mock import Mock

import tomlkit
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.bench import Bench
from benchmarks.catalog import EXTRAS, ROWS, chosen
from benchmarks.extras.features import VARIANTS
from benchmarks.extras.profile import digest
from benchmarks.gateway import settings, upstream_of
from benchmarks.machine import Layout, available_cpus, process, tree
from benchmarks.run import Record
from benchmarks.servers import open_loop, reference
from mcpguard.config.load import loads
from tests.benchmarks.samples import results


class CatalogTests(SynchronousTestCase):
    """Rows and extra runs."""

    def test_names(self) -> None:
        """Every name is there once."""
        names = [one.name for one in ROWS] + [one.name for one in EXTRAS]
        self.assertEqual(len(names), len(set(names)))

    def test_chosen(self) -> None:
        """All without names; with names these, in the usual order; an unknown one is an error."""
        self.assertEqual(chosen([]), (list(ROWS), list(EXTRAS)))
        rows, extras = chosen(["streams", "gateway-stdio", "direct"])
        self.assertEqual([one.name for one in rows], ["direct", "gateway-stdio"])
        self.assertEqual([one.name for one in extras], ["streams"])
        self.assertRaises(KeyError, chosen, ["gateway-carrier-pigeon"])


class LayoutTests(SynchronousTestCase):
    """Which processor does what."""

    def test_apart(self) -> None:
        """Gateway and load are apart where there are two processors, and share a single one."""
        self.assertEqual(Layout.of((0, 1, 2)), Layout((0,), (1, 2)))
        self.assertEqual(Layout.of((3,)), Layout((3,), (3,)))

    def test_workers(self) -> None:
        """Workers have a processor each; what is left makes the load, or everything shares."""
        self.assertEqual(Layout.of((0, 1)).for_workers(1), Layout((0,), (1,)))
        self.assertEqual(Layout.of((0, 1)).for_workers(2), Layout((0, 1), (0, 1)))
        self.assertEqual(Layout.of((0, 1, 2, 3)).for_workers(2), Layout((0, 1), (2, 3)))

    def test_tree(self) -> None:
        """A process is in its own tree, one that has ended has none."""
        own = process(1)
        self.assertIsNotNone(own)
        self.assertIn(1, [one.pid for one in tree(1)])
        self.assertEqual(tree(2**22 + 1), [])
        self.assertTrue(available_cpus())


class SettingsTests(SynchronousTestCase):
    """The gateway's configurations."""

    def setUp(self) -> None:
        """A bench that starts nothing."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.bench = Bench(self.folder, Layout((0,), (1,)), token="mcp_sample")
        self.bench.start = Mock()  # type: ignore[method-assign]
        self.bench.start.return_value.says.return_value = {1: "4000"}

    def test_rows(self) -> None:
        """Every kind of upstream gives a configuration that the gateway takes, everything on."""
        for kind in ("http", "http-sse", "stdio"):
            upstream = upstream_of(self.bench, kind, self.bench.layout)
            text = tomlkit.dumps(settings(self.bench, kind, upstream, {}))
            loaded = loads(text, "toml", environ={}, base=self.folder).settings
            self.assertTrue(loaded.rate_limit.enabled)
            self.assertTrue(loaded.rate_limit.tool_limits)
            self.assertTrue(loaded.audit.enabled and loaded.audit.file)
            self.assertEqual(loaded.auth.api_keys[0].id, "bench")
            self.assertTrue(loaded.auth.api_keys[0].identity.denied_tools)

    def test_features(self) -> None:
        """Every variant is one, and the gateway takes it."""
        upstream = upstream_of(self.bench, "stdio", self.bench.layout)
        base = settings(self.bench, "one", upstream, {})
        for name, changes in VARIANTS.items():
            changed = settings(self.bench, "one", upstream, changes)
            self.assertEqual(changed == base, not changes, name)
            if "tracing" not in changes:
                loads(tomlkit.dumps(changed), "toml", environ={}, base=self.folder)

    def test_secret(self) -> None:
        """The key itself is in no configuration."""
        upstream = upstream_of(self.bench, "stdio", self.bench.layout)
        self.assertNotIn("mcp_sample", json.dumps(settings(self.bench, "one", upstream, {})))


class RecordTests(SynchronousTestCase):
    """Results on disk."""

    def record(self) -> Record:
        """A record with the sample in it."""
        return Record(Path(self.mktemp()) / "results.json", results())

    def test_kept(self) -> None:
        """What was written is read again; what is not there is no record."""
        record = self.record()
        self.assertFalse(Record(record.path).load())
        record.save()
        again = Record(record.path)
        self.assertTrue(again.load())
        self.assertEqual(again.data, json.loads(json.dumps(results())))

    def test_has(self) -> None:
        """A round is there or not; a new row begins empty."""
        record = self.record()
        self.assertTrue(record.has("gateway-http", 16, 3))
        self.assertFalse(record.has("gateway-http", 64, 3))
        self.assertFalse(record.has("new", 16, 1))

    def test_forget(self) -> None:
        """What was left out is tried again, and what is named is measured anew."""
        record = self.record()
        record.forget_left_out()
        self.assertNotIn("unavailable", record.row("supergateway"))
        self.assertNotIn("redis", record.data["extras"])
        self.assertIn("streams", record.data["extras"])
        record.forget(["gateway-http", "streams", "unheard of"])
        self.assertFalse(record.has("gateway-http", 16, 3))
        self.assertNotIn("streams", record.data["extras"])


class OpenLoopTests(SynchronousTestCase):
    """Arrivals, and when an answer is whole."""

    def test_arrivals(self) -> None:
        """About as many as the rate says, in order, within the time, each time the same."""
        moments = open_loop.arrivals(1_000.0, 4.0)
        self.assertLess(abs(len(moments) - 4_000), 250)
        self.assertEqual(moments, sorted(moments))
        self.assertLess(moments[-1], 4.0)
        self.assertEqual(moments, open_loop.arrivals(1_000.0, 4.0))

    def test_complete(self) -> None:
        """An answer is whole with its last byte, whether it has a length or chunks."""
        for answer in (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ):
            self.assertTrue(open_loop.complete(answer))
            for end in range(len(answer)):
                self.assertFalse(open_loop.complete(answer[:end]), end)

    def test_percentile(self) -> None:
        """In milliseconds, up to the largest; 0 of nothing."""
        values = [number / 1000 for number in range(1, 101)]
        self.assertEqual(open_loop.percentile(values, 0.5), 51.0)
        self.assertEqual(open_loop.percentile(values, 1.0), 100.0)
        self.assertEqual(open_loop.percentile([], 0.5), 0.0)


class ReferenceTests(SynchronousTestCase):
    """The upstream of every row."""

    def ask(self, **message: object) -> object:
        """The answer as an object."""
        text = reference.answer({"jsonrpc": "2.0", **message})
        return None if text is None else json.loads(text)

    def test_answers(self) -> None:
        """It shakes hands, calls, and says no to what it does not know."""
        params = {"name": "echo", "arguments": {"message": "hi"}}
        called = self.ask(id=1, method="tools/call", params=params)
        assert isinstance(called, dict)
        self.assertEqual(called["result"]["content"], [{"type": "text", "text": "hi"}])
        opened = self.ask(id=2, method="initialize", params={"protocolVersion": "2025-06-18"})
        assert isinstance(opened, dict)
        self.assertEqual(opened["result"]["protocolVersion"], "2025-06-18")
        refused = self.ask(id=3, method="server/discover")
        assert isinstance(refused, dict)
        self.assertEqual(refused["error"]["code"], -32601)
        self.assertIsNone(self.ask(method="notifications/initialized"))


class ProfileTests(SynchronousTestCase):
    """Samples of a profile."""

    def test_digest(self) -> None:
        """The innermost frame counts, what only passes a call on does not, nor do other threads."""
        raw = (
            "thread (1): MainThread;main (mcpguard/cli.py:9);take (mcpguard/limits/memory.py:5) 6\n"
            "thread (1): MainThread;doRead (twisted/internet/tcp.py:7);"
            "untilConcludes (twisted/python/util.py:3) 3\n"
            "thread (1): MainThread;match (re.py:1) 1\n"
            "thread (2): audit-file;_loop (mcpguard/observe/audit/thread.py:5) 90\n"
        )
        found = digest(raw)
        self.assertEqual(found["samples"], 10)
        self.assertEqual(
            found["parts"], {"mcpguard/limits": 60.0, "twisted/internet": 30.0, "libraries": 10.0}
        )
        self.assertEqual(found["functions"]["twisted/internet/tcp:doRead"], 30.0)
