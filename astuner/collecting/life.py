"""The life of a collector: from the first line on the screen to the end that a signal asks for."""

import asyncio
from collections.abc import Callable

from astuner.collecting.collector import Collector


async def collect(
    collector: Collector,
    *,
    next_signal: Callable[[], "asyncio.Future[int]"],
    drain_seconds: float,
    on_ready: Callable[[str], None],
    say: Callable[[str], None],
) -> int:
    """Which signal ended it. After a first one, requests under way may take `drain_seconds`, unless
    a second one comes; what was answered is on the disk in any case."""
    signalled = next_signal()
    async with collector:
        on_ready(collector.address)
        number = await signalled
        collector.refuse_further()
        if num := collector.num_under_way():
            say(f"ending: {num} requests may take {drain_seconds:g} s more; again ends them")
            answered = asyncio.ensure_future(collector.all_answered())
            await asyncio.wait(
                {answered, next_signal()},
                timeout=drain_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            answered.cancel()
        return number
