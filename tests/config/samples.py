"""Configurations for tests, and the places that example files refer to."""

import os
from pathlib import Path

from mcpguard.config.load import Format, Loaded, loads
from mcpguard.errors import ConfigurationError

HASH = "NM/ctIwOdmeAM/InEGwhUP+Hsqs2QVLGErTxDDzpHLg="
UPSTREAM = '[upstream]\ntransport = "http"\nurl = "http://localhost:1/mcp"\n'
SESSION_KEY = "8c6Zb2Vq0o3nT1yXw5uPj7kLr9sDf4gHa2mNe6iBvQ0="
ENVIRON = {
    "PATH": os.defpath,
    "SEARCH_TOKEN": "s1",
    "GITHUB_MCP_TOKEN": "s2",
    "MCP_GUARD_SESSION_KEY": SESSION_KEY,
}


def read(text: str, format: Format = "toml", **environ: str) -> Loaded:
    """Load a text, with relative paths in ``/``."""
    return loads(text, format, environ={"PATH": os.defpath, **environ}, base=Path("/"))


def problems(text: str, format: Format = "toml", **environ: str) -> tuple[str, ...]:
    """Everything that is wrong with a text; fails when nothing is."""
    try:
        loaded = read(text, format, **environ)
    except ConfigurationError as error:
        return error.problems
    raise AssertionError(f"accepted: {loaded}")


def read_example(text: str, format: Format, directory: Path) -> Loaded:
    """Load an example whose credentials and log directory stand in another directory."""
    for place in ("/run/credentials/mcp-guard.service", "/var/log/mcp-guard"):
        local = directory / place.rpartition("/")[0].strip("/").replace("/", "-")
        local.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = local / "upstream-token"
        secret.write_text("s3\n")
        secret.chmod(0o600)
        text = text.replace(place, str(local))
    return loads(text, format, environ=ENVIRON, base=directory)
