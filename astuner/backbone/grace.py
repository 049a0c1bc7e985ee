"""Bounds how long a run may take to end after SIGTERM or SIGHUP, whatever hangs.

Whoever sends these kills after a while of its own, and then nobody says what is lost.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from astuner.rollout.held_lock import take_leave

logger = logging.getLogger(__name__)

_SETTING = "trainer_common.grace_seconds"
_SHARE_OF_ROLLOUT = 1 / 3
"""Of the grace, for episodes that ignore their cancellation: most is left for what is saved."""
_SHARE_OF_REST = 1 / 6
"""Of it, for tasks and threads that are left behind when all is saved."""


class Grace:
    """Ends this process where it is not left in time after `begin`; a save that is under way is
    waited for, since half of one is nothing."""

    def __init__(self, seconds: float, *, describe_saved: Callable[[], str]) -> None:
        """`describe_saved` tells, in another thread, what is kept and what is lost."""
        self._seconds = seconds
        self._describe_saved = describe_saved
        self._signal: int | None = None
        self._begun, self._left = threading.Event(), threading.Event()
        self._saving = threading.Lock()

    def __enter__(self) -> Self:
        # Now, since a signal handler that starts a thread may wait for a lock of its own thread.
        threading.Thread(target=self._wait, name="grace", daemon=True).start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        self._begun.set()

    def begin(self, signal_number: int) -> None:
        """The signal came; safe in its handler."""
        self._signal = signal_number
        self._begun.set()

    @property
    def is_begun(self) -> bool:
        return self._signal is not None

    @property
    def limit(self) -> str:
        """How long it is, in words, with its setting."""
        return f"{self._seconds:g} s ({_SETTING})"

    @property
    def rollout_seconds(self) -> float:
        """How long cancelled episodes may take to end."""
        return self._seconds * _SHARE_OF_ROLLOUT

    @property
    def rest_seconds(self) -> float:
        """How long what is left behind may take to end."""
        return self._seconds * _SHARE_OF_REST

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, what is written is not cut off."""
        with self._saving:
            yield

    def _wait(self) -> None:
        self._begun.wait()
        if self._left.wait(self._seconds):
            return
        with self._saving:
            pass
        if not self._left.wait(self.rest_seconds):
            self._end(self._signal or signal.SIGTERM)

    def _end(self, number: int) -> None:
        message = (
            f"{signal.Signals(number).name}: the run did not end within {self.limit}; "
            f"{self._describe_saved()}"
        )
        logger.error("%s", message)
        with contextlib.suppress(OSError):
            os.write(2, f"astuner: {message}\n".encode())
        take_leave()
        os._exit(128 + number)
