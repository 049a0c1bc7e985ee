"""Waiting for user code, for so long and no longer.

Agent frameworks and judges may swallow a cancellation, so the wait for its effect is bounded too.
"""

import asyncio
import inspect
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


async def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call user code, async or not; what is not runs in a thread and cannot stall the rest."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    result = await asyncio.to_thread(_returned, function, *arguments)
    return await result if inspect.isawaitable(result) else result


def _returned(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:
        # Which no future takes: whoever waits for it would wait for ever.
        raise RuntimeError(f"StopIteration: {error}") from error


def _result(task: asyncio.Future[Any]) -> Any:
    try:
        return task.result()
    except asyncio.CancelledError as error:
        raise Escaped.of(error) from error
