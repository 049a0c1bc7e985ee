"""Hands a reply to its caller in pieces: as the engine samples them, or all at once."""

import asyncio
from collections import deque

from astuner.inference.request import ChatReply, OnDelta
from astuner.inference.watch import Delta
from astuner.waking import run_in


class DeltaQueue:
    """Carries deltas from the engine's thread to the event loop, in order."""

    def __init__(self, on_delta: OnDelta) -> None:
        self._on_delta = on_delta
        self._loop = asyncio.get_running_loop()
        self._deltas: deque[Delta] = deque()
        self._is_due = False
        """Whether the event loop is going to empty this."""

    def put(self, delta: Delta) -> None:
        """Called in any thread."""
        self._deltas.append(delta)
        if self._is_due:
            return
        self._is_due = True
        run_in(self._loop, self.empty)

    def empty(self) -> None:
        """Hand over what is there. Called in the event loop."""
        self._is_due = False
        while self._deltas:
            self._on_delta(self._deltas.popleft())


def tell_all(reply: ChatReply, on_delta: OnDelta | None) -> None:
    """Tell a finished reply as one delta of its reasoning and one of its text."""
    if on_delta is None:
        return
    if reply.reasoning:
        on_delta(Delta(kind="reasoning", text=reply.reasoning))
    if reply.text:
        on_delta(Delta(kind="text", text=reply.text))
