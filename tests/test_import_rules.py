"""Tests of the architecture: who may import whom, and how the tests mirror the package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mcpguard"
MAX_LINES = 400

PURE = frozenset(("policy", "protocol", "config.settings", "errors"))
"""No framework, no I/O; `errors` is the table they all speak of."""
FRAMEWORKS = frozenset(("twisted", "zope", "klein", "treq", "OpenSSL", "service_identity"))
INTERFACES = frozenset(
    (
        *("upstream.link", "limits.limiter", "front.exchange", "observe.events"),
        "ops.workers.control",
    )
)
TOP = frozenset(("gateway", "tap", "cli", "foreground", "summary", "terminal", "__main__"))
"""Where everything is put together and started: nobody below may import these."""

MAY_IMPORT = {
    "errors": frozenset[str](),
    "protocol": frozenset(("errors",)),
    "policy": frozenset(("errors", "protocol", "config.settings")),
    "config": PURE | {"observe.events"},
    "identity": PURE | INTERFACES,
    "limits": PURE | INTERFACES,
    "front": PURE | (INTERFACES - {"upstream.link"}),
    "tls": PURE | INTERFACES,
    "upstream": PURE | INTERFACES,
    "observe": PURE | INTERFACES,
    "pipeline": PURE | INTERFACES,
    # The crash arithmetic serves workers as it serves stdio servers; what several processes
    # observe is put together by what one process observes with.
    "ops": PURE
    | INTERFACES
    | {"front.handover", "upstream.crashes"}
    | {"observe.audit.outputs", "observe.audit.trail", "observe.metrics", "observe.numbers"},
    "demo": frozenset[str](),
}
"""Room -> what of the other rooms it may import, by its name or that of a room's module."""


class Module:
    """One file of the package and what it imports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        self.name = ".".join(parts)
        """Below ``mcpguard``; empty for the package itself."""
        self.room = parts[0] if parts else ""
        self.source = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.source)
        self.imports = frozenset(self._imported())

    def _imported(self) -> Iterator[str]:
        """Every imported name: modules, and ``module.name`` for what is taken from one."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}: relative import"
                assert node.module is not None
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def rooms(self) -> Iterator[str]:
        """The imported parts of other rooms, below ``mcpguard``."""
        for name in self.imports:
            package, _, rest = name.partition(".")
            if package == "mcpguard" and rest.split(".")[0] != self.room:
                yield rest


@cache
def modules() -> tuple[Module, ...]:
    """The whole package, read once."""
    return tuple(Module(path) for path in sorted(PACKAGE.rglob("*.py")))


def within(name: str, allowed: frozenset[str]) -> bool:
    """Whether ``name`` is one of ``allowed`` or something inside it."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


def violations(module: Module) -> list[str]:
    """What a module imports against the rules, in words."""
    found = []
    if module.room not in TOP | {""}:
        allowed = MAY_IMPORT[module.room]
        for name in module.rooms():
            # `from mcpguard import __version__` is no import of a room.
            if name != "__version__" and not within(name, allowed):
                found.append(f"{module.name} imports {name}")
    if within(module.name, PURE):
        found += [
            f"{module.name} imports {name}, but must be pure"
            for name in module.imports
            if name.split(".")[0] in FRAMEWORKS
        ]
    if module.name == "config.settings":
        found += [f"config.settings imports {name}" for name in module.rooms()]
        found += [
            f"config.settings imports {name}"
            for name in module.imports
            if name.startswith("mcpguard.")
        ]
    if module.room == "demo":
        found += [
            f"{module.name} imports {name}, but has the standard library only"
            for name in module.imports
            if name.split(".")[0] not in sys.stdlib_module_names | {"mcpguard"}
        ]
    if module.name not in ("tap", "cli") and "twisted.internet.reactor" in module.imports:
        found.append(f"{module.name} imports the reactor")
    return found


class ImportTests(SynchronousTestCase):
    """The layers of docs/architecture.md, read from the source."""

    def test_rules(self) -> None:
        """No module imports what its room may not."""
        self.assertEqual([line for module in modules() for line in violations(module)], [])

    def test_every_room_has_a_rule(self) -> None:
        """A new room needs a rule before it can import anything."""
        rooms = {module.room for module in modules()} - {""}
        self.assertEqual(rooms - TOP - MAY_IMPORT.keys(), set())

    def test_rules_can_be_broken(self) -> None:
        """The check finds violations where there are some."""
        for path, source, expected in (
            ("policy/x.py", "from twisted.internet import defer", "must be pure"),
            ("policy/x.py", "import mcpguard.upstream.link", "policy.x imports upstream.link"),
            ("protocol/x.py", "from mcpguard.policy import rules", "protocol.x imports policy"),
            ("front/x.py", "from mcpguard.upstream import link", "front.x imports upstream.link"),
            ("front/x.py", "def f():\n    import mcpguard.gateway", "front.x imports gateway"),
            ("upstream/x.py", "from mcpguard.observe import audit", "observe.audit"),
            ("demo/x.py", "import attrs", "standard library only"),
            ("demo/x.py", "from mcpguard.errors import Reason", "demo.x imports errors.Reason"),
            ("pipeline/x.py", "from twisted.internet import reactor", "the reactor"),
            ("config/settings.py", "from mcpguard.config import load", "config.settings imports"),
        ):
            module = Module.__new__(Module)
            module.path = PACKAGE / path
            module.name = path.removesuffix(".py").replace("/", ".")
            module.room = path.split("/")[0]
            module.tree = ast.parse(source)
            module.imports = frozenset(module._imported())
            found = " ".join(violations(module))
            self.assertIn(expected, found, source)

    def test_pure_at_run_time(self) -> None:
        """Importing the pure rooms loads no framework, however indirectly."""
        names = [
            f"mcpguard.{module.name}"
            for module in modules()
            if module.room in ("policy", "protocol") or module.name in PURE
        ]
        self.assertGreater(len(names), 10)
        probe = (
            "import importlib, sys\n"
            "for name in sys.argv[1:]: importlib.import_module(name)\n"
            "print(*sorted({name.split('.')[0] for name in sys.modules}))\n"
        )
        loaded = subprocess.run(
            [sys.executable, "-c", probe, *names],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.split()
        self.assertIn("mcpguard", loaded)
        self.assertEqual(FRAMEWORKS & set(loaded), set())


class ShapeTests(SynchronousTestCase):
    """Size and state of modules, and the mirror in the tests."""

    def test_length(self) -> None:
        """No module is longer than 400 lines."""
        long = {
            module.name: count
            for module in modules()
            if (count := len(module.source.splitlines())) > MAX_LINES
        }
        self.assertEqual(long, {})

    def test_no_global_statements(self) -> None:
        """Nothing rebinds a module's names at run time."""
        rebinding = [
            module.name
            for module in modules()
            if any(isinstance(node, ast.Global) for node in ast.walk(module.tree))
        ]
        self.assertEqual(rebinding, [])

    def test_mirror(self) -> None:
        """Every room has a folder of tests, and every folder of tests is a room's."""
        rooms = {
            path.parent.relative_to(PACKAGE)
            for path in PACKAGE.rglob("*.py")
            if path.name != "__init__.py"
        }
        mirrored = {
            path.parent.relative_to(ROOT / "tests")
            for path in (ROOT / "tests").rglob("test_*.py")
            # Live tests are of the whole, and the harness is beside the package.
            if path.relative_to(ROOT / "tests").parts[0] not in ("live", "benchmarks")
        }
        self.assertEqual(mirrored, rooms)

    def test_folders_of_tests_are_packages(self) -> None:
        """A folder without ``__init__.py`` would be passed over without a word."""
        folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
        missing = [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]
        self.assertEqual(missing, [])
