"""Waiting for user code, for so long and no longer.

Agent frameworks and judges may swallow a cancellation, so the wait for its effect is bounded too.
Time is waited for in slices that count as long as they were meant to be: the time in which the
process was stopped (Ctrl-Z, a paused container) is nobody's.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from astuner.errors import EpisodeError, Escaped
from astuner.rollout.containment import contained

_CANCEL_GRACE_SECONDS = 5.0
_SLICE_SECONDS = 1.0


def _nothing(_reason: str) -> None:
    pass


def _never() -> bool:
    return False


async def bounded(
    work: Coroutine[Any, Any, Any],
    *,
    seconds: float,
    error: EpisodeError,
    on_end: Callable[[str], None] = _nothing,
    stands_still: Callable[[], bool] = _never,
) -> Any:
    """Await `work` for at most `seconds`, then cancel it and raise `error`.

    `on_end` is told, with the reason, as soon as nothing is waited for any more; what still runs
    then has nobody who listens. A slice at whose end the time `stands_still` does not count.
    """
    task = contained(work)
    try:
        if await _is_done_in_time(task, seconds, stands_still):
            return _result(task)
        on_end("its time is over")
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_GRACE_SECONDS)
        raise error
    finally:
        task.cancel()
        on_end("finished")


async def _is_done_in_time(
    task: asyncio.Future[Any], seconds: float, stands_still: Callable[[], bool]
) -> bool:
    left = seconds
    while not task.done() and left > 0:
        await asyncio.wait({task}, timeout=min(left, _SLICE_SECONDS))
        if not stands_still():
            left -= _SLICE_SECONDS
    return task.done()


def _result(task: asyncio.Future[Any]) -> Any:
    try:
        return task.result()
    except asyncio.CancelledError as error:
        raise Escaped.of(error) from error
