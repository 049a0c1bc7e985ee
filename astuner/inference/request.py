"""One model call as an agent states it, and what it gets back.

What every shape of the model has in common: AgentScope models, clients and wire formats make a
`ChatRequest` and read a `ChatReply`. Owns no way to answer one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from astuner.inference.answer_format import AnswerFormat, FormatCheck
from astuner.inference.tools.protocol import ToolCall
from astuner.inference.watch import Delta
from astuner.trajectory.recorder import Agent, Recorder
from astuner.types import FinishReason

TOOL_CHOICES = ("auto", "none", "required")

OnDelta = Callable[[Delta], None]
"""Gets the pieces of a reply as they are sampled, in the event loop of the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One model call as an agent framework states it."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    """auto, none, required, or the name of one of the tools."""
    agent_name: str = "default_agent_name"
    target_tag: str = "default_target_tag"
    only_one_call: bool = False
    """The reply ends behind its first tool call."""
    stops: Sequence[str] = ()
    """Texts that end the reply; the one that did is not part of it."""
    max_new_tokens: int | None = None
    """At least 1; None: as many as the limits of the run allow."""
    seed: int | None = None
    """Calls of one episode with the same seed draw the same random numbers; None: each its own."""
    wants_tokens: bool = False
    """Whether `ChatReply.tokens` is asked for."""
    num_top_logprobs: int = 0
    """Most probable tokens that each of those comes with."""
    answer_format: AnswerFormat | None = None
    """A reply without tool calls is to be JSON. One that is not is asked for once more."""
    prompt: str | None = None
    """Plain text that the model goes on from, in place of messages and without any template."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Values that the chat template reads in this call, in addition to those of the run."""
    is_taken: bool = True
    """False where the answer may get lost on its way: its calls are trained once `Recorder.take` is
    told of them."""

    @property
    def agent(self) -> Agent:
        return (self.agent_name, self.target_tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """One token of a reply, or one that could have stood in its place."""

    text: str
    """U+FFFD stands for parts of characters."""
    utf8: bytes | None
    """What it adds to the reply, parts of characters included; None where that is not known."""
    logprob: float
    top: tuple["SampledToken", ...] = ()
    """The most probable tokens in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """What the agent gets back."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_sampled_tokens: int
    seconds: float
    stop: str | None = None
    """The stop string that ended it; None where none did."""
    tokens: tuple[SampledToken, ...] | None = None
    """What was sampled, without the end token; None where it was not asked for."""
    format_check: FormatCheck | None = None
    """None where no format was demanded, and for tool calls."""
    calls: tuple[int, ...] = ()
    """Its calls in the episode's record."""

    @property
    def is_empty(self) -> bool:
        """Whether its prompt left no room for a single token."""
        return self.finish_reason == "context_overflow" and self.num_sampled_tokens == 0


class Chat(Protocol):
    """Answers the model calls of one episode."""

    recorder: Recorder

    async def complete(self, request: ChatRequest, *, on_delta: OnDelta | None = None) -> ChatReply:
        """Answer one call; `on_delta` gets the pieces of the reply before it is finished.

        Raises RequestError for a request that cannot be answered, EngineError where the engine
        fails, EpisodeError when the episode is over.
        """
        ...
