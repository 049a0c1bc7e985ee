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
    """Whether the user asked the run to end, by Ctrl-C or by cancelling its task."""

    def __init__(self, task: asyncio.Task | None = None) -> None:
        self._task = task
        self.is_signalled = False

    @property
    def is_requested(self) -> bool:
        is_cancelled = self._task is not None and self._task.cancelling() > 0
        return self.is_signalled or is_cancelled

    def check(self) -> None:
        """Raise Interrupted once an end was asked for."""
        if self.is_requested:
            raise Interrupted


@contextmanager
def interrupt_on_ctrl_c(console: RunConsole, *, notice: str) -> Iterator[Interrupt]:
    """Cancel the current task on the first SIGINT; raise KeyboardInterrupt on the second.

    `notice` tells the user what happens after the first. Outside the main thread, as in notebooks,
    signals cannot be handled; there the task is cancelled from outside.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    interrupt = Interrupt(task)
    if threading.current_thread() is not threading.main_thread() or task is None:
        yield interrupt
        return

    def handle(_signal: int, _frame: object) -> None:
        if interrupt.is_signalled:
            raise KeyboardInterrupt
        interrupt.is_signalled = True
        console.say(f"stopping: {notice}; press Ctrl-C again to quit at once")
        loop.call_soon_threadsafe(task.cancel)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, previous)
