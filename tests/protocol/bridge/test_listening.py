"""What stateless clients hear of a handshake-era server's changes."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.bridge.listening import (
    Wish,
    acknowledgement,
    covering,
    ending,
    honoured,
    under,
    wish,
)
from mcpguard.protocol.mcp import META_PREFIX, META_SUBSCRIPTION_ID

LISTS = ("toolsListChanged", "promptsListChanged", "resourcesListChanged")


class WishTests(SynchronousTestCase):
    """What is asked for, and what of it a server can fulfil."""

    def test_wish(self) -> None:
        """Only what is asked for in so many words counts."""
        for given_filter, expected in (
            ({}, Wish((), None)),
            ({"toolsListChanged": True, "promptsListChanged": False}, Wish(LISTS[:1], None)),
            ({"toolsListChanged": 1, "resourceSubscriptions": "x"}, Wish((), None)),
            ({"resourceSubscriptions": []}, Wish((), ())),
            ({"resourceSubscriptions": ["b", "a", "b", 7]}, Wish((), ("b", "a"))),
            ([], Wish((), None)),
        ):
            self.assertEqual(wish({"notifications": given_filter}), expected)
        self.assertEqual(wish(None), Wish((), None))

    def test_honoured(self) -> None:
        """A server tells of what it said it would."""
        everything = Wish(LISTS, ("a",))
        for capabilities, expected in (
            (None, Wish((), None)),
            ({"tools": {"listChanged": True}}, Wish(LISTS[:1], None)),
            ({"tools": {"listChanged": "yes"}, "resources": []}, Wish((), None)),
            ({"resources": {"subscribe": True}}, Wish((), ("a",))),
            (
                {
                    "tools": {"listChanged": True},
                    "prompts": {"listChanged": True},
                    "resources": {"listChanged": True, "subscribe": True},
                },
                everything,
            ),
        ):
            self.assertEqual(honoured(everything, capabilities), expected)

    @settings(deadline=None, max_examples=100)
    @given(
        asked=st.builds(
            Wish,
            st.lists(st.sampled_from(LISTS), unique=True).map(tuple),
            st.none() | st.lists(st.text(max_size=3), unique=True).map(tuple),
        ),
        capabilities=st.dictionaries(
            st.sampled_from(["tools", "prompts", "resources"]),
            st.dictionaries(st.sampled_from(["listChanged", "subscribe"]), st.booleans()),
        ),
    )
    def test_never_more(self, asked: Wish, capabilities: dict[str, Any]) -> None:
        """Nobody is promised what was not asked for."""
        found = honoured(asked, capabilities)
        self.assertLessEqual(set(found.lists), set(asked.lists))
        self.assertLessEqual(set(found.uris or ()), set(asked.uris or ()))
        told = acknowledgement(found.lists, found.uris)["params"]["notifications"]
        again = wish({"notifications": told})
        self.assertEqual((set(again.lists), again.uris), (set(found.lists), found.uris))


class MessageTests(SynchronousTestCase):
    """How it is told."""

    def test_under(self) -> None:
        """Each message is named by its client's id, whatever the server put there."""
        forged = {"uri": "a", "_meta": {META_SUBSCRIPTION_ID: "forged", "k": 1}}
        for params, expected in (
            (None, {}),
            ({"uri": "a"}, {"uri": "a"}),
            (forged, {"uri": "a"}),
        ):
            message = {"method": "m", **({} if params is None else {"params": params})}
            made = under(message, 0)
            meta = made["params"].pop("_meta")
            self.assertEqual(meta.pop(META_SUBSCRIPTION_ID), 0)
            self.assertFalse([key for key in meta if key.startswith(META_PREFIX)])
            self.assertEqual(made["params"], expected)

    def test_ending(self) -> None:
        """The end is a result like any other of a listen."""
        self.assertEqual(
            ending("x"),
            {
                "jsonrpc": "2.0",
                "id": "x",
                "result": {"resultType": "complete", "_meta": {META_SUBSCRIPTION_ID: "x"}},
            },
        )

    def test_covering(self) -> None:
        """A part of what was subscribed to is told of, a name that begins alike is not."""
        self.assertLessEqual({"a://b/c/d", "a://b/c/", "a://b/c"}, set(covering("a://b/c/d")))
        self.assertNotIn("a://b", set(covering("a://bc")))
        self.assertEqual(list(covering("x/" * 5000)), ["x/" * 5000])
