"""The little JSON Schema that the demo tools use, and the check of arguments against it."""

from typing import Any

Schema = dict[str, Any]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
}


def object_of(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object with these properties and no others."""
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = list(required)
    return schema


def complaint(schema: Schema, arguments: dict[str, Any]) -> str | None:
    """What is wrong with ``arguments`` under a schema made with `object_of`; None when nothing."""
    for name in schema.get("required", ()):
        if name not in arguments:
            return f"missing argument: {name}"
    for name, value in arguments.items():
        rule = schema["properties"].get(name)
        if rule is None:
            return "unknown argument"
        if isinstance(value, bool) or not isinstance(value, _TYPES[rule["type"]]):
            return f"{name} must be a {rule['type']}"
        if isinstance(value, str):
            if len(value) > rule.get("maxLength", len(value)):
                return f"{name} is longer than {rule['maxLength']} characters"
        elif not rule["minimum"] <= value <= rule["maximum"]:
            return f"{name} must be between {rule['minimum']} and {rule['maximum']}"
    return None


def header_params(schema: Schema) -> dict[str, str]:
    """Lower-case ``Mcp-Param-*`` header name -> argument it repeats (``x-mcp-header``)."""
    return {
        f"mcp-param-{rule['x-mcp-header'].lower()}": name
        for name, rule in schema["properties"].items()
        if "x-mcp-header" in rule
    }
