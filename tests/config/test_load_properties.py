"""Property tests of the loader: any text is either a configuration or refused with reasons."""

import io
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.auth_schema import IDENTITY_KEYS
from mcpguard.config.load import Format, Loaded, loads
from mcpguard.config.template import template
from mcpguard.errors import ConfigurationError
from tests.config.samples import ENVIRON, HASH
from tests.config.test_template import SETTING_NOT_IN_FORCE

CANARY = "c4n4ry"

VISIBLE = frozenset(
    {*("name", "id", "path_prefix", "tool_pattern", "inherit_env", "allowed_headers")}
    | {*("cwd", "file", "allowed_ips")}
    | {key for key in IDENTITY_KEYS if key.startswith(("allowed_", "denied_"))}
)
"""Keys whose values may be seen wherever they came from."""

FULL: dict[Format, str] = {
    format: SETTING_NOT_IN_FORCE.sub(r"\1", template(format, sys.executable))
    for format in ("toml", "yaml")
}

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.sampled_from([2**63, -(2**70)]),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(["0.0.0.0", "http://h/", "*", "a:b", "2030-01-01T00:00:00Z", "/", "stdio"]),
    st.datetimes(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["env", "file", "name", "x", ""]), inner, max_size=2),
    ),
    max_leaves=6,
)


def load(text: str, format: Format) -> Loaded | ConfigurationError:
    """What comes of a text; anything else than these two fails the test."""
    try:
        return loads(text, format, environ={**ENVIRON, "x": CANARY}, base=Path("/"))
    except ConfigurationError as error:
        return error


def paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a tree."""
    found = [path] if path else []
    pairs = list(tree.items()) if isinstance(tree, dict) else []
    if isinstance(tree, list):
        pairs = list(enumerate(tree))
    for key, value in pairs:
        found += paths(value, (*path, key))
    return found


PATHS = paths(tomllib.loads(FULL["toml"]))


def put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put a value in the place of another."""
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def as_yaml(tree: dict[str, Any]) -> str:
    """Write YAML by the library."""
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(tree, out)
    return out.getvalue()


@cache
def untouched(section: str, write: Callable[[dict[str, Any]], str]) -> str:
    """One section as it was; the libraries take their time, and a mutation is in one section."""
    return write({section: tomllib.loads(FULL["toml"])[section]})


def written(tree: dict[str, Any], changed: str, write: Callable[[dict[str, Any]], str]) -> str:
    """A tree in which one section was changed; this one first, since it may be no table now."""
    others = [untouched(section, write) for section in tree if section != changed]
    return "\n".join([write({changed: tree[changed]}), *others])


class MutationTests(SynchronousTestCase):
    """Files that were sound until somebody changed them."""

    def check(self, outcome: Loaded | ConfigurationError) -> None:
        """Problems are sentences of one printable line each."""
        words = outcome.warnings if isinstance(outcome, Loaded) else outcome.problems
        if isinstance(outcome, ConfigurationError):
            self.assertTrue(words)
        for sentence in words:
            self.assertTrue(sentence.isprintable(), sentence)
            self.assertLess(len(sentence), 1500)

    @settings(deadline=None, max_examples=100)
    @given(st.sampled_from(["toml", "yaml"]), st.data())
    def test_text(self, format: Format, data: st.DataObject) -> None:
        """Pieces of the text cut out, doubled or replaced."""
        text = FULL[format]
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(start, min(len(text), start + 40)))
            piece = data.draw(
                st.one_of(st.just(""), st.text(max_size=5), st.just(text[start:end] * 2))
            )
            text = text[:start] + piece + text[end:]
        self.check(load(text, format))

    @settings(deadline=None, max_examples=60)
    @given(st.data(), VALUES)
    def test_values(self, data: st.DataObject, value: Any) -> None:
        """Any value in the place of any other; TOML and YAML come to the same end."""
        tree = tomllib.loads(FULL["toml"])
        path = data.draw(st.sampled_from(PATHS))
        put(tree, path, value)
        self.check(load(written(tree, path[0], as_yaml), "yaml"))
        try:
            text = written(tree, path[0], tomlkit.dumps)
        except Exception:
            return  # None, and what else TOML has no form for
        self.check(load(text, "toml"))

    def test_huge_number(self) -> None:
        """A number that Python itself refuses to print in decimal."""
        outcome = load("[server]\nport = 0x" + "f" * 5000, "toml")
        self.assertIn("server.port: a huge integer: out of range", str(outcome))

    @settings(deadline=None, max_examples=100)
    @given(st.one_of(st.text(max_size=60), st.text("[]{}=:#\"'\n -&*!|>?a1.", max_size=60)))
    def test_anything(self, text: str) -> None:
        """Texts that were never a configuration."""
        for format in ("toml", "yaml"):
            self.check(load(text, format))

    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_secrets_never_show(self, data: st.DataObject) -> None:
        """A reference in any place: its value is in no message, no warning and no repr.

        Identifiers and paths are shown by their nature, once they are accepted.
        """
        tree = tomllib.loads(FULL["toml"])
        path = data.draw(st.sampled_from(PATHS))
        reference = st.sampled_from([{"env": "x"}, [{"env": "x"}], {"a": {"env": "x"}}])
        put(tree, path, data.draw(reference))
        outcome = load(written(tree, path[0], tomlkit.dumps), "toml")
        if isinstance(outcome, ConfigurationError):
            self.assertNotIn(CANARY, str(outcome))
        elif VISIBLE.isdisjoint(path):
            self.assertNotIn(CANARY, repr(outcome))

    def test_the_seeds_are_sound(self) -> None:
        """The files that are mutated load, so the tests above are about the mutations."""
        tree = tomllib.loads(FULL["toml"])
        for format, text in (
            *FULL.items(),
            ("yaml", written(tree, "server", as_yaml)),
            ("toml", written(tree, "server", tomlkit.dumps)),
        ):
            outcome = load(text.replace("/var/log/mcp-guard", "/"), format)
            self.assertIsInstance(outcome, Loaded, outcome)
        self.assertIn(HASH, FULL["toml"])
