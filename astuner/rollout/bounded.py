"""Waiting for user code, for so long and no longer.

Agent frameworks and judges may swallow a cancellation, so the wait for its effect is bounded too.
Time is waited for in slices. One that took much longer than it was meant to counts as it was meant:
the time in which the process was stopped (Ctrl-Z, a paused container) is nobody's.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from astuner.errors import EpisodeError, Escaped
from astuner.rollout.containment import contained

_CANCEL_GRACE_SECONDS = 5.0
_SLICE_SECONDS = 1.0
_MUCH_LONGER = 2.0
"""Times. A busy machine is late by less, and that counts: it would add up to minutes an hour."""


class TimeLeft:
    """How much is left of a bounded wait, of which slices are taken one after the other."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock

    def begin_slice(self) -> float:
        """The seconds that it is meant to take."""
        self._meant, self._begun = min(self.seconds, _SLICE_SECONDS), self._clock()
        return self._meant

    def end_slice(self) -> None:
        took = self._clock() - self._begun
        was_stopped = took > _MUCH_LONGER * self._meant
        self.seconds -= self._meant if was_stopped else max(self._meant, took)


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
    left = TimeLeft(seconds)
    while not task.done() and left.seconds > 0:
        await asyncio.wait({task}, timeout=left.begin_slice())
        if not stands_still():
            left.end_slice()
    return task.done()


def _result(task: asyncio.Future[Any]) -> Any:
    try:
        return task.result()
    except asyncio.CancelledError as error:
        raise Escaped.of(error) from error
