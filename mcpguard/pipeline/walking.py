"""Coroutines that mostly need not wait, run without a Deferred until they must."""

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Walk = Coroutine[Deferred[Any], Any, None]


def walk(steps: Walk, failed: Callable[[BaseException], None]) -> None:
    """Run a coroutine to its first wait at once, and on from there as what it awaits fires.

    ``failed`` is told of an exception. `Deferred.fromCoroutine` does the same with two Deferreds
    and a context for each, which is more than most of a request's own checks cost.
    """
    try:
        awaited = steps.send(None)
    except StopIteration:
        return
    except Exception as error:
        failed(error)
        return

    def over(failure: Failure) -> None:
        failed(failure.value or RuntimeError(str(failure)))

    Deferred.fromCoroutine(_go_on(steps, awaited)).addErrback(over)


async def _go_on(steps: Walk, awaited: Deferred[Any]) -> None:
    await _Rest(steps, awaited)


class _Rest:
    """What is left of a coroutine, awaited as if it had been from the start."""

    def __init__(self, steps: Walk, awaited: Deferred[Any]) -> None:
        self._steps = steps
        self._awaited = awaited

    def __await__(self) -> Generator[Deferred[Any], Any, None]:
        steps, awaited = self._steps, self._awaited
        while True:
            try:
                value = yield awaited
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:
                step = _thrown(steps, error)
            else:
                step = _sent(steps, value)
            if step is None:
                return
            awaited = step


def _sent(steps: Walk, value: Any) -> Deferred[Any] | None:
    try:
        return steps.send(value)
    except StopIteration:
        return None


def _thrown(steps: Walk, error: BaseException) -> Deferred[Any] | None:
    try:
        return steps.throw(error)
    except StopIteration:
        return None
