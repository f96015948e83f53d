"""Which place a path means, where names and prefixes overlap."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import UpstreamSettings
from mcpguard.pipeline.places import Part, Place, place_of
from mcpguard.upstream.directory import UpstreamDirectory
from tests.pipeline.rig import MemoryUpstream, Rig
from tests.pipeline.sse_rig import SseClient


def directory(*entries: dict[str, Any]) -> UpstreamDirectory:
    """The servers of these settings; http unless said otherwise."""
    each = [UpstreamSettings(**{"transport": "http", **entry}) for entry in entries]
    return UpstreamDirectory([(one, MemoryUpstream(one.name)) for one in each])


def shown(place: Place | None) -> tuple[str, str, Part | None] | None:
    """The server, what goes behind its URL, and the part."""
    return None if place is None else (place.route.upstream.name, place.route.path, place.part)


class OverlapTests(SynchronousTestCase):
    """`places.place_of` where servers are called as the parts are."""

    def test_configured_paths_come_first(self) -> None:
        """A name or prefix that ends like a part is a server, spoken to by Streamable HTTP."""
        all = directory(
            {"name": "default"},
            {"name": "a"},
            {"name": "b", "path_prefix": "/a/sse"},
            {"name": "sse"},
        )
        for path, expected in (
            ("/mcp/sse", ("sse", "", None)),
            ("/sse", ("default", "", Part.STREAM)),
            ("/messages", ("default", "", Part.MESSAGES)),
            ("/mcp/a/sse", ("b", "", None)),
            ("/mcp/a/sse/sse", ("b", "", Part.STREAM)),
            ("/mcp/sse/messages", ("sse", "", Part.MESSAGES)),
            ("/mcp/a/b/sse", ("a", "/a/b/sse", None)),
        ):
            self.assertEqual(shown(place_of(path, all)), expected, path)

    def test_no_stream_whose_messages_go_to_another(self) -> None:
        """Where another server takes the place to post, there is no stream to post for."""
        all = directory(
            {"name": "default"},
            {"name": "messages"},
            {"name": "a"},
            {"name": "b", "path_prefix": "/a/messages"},
        )
        for path, expected in (
            ("/mcp/sse", None),
            ("/mcp/messages", ("messages", "", None)),
            ("/sse", ("default", "", Part.STREAM)),
            ("/messages", ("default", "", Part.MESSAGES)),
            ("/mcp/a/sse", None),
            ("/mcp/a/messages", ("b", "", None)),
            ("/mcp/a/messages/sse", ("b", "", Part.STREAM)),
        ):
            self.assertEqual(shown(place_of(path, all)), expected, path)

    def test_written_otherwise(self) -> None:
        """Encoded, doubled or trailing: none of it is a part."""
        all = directory({"name": "default"}, {"name": "a"})
        for path in (
            *("/%73se", "//sse", "/sse/", "/mcp//sse", "/mcp/sse/", "/mcp/a//sse", "/mcp/./sse"),
            *("/mcp/a/../sse", "/mcp/a%2fsse", "/mcp/a/.;/sse", "/mcp/%2e/sse", "/MCP/sse"),
            *("/SSE", "/mcp/a/sse;x", "/mcp/a/%73se"),
        ):
            place = place_of(path, all)
            self.assertTrue(place is None or place.part is None, path)

    def test_through_the_corridor(self) -> None:
        """The client of one server never posts to the other."""
        other = MemoryUpstream("messages")
        rig = Rig(others={"/mcp/messages": other})
        self.assertEqual(SseClient(rig, path="/mcp/sse").outlet.status, 404)
        client = SseClient(rig, path="/sse").initialize()
        self.assertEqual(client.ask("tools/list").status, 202)
        self.assertEqual((len(rig.upstream.asked), other.links), (1, []))
