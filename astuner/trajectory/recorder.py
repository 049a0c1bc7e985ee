"""The calls of one episode, exactly as the engine saw and answered them.

A call whose answer may still get lost on its way is kept untaken, and is not trained until somebody
has the answer: what nobody read cannot have earned the reward.

Owns the order of calls and the state that ends an episode early. Does not render, sample or judge.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from astuner.errors import EpisodeError
from astuner.trajectory.refused import MAX_KINDS, RefusedCall
from astuner.types import Completion, Message, Tool

Agent = tuple[str, str]
"""An agent of an episode: its name and its target tag."""


class BreakKind(StrEnum):
    """Why a prompt starts a sequence, though the agent had made calls before."""

    REPEATED = "repeated"
    """The same messages were sent again, and the first reply was dropped."""
    REMOVED = "removed"
    """Messages are gone, as when a retry takes back an error."""
    EDITED = "edited"
    """A message says something else than before."""
    FOLDED = "folded"
    """A user message holds the conversation as text, and grew."""
    REASONING_DROPPED = "reasoning_dropped"
    """The agent sent a reply back without its reasoning."""
    TOOLS = "tools"
    """Other tools were offered."""
    TEMPLATE = "template"
    """The chat template wrote earlier messages in another way."""
    ENDED = "ended"
    """The agent goes on from a text that had ended by itself."""
    UNRELATED = "unrelated"
    """The first message is another one already: a new conversation."""
    BRANCHED = "branched"
    """Another call had gone on from the same earlier one already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Where and why a new sequence starts."""

    kind: BreakKind
    message: int | None
    """Index of the first message that differs; None where the messages agree."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One model request of an episode and its answer.

    Its tokens are prompt and completion in one run. A second call that extends the first begins
    with all of them, and its prompt adds what the template writes for the new messages:

        call 0: prompt_ids=(1, 2)           completion.ids=(3, 4)  extends=None
        call 1: prompt_ids=(1, 2, 3, 4, 5)  completion.ids=(6,)    extends=0
    """

    agent_name: str
    target_tag: str
    messages: tuple[Message, ...]
    """What the agent sent."""
    tools: tuple[Tool, ...]
    """What was offered to the model."""
    prompt_ids: tuple[int, ...]
    """Exactly what the engine was given; empty when a remote server rendered the prompt."""
    completion: Completion
    reply: Message
    """What the agent got back."""
    temperature: float
    extends: int | None
    """Index of the earlier call whose tokens this prompt continues; None starts a new sequence."""
    break_reason: str | None
    """Why a sequence starts here; None for an agent's first call, and for the first that continues
    its earlier one."""
    started_seconds: float
    """From the episode's start to asking the engine."""
    seconds: float
    """Wall time spent waiting for the engine."""
    is_trained: bool = True
    """False where something else than the policy answered, an agent that is not trained, or where
    nobody took the answer."""
    is_taken: bool = True
    """False where nobody got the whole answer: its request failed later, or its reader left."""
    break_kind: BreakKind | None = None
    """What kind of break `break_reason` tells of."""
    break_message: int | None = None
    """Index of the first message that differs; None where no message does."""
    is_joined_by_text: bool = False
    """Whether it extends a call with which it has the text in common but not the messages."""
    num_drifted: int = 0
    """Tokens of such a prompt that a fresh encoding of the text would have otherwise."""
    format_check: Literal["validated", "repaired", "invalid"] | None = None
    """Whether the reply has the format that was demanded; None where none was."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """All that the chat template read beside the messages: values of the run and of the call."""
    name: str | None = None
    """What the workflow called it; several calls may have one name."""
    state: str | None = None
    """What the workflow says it was made in, for calls in an equal state to be compared."""
    counted_tokens: tuple[int, int] | None = None
    """Of prompt and reply, as a server that tells no ids counted them; None where ids are known."""

    @property
    def num_prompt_tokens(self) -> int:
        return self.counted_tokens[0] if self.counted_tokens else len(self.prompt_ids)

    @property
    def num_sampled_tokens(self) -> int:
        return self.counted_tokens[1] if self.counted_tokens else len(self.completion.ids)

    @property
    def agent(self) -> Agent:
        return (self.agent_name, self.target_tag)

    @property
    def num_ids(self) -> int:
        """How many ids prompt and completion have together."""
        return len(self.prompt_ids) + len(self.completion.ids)

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and completion, as one run of tokens."""
        return self.prompt_ids + self.completion.ids


@dataclass(slots=True)
class Recorder:
    """Grows with the calls of one episode. Owned by the episode; written by its chat."""

    calls: list[Call] = field(default_factory=list)
    overflowed: set[Agent] = field(default_factory=set)
    """Agents of which a call had no room left in the context."""
    madness: str | None = None
    """The check that a reply failed, with its reason."""
    ended: str | None = None
    """Why no further call is answered."""
    agents: dict[Agent, bool] = field(default_factory=dict)
    """Every agent that was given a model or made a call, and whether it is trained."""
    refused: Counter[RefusedCall] = field(default_factory=Counter)
    """How often each was refused, for the first kinds of them."""
    num_refused: int = 0
    """Of all kinds."""
    num_empty_replies: int = 0
    """Among these, those that were answered without room for a single token."""
    _names: dict[str | None, tuple[str | None, str | None]] = field(default_factory=dict)
    """Name and state of calls to come, by the agent's name; None for those of all others."""
    _untaken: dict[int, Call] = field(default_factory=dict)
    """By index, as they will stand when they are taken."""

    @property
    def context_overflow(self) -> bool:
        """True once a call had no room left. Workflows read it to stop."""
        return bool(self.overflowed)

    def check_open(self) -> None:
        """Raise EpisodeError when the episode has ended: its agent must not go on."""
        if self.ended is not None:
            raise EpisodeError(f"model call refused: the episode has ended ({self.ended})")

    def end(self, reason: str) -> None:
        """Refuse further calls; the first reason counts."""
        self.ended = self.ended or reason

    def name_calls(
        self, name: str | None, *, state: str | None = None, agent_name: str | None = None
    ) -> None:
        """Calls added from here on have the name and state: those of one agent, or of all."""
        if agent_name is None:
            self._names.clear()
        self._names[agent_name] = (name, state)

    def add(self, call: Call, *, is_taken: bool = True) -> int:
        """Returns the index of the call. One that is not taken is trained after `take` only."""
        self.check_open()
        index = len(self.calls)
        self.agents.setdefault(call.agent, call.is_trained)
        if naming := self._names.get(call.agent_name, self._names.get(None)):
            call = replace(call, name=naming[0], state=naming[1])
        if not is_taken:
            self._untaken[index] = call
            call = replace(call, is_trained=False, is_taken=False)
        self.calls.append(call)
        return index

    def refuse(self, call: RefusedCall) -> None:
        """Note a call that has no answer, and so no place among the calls."""
        self.num_refused += 1
        self.num_empty_replies += call.is_empty_reply
        if call in self.refused or len(self.refused) < MAX_KINDS:
            self.refused[call] += 1

    def take(self, indices: Iterable[int]) -> None:
        """Note that somebody has the answers of these calls, which makes them trained."""
        for index in self._untaken.keys() & set(indices):
            self.calls[index] = self._untaken.pop(index)
