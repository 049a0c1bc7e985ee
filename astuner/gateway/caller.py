"""What a key stands for: an agent of one episode, its calls and what they may ask.

Notes the calls that are refused. Owns the end of all: they are cancelled with the episode, and a
client that does not take what is left of its answer is let go.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from astuner.gateway.flights import Flight, Flights, Fly
from astuner.gateway.sampling import SamplingRule
from astuner.inference.aside import Lane
from astuner.inference.request import Chat, ChatReply, ChatRequest, OnDelta
from astuner.trajectory.refusal_log import RefusalLog
from astuner.trajectory.refused import RefusedCall

_LAST_WORDS_SECONDS = 1.0
"""What a reader may take for the end of its answer once its call or its episode is over."""


class Overdue(Exception):
    """The episode is over, and the client neither sends nor reads."""


class Caller:
    """The agent that a key stands for."""

    def __init__(
        self, chat: Chat, rule: SamplingRule, log: RefusalLog, *, name: str, target_tag: str
    ) -> None:
        self.rule = rule
        self.flights = Flights()
        self.lane = Lane()
        self._chat = chat
        self._log = log
        self._is_closed = False
        self._name = name
        self._target_tag = target_tag
        self._served: set[asyncio.Task[Any]] = set()
        self._overdue: set[asyncio.Task[Any]] = set()

    def fly(self, request: ChatRequest, *, is_stream: bool, path: str) -> Fly:
        """The call of `Chat.complete` for this request, which came to `path`; see `leave` for what
        becomes of it. An empty reply is noted, whoever reads it."""
        named = replace(request, agent_name=self._name, target_tag=self._target_tag, is_taken=False)

        async def fly(on_delta: OnDelta) -> ChatReply:
            reply = await self._chat.complete(named, on_delta=on_delta if is_stream else None)
            if reply.is_empty:
                num_tokens = reply.num_prompt_tokens
                self.note_refused(
                    RefusedCall.answered_with_nothing(path=path, num_prompt_tokens=num_tokens)
                )
            return reply

        return fly

    def leave(self, flight: Flight, *, has_read: bool) -> None:
        """A reader goes; `has_read`: with the whole answer, whose calls may be trained then."""
        if has_read:
            self._chat.recorder.take(call for reply in flight.replies() for call in reply.calls)
        self.flights.leave(flight, has_read=has_read)

    def note_refused(self, call: RefusedCall) -> None:
        """Note a call that has no answer in the episode's record, and its kind in the log.

        What the end of the episode cuts off is no refusal.
        """
        if not self._is_closed:
            self._chat.recorder.refuse(call)
            self._log.note(call)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Around all that the current task does for one client.

        Raises Overdue for a client that has not taken its answer soon after `close`.
        """
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._overdue:
                raise
            task.uncancel()
            raise Overdue from None
        finally:
            self._served.discard(task)
            self._overdue.discard(task)

    def close(self) -> None:
        """What is under way is cancelled; clients have a little time to send or read the rest."""
        self._is_closed = True
        self.flights.close()
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        self._overdue |= self._served
        for task in self._overdue:
            task.cancel()
