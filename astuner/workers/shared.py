"""One of a kind for each process, made when first needed and closed when the interpreter ends."""

import atexit
import os
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class _Closing(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closing)


class Shared(Generic[T]):
    """Safe from several threads. To be made at module level."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._forget()
        atexit.register(self._close)
        os.register_at_fork(after_in_child=self._forget)

    def get(self) -> T:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _forget(self) -> None:
        """A forked child has neither the threads nor a right to the processes of its parent."""
        self._made: T | None = None
        self._lock = threading.Lock()

    def _close(self) -> None:
        if self._made is not None:
            self._made.close()
