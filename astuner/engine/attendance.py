"""Who waits for the engines of a run, whether somebody is still to come, and whose pass is next.

Before each forward pass the episodes in flight are let come back, each to whichever engine it
calls, and engines pass one after another. So which requests share a pass follows from the tokens
alone and not from timing: on a CPU that makes whole runs repeatable to the last bit. Who stays away
too long, with a slow tool for instance, is not waited for again until it has come back.
"""

import asyncio
import math
import threading
import time
from collections import Counter
from typing import Protocol

_QUIET_HOPS = 4
"""Rounds of the event loop without news after which nobody there is about to call: a slot that is
handed on, or a second call that an agent makes at the same time, takes fewer."""


class Participant(Protocol):
    """A session of an engine, as far as its turn depends on it. To be read holding `changed`."""

    @property
    def is_closing(self) -> bool:
        """Whether it makes no further pass."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether it has something to do, as known between its passes."""
        ...


class Attendance:
    """Counts callers, and gives turns to those who answer them. `expect`, `arrive` and `check`
    belong to the event loop, `wait_for_turn` to a participant's thread, the others to either.
    `changed` guards everything here, and the requests that a session passes between the two.
    """

    def __init__(self, *, wait_seconds: float, gives_turns: bool | None = None) -> None:
        """`wait_seconds` bounds each wait for callers; 0 waits for nobody. `gives_turns`: whether
        one engine passes at a time; None: where callers are waited for."""
        self.changed = threading.Condition()
        self.num_unsettled = 0
        """Waits that ended without somebody who was expected."""
        self._wait_seconds = wait_seconds
        self._gives_turns = wait_seconds > 0 if gives_turns is None else gives_turns
        self._num_expected = 0
        self._num_given_up = 0
        self._waiting: Counter[str] = Counter()
        self._news = 0
        self._news_when_quiet = -1
        self._participants: list[Participant] = []
        """Who passed last stands last."""
        self._passing: Participant | None = None

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

    def join(self, participant: Participant) -> None:
        """From here on it may have turns."""
        with self.changed:
            self._participants.append(participant)

    def part(self, participant: Participant) -> None:
        """It has no further turn, and nobody waits for a pass of it. May be said again."""
        with self.changed:
            if participant in self._participants:
                self._participants.remove(participant)
            if self._passing is participant:
                self._passing = None
            self.changed.notify_all()

    def wait_for_turn(self, participant: Participant) -> None:
        """Return when it is closing, or is to begin a pass, which lasts until it waits again.

        That is when no other passes, none with work has passed longer ago, all callers who are
        expected wait, and the event loop is quiet; callers are waited for up to the bound.
        The caller holds `changed`.
        """
        if self._passing is participant:
            self._passing = None
            self.changed.notify_all()
        deadline = math.inf
        while not participant.is_closing:
            if not self._is_turn_of(participant):
                deadline = math.inf
                self.changed.wait()
            elif self._is_settled() or time.monotonic() >= deadline:
                self._begin_pass(participant)
                return
            else:
                deadline = min(deadline, time.monotonic() + self._wait_seconds)
                self.changed.wait(max(0.0, deadline - time.monotonic()))

    def _is_turn_of(self, participant: Participant) -> bool:
        if not self._gives_turns:
            return participant.has_work
        if self._passing is not None:
            return False
        return next((one for one in self._participants if one.has_work), None) is participant

    def _begin_pass(self, participant: Participant) -> None:
        if not self._gives_turns:
            return
        self._passing = participant
        self._participants.remove(participant)
        self._participants.append(participant)
        self._num_given_up = self._num_missing()
        self.num_unsettled += self._num_given_up > 0

    def _is_settled(self) -> bool:
        if not self._wait_seconds:
            return True
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
