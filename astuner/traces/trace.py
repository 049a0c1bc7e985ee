"""One shape for what deployed agents did, whatever recorded it.

What a source does not tell is None or empty, never guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedToolCall:
    """A tool that a model asked for."""

    call_id: str | None
    name: str
    arguments: str
    """JSON, as the model wrote it where the source kept that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedTokens:
    """The tokens of one model call, from sources that keep them."""

    prompt_ids: Sequence[int] | None = None
    reply_ids: Sequence[int] | None = None
    logprobs: Sequence[float | None] | None = None
    """One for each of `reply_ids`, natural logarithms; None for one that is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One message of a conversation, with what is known of how it came about."""

    role: Role
    text: str
    reasoning: str = ""
    """What a model thought before `text`."""
    name: str | None = None
    """Of who speaks; for a tool's result, the tool."""
    tool_calls: Sequence[TracedToolCall] = ()
    """Of an assistant."""
    tool_call_id: str | None = None
    """Of a tool's result: which call it answers."""
    num_left_out: int = 0
    """Pictures, sounds and files in the message; each stands in `text` as a placeholder."""
    span_id: str | None = None
    """Of the call that wrote it, by which feedback finds it."""
    agent: str | None = None
    model: str | None = None
    """That answered, of an assistant."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Offered to the model for this reply, in OpenAI's form."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    started: float | None = None
    """Seconds since 1970."""
    seconds: float | None = None
    error: str | None = None
    """Why the call, or the tool, failed."""
    tokens: TracedTokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFeedback:
    """What somebody, or a program, thought of a trace or of one step of it."""

    name: str
    """Of what was asked, such as user_feedback or correctness."""
    score: float | None = None
    label: str | None = None
    comment: str | None = None
    by: str | None = None
    """human, model, code, or a name."""
    span_id: str | None = None
    """None: of the whole trace."""
    correction: str | None = None
    """The answer that should have been given, where somebody wrote it."""
    told: float | None = None
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a trace came from."""

    source: str
    """Name of the format, a key of `sources.known.SOURCES`."""
    address: str
    """File or address."""
    ids: Sequence[str] = ()
    """Of the source's own traces that it was put together from."""
    replies: Sequence[str] = ()
    """Of each of `ids`, the span of the last reply from it; empty where that is not known."""
    above: Sequence[str] = ()
    """Spans that its replies stand in: those of agents and requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One conversation with one agent, from its first message on.

    A reply that an agent wrote after it had rewritten its history begins a trace of its own, with
    the same session.
    """

    trace_id: str
    """Unique among what is read together, the same whenever it is read again."""
    steps: Sequence[Step]
    session: str | None = None
    """What belongs together for who recorded it: a conversation over several requests."""
    user: str | None = None
    agent: str | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the source says of the whole, as JSON values."""
    feedback: Sequence[TraceFeedback] = ()
    error: str | None = None
    """Why the whole failed."""
    origin: Origin

    @property
    def started(self) -> float | None:
        """Of the first step that has a time."""
        return min((step.started for step in self.steps if step.started is not None), default=None)

    @property
    def is_failed(self) -> bool:
        return self.error is not None or any(step.error is not None for step in self.steps)
