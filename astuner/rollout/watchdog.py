"""Interrupts user code that blocks the event loop, at the line where it stands.

A workflow that sleeps or computes without awaiting stalls every other episode. An alarm is pushed
back while the loop turns; when it goes off, an exception is raised inside the blocking call, so the
traceback names the line and only that episode fails. Works where the loop runs in the main thread
of a system with SIGALRM; elsewhere there is no protection.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from astuner.errors import LoopBlocked


@contextmanager
def loop_watchdog(max_blocked_seconds: float) -> Iterator[None]:
    """Raise TimeoutError in code that keeps the running loop busy for longer than allowed.

    Code that swallows it and goes on blocking gets LoopBlocked, which it cannot take for its own.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    num_alarms = 0

    def interrupt(_signal: int, frame: FrameType | None) -> None:
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "unknown place"
        nonlocal num_alarms
        num_alarms += 1
        kind = TimeoutError if num_alarms == 1 else LoopBlocked
        raise kind(
            f"blocked all other episodes for {max_blocked_seconds:g} s at {place}; await it, or "
            "run it with asyncio.to_thread"
        )

    loop = asyncio.get_running_loop()
    interval = max(max_blocked_seconds / 10, 0.01)
    timer: list[asyncio.TimerHandle] = []

    def push_back() -> None:
        nonlocal num_alarms
        num_alarms = 0
        signal.setitimer(signal.ITIMER_REAL, max_blocked_seconds, max_blocked_seconds)
        timer[:] = [loop.call_later(interval, push_back)]

    previous = signal.signal(signal.SIGALRM, interrupt)
    push_back()
    try:
        yield
    finally:
        timer[0].cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
