"""Work on what a client sends that would hold the event loop, done in threads beside it.

Owns the order: each owner's work is done one piece at a time, so that who sends much waits for
itself. Owns no bound of the work; whoever gives it away has one.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from astuner.inference.json_schema import NeedsTime, at_once, checking_pool, in_time
from astuner.workers.shared import Shared

P = ParamSpec("P")
T = TypeVar("T")

_NUM_THREADS = 4


class _Threads(ThreadPoolExecutor):
    """Not the loop's own, which user code may fill with calls that wait for this work."""

    def __init__(self) -> None:
        super().__init__(_NUM_THREADS, thread_name_prefix="aside")

    def close(self) -> None:
        self.shutdown(cancel_futures=True)


_threads = Shared(_Threads)


class Lane:
    """The work of one owner. Used in one event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Inside, nothing of this lane is done in a thread."""
        async with self._lock:
            yield

    async def in_thread(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await self._run(_threads.get(), partial(function, *arguments, **named))

    async def checked(self, check: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What a check gives that may ask JSON schemas: here where a few steps settle it, else in a
        thread that may wait for a worker."""
        call = partial(check, *arguments, **named)
        try:
            with at_once():
                return call()
        except NeedsTime:
            return await self._run(checking_pool().threads, partial(_checked_in_time, call))

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        await self._lock.acquire()
        future = threads.submit(call)
        # Not when the waiting ends: one that is cancelled leaves its work in the thread.
        future.add_done_callback(partial(self._release, asyncio.get_running_loop()))
        return await asyncio.wrap_future(future)

    def _release(self, loop: asyncio.AbstractEventLoop, future: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._lock.release)


def _checked_in_time(call: Callable[[], T]) -> T:
    with in_time():
        return call()
