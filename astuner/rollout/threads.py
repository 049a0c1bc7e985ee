"""Threads for user code that may never return.

A pool's own threads are waited for when the process ends, and its bound would make one blocking
episode wait for others.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any


class DaemonThreads(ThreadPoolExecutor):
    """A daemon thread for each call; asyncio takes it for a pool."""

    def __init__(self) -> None:
        super().__init__()
        self._running: set[threading.Thread] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        call = partial(fn, *args, **kwargs)
        thread = threading.Thread(target=_settle, args=(future, call), daemon=True)
        thread.start()
        self._running = {other for other in self._running if other.is_alive()} | {thread}
        return future

    def join(self, seconds: float) -> None:
        """Let threads end, for at most so long all together.

        One that had given its result, and was still to let go of what it was called with, such as
        an engine, would do so while the interpreter ends, and crash the process.
        """
        deadline = time.monotonic() + seconds
        for thread in self._running:
            thread.join(max(0.0, deadline - time.monotonic()))


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)
