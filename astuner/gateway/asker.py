"""Who sends a call, as far as the way of a call has to know it.

An agent of an episode is one (`caller.py`), a client of a model server another.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from astuner.gateway.flights import Flight, Ticket
from astuner.gateway.wires.wire_format import Ask
from astuner.inference.aside import Lane
from astuner.trajectory.refused import RefusedCall

if TYPE_CHECKING:
    from starlette.types import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Boarded:
    """A call that is under way."""

    flight: Flight
    ask: Ask
    """As it is answered; the model has the name that it is known by."""
    headers: dict[str, str]
    """Of its answer, beside those of the wire format."""


class Asker(Protocol):
    """Sends calls. An object may stand for one request or for many."""

    @property
    def lane(self) -> Lane:
        """In which what it sends is read."""
        ...

    def serving(self) -> AbstractContextManager[None]:
        """Around all that the current task does for one request, its refusal included.

        Raises Overdue for a client that is to lose its connection.
        """
        ...

    def board(self, ask: Ask, ticket: Ticket, *, path: str) -> Boarded:
        """Begin what is asked for, or join it; to be followed by `leave`. Raises Refusal."""
        ...

    def leave(self, flight: Flight, *, has_read: bool) -> None:
        """A reader goes; `has_read`: with the whole answer."""
        ...

    def note_refused(self, call: RefusedCall) -> None:
        """A call has no answer."""
        ...


FindAsker = Callable[["Scope"], Asker]
"""Who sends a request, by its ASGI scope. Raises Refusal for nobody who may."""


class Overdue(Exception):
    """Its time is over, and the client neither sends nor reads."""
