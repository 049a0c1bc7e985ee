"""What a key stands for: an agent of one episode, its calls and what they may ask.

Notes the calls that are refused. Owns the end of all: they are cancelled with the episode, and a
client that does not take what is left of its answer is let go.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from astuner.gateway.asker import Boarded, Overdue
from astuner.gateway.flights import Flight, Flights, Fly, Ticket
from astuner.gateway.sampling import SamplingRule
from astuner.gateway.wires.wire_format import Ask
from astuner.inference.aside import Lane
from astuner.inference.request import Chat, ChatReply, ChatRequest, OnDelta
from astuner.serving.keys import Keys, presented_key
from astuner.trajectory.refusal_log import RefusalLog
from astuner.trajectory.refused import RefusedCall

if TYPE_CHECKING:
    from starlette.types import Scope

_LAST_WORDS_SECONDS = 1.0
"""What a reader may take for the end of its answer once its call or its episode is over."""


class Caller:
    """The agent that a key stands for. An Asker."""

    def __init__(
        self, chat: Chat, rule: SamplingRule, log: RefusalLog, *, name: str, target_tag: str
    ) -> None:
        self.lane = Lane()
        self._rule = rule
        self._flights = Flights()
        self._chat = chat
        self._log = log
        self._is_closed = False
        self._name = name
        self._target_tag = target_tag
        self._served: set[asyncio.Task[Any]] = set()
        self._overdue: set[asyncio.Task[Any]] = set()

    def board(self, ask: Ask, ticket: Ticket, *, path: str) -> Boarded:
        """The calls of `Chat.complete` for what is asked for, which came to `path`; see `leave` for
        what becomes of them. Raises Refusal for a distribution that is not the run's."""
        replaced = self._rule.replaced(ask)
        choices = [self._fly(one, is_stream=ask.is_stream, path=path) for one in ask.requests]
        told = {"x-astuner-sampling": f"replaced {', '.join(replaced)}"} if replaced else {}
        return Boarded(flight=self._flights.board(ticket, choices), ask=ask, headers=told)

    def _fly(self, request: ChatRequest, *, is_stream: bool, path: str) -> Fly:
        """An empty reply is noted, whoever reads it."""
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
        self._flights.leave(flight, has_read=has_read)

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
        self._flights.close()
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        self._overdue |= self._served
        for task in self._overdue:
            task.cancel()


def caller_of(keys: Keys[Caller], scope: "Scope") -> Caller:
    """Whose key a request has. Raises Refusal 401, 410."""
    return keys.owner(presented_key(dict(scope["headers"])))
