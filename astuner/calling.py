"""How user code is called that may be async or not."""

import asyncio
import inspect
from collections.abc import Callable
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
