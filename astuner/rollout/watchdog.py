"""Interrupts user code that blocks the event loop, at the line where it stands.

A workflow that sleeps or computes without awaiting stalls every other episode. An alarm ticks, the
loop takes note of each turn, and after too many ticks without one an exception is raised inside the
blocking call, so the traceback names the line and only that episode fails. Ticks are counted, not
seconds: those of a stopped process (Ctrl-Z, a paused container) come as one. Works where the loop
runs in the main thread of a system with SIGALRM; elsewhere there is no protection.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from astuner.errors import LoopBlocked

_NUM_TICKS = 10
"""In the time that the loop may be blocked."""


@contextmanager
def loop_watchdog(max_blocked_seconds: float) -> Iterator[None]:
    """Raise TimeoutError in code that keeps the running loop busy for longer than allowed.

    Code that swallows it and goes on blocking gets LoopBlocked, which it cannot take for its own.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    loop = asyncio.get_running_loop()
    tick_seconds = max(max_blocked_seconds / _NUM_TICKS, 0.01)
    num_ticks = 0
    turn: asyncio.TimerHandle | None = None

    def tick(_signal: int, frame: FrameType | None) -> None:
        nonlocal num_ticks
        num_ticks += 1
        if num_ticks % _NUM_TICKS:
            return
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "unknown place"
        kind = TimeoutError if num_ticks == _NUM_TICKS else LoopBlocked
        raise kind(
            f"blocked all other episodes for {max_blocked_seconds:g} s at {place}; await it, or "
            "run it with asyncio.to_thread"
        )

    def take_note() -> None:
        """Of a turn of the loop, and of an alarm that user code has set or cleared since."""
        nonlocal num_ticks, turn
        num_ticks = 0
        if signal.getsignal(signal.SIGALRM) is not tick:
            signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, tick_seconds, tick_seconds)
        turn = loop.call_later(tick_seconds / 2, take_note)

    previous = signal.signal(signal.SIGALRM, tick)
    take_note()
    try:
        yield
    finally:
        if turn is not None:
            turn.cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
