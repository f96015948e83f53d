"""Tests of the vocabulary: versions, the method table, what a request touches."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refused
from mcpguard.protocol.mcp import (
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    METHODS,
    MODERN_VERSIONS,
    SERVER_NOTIFICATIONS,
    SERVER_REQUESTS,
    metric_label,
    touched,
)

BOTH = {
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "tasks/get",
    "tasks/cancel",
}
LEGACY_ONLY = {
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/result",
    "tasks/list",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "notifications/tasks/status",
}
MODERN_ONLY = {"server/discover", "subscriptions/listen", "tasks/update"}


class TableTests(SynchronousTestCase):
    """`METHODS` is the whole inventory of what clients may send."""

    def test_inventory(self) -> None:
        """Every method of every version is there, with its eras, and nothing else is."""
        self.assertEqual(set(METHODS), BOTH | LEGACY_ONLY | MODERN_ONLY)
        for name, method in METHODS.items():
            self.assertEqual(method.name, name)
            self.assertEqual(method.legacy, name not in MODERN_ONLY)
            self.assertEqual(method.modern, name not in LEGACY_ONLY)
            is_notification = name.startswith("notifications/")
            self.assertEqual(method.kind == "notification", is_notification)

    def test_tasks_are_off(self) -> None:
        """Whatever belongs to tasks is known but never relayed; all else is."""
        for name, method in METHODS.items():
            self.assertEqual(method.relayed, "tasks" not in name)

    def test_lists(self) -> None:
        """The lists to filter are the four that name things."""
        lists = {name: method.lists for name, method in METHODS.items() if method.lists}
        self.assertEqual(
            lists,
            {
                "tools/list": "tools",
                "prompts/list": "prompts",
                "resources/list": "resources",
                "resources/templates/list": "resourceTemplates",
            },
        )

    def test_versions(self) -> None:
        """Newest first, no version in both eras."""
        self.assertEqual(list(LEGACY_VERSIONS), sorted(LEGACY_VERSIONS, reverse=True))
        self.assertEqual(LATEST_LEGACY, LEGACY_VERSIONS[0])
        self.assertFalse(set(LEGACY_VERSIONS) & set(MODERN_VERSIONS))

    def test_directions(self) -> None:
        """What servers may send holds no task, and no call of a client's."""
        for name in SERVER_REQUESTS | SERVER_NOTIFICATIONS:
            self.assertNotIn("tasks", name)
        self.assertNotIn("tools/call", SERVER_REQUESTS)

    def test_labels(self) -> None:
        """Labels of metrics come from the table alone."""
        self.assertEqual(metric_label("tools/call"), "tools/call")
        for method in (None, "", "Tools/Call", "x" * 1_000):
            self.assertEqual(metric_label(method), "other")


class TouchedTests(SynchronousTestCase):
    """`touched` names everything that rules must be asked about."""

    def test_named(self) -> None:
        """Calls, prompts, and everything done with a resource."""
        for method, params, pair in (
            ("tools/call", {"name": "t"}, ("tool", "t")),
            ("prompts/get", {"name": "p"}, ("prompt", "p")),
            ("resources/read", {"uri": "u:1"}, ("resource", "u:1")),
            ("resources/subscribe", {"uri": "u:1"}, ("resource", "u:1")),
            ("resources/unsubscribe", {"uri": "u:1"}, ("resource", "u:1")),
            ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, ("prompt", "p")),
            (
                "completion/complete",
                {"ref": {"type": "ref/resource", "uri": "u:{x}"}},
                ("resource", "u:{x}"),
            ),
        ):
            self.assertEqual(touched(method, params), (pair,))

    def test_nothing(self) -> None:
        """Other methods touch nothing, with or without params."""
        for method in ("tools/list", "ping", "initialize", "no/such"):
            self.assertEqual(touched(method, {"name": "x", "uri": "y"}), ())
            self.assertEqual(touched(method, None), ())

    def test_unnamed(self) -> None:
        """A request that must name something and does not is refused, not let through."""
        for method, params in (
            ("tools/call", None),
            ("tools/call", {}),
            ("tools/call", {"name": None}),
            ("tools/call", {"name": ["x"]}),
            ("resources/read", {"name": "x"}),
            ("completion/complete", {}),
            ("completion/complete", {"ref": "ref/prompt"}),
            ("completion/complete", {"ref": {"name": "p"}}),
            ("completion/complete", {"ref": {"type": "ref/tool", "name": "p"}}),
            ("completion/complete", {"ref": {"type": ["ref/prompt"], "name": "p"}}),
            ("completion/complete", {"ref": {"type": "ref/prompt", "uri": "p"}}),
            ("completion/complete", {"ref": {"type": "ref/resource", "name": "p"}}),
        ):
            with self.assertRaises(Refused) as caught:
                touched(method, params)
            self.assertIs(caught.exception.refusal.reason, Reason.INVALID_PARAMS)
