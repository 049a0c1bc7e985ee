"""Interrupts user code that blocks the event loop, at the line where it stands.

A workflow that sleeps or computes without awaiting stalls every other episode, and one that blocks
until the gateway answers waits for ever, since the gateway turns in the same loop. An alarm ticks,
the loop takes note of each turn, and after too many ticks without one an exception is raised inside
the blocking call, so the traceback names the line and only that episode fails. Ticks are counted,
not seconds: those of a stopped process (Ctrl-Z, a paused container) come as one. Works where the
loop runs in the main thread of a system with SIGALRM; elsewhere there is no protection.
"""

import asyncio
import math
import signal
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any

from astuner.errors import LoopBlocked

_TICK_SECONDS = 0.5
_NUM_TICKS_AT_GATEWAY = 4
"""So long a call to the gateway may block before it counts as one that nobody can answer."""
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_NUM_CLIENT_FRAMES = 8
"""From the read of a socket up to what HTTP clients keep of it."""


@contextmanager
def loop_watchdog(
    max_blocked_seconds: float, *, find_port: Callable[[], int | None] = lambda: None
) -> Iterator[None]:
    """Raise TimeoutError in code that keeps the running loop busy for longer than allowed.

    Code that swallows it and goes on blocking gets LoopBlocked, which it cannot take for its own,
    and so does, within seconds, code that waits for the port that this loop serves.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    loop = asyncio.get_running_loop()
    tick_seconds = max(min(_TICK_SECONDS, max_blocked_seconds / 10), 0.01)
    most_ticks = math.ceil(max_blocked_seconds / tick_seconds)
    num_ticks = 0
    turn: asyncio.TimerHandle | None = None

    def tick(_signal: int, frame: FrameType | None) -> None:
        nonlocal num_ticks
        num_ticks += 1
        if num_ticks >= _NUM_TICKS_AT_GATEWAY and _waits_for(find_port(), frame):
            raise LoopBlocked(
                f"waits at {_place(frame)} for the gateway, which answers in the same thread and "
                "never can; write `def execute`, which runs in a thread, in place of `async def`, "
                "or use an asynchronous client or asyncio.to_thread"
            )
        if num_ticks % most_ticks:
            return
        kind = TimeoutError if num_ticks == most_ticks else LoopBlocked
        raise kind(
            f"blocked all other episodes for {max_blocked_seconds:g} s at {_place(frame)}; await "
            "it, or run it with asyncio.to_thread"
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


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frame: FrameType | None) -> str:
    """The innermost line that belongs to no library, else the innermost."""
    own = (one for one in _frames(frame) if not one.f_code.co_filename.startswith(_LIBRARIES))
    found = next(own, frame)
    return f"{found.f_code.co_filename}:{found.f_lineno}" if found else "unknown place"


def _waits_for(port: int | None, frame: FrameType | None) -> bool:
    """Whether the code reads a socket that is connected to this port."""
    if port is None:
        return False
    for one in islice(_frames(frame), _NUM_CLIENT_FRAMES):
        sock: Any = getattr(one.f_locals.get("self"), "_sock", None)
        try:
            peer = sock.getpeername()
        except (AttributeError, OSError):
            continue
        return isinstance(peer, tuple) and peer[1] == port
    return False
