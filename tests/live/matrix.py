"""The matrix of ``docs/compatibility.md``: each generation of clients before each of servers.

What is declared here, `tests.live.test_matrix` shows with the SDKs' own clients and servers, and
`tests.test_docs` compares with the page.
"""

from collections.abc import Sequence
from itertools import groupby

from attrs import frozen

NEWEST_HANDSHAKE = "2025-11-25"
NEWEST = "2026-07-28"

FEATURES = (
    *("lists", "calls", "errors", "progress", "cancellation", "elicitation", "sampling", "roots"),
    *("resource subscriptions", "changed lists", "log messages"),
)


@frozen
class Speaker:
    """One client of an SDK in one way of use."""

    name: str
    """As the page calls it."""
    driver: str
    """Which program of ``tests/live/clients`` drives it."""
    mode: str = ""
    """The SDK's own word for the way of use."""
    named: bool = True
    """Whether it learns the server's name (one that is pinned need not ask)."""


@frozen
class Row:
    """A generation of clients."""

    key: str
    title: str
    speakers: tuple[Speaker, ...]
    version: str
    """What they agree on with the gateway."""
    transport: str = "http"


@frozen
class Column:
    """A generation of servers."""

    key: str
    title: str
    server: str
    """The SDK it is built on, as the page calls it."""


@frozen
class Gap:
    """A feature that a cell does not have."""

    row: str
    column: str
    feature: str
    reason: str
    error: str
    """Words of the error that the client's user sees instead, in place of a result."""


@frozen
class Limit:
    """What holds for features that cells do have."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    reason: str


ROWS = (
    Row(
        "2024",
        "2024-11-05, HTTP+SSE",
        (
            Speaker("PyPI `mcp` 1.x", "python_v1"),
            Speaker("npm `@modelcontextprotocol/sdk` 1.x", "npm_sdk"),
        ),
        NEWEST_HANDSHAKE,
        transport="sse",
    ),
    Row(
        "2025",
        "2025-11-25, Streamable HTTP",
        (
            Speaker("PyPI `mcp` 2.x, mode `legacy`", "python_v2", "legacy"),
            Speaker("npm `@modelcontextprotocol/sdk` 1.x", "npm_sdk"),
        ),
        NEWEST_HANDSHAKE,
    ),
    Row(
        "2026",
        "2026-07-28, stateless",
        (
            Speaker("PyPI `mcp` 2.x, mode `2026-07-28`", "python_v2", NEWEST, named=False),
            Speaker("npm `@modelcontextprotocol/client` 2.x, pinned", "npm_client", NEWEST),
        ),
        NEWEST,
    ),
    Row(
        "both",
        "both eras",
        (
            Speaker("PyPI `mcp` 2.x, mode `auto`", "python_v2", "auto"),
            Speaker("npm `@modelcontextprotocol/client` 2.x, mode `auto`", "npm_client", "auto"),
        ),
        NEWEST,
    ),
)

COLUMNS = (
    Column("sse-2024", "2024-11-05, HTTP+SSE", "PyPI `mcp` 1.x"),
    Column("http-2025", "2025-11-25, HTTP", "PyPI `mcp` 1.x"),
    Column("http-2026", "2026-07-28, HTTP", "PyPI `mcp` 2.x"),
    Column("stdio-2025", "2025-11-25, stdio", "PyPI `mcp` 1.x"),
    Column("stdio-2026", "2026-07-28, stdio", "PyPI `mcp` 2.x"),
)

GAPS: tuple[Gap, ...] = ()

LOGS_ALONE = {"stdio-2026": "anybody", "sse-2024": "itself", "stdio-2025": "itself"}
"""Servers before which a stateless call hears no log messages while another one wants some: one of
anybody's, or of the identity's own."""

LIMITS = (
    Limit(
        ("2024", "2025", "2026", "both"),
        ("stdio-2026",),
        "Log messages are heard while no other call on the same process wants any: nothing in them"
        ' says whose they are. With `isolation = "per_principal"` that is no other call of the'
        " identity's own.",
    ),
    Limit(
        ("2026", "both"),
        ("sse-2024", "http-2025", "stdio-2025"),
        "Log messages that do not say whose they are, as none does over stdio and HTTP+SSE and not"
        " every server's over Streamable HTTP, are heard while no other call of the same identity"
        " wants any: its calls share a session.",
    ),
    Limit(
        ("2026", "both"),
        ("sse-2024", "http-2025", "stdio-2025"),
        "While its client is being asked something, a call keeps the latest twenty of its progress"
        " and log messages, which are heard afterwards.",
    ),
)


def gaps(row: str, column: str) -> dict[str, Gap]:
    """What a cell lacks, by feature."""
    return {gap.feature: gap for gap in GAPS if (gap.row, gap.column) == (row, column)}


def table() -> str:
    """The matrix in Markdown, with the reasons below, as the page has it."""
    reasons = list(dict.fromkeys([gap.reason for gap in GAPS] + [one.reason for one in LIMITS]))
    rows = [[row.title, *(_cell(row.key, one.key, reasons) for one in COLUMNS)] for row in ROWS]
    matrix = _markdown(["client \\ server", *(column.title for column in COLUMNS)], rows)
    notes = [f"{number}. {reason}\n" for number, reason in enumerate(reasons, 1)]
    return "\n".join([matrix, "".join(notes)])


def cast() -> str:
    """Which SDKs stand for which generation, in Markdown, as the page has it."""
    clients = [
        [f"client {row.title}", "; ".join(speaker.name for speaker in row.speakers)] for row in ROWS
    ]
    servers = [[f"server {column.title}", column.server] for column in COLUMNS]
    return _markdown(["in the matrix", "shown with"], clients + servers)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: str, column: str, reasons: Sequence[str]) -> str:
    """One cell: ``all``, or what it lacks; with the numbers of the reasons."""
    parts = []
    lacking = gaps(row, column).values()
    for reason, same in groupby(lacking, lambda gap: gap.reason):
        words = ", ".join(gap.feature for gap in same)
        parts.append(f"{words} ({reasons.index(reason) + 1})")
    limits = [
        str(reasons.index(one.reason) + 1)
        for one in LIMITS
        if row in one.rows and column in one.columns
    ]
    number = f" ({', '.join(limits)})" if limits else ""
    return f"all{number} but {'; '.join(parts)}" if parts else f"all{number}"
