"""How long prompts and replies may be, and how much of that a call has left."""

from dataclasses import dataclass

from astuner.errors import RequestError
from astuner.trajectory.recorder import Agent


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """How long prompts and replies may be, in tokens."""

    max_model_len: int
    """Prompt and reply of one call together."""
    max_prompt_length: int
    """First prompt of each agent."""
    max_response_length: int
    """Everything behind the first prompt of an agent."""
    max_response_length_in_one_turn: int
    """New tokens of one call."""


class TokenRoom:
    """The room of one episode; remembers the length of each agent's first prompt."""

    def __init__(self, limits: TokenLimits) -> None:
        self._limits = limits
        self._first_prompt_lengths: dict[Agent, int] = {}

    def most(self, agent: Agent) -> int:
        """Tokens that the agent's next prompt may have at all."""
        first = self._first_prompt_lengths.get(agent)
        if first is None:
            return self._limits.max_prompt_length
        return min(self._limits.max_model_len, first + self._limits.max_response_length)

    def left(self, agent: Agent, num_prompt_tokens: int) -> int:
        """New tokens that fit into the context and into the agent's response budget.

        Raises RequestError when the agent's first prompt is too long.
        """
        first = self._first_prompt_lengths.get(agent, num_prompt_tokens)
        if first > self._limits.max_prompt_length:
            raise self._too_long(agent, str(first))
        self._first_prompt_lengths[agent] = first
        budget = first + self._limits.max_response_length
        return min(self._limits.max_model_len, budget) - num_prompt_tokens

    def refuse_first(self, agent: Agent, at_least: int) -> None:
        """Raises RequestError where a prompt of so many tokens would be the agent's first."""
        if agent not in self._first_prompt_lengths:
            raise self._too_long(agent, f"at least {at_least}")

    def _too_long(self, agent: Agent, num_tokens: str) -> RequestError:
        return RequestError(
            f"the first prompt of agent {agent[0]!r} has {num_tokens} tokens; "
            f"data.max_prompt_length allows {self._limits.max_prompt_length}: raise it, or "
            "shorten the system prompt, the tools or the task",
            param="messages",
        )
