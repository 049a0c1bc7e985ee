"""What a question is, what comes back, and what can be asked. Owns no way to ask."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One conversation that the model is to answer."""

    messages: tuple[Mapping[str, Any], ...]
    """In OpenAI's format: `{"role": …, "content": …}`."""
    temperature: float | None
    """None leaves it to the server."""
    max_new_tokens: int | None
    """None leaves it to the server."""
    seed: int | None

    @property
    def is_repeatable(self) -> bool:
        """Whether an equal question asks for the same answer, and not for another draw."""
        return self.temperature == 0 or self.seed is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said."""

    text: str
    """Empty where it said nothing, for instance because reasoning took all of its tokens."""
    is_cut: bool
    """Whether it ends because of `max_new_tokens`."""
    num_input_tokens: int | None
    """None where the server does not say; so below."""
    num_output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """A try that failed in a way that may pass."""

    reason: str
    """One word for the log: 429, connection, timeout."""
    found: str
    """What happened, for a message; holds no key."""
    retry_after_seconds: float | None = None
    """How long the server wants to be left alone; None where it does not say."""
    is_overload: bool = False
    """Whether fewer calls at once would have helped."""


class ModelEndpoint(Protocol):
    """A model that can be asked. Belongs to the event loop that asks it first."""

    @property
    def name(self) -> str:
        """How messages call it: the model and where it is."""
        ...

    @property
    def identity(self) -> str | None:
        """Equal for endpoints that would give the same answers; None where that is not known."""
        ...

    async def answer(self, question: Question, *, seconds: float) -> Answer | Setback:
        """Ask once, for at most `seconds`.

        Raises LlmError where asking again would not help, and ConfigError where no other question
        would be answered either.
        """
        ...

    async def close(self) -> None: ...
