"""Equal work that is asked for at the same time is done once."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Work:
    task: asyncio.Task[str]
    num_waiting: int = 0


class SingleFlight:
    """Work under way, by its key. It belongs to all who wait for it: the last to leave ends it."""

    def __init__(self) -> None:
        self._under_way: dict[str, _Work] = {}

    async def do(self, key: str, start: Callable[[], Coroutine[Any, Any, str]]) -> str:
        """The result of the work under way by that key, or of `start`, which begins it."""
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = _Work(asyncio.ensure_future(start()))
            work.task.add_done_callback(_note_error)
        work.num_waiting += 1
        try:
            await asyncio.wait({work.task})  # leaves the task alone when the waiting is cancelled
            return work.task.result()
        finally:
            work.num_waiting -= 1
            if work.num_waiting == 0:
                work.task.cancel()
            if work.num_waiting == 0 or work.task.done():
                self._forget(key, work)

    def _forget(self, key: str, work: _Work) -> None:
        """At once, since nobody may join what is cancelled or over."""
        if self._under_way.get(key) is work:
            del self._under_way[key]


def _note_error(task: asyncio.Task[str]) -> None:
    """It is told to those who wait; the last of them may have left in the same moment."""
    if not task.cancelled():
        task.exception()
