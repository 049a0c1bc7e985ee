"""Tells event loops what a thread that samples has for them, once for each forward pass.

Waking a loop costs the thread more than a system call: the loop wants the interpreter's lock at
once, and while it works for one reply, the pass that writes all others waits. Owns no queue.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

Work = Callable[[], None]


class _Waking(threading.local):
    """The pass that this thread makes; None outside of one."""

    work: dict[asyncio.AbstractEventLoop, list[Work]] | None = None


_this_thread = _Waking()


@contextlib.contextmanager
def waking_once() -> Iterator[None]:
    """Around a pass: loops get what `run_in` was given inside of it at its end, in order."""
    _this_thread.work = {}
    try:
        yield
    finally:
        work, _this_thread.work = _this_thread.work, None
        for loop, calls in work.items():
            _wake(loop, calls)


def run_in(loop: asyncio.AbstractEventLoop, work: Work) -> None:
    """Let the loop call it soon; from any thread. Nothing where the loop is gone."""
    if _this_thread.work is None:
        _wake(loop, [work])
    else:
        _this_thread.work.setdefault(loop, []).append(work)


def _wake(loop: asyncio.AbstractEventLoop, calls: list[Work]) -> None:
    def call_all() -> None:
        for call in calls:  # each by itself, so that one which raises takes none along
            loop.call_soon(call)

    # Where the event loop is gone, nobody listens.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call_all)
