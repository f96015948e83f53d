"""All rows, in the order in which they are measured."""

from collections.abc import Sequence

from benchmarks.bench import Row
from benchmarks.gateway import GATEWAY
from benchmarks.peers import PEERS
from benchmarks.references import REFERENCES

ROWS: tuple[Row, ...] = (*REFERENCES, *GATEWAY, *PEERS)


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows of these names; all without any. Raises `KeyError` for an unknown one."""
    known = {row.name: row for row in ROWS}
    return [known[name] for name in names] if names else list(ROWS)
