"""Who waits for the engine, and whether somebody is still to come.

Before each forward pass the engine lets the episodes in flight come back to it, so that which
requests share a pass follows from the tokens alone and not from timing: on a CPU that makes whole
runs repeatable to the last bit. Who stays away too long, with a slow tool for instance, is not
waited for again until it has come back.
"""

import asyncio
import threading
import time
from collections import Counter

_QUIET_HOPS = 4
"""Rounds of the event loop without news after which nobody there is about to call: a slot that is
handed on, or a second call that an agent makes at the same time, takes fewer."""


class Attendance:
    """Counts callers. `expect`, `arrive` and `check` belong to the event loop, `wait` to the
    engine's thread, `leave` to either. `changed` guards everything here, and the requests that a
    session passes between the two.
    """

    def __init__(self, *, wait_seconds: float) -> None:
        """`wait_seconds` bounds each wait; 0 never waits."""
        self.changed = threading.Condition()
        self.num_unsettled = 0
        """Waits that ended without somebody who was expected."""
        self._wait_seconds = wait_seconds
        self._num_expected = 0
        self._num_given_up = 0
        self._waiting: Counter[str] = Counter()
        self._news = 0
        self._news_when_quiet = -1

    def expect(self, num_callers: int) -> None:
        """So many callers are at work; each will call again, or be taken off this number."""
        with self.changed:
            self._num_expected = num_callers
            self._news += 1
        self.check()

    def arrive(self, caller: str) -> None:
        with self.changed:
            self._waiting[caller] += 1
            self._news += 1
            self.changed.notify_all()
        self.check()

    def leave(self, caller: str) -> None:
        """One call of this caller is answered, or given up."""
        with self.changed:
            self._waiting[caller] -= 1
            if not self._waiting[caller]:
                del self._waiting[caller]
            self._news += 1

    def check(self) -> None:
        """From here on see whether the event loop falls quiet."""
        if self._wait_seconds:
            asyncio.get_running_loop().call_soon(self._hop, self._news, _QUIET_HOPS)

    def wait(self) -> None:
        """Return when all who are expected wait and the event loop is quiet, or after the bound.

        The caller holds `changed`.
        """
        if not self._wait_seconds:
            return
        deadline = time.monotonic() + self._wait_seconds
        while not self._is_settled():
            left = deadline - time.monotonic()
            if left <= 0:
                self._num_given_up = self._num_missing()
                break
            self.changed.wait(left)
        self._num_given_up = min(self._num_given_up, self._num_missing())
        self.num_unsettled += self._num_missing() > 0

    def _is_settled(self) -> bool:
        is_quiet = self._news_when_quiet == self._news
        return is_quiet and self._num_missing() <= self._num_given_up

    def _num_missing(self) -> int:
        return max(0, self._num_expected - len(self._waiting))

    def _hop(self, news: int, hops_left: int) -> None:
        with self.changed:
            if news != self._news:
                return
            if hops_left == 0:
                self._news_when_quiet = news
                self.changed.notify_all()
                return
        asyncio.get_running_loop().call_soon(self._hop, news, hops_left - 1)
