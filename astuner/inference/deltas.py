"""Hands a reply to its caller in pieces: as the engine samples them, or all at once.

What may end a reply is looked for in the engine's thread. Where nothing may, that thread only
passes ids on: what they say is found in the event loop, while the next pass is computed, and for as
many of them at once as have come.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Generic, TypeVar

from astuner.engine.protocol import Observe
from astuner.inference.request import ChatReply, OnDelta
from astuner.inference.watch import Delta, ReplyWatch
from astuner.types import Completion
from astuner.waking import run_in

T = TypeVar("T")
Tell = Callable[[Delta], None]


class LoopQueue(Generic[T]):
    """Carries things from the engine's thread to the event loop, in order."""

    def __init__(self, take: Callable[[list[T]], object]) -> None:
        """`take` gets all that has come, in the event loop in which this is made."""
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._things: deque[T] = deque()
        self._is_due = False
        """Whether the event loop is going to empty this."""

    def put(self, thing: T) -> None:
        """Called in any thread."""
        self._things.append(thing)
        if self._is_due:
            return
        self._is_due = True
        run_in(self._loop, self.empty)

    def empty(self) -> None:
        """Hand over what is there. Called in the event loop."""
        self._is_due = False
        things = []
        while self._things:
            things.append(self._things.popleft())
        if things:
            self._take(things)


class FollowedReply:
    """Has a reply watched while it is sampled, and told to its caller where somebody listens."""

    def __init__(
        self, make_watch: Callable[[Tell | None], ReplyWatch], on_delta: OnDelta | None
    ) -> None:
        """`make_watch` is given what its watch is to tell deltas to."""
        self._on_delta = on_delta
        self.watch = make_watch(self._tell if on_delta else None)
        self._deltas: LoopQueue[Delta] = LoopQueue(self._tell_all)
        self._ids: LoopQueue[Sequence[int]] = LoopQueue(self._take_ids)

    @property
    def observe(self) -> Observe | None:
        """What the engine is to call; None where nothing depends on it."""
        if self.watch.may_end:
            return self.watch.observe
        return self._pass_on if self._on_delta else None

    def finish(self, completion: Completion) -> None:
        """Watch to the end what the engine gave; it may have told less of it before, or nothing."""
        if self.observe is not None:
            self._ids.empty()
            self.watch.observe(completion.ids[self.watch.num_seen :])

    def tell_rest(self, reasoning: str, text: str) -> None:
        """Tell what is left of the finished reply."""
        self.watch.finish(reasoning, text)
        self._deltas.empty()

    def _pass_on(self, ids: Sequence[int]) -> bool:
        """Called in the engine's thread; more ids are always wanted."""
        self._ids.put(ids)
        return False

    def _take_ids(self, pieces: Iterable[Sequence[int]]) -> None:
        self.watch.observe(list(chain.from_iterable(pieces)))

    def _tell(self, delta: Delta) -> None:
        """Called by the watch, in whichever thread feeds it."""
        if self.watch.may_end:
            self._deltas.put(delta)
        else:
            self._tell_all([delta])

    def _tell_all(self, deltas: Iterable[Delta]) -> None:
        assert self._on_delta is not None
        for delta in deltas:
            self._on_delta(delta)


def tell_all(reply: ChatReply, on_delta: OnDelta | None) -> None:
    """Tell a finished reply as one delta of its reasoning and one of its text."""
    if on_delta is None:
        return
    if reply.reasoning:
        on_delta(Delta(kind="reasoning", text=reply.reasoning))
    if reply.text:
        on_delta(Delta(kind="text", text=reply.text))
