"""Tests of what is taken out so that no task exists for anybody."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.tasks import is_task, without_task, without_task_support

RELATED = "io.modelcontextprotocol/related-task"


class TaskTests(SynchronousTestCase):
    """Tasks in either direction."""

    def test_params(self) -> None:
        """The wish for a task and the id of one go, everything else stays; nothing is changed."""
        meta = {RELATED: {"taskId": "t"}, "progressToken": 1}
        params = {"name": "x", "task": {"ttl": 5}, "arguments": {"task": 1}, "_meta": meta}
        self.assertEqual(
            without_task(params),
            {"name": "x", "arguments": {"task": 1}, "_meta": {"progressToken": 1}},
        )
        self.assertIn(RELATED, meta)
        self.assertIn("task", params)

    def test_results(self) -> None:
        """A task is known in the form of either era."""
        tasks: list[Any] = [{"resultType": "task", "taskId": "t"}, {"task": {"taskId": "t"}}]
        others: list[Any] = [{"content": []}, {"resultType": "complete"}, {"task": "a chore"}]
        self.assertEqual([is_task(result) for result in tasks], [True, True])
        self.assertEqual([is_task(result) for result in others], [False] * 3)

    def test_tools(self) -> None:
        """No tool says that it may be called as a task; what else it says stays."""
        tools: list[Any] = [
            {"name": "a", "execution": {"taskSupport": "required"}},
            {"name": "b", "execution": {"taskSupport": "optional", "other": 1}},
            {"name": "c", "execution": 5},
            None,
        ]
        self.assertEqual(
            without_task_support({"tools": tools, "ttlMs": 1}),
            {
                "tools": [{"name": "a"}, {"name": "b", "execution": {"other": 1}}, tools[2], None],
                "ttlMs": 1,
            },
        )
        self.assertEqual(without_task_support({"tools": 5}), {"tools": 5})
