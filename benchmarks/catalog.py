"""All rows and extra runs, in the order in which they are measured."""

from collections.abc import Sequence

from benchmarks.bench import Row
from benchmarks.extras.extra import Extra
from benchmarks.extras.features import FEATURES
from benchmarks.extras.latency import LATENCY
from benchmarks.extras.memory import MEMORY
from benchmarks.extras.profile import PROFILE
from benchmarks.gateway import GATEWAY
from benchmarks.peers import PEERS
from benchmarks.references import REFERENCES

ROWS: tuple[Row, ...] = (*REFERENCES, *GATEWAY, *PEERS)
EXTRAS: tuple[Extra, ...] = (LATENCY, *FEATURES, PROFILE, *MEMORY)


def chosen(names: Sequence[str]) -> tuple[list[Row], list[Extra]]:
    """Rows and extras of these names; all without any. Raises `KeyError` for an unknown one."""
    unknown = set(names) - {row.name for row in ROWS} - {extra.name for extra in EXTRAS}
    if unknown:
        raise KeyError(", ".join(sorted(unknown)))
    return (
        [row for row in ROWS if not names or row.name in names],
        [extra for extra in EXTRAS if not names or extra.name in names],
    )
