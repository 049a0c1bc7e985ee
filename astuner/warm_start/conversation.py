"""A conversation of which some replies are to be learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenConversation:
    """In OpenAI's chat format, as it was found."""

    name: str
    """Where it stands, such as `chats.jsonl, line 12`, or the id of its task."""
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    """Offered in all of it."""
    learned: frozenset[int] | None = None
    """Indices of the messages to be learned; None: all that the assistant said."""

    def is_learned(self, index: int) -> bool:
        is_assistant = self.messages[index].get("role") == "assistant"
        return is_assistant and (self.learned is None or index in self.learned)
