"""Where the software of others is that live tests drive, or a skip that says what is missing.

``tests/live/install.sh`` installs it below ``<repo>/.live``.
"""

import shutil
from pathlib import Path

from twisted.trial.unittest import SkipTest

REPOSITORY = Path(__file__).resolve().parents[2]
LIVE = REPOSITORY / ".live"
HERE = Path(__file__).resolve().parent


def _present(path: Path, what: str) -> Path:
    if not path.exists():
        raise SkipTest(f"{what} is not installed: run tests/live/install.sh")
    return path


def python_sdk(major: int) -> Path:
    """The Python of the environment with PyPI's ``mcp`` 1.x or 2.x; raises `SkipTest`."""
    return _present(LIVE / f"mcp{major}" / "bin" / "python", f"PyPI mcp {major}.x")


def node() -> Path:
    """The Node.js program: the one ``install.sh`` added where the system's is too old, or the
    system's; raises `SkipTest`.
    """
    return _node_of(LIVE / "node" / "node_modules")


def _node_of(modules: Path) -> Path:
    added = modules / "node" / "bin" / "node"
    if added.exists():
        return added
    found = shutil.which("node")
    if found is None:
        raise SkipTest("Node.js is not installed: run tests/live/install.sh")
    return Path(found)


def npm_package(name: str) -> Path:
    """The directory of an installed npm package; raises `SkipTest`."""
    return _present(LIVE / "node" / "node_modules" / name, f"npm {name}")


def node_modules() -> Path:
    """The directory npm packages are imported from; raises `SkipTest`."""
    return _present(LIVE / "node" / "node_modules", "npm packages")


def conformance() -> list[str]:
    """The command of the official conformance suite; raises `SkipTest`."""
    modules = LIVE / "conformance" / "node_modules"
    suite = modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    return [str(_node_of(modules)), str(_present(suite, "npm conformance suite"))]


def identity_provider() -> list[str]:
    """The command of a server over npm's ``oidc-provider``; raises `SkipTest`."""
    modules = LIVE / "provider" / "node_modules"
    _present(modules / "oidc-provider", "npm oidc-provider")
    script = HERE / "servers" / "identity_provider.mjs"
    return [str(_node_of(modules)), str(script), str(modules.parent)]


def server_everything() -> list[str]:
    """The command of npm's ``server-everything``; its transport is the next argument."""
    package = npm_package("@modelcontextprotocol/server-everything")
    return [str(node()), str(package / "dist" / "index.js")]


def server_filesystem() -> list[str]:
    """The command of npm's ``server-filesystem``; the directories it may use follow."""
    package = npm_package("@modelcontextprotocol/server-filesystem")
    return [str(node()), str(package / "dist" / "index.js")]


def program(name: str) -> str:
    """A program of Debian's, such as ``openssl``; raises `SkipTest`."""
    # Servers are not on the path of everybody who may run them.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SkipTest(f"{name} is not installed: run tests/live/install.sh")
    return found


def redis_server() -> str:
    """The program of a Redis server; raises `SkipTest`."""
    return program("redis-server")


def nginx() -> str:
    """The program of nginx; raises `SkipTest`."""
    return program("nginx")
