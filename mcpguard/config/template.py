"""The configuration file that ``mcp-guard init`` writes."""

import json
from importlib.resources import files

from mcpguard.config.load import Format


def template(format: Format, python: str) -> str:
    """Every setting, commented, in front of the bundled demo server.

    ``python`` is the interpreter that has mcp-guard installed: named by its absolute path, the
    demo server starts whether or not a virtual environment is active.
    """
    text = files("mcpguard.config").joinpath("templates", f"mcp-guard.{format}").read_text("utf-8")
    # A JSON string of printable text is a TOML and a YAML string too.
    return text.replace("@COMMAND@", json.dumps(python, ensure_ascii=False))
