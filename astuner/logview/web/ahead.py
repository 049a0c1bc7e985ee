"""Reads ahead while somebody looks, so that the next page need not wait for files to be read."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from astuner.serving.seldom_log import SeldomLog

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.shelf import Shelf

logger = logging.getLogger(__name__)

LOOKING_SECONDS = 60.0
"""Behind the last request somebody still reads."""
_SLICE_SECONDS = 0.2
"""Then it rests for as long: pages, and the run beside, get the other half."""
_REST_SECONDS = 5.0
"""When everything is read, until runs may have written more."""
_NUM_NEWEST = 3
_NUM_OPENED = 8
_JOIN_SECONDS = 2.0


class ReadingAhead:
    """A thread that goes on indexing the runs that were opened last, then the newest ones."""

    def __init__(self, shelf: "Shelf", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._shelf = shelf
        self._clock = clock
        self._opened: OrderedDict[str, None] = OrderedDict()
        """Names of runs, the one that was opened last at the end."""
        self._last_look = -LOOKING_SECONDS
        self._changed = threading.Condition()
        self._is_over = False
        self._log = SeldomLog(logger, clock=clock)
        self._thread = threading.Thread(target=self._work, name="reading-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join(_JOIN_SECONDS)

    def look(self, run: str | None) -> None:
        """Somebody asks for a page, of this run where it is of one."""
        with self._changed:
            was_looking = self._is_looked_at
            self._last_look = self._clock()
            is_new = run is not None and next(reversed(self._opened), None) != run
            if run is not None:
                self._opened[run] = None
                self._opened.move_to_end(run)
            while len(self._opened) > _NUM_OPENED:
                self._opened.popitem(last=False)
            if is_new or not was_looking:
                self._changed.notify()

    @property
    def _is_looked_at(self) -> bool:
        return self._clock() - self._last_look < LOOKING_SECONDS

    def _work(self) -> None:
        while not self._is_over:
            started = self._clock()
            has_more = self._is_looked_at and self._read_on()
            spent = self._clock() - started
            with self._changed:
                if not self._is_over:
                    self._changed.wait(self._pause(spent, has_more=has_more))

    def _pause(self, spent: float, *, has_more: bool) -> float | None:
        """None: until somebody looks."""
        if has_more:
            return spent
        return _REST_SECONDS if self._is_looked_at else None

    def _read_on(self) -> bool:
        """One slice of the first run that is not read whole; whether there is more to read."""
        for run in self._runs():
            try:
                if not run.index.refresh(seconds=_SLICE_SECONDS).is_whole:
                    return True
            except Exception as error:  # noqa: BLE001  # of any file; its pages will say so
                self._log.warn("ahead", "reading ahead failed run=%s reason=%r", run.name, error)
        return False

    def _runs(self) -> Iterator["RunReader"]:
        runs = {run.name: run for run in self._shelf.runs()}
        with self._changed:
            opened = list(reversed(self._opened))
        names = dict.fromkeys([*opened, *list(runs)[:_NUM_NEWEST]])
        return (runs[name] for name in names if name in runs)
