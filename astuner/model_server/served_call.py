"""What is known of a call that the server answered, for metrics and traces."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from astuner.serving.refusal import Refusal
from astuner.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCall:
    """One request, answered or refused. Of several choices in one answer, each is one."""

    call_id: str
    """In the answer behind its prefix, and what feedback names; of a choice beyond the first,
    `-1`, `-2` … stand behind it. The same where a request was sent again; empty where it was
    refused before it was begun."""
    started: float
    """Seconds since the epoch."""
    path: str
    """Of the wire format, as /v1/chat/completions."""
    model: str
    """As the client named it."""
    user: str | None
    """Whom the client named, or the number of its key."""
    session: str | None
    """Conversation that the client named; None: it named none."""
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    reply: Message | None
    """None: it was refused, failed, or the client went before its end."""
    finish_reason: str | None
    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]
    logprobs: Sequence[float]
    temperature: float
    """Of the distribution that the log-probabilities are of; so the next two."""
    top_p: float = 1.0
    top_k: int = -1
    seconds: float
    seconds_to_first_token: float | None
    """None where nobody could see it."""
    status: int
    """Of HTTP; 499: the client went."""
    error: str | None
    answered_by: str | None = None
    """What the server calls the model that was meant; None: it serves none of that name."""
    weights: str | None = None
    """Tells the weights that sampled from all others, such as a checkpoint and its digest."""
    is_stream: bool = False
    key: str = ""
    """Tells callers' keys apart, and is none itself; empty where no key is asked for."""
    is_recordable: bool = True
    """False: the client asked that nothing of it be kept."""

    @classmethod
    def of_nobody(cls, *, path: str, refusal: Refusal) -> Self:
        """A request without a key that is known; of what it asks, nothing was read."""
        return cls(
            call_id="",
            started=time.time(),
            path=path,
            model="",
            user=None,
            session=None,
            messages=(),
            tools=(),
            reply=None,
            finish_reason=None,
            prompt_ids=(),
            reply_ids=(),
            logprobs=(),
            temperature=0.0,
            seconds=0.0,
            seconds_to_first_token=None,
            status=refusal.status,
            error=refusal.message,
        )

    @property
    def is_answered(self) -> bool:
        """Whether the client got what it asked for, to the end."""
        return self.status < 400


class CallObserver(Protocol):
    """Told of every call once it has ended; must neither wait nor raise."""

    def served(self, call: ServedCall) -> None: ...
