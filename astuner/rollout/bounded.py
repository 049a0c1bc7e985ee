"""Waiting for user code, for so long and no longer.

Agent frameworks and judges may swallow a cancellation, so the wait for its effect is bounded too.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from astuner.errors import EpisodeError, Escaped
from astuner.rollout.containment import contained

_CANCEL_GRACE_SECONDS = 5.0


def _nothing(_reason: str) -> None:
    pass


async def bounded(
    work: Coroutine[Any, Any, Any],
    *,
    seconds: float,
    error: EpisodeError,
    on_end: Callable[[str], None] = _nothing,
) -> Any:
    """Await `work` for at most `seconds`, then cancel it and raise `error`.

    `on_end` is told, with the reason, as soon as nothing is waited for any more; what still runs
    then has nobody who listens.
    """
    task = contained(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if done:
            return _result(task)
        on_end("its time is over")
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_GRACE_SECONDS)
        raise error
    finally:
        task.cancel()
        on_end("finished")


def _result(task: asyncio.Future[Any]) -> Any:
    try:
        return task.result()
    except asyncio.CancelledError as error:
        raise Escaped.of(error) from error
