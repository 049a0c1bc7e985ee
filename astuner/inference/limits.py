"""How long prompts and replies may be, and how much of that a call has left.

A response counts behind the first prompt of its sequence, so that what was said in one conversation
is not charged to the next. Only an agent's very first prompt is held to `max_prompt_length`: later
ones may have grown with what was said before a sequence ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from astuner.errors import RequestError
from astuner.trajectory.recorder import Agent, Call


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """How long prompts and replies may be, in tokens."""

    max_model_len: int
    """Prompt and reply of one call together."""
    max_prompt_length: int
    """First prompt of each agent."""
    max_response_length: int
    """Everything behind the first prompt of a sequence."""
    max_response_length_in_one_turn: int
    """New tokens of one call."""

    @property
    def max_sequence_length(self) -> int:
        return min(self.max_model_len, self.max_prompt_length + self.max_response_length)


class FirstPromptTooLong(RequestError):
    """An agent's first prompt is longer than it may be."""


class TokenRoom:
    """The room of one episode; remembers which agents had a first prompt."""

    def __init__(self, limits: TokenLimits, calls: Sequence[Call]) -> None:
        """`calls` are those of the episode, and grow with it."""
        self._limits = limits
        self._calls = calls
        self._begun: set[Agent] = set()

    def most(self, agent: Agent) -> int:
        """Tokens that the agent's next prompt may have, wherever it stands."""
        limits = self._limits
        return limits.max_sequence_length if agent in self._begun else limits.max_prompt_length

    def left(self, agent: Agent, num_prompt_tokens: int, *, extends: int | None) -> int:
        """New tokens that fit behind a prompt, into the context and into its sequence.

        `extends` is the call that it continues. Raises RequestError when the agent's first prompt
        is too long.
        """
        if agent not in self._begun and num_prompt_tokens > self._limits.max_prompt_length:
            raise self._too_long(agent, str(num_prompt_tokens))
        self._begun.add(agent)
        first = num_prompt_tokens if extends is None else self._first_prompt_length(extends)
        budget = first + self._limits.max_response_length
        return min(self._limits.max_sequence_length, budget) - num_prompt_tokens

    def refuse_first(self, agent: Agent, at_least: int) -> None:
        """Raises RequestError where a prompt of so many tokens would be the agent's first."""
        if agent not in self._begun:
            raise self._too_long(agent, f"at least {at_least}")

    def _first_prompt_length(self, index: int) -> int:
        """Of the sequence that the call stands in."""
        call = self._calls[index]
        while call.extends is not None:
            call = self._calls[call.extends]
        return len(call.prompt_ids)

    def _too_long(self, agent: Agent, num_tokens: str) -> FirstPromptTooLong:
        return FirstPromptTooLong(
            f"the first prompt of agent {agent[0]!r} has {num_tokens} tokens; "
            f"data.max_prompt_length allows {self._limits.max_prompt_length}: raise it, or "
            "shorten the system prompt, the tools or the task",
            param="messages",
        )
