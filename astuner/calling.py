"""How user code is called that may be async or not, and what of its time is not its own.

Owns no deadline: whoever calls has one, and holds it up while `uncounted` says so.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


async def called(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call user code, async or not; what is not runs in a thread and cannot stall the rest."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments, **named)
    result = await asyncio.to_thread(_returned, function, *arguments, **named)
    return await result if inspect.isawaitable(result) else result


def _returned(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        return function(*arguments, **named)
    except StopIteration as error:
        # Which no future takes: whoever waits for it would wait for ever.
        raise RuntimeError(f"StopIteration: {error}") from error


@dataclass(slots=True)
class Standstill:
    """Of the deadline of one call. Owned by who calls."""

    num_causes: int = 0

    @property
    def is_on(self) -> bool:
        return self.num_causes > 0


_of_call: ContextVar[Standstill | None] = ContextVar("standstill", default=None)


@contextmanager
def one_call() -> Iterator[Standstill]:
    """Inside, whatever is started belongs to one call."""
    standstill = Standstill()
    token = _of_call.set(standstill)
    try:
        yield standstill
    finally:
        _of_call.reset(token)


@contextmanager
def uncounted() -> Iterator[None]:
    """Inside, the deadline of the call stands still: for what is not its own doing, such as a wait
    for others, and has a bound of its own."""
    standstill = _of_call.get() or Standstill()
    standstill.num_causes += 1
    try:
        yield
    finally:
        standstill.num_causes -= 1
