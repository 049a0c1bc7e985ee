"""Calls under way, and answers that nobody has read: a call that is sent again samples once.

A flight is one call of `Chat.complete`, or one for each choice. Its readers come and go; when the
last one leaves before it has landed, it is cancelled. Owns no HTTP.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from astuner.gateway.refusals import over
from astuner.gateway.wires.wire_format import Head
from astuner.inference.request import ChatReply, OnDelta
from astuner.inference.watch import Delta
from astuner.serving.refusal import Refusal

_MAX_LANDED = 32
"""Answers that nobody took, newest first, kept for one agent; each may hold a whole reply.
Those under an idempotency key are kept besides."""
_MAX_NAMED = 256
"""Answers under an idempotency key, taken or not, and calls that failed, newest first, kept for one
agent."""

Fly = Callable[[OnDelta], Awaitable[ChatReply]]
"""Answers one choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a call is recognised by."""

    body: bytes
    """Digest of path and body."""
    idempotency_key: bytes | None
    """Named by the client; calls with the same one are one call."""
    attempt: int | None
    """How often the client's SDK sent it before; None where it does not say.

    The SDKs of OpenAI and Anthropic do, so that an agent may ask the same twice at a time on
    purpose, for instance to take a vote, and a retry is still one.
    """

    @property
    def name(self) -> object:
        return self.idempotency_key or self.body


class Flight:
    """One call and what has come of it so far."""

    def __init__(self, ticket: Ticket, choices: Sequence[Fly]) -> None:
        self.ticket = ticket
        self.head = Head(id=secrets.token_hex(12), created=int(time.time()))
        self.deltas: list[tuple[int, Delta]] = []
        """With the index of their choice, in the order they came."""
        self.num_readers = 0
        self._changed: set[asyncio.Event] = set()
        self._ended_by: Refusal | None = None
        self._task = asyncio.create_task(self._fly(choices))
        self._task.add_done_callback(self._land)

    async def _fly(self, choices: Sequence[Fly]) -> list[ChatReply]:
        if len(choices) == 1:
            return [await choices[0](lambda delta: self._note(0, delta))]
        tasks = [
            asyncio.create_task(_as_task(fly, self._noting(index)))
            for index, fly in enumerate(choices)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _noting(self, choice: int) -> OnDelta:
        return lambda delta: self._note(choice, delta)

    def _note(self, choice: int, delta: Delta) -> None:
        self.deltas.append((choice, delta))
        self._wake()

    def _land(self, task: asyncio.Task[list[ChatReply]]) -> None:
        if not task.cancelled():
            task.exception()  # it is told to readers; nobody may be left to ask for it
        self._wake()

    def _wake(self) -> None:
        for event in self._changed:
            event.set()

    @property
    def has_landed(self) -> bool:
        return self._task.done()

    @property
    def has_failed(self) -> bool:
        return self.has_landed and self.error() is not None

    def error(self) -> BaseException | None:
        """What a flight that has landed failed with."""
        if self._task.cancelled():
            return self._ended_by or asyncio.CancelledError()
        return self._task.exception()

    def replies(self) -> list[ChatReply]:
        """Of a flight that has landed and not failed."""
        return self._task.result()

    def watch(self) -> asyncio.Event:
        """Is set whenever something came; to be given back with `unwatch`."""
        event = asyncio.Event()
        if self.deltas or self.has_landed:
            event.set()
        self._changed.add(event)
        return event

    def unwatch(self, event: asyncio.Event) -> None:
        self._changed.discard(event)

    def cancel(self, reason: Refusal | None = None) -> None:
        """`reason` is what its readers are told."""
        self._ended_by = reason
        self._task.cancel()


async def _as_task(fly: Fly, on_delta: OnDelta) -> ChatReply:
    return await fly(on_delta)


class Flights:
    """The flights of one agent, or of one client."""

    def __init__(self, *, ended: Callable[[], Refusal] = over) -> None:
        """`ended` is what those are told whose call the end of all cuts off."""
        self._ended = ended
        self._flights: list[Flight] = []
        """Oldest first."""
        self._failures: Counter[object] = Counter()
        """By name of the ticket, those that no retry came for yet."""
        self._is_closed = False

    def board(self, ticket: Ticket, choices: Sequence[Fly]) -> Flight:
        """The flight of this call: the one that it repeats, or a new one.

        To be left with `leave`. Raises Refusal for an idempotency key that stood for another body.
        """
        if self._is_closed:
            raise self._ended()
        flight = self._find(ticket)
        if flight is None:
            flight = Flight(ticket, choices)
            self._flights.append(flight)
            self._forget_old()
        flight.num_readers += 1
        return flight

    def leave(self, flight: Flight, *, has_read: bool) -> None:
        """`has_read`: the whole answer was taken, so that a later call with this body is a new one:
        were it a retry, it would be that of another call, which failed."""
        flight.num_readers -= 1
        is_left = flight.num_readers == 0 and not flight.has_landed
        if is_left:
            flight.cancel()
        if flight.has_failed:
            self._note_failure(flight)
        if is_left or flight.has_failed or (has_read and flight.ticket.idempotency_key is None):
            self._forget(flight)

    def close(self) -> None:
        """Cancel what is under way; nobody boards any more."""
        self._is_closed = True
        for flight in self._flights:
            flight.cancel(self._ended())
        self._flights.clear()

    def _find(self, ticket: Ticket) -> Flight | None:
        same = [
            flight
            for flight in reversed(self._flights)
            if flight.ticket.name == ticket.name and not flight.has_failed
        ]
        if ticket.idempotency_key is not None:
            return _checked(same[0], ticket) if same else None
        untaken = [flight for flight in same if flight.has_landed and flight.num_readers == 0]
        joined = untaken if self._is_new(ticket) else untaken + same
        return joined[0] if joined else None

    def _is_new(self, ticket: Ticket) -> bool:
        """Whether equal calls under way are others; the retry of one that failed is new as well."""
        if ticket.attempt and self._failures[ticket.name]:
            self._failures[ticket.name] -= 1
            return True
        return ticket.attempt == 0

    def _note_failure(self, flight: Flight) -> None:
        self._failures[flight.ticket.name] += 1
        if len(self._failures) > _MAX_NAMED:
            del self._failures[next(iter(self._failures))]

    def _forget(self, flight: Flight) -> None:
        """Where it is still known: closing forgets all of them."""
        if flight in self._flights:
            self._flights.remove(flight)

    def _forget_old(self) -> None:
        landed = [flight for flight in self._flights if flight.has_landed]
        named = [flight for flight in landed if flight.ticket.idempotency_key is not None]
        unnamed = [flight for flight in landed if flight.ticket.idempotency_key is None]
        for flights, most in ((unnamed, _MAX_LANDED), (named, _MAX_NAMED)):
            for flight in flights[: max(0, len(flights) - most)]:
                self._flights.remove(flight)


def _checked(flight: Flight, ticket: Ticket) -> Flight:
    if flight.ticket.body != ticket.body:
        raise Refusal(
            422,
            "Idempotency-Key: this key stood for another body before; use a new key for a new call",
            code="idempotency_key_reused",
        )
    return flight
