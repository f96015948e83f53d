"""Adding an API key to a configuration file without touching anything else in it.

The entry is put into the text behind the last one of its kind; where the file is written in
another way (an inline list, flow style) a library that keeps comments rewrites it. Either result
counts only if it reads back as exactly the old configuration and the new entry.
"""

import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import tomlkit
from ruamel.yaml import YAML
from ruamel.yaml.util import load_yaml_guess_indent

from mcpguard.config.api_keys import NewKey
from mcpguard.config.document import Document, quoted
from mcpguard.config.load import Format, parse
from mcpguard.errors import ConfigurationError

_KEYS = ("auth", "api_keys")


def snippet(key: NewKey, format: Format) -> str:
    """The entry as a file of this format that has nothing else would hold it."""
    if format == "yaml":
        return "auth:\n  api_keys:\n" + _yaml_item(key, "    ")
    return tomlkit.dumps({"auth": {"api_keys": [key.entry]}})


def with_api_key(text: str, format: Format, key: NewKey) -> str:
    """The text of a configuration file with one more API key.

    Raises:
        ConfigurationError: the text cannot be read, has a key of this id already, or is written
            in a way that cannot be edited safely.
    """
    before = parse(text, format)
    keys = _api_keys(before.tree)
    if any(isinstance(one, dict) and one.get("id") == key.id for one in keys):
        raise ConfigurationError((f"there is already an API key with the id {quoted(key.id)}",))
    wanted = _extended(before.tree, keys, _values(key, format))
    ways: tuple[Callable[[str, Document, NewKey], str | None], ...] = (
        (_yaml_in_place, _yaml_rewritten) if format == "yaml" else (_toml_in_place, _toml_rewritten)
    )
    for way in ways:
        after = way(text, before, key)
        if after is not None and _reads_as(after, format, wanted):
            return after
    raise ConfigurationError(
        ("auth.api_keys is written in a way that cannot be edited safely; add the key by hand",)
    )


def _api_keys(tree: dict[str, Any]) -> list[Any]:
    auth = tree.get("auth")
    keys = auth.get("api_keys") if isinstance(auth, dict) else None
    return keys if isinstance(keys, list) else []


def _extended(tree: dict[str, Any], keys: list[Any], entry: dict[str, Any]) -> dict[str, Any]:
    """The tree with one more entry; the old one stays as it is."""
    auth = tree.get("auth")
    others = auth if isinstance(auth, dict) else {}
    return {**tree, "auth": {**others, "api_keys": [*keys, entry]}}


def _values(key: NewKey, format: Format) -> dict[str, Any]:
    """The entry as it reads back: YAML has no dates of its own here."""
    entry = dict(key.entry)
    if format == "yaml" and key.expires_at is not None:
        entry["expires_at"] = rfc_3339(key.expires_at)
    return entry


def rfc_3339(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reads_as(text: str, format: Format, wanted: dict[str, Any]) -> bool:
    try:
        return parse(text, format).tree == wanted
    except ConfigurationError:
        return False


def _toml_in_place(text: str, before: Document, key: NewKey) -> str | None:
    lines = _lines(text)
    entry = snippet(key, "toml").splitlines()
    keys = _api_keys(before.tree)
    if not keys:
        return _insert(lines, len(lines), ["", *entry] if lines else entry)
    span = before.spans.get((*_KEYS, len(keys) - 1))
    if span is None or not lines[span.first - 1].lstrip().startswith("[["):
        return None
    return _insert(lines, span.last, ["", *entry])


def _toml_rewritten(text: str, before: Document, key: NewKey) -> str | None:
    try:
        document = tomlkit.parse(text)
        auth: Any = document.setdefault("auth", tomlkit.table())
        keys = auth.setdefault("api_keys", tomlkit.array())
        table = tomlkit.inline_table()
        table.update(key.entry)
        keys.append(table)
        return tomlkit.dumps(document)
    except Exception:
        # It raises errors of many kinds on valid files that it cannot edit.
        return None


def _yaml_item(key: NewKey, indent: str) -> str:
    """One item of a block sequence. JSON strings and lists are YAML, and quoted beyond doubt."""
    written = [f"{name}: {json.dumps(value)}" for name, value in _values(key, "yaml").items()]
    return f"{indent}- " + f"\n{indent}  ".join(written) + "\n"


def _yaml_in_place(text: str, before: Document, key: NewKey) -> str | None:
    lines = _lines(text)
    keys = _api_keys(before.tree)
    if not keys:
        if "auth" in before.tree:
            return None
        entry = snippet(key, "yaml").splitlines()
        return _insert(lines, len(lines), ["", *entry] if lines else entry)
    span = before.spans.get((*_KEYS, len(keys) - 1))
    dash = re.match(r"( *)- +\S", lines[span.first - 1]) if span else None
    if span is None or dash is None:
        return None
    return _insert(lines, span.last, _yaml_item(key, dash[1]).splitlines())


def _yaml_rewritten(text: str, before: Document, key: NewKey) -> str | None:
    try:
        _, indent, offset = load_yaml_guess_indent(text)
        yaml = YAML(typ="rt", pure=True)
        yaml.preserve_quotes = True
        yaml.width = 1_000_000  # else it would fold long lines
        if indent is not None:
            yaml.indent(mapping=2, sequence=indent, offset=offset or 0)
        tree = yaml.load(text)
        auth = tree.get("auth")
        if auth is None:
            auth = tree["auth"] = {}
        if auth.get("api_keys") is None:
            auth["api_keys"] = []
        auth["api_keys"].append(_values(key, "yaml"))
        written = io.StringIO()
        yaml.dump(tree, written)
        return written.getvalue()
    except Exception:
        # As with TOML: what it cannot edit is the user's to edit.
        return None


def _lines(text: str) -> list[str]:
    """The lines with their ends; str.splitlines would also split at form feeds and the like."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _insert(lines: list[str], at: int, new: list[str]) -> str:
    """Put lines behind the first ``at`` ones, in the file's own kind of line end."""
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    above = "".join(lines[:at])
    if above and not above.endswith("\n"):
        above += end
    return above + "".join(line + end for line in new) + "".join(lines[at:])
