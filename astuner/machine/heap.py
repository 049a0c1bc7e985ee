"""Objects that stay: the collector of cycles need not look at them again and again."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def lasting_heap() -> Iterator[Callable[[], None]]:
    """Take what is alive for what lasts to the end of the block; called, for what is alive then.

    Modules and a model are a million objects, and a look at all of them stops every thread for some
    tenths of a second. Behind the block they are looked at as before.
    """
    try:
        _freeze()
        yield _freeze
    finally:
        gc.unfreeze()


@contextmanager
def without_collecting() -> Iterator[None]:
    """Inside of the block no thread looks for cycles, and so frees what is in one."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _freeze() -> None:
    gc.collect()
    gc.freeze()
