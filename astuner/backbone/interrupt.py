"""Ctrl-C: once ends the run in order, twice ends it at once."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from astuner.console import RunConsole


class Interrupted(Exception):
    """Raised by `Interrupt.check` inside work that does not await."""


class Interrupt:
    """Whether the user asked the run to end."""

    def __init__(self) -> None:
        self.is_requested = False

    def check(self) -> None:
        """Raise Interrupted once an end was asked for."""
        if self.is_requested:
            raise Interrupted


@contextmanager
def interrupt_on_ctrl_c(console: RunConsole) -> Iterator[Interrupt]:
    """Cancel the current task on the first SIGINT; raise KeyboardInterrupt on the second.

    Outside the main thread, as in some notebooks, signals cannot be handled and nothing is done.
    """
    interrupt = Interrupt()
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread() or task is None:
        yield interrupt
        return

    def handle(_signal: int, _frame: object) -> None:
        if interrupt.is_requested:
            raise KeyboardInterrupt
        interrupt.is_requested = True
        console.say("stopping: the weights are saved first; press Ctrl-C again to quit at once")
        loop.call_soon_threadsafe(task.cancel)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, previous)
