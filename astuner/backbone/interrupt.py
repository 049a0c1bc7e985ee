"""Signals that end a run: in order where there is time, at once where there is none.

Ctrl-C once ends it in order, twice at once. SIGTERM, by which containers, Slurm and spot machines
announce the end, and SIGHUP of a terminal that goes away end it in order, however often they come.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from astuner.backbone.grace import Grace
from astuner.errors import BackboneError, Quit

if TYPE_CHECKING:
    from astuner.console import RunConsole

_AGAIN_SECONDS = 1.0
INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a run that was ended in order where no signal did it."""


class Interrupted(Exception):
    """Raised by `Interrupt.check` inside work that does not await."""


class Interrupt:
    """Whether the user asked the run to end, by a signal or by cancelling its task."""

    def __init__(self, task: asyncio.Task | None = None) -> None:
        self._task = task
        self._signal: int | None = None

    def take(self, signal_number: int) -> None:
        """A signal asked for it."""
        self._signal = signal_number

    @property
    def is_signalled(self) -> bool:
        return self._signal is not None

    @property
    def is_requested(self) -> bool:
        is_cancelled = self._task is not None and self._task.cancelling() > 0
        return self.is_signalled or is_cancelled

    @property
    def exit_code(self) -> int:
        """Of the process that ends because of it; 0 where no end was asked for."""
        if self._signal is not None:
            return 128 + self._signal
        return INTERRUPTED if self.is_requested else 0

    def check(self) -> None:
        """Raise Interrupted once an end was asked for."""
        if self.is_requested:
            raise Interrupted


@contextmanager
def interrupted_by_signals(
    console: "RunConsole", *, notice: str, grace: Grace | None = None
) -> Iterator[Interrupt]:
    """Cancel the current task on the first signal; raise Quit on a second Ctrl-C.

    `notice` tells the user what happens after the first, and the `grace` of the run begins where
    that is not Ctrl-C, after which the user decides when it is enough. Outside the main thread, as
    in notebooks, signals cannot be handled; there the task is cancelled from outside. Where they
    can, such a cancellation is a fault of user code: raises BackboneError at the end.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    interrupt = Interrupt(task)
    if task is None:
        yield interrupt
        return
    is_open = True

    def cancel() -> None:
        # What is queued when the context closes would land in whatever the task does next.
        if is_open:
            task.cancel()

    def handle(number: int, _frame: object) -> None:
        if interrupt.is_signalled:
            if grace is not None and number != signal.SIGINT:
                grace.begin(number)
            if number == signal.SIGINT:
                raise Quit(number)
            return
        interrupt.take(number)
        if grace is not None and number != signal.SIGINT:
            grace.begin(number)
        bound = "" if grace is None else f", within {grace.limit}"
        if number == signal.SIGINT:
            bound = "; press Ctrl-C again to quit at once"
        text = f"{signal.Signals(number).name}: stopping: {notice}{bound}"
        try:
            console.say(text)
        except RuntimeError:  # the signal came while the same stream was being written
            loop.call_soon_threadsafe(console.say, text)
        loop.call_soon_threadsafe(cancel)

    with _handled(handle, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        try:
            yield interrupt
        finally:
            is_open = False
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and interrupt.is_requested and not interrupt.is_signalled:
        raise BackboneError(
            "the run was cancelled, and no signal asked for it: user code cancels tasks that are "
            "not its own, as those of asyncio.all_tasks(); cancel only what you started"
        )


@contextmanager
def quit_by_signals() -> Iterator[None]:
    """Raise Quit on a signal, also as the first process of a container, where the system would
    ignore it: for the time in which there is nothing to save.

    Python drops what a handler raises while it runs a finalizer or a callback of its collector, so
    the signal comes again until this is left, or another handler has it.
    """
    taken: list[tuple[int, object]] = []
    came, left = threading.Event(), threading.Event()

    def handle(number: int, _frame: object) -> None:
        taken.append((number, signal.getsignal(number)))
        came.set()
        raise Quit(number)

    def repeat() -> None:
        came.wait()
        while not left.wait(_AGAIN_SECONDS):
            number, handler = taken[-1]
            is_ours = signal.getsignal(number) is handler
            os.kill(os.getpid(), number)
            if not is_ours:
                return

    is_int_handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    numbers = [signal.SIGINT] if is_int_handled else []
    # Before any signal: a handler that starts a thread may wait for a lock of its own thread.
    threading.Thread(target=repeat, name="signal-again", daemon=True).start()
    try:
        with _handled(handle, *numbers, signal.SIGTERM, signal.SIGHUP):
            yield
    finally:
        left.set()
        came.set()


@contextmanager
def _handled(handle: Callable[[int, object], None], *numbers: int) -> Iterator[None]:
    """In the main thread; in others nothing is handled. SIGHUP stays ignored under nohup.

    A process that user code forks meanwhile inherits this, and is to end by a signal as ever.
    """
    owner = os.getpid()

    def handle_here(number: int, frame: object) -> None:
        if os.getpid() == owner:
            return handle(number, frame)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    taken = [number for number in numbers if not (number == signal.SIGHUP and is_ignored)]
    previous = {number: signal.signal(number, handle_here) for number in taken}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
