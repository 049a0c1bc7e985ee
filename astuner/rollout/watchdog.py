"""Interrupts user code that blocks the event loop, at the line where it stands.

A workflow that sleeps or computes without awaiting stalls every other episode, and one that blocks
until the gateway answers waits for ever, since the gateway turns in the same loop. A thread ticks,
the loop takes note of each turn, and after too many ticks without one an exception is raised inside
the blocking call, so the traceback names the line and only that episode fails. Ticks are counted,
not seconds: those of a stopped process (Ctrl-Z, a paused container) come as one.

In the main thread a tick is a signal of our own, which interrupts system calls and which alarms of
user code do not touch; `lock_supervisor.py` sends it where the thread does not get the interpreter
lock. In other threads, where no signal handler runs, the exception waits until the call returns;
one that does not is told of, so that whoever listens can end the run.
"""

import asyncio
import contextlib
import ctypes
import inspect
import logging
import math
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from astuner.errors import BackboneError, LoopBlocked

logger = logging.getLogger(__name__)

TICK_SIGNAL = signal.SIGURG
"""Ignored by a process that has no handler for it."""
_TICK_SECONDS = 0.5
_NUM_TICKS_AT_GATEWAY = 4
"""So long a call to the gateway may block before it counts as one that nobody can answer, and so
long any other once the run is to end."""
_NUM_TICKS_UNTIL_NAMED = 10
_MAX_IMPORT_FACTOR = 12
"""How many times longer an import may block: one that is interrupted leaves packages half made,
with which no further episode can work."""
LIBRARIES = (
    *(f"{sysconfig.get_paths()[name]}/" for name in ("stdlib", "purelib", "platlib")),
    f"{Path(__file__).parents[1]}/",
    "<frozen ",
)
"""How the files of code begin that is not the user's."""
_NUM_CLIENT_FRAMES = 8
"""From the read of a socket up to what HTTP clients keep of it."""


@contextmanager
def loop_watchdog(
    max_blocked_seconds: float,
    *,
    max_computing_seconds: float | None = None,
    find_port: Callable[[], int | None] = lambda: None,
    is_ending: Callable[[], bool] = lambda: False,
    on_stuck: Callable[[BackboneError], object] = lambda _: None,
) -> Iterator[None]:
    """Raise TimeoutError in code that keeps the running loop busy for longer than allowed.

    Code that swallows it and goes on blocking gets LoopBlocked, which it cannot take for its own,
    and so does, within seconds, code that waits for the port that this loop serves, or that blocks
    while the run is to end. `max_computing_seconds` bounds code that does not merely wait, as at a
    breakpoint. `on_stuck` is told, in another thread, of code that cannot be interrupted.
    """
    watch = _LoopTurns(
        max_blocked_seconds,
        max_computing_seconds or max_blocked_seconds,
        find_port=find_port,
        is_ending=is_ending,
        on_stuck=on_stuck,
    )
    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(TICK_SIGNAL, watch.on_signal) if is_main else None
    try:
        with watch.ticking():
            yield
    finally:
        if previous is not None:
            signal.signal(TICK_SIGNAL, previous)


class _LoopTurns:
    """Counts the ticks for which one task blocks one loop, and says what is to be raised."""

    def __init__(
        self,
        max_blocked_seconds: float,
        max_computing_seconds: float,
        *,
        find_port: Callable[[], int | None],
        is_ending: Callable[[], bool],
        on_stuck: Callable[[BackboneError], object],
    ) -> None:
        self._find_port, self._is_ending, self._on_stuck = find_port, is_ending, on_stuck
        self._loop = asyncio.get_running_loop()
        self._thread = threading.current_thread()
        shortest = min(max_blocked_seconds, max_computing_seconds)
        self._tick_seconds = max(min(_TICK_SECONDS, shortest / 10), 0.01)
        self._most = math.ceil(max_blocked_seconds / self._tick_seconds)
        self._most_computing = math.ceil(max_computing_seconds / self._tick_seconds)
        self._left = threading.Event()
        self._start_anew()

    def _start_anew(self) -> None:
        self._num = self._num_computing = self._num_raised = 0
        self._computed = time.process_time()
        self._task: asyncio.Task[Any] | None = None

    @contextmanager
    def ticking(self) -> Iterator[None]:
        is_signalled = self._thread is threading.main_thread()
        work = self._send_ticks if is_signalled else self._raise_by_thread
        ticks = threading.Thread(target=work, name="loop-watchdog", daemon=True)
        self._take_note()
        ticks.start()
        try:
            yield
        finally:
            self._left.set()
            self._note.cancel()
            ticks.join()

    def _take_note(self) -> None:
        """Of a turn of the loop."""
        self._has_turned = True
        self._start_anew()
        self._note = self._loop.call_later(self._tick_seconds / 2, self._take_note)

    def _blocked_ticks(self) -> Iterator[FrameType | None]:
        """The frame that blocks, at each tick since which the loop has not turned."""
        num = 0
        while not self._left.wait(self._tick_seconds):
            num = 0 if self._has_turned else num + 1
            self._has_turned = False
            if num == 0 or asyncio.current_task(self._loop) is None:
                continue
            frame = sys._current_frames().get(self._thread.ident or 0)
            if num == _NUM_TICKS_UNTIL_NAMED:
                seconds = num * self._tick_seconds
                logger.warning("all episodes wait seconds=%g blocked_at=%s", seconds, _place(frame))
            yield frame

    def _send_ticks(self) -> None:
        for _ in self._blocked_ticks():
            signal.pthread_kill(self._thread.ident or 0, TICK_SIGNAL)

    def on_signal(self, _signal: int, frame: FrameType | None) -> None:
        fault = self._count(frame) if asyncio.current_task(self._loop) else None
        if fault is not None:
            raise fault

    def _raise_by_thread(self) -> None:
        for frame in self._blocked_ticks():
            fault = self._count(frame)
            if fault is None:
                continue
            _raise_in(self._thread, fault)
            _disconnect(self._find_port(), frame)
            if self._num >= 2 * self._most:
                self._on_stuck(
                    BackboneError(
                        f"a workflow {fault}. It could not be interrupted there, and no episode "
                        "of its process can go on"
                    )
                )

    def _count(self, frame: FrameType | None) -> BaseException | None:
        """One tick more; what to raise at `frame`, where it is the last one."""
        task = asyncio.current_task(self._loop)
        if task is not self._task:  # several may block within one turn
            self._start_anew()
            self._task = task
        computed, self._computed = self._computed, time.process_time()
        self._num += 1
        self._num_computing += self._computed - computed > self._tick_seconds / 2
        if self._num >= _NUM_TICKS_AT_GATEWAY and _waits_for(self._find_port(), frame):
            self._num_raised += 1
            return LoopBlocked(
                f"waits at {_place(frame)} for the gateway, which answers in the same thread and "
                "never can; write `def execute`, which runs in a thread, in place of `async def`, "
                "or use an asynchronous client or asyncio.to_thread"
            )
        if self._num < _MAX_IMPORT_FACTOR * self._most and _is_importing(frame):
            return None
        is_late = self._is_ending() and self._num % _NUM_TICKS_AT_GATEWAY == 0
        is_over = self._num % self._most == 0
        is_computing = self._num_computing > 0 and self._num_computing % self._most_computing == 0
        if not (is_late or is_over or is_computing):
            return None
        self._num_raised += 1
        self._num_computing = 0
        kind = TimeoutError if self._num_raised == 1 and not is_late else LoopBlocked
        return kind(
            f"blocked all other episodes for {self._num * self._tick_seconds:g} s at "
            f"{_place(frame)}; await it, or run it with asyncio.to_thread"
        )


def _raise_in(thread: threading.Thread, fault: BaseException) -> None:
    """Where its next line of Python would run. Such an exception is given as a class only."""
    kind = type(fault)
    bound = type(
        kind.__name__, (kind,), {"__init__": lambda self: kind.__init__(self, *fault.args)}
    )
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(bound)
    )


def _disconnect(port: int | None, frame: FrameType | None) -> None:
    """Have code that waits for the gateway return to Python."""
    for sock in _sockets(port, frame):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frame: FrameType | None) -> str:
    """The innermost line that belongs to no library, else the innermost."""
    own = (one for one in _frames(frame) if not one.f_code.co_filename.startswith(LIBRARIES))
    found = next(own, frame)
    return f"{found.f_code.co_filename}:{found.f_lineno}" if found else "unknown place"


def _is_importing(frame: FrameType | None) -> bool:
    return any(one.f_code.co_filename == "<frozen importlib._bootstrap>" for one in _frames(frame))


def _waits_for(port: int | None, frame: FrameType | None) -> bool:
    """Whether the code reads a socket that is connected to this port."""
    return any(True for _ in _sockets(port, frame))


def _sockets(port: int | None, frame: FrameType | None) -> Iterator[socket.socket]:
    """Those connected to this port that the code reads."""
    if port is None:
        return
    for one in islice(_frames(frame), _NUM_CLIENT_FRAMES):
        # No attribute of an object that may be half made is computed.
        sock = inspect.getattr_static(one.f_locals.get("self"), "_sock", None)
        if not isinstance(sock, socket.socket):
            continue
        with contextlib.suppress(OSError):
            peer = sock.getpeername()
            if isinstance(peer, tuple) and peer[1] == port:
                yield sock
