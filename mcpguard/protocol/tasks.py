"""Tasks, which are not relayed: no task exists for anybody (mcp-requirements 2.4).

Who may see a task would have to be decided for each; until then nothing that starts one, and no id
of one, passes in either direction. The methods themselves are refused by `protocol.mcp.METHODS`.
"""

from collections.abc import Mapping
from typing import Any

_RELATED = "io.modelcontextprotocol/related-task"


def without_task(params: Mapping[str, Any]) -> dict[str, Any]:
    """Params without the wish for a task and without the id of one.

    A receiver that knows no tasks must carry such a request out as any other (2025-11-25).
    """
    kept = {key: value for key, value in params.items() if key != "task"}
    meta = kept.get("_meta")
    if isinstance(meta, dict) and _RELATED in meta:
        kept["_meta"] = {key: value for key, value in meta.items() if key != _RELATED}
    return kept


def is_task(result: Mapping[str, Any]) -> bool:
    """Whether a result is a task instead of what was asked for, in either era's form."""
    task = result.get("task")
    return result.get("resultType") == "task" or (isinstance(task, dict) and "taskId" in task)


def without_task_support(result: Mapping[str, Any]) -> dict[str, Any]:
    """A list of tools none of which says that it can be called as a task."""
    tools = result.get("tools")
    if not isinstance(tools, list):
        return dict(result)
    return {**result, "tools": [_plain(tool) for tool in tools]}


def _plain(tool: Any) -> Any:
    execution = tool.get("execution") if isinstance(tool, dict) else None
    if not isinstance(execution, dict) or "taskSupport" not in execution:
        return tool
    kept = {key: value for key, value in execution.items() if key != "taskSupport"}
    plain = {key: value for key, value in tool.items() if key != "execution"}
    return {**plain, "execution": kept} if kept else plain
