"""What a wire format is: it reads the call that a body asks for, and writes the answer.

A wire format is a set of pure functions: body in, `Ask` out; replies in, body or events out. It
knows no key, no episode and no connection.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.watch import Delta
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal

ANY_MODEL = "astuner"
"""Means whichever model there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one body asks for."""

    requests: tuple[ChatRequest, ...]
    """One for each choice of the answer; they name no agent yet."""
    model: str
    """Named by the client; ANY_MODEL where it names none. In a run any name will do."""
    is_stream: bool
    temperature: float | None = None
    """None: not said."""
    top_p: float | None = None
    top_k: int | None = None
    user: str | None = None
    """For whom the client says it asks."""
    session: str | None = None
    """The conversation that it says the call belongs to."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only the wire format itself reads again when it writes the answer."""

    @property
    def answer_format(self) -> bool:
        return self.requests[0].answer_format is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What names an answer."""

    id: str
    """Letters and digits; the same for every reader of one answer."""
    created: int
    """Seconds since 1970."""


class EventWriter(Protocol):
    """Writes the events of one answer, in this order."""

    def start(self) -> list[bytes]: ...

    def delta(self, choice: int, delta: Delta) -> list[bytes]: ...

    def end(self, replies: Sequence[ChatReply]) -> list[bytes]:
        """The deltas told before hold all text and reasoning of the replies."""
        ...

    def fail(self, refusal: Refusal) -> list[bytes]:
        """In place of `end`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFormat:
    """One way of asking for a completion."""

    path: str
    read: Callable[[JSON], Ask]
    """Raises Refusal for a body that cannot be answered."""
    write: Callable[[Ask, Head, Sequence[ChatReply]], JSON]
    events: Callable[[Ask, Head], EventWriter]
    error: Callable[[Refusal], JSON]
