"""Tests of what a stateless server may ask a client for."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.input_requests import InputBounds, input_problem

BOUNDS = InputBounds(entries=3, key=10)
FORM = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}
URL = {"method": "elicitation/create", "params": {"mode": "url", "url": "https://x.test"}}
SAMPLING = {"method": "sampling/createMessage", "params": {"messages": []}}
TOOLS = {"method": "sampling/createMessage", "params": {"messages": [], "tools": []}}
ROOTS = {"method": "roots/list"}


def problem(capabilities: Any, *entries: Any, **members: Any) -> str | None:
    """What is wrong with asking for these things."""
    asked = {f"k{number}": entry for number, entry in enumerate(entries)}
    return input_problem({"inputRequests": asked, **members}, capabilities, BOUNDS)


class DeclaredTests(SynchronousTestCase):
    """What the client must have declared."""

    def test_declared(self) -> None:
        """Everything the client says it can do may be asked."""
        everything: dict[str, Any] = {
            "elicitation": {"form": {}, "url": {}},
            "sampling": {"tools": {}},
            "roots": {},
        }
        for entry in (FORM, URL, SAMPLING, TOOLS, ROOTS):
            self.assertIsNone(problem(everything, entry))
            incapable: tuple[Any, ...] = (
                {},
                None,
                {"elicitation": None, "sampling": 1, "roots": []},
            )
            for capabilities in incapable:
                self.assertIsNotNone(problem(capabilities, entry))

    def test_modes_of_elicitation(self) -> None:
        """An empty object means forms; a form is no URL and the other way round."""
        cases: tuple[tuple[dict[str, Any], bool, bool], ...] = (
            ({}, True, False),
            ({"form": {}}, True, False),
            ({"url": {}}, False, True),
            ({"form": {}, "url": {}}, True, True),
        )
        for declared, form, url in cases:
            capabilities = {"elicitation": declared}
            self.assertEqual(problem(capabilities, FORM) is None, form, declared)
            self.assertEqual(problem(capabilities, URL) is None, url, declared)
            for mode in ("other", ["form"], None):
                odd = {"method": "elicitation/create", "params": {"mode": mode}}
                self.assertIsNotNone(problem(capabilities, odd))

    def test_sampling_with_tools(self) -> None:
        """Tools in a sampling need a word of their own."""
        self.assertIsNone(problem({"sampling": {}}, SAMPLING))
        self.assertIsNotNone(problem({"sampling": {}}, TOOLS))

    def test_one_is_enough(self) -> None:
        """One question that may not be asked spoils them all."""
        self.assertIsNotNone(problem({"sampling": {}}, SAMPLING, ROOTS))


class ShapeTests(SynchronousTestCase):
    """What is no question at all."""

    def test_unknown(self) -> None:
        """Other methods, and what has none."""
        everything: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}, "tasks": {}}
        odd: list[Any] = [
            {"method": "tasks/get", "params": {}},
            {"method": "tools/call", "params": {"name": "rm"}},
            {"method": 5},
            {"method": "roots/list", "params": []},
            {},
            None,
        ]
        for entry in odd:
            self.assertIsNotNone(problem(everything, entry))

    def test_nothing_asked(self) -> None:
        """A state alone asks the client to come again; neither a question nor a state is none."""
        self.assertIsNone(input_problem({"requestState": "s"}, {}, BOUNDS))
        self.assertIsNone(problem({}, requestState=""))
        nothing: tuple[dict[str, Any], ...] = ({}, {"inputRequests": {}}, {"requestState": None})
        for result in nothing:
            self.assertIsNotNone(input_problem(result, {}, BOUNDS))

    def test_no_object(self) -> None:
        """Questions are named."""
        for asked in ([FORM], "x", 0):
            result: dict[str, Any] = {"inputRequests": asked, "requestState": "s"}
            self.assertIsNotNone(input_problem(result, {"elicitation": {}}, BOUNDS))

    def test_bounds(self) -> None:
        """So many questions at once, and names so long, are too many and too long."""
        able: dict[str, Any] = {"roots": {}}
        self.assertIsNone(problem(able, ROOTS, ROOTS, ROOTS))
        self.assertIsNotNone(problem(able, ROOTS, ROOTS, ROOTS, ROOTS))
        for length, fits in ((10, True), (11, False)):
            result = {"inputRequests": {"k" * length: ROOTS}}
            self.assertEqual(input_problem(result, able, BOUNDS) is None, fits)
