"""Objects that stay: the collector of cycles need not look at them again and again."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NEW_OBJECTS = 50_000
"""After which cycles are looked for, in a process of ours. Imports make a million objects, and by
Python's own number looking at them again and again takes a sixth of the time until a run begins."""


@contextmanager
def lasting_heap() -> Iterator[Callable[[], None]]:
    """Take what is alive for what lasts to the end of the block; called, for what is alive then.

    Modules and a model are a million objects, and a look at all of them stops every thread for some
    tenths of a second. Inside of the block cycles are looked for after `NEW_OBJECTS`, where they
    were after fewer.
    """
    thresholds = gc.get_threshold()
    try:
        if 0 < thresholds[0] < NEW_OBJECTS:
            gc.set_threshold(NEW_OBJECTS)
        _freeze()
        yield _freeze
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@contextmanager
def without_collecting() -> Iterator[None]:
    """Inside of the block nobody looks for cycles by himself, and so frees what is in one.

    Threads may be in such blocks at the same time.
    """
    _not_collecting.enter()
    try:
        yield
    finally:
        _not_collecting.leave()


class _NotCollecting:
    """Counts the blocks that threads are in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_blocks = 0
        self._was_enabled = False

    def enter(self) -> None:
        with self._lock:
            if self._num_blocks == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._num_blocks += 1

    def leave(self) -> None:
        with self._lock:
            self._num_blocks -= 1
            if self._num_blocks == 0 and self._was_enabled:
                gc.enable()


_not_collecting = _NotCollecting()


def _freeze() -> None:
    gc.collect()
    gc.freeze()
