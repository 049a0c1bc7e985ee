"""What a tool-call format does, and the calls that it reads and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from astuner.types import FunctionSchema, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of one tool, as read from a reply or to be written into one."""

    name: str
    arguments: dict[str, Any]
    """JSON values only."""
    id: str | None = None
    """None where the format writes no ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """A reply taken apart."""

    text: str
    """What stands outside the calls. Malformed fragments stay in it."""
    tool_calls: tuple[ToolCall, ...]
    malformed: tuple[str, ...]
    """'reason: fragment' for each stretch that looks like a call and is none."""


class ToolFormat(Protocol):
    """One way of writing tool calls."""

    @property
    def name(self) -> str:
        """Its key in `FORMATS`."""
        ...

    @property
    def starts(self) -> tuple[str, ...]:
        """Each call begins with one of these; text before the first of them holds no call."""
        ...

    @property
    def call_end(self) -> str | None:
        """What a whole call ends with; None where several calls are one piece of text."""
        ...

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        """Separate the calls of a reply from its text.

        `text` holds the special tokens, except the end token. A reply without calls comes back
        unchanged; otherwise whitespace next to a removed call is removed with it. A leading
        `<think>` block is text, whatever it mentions. No text makes it raise.
        """
        ...

    def opening(self, name: str | None) -> str:
        """The text that begins a call of `name`, or of any tool for None.

        Ends without a space: tokenizers join a space to what follows it.
        """
        ...

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The text of an assistant message that makes these calls; `parse` gives them back."""
        ...


def function_named(name: str, tools: Sequence[Tool]) -> FunctionSchema | None:
    """The offered function of that name; None where none was offered."""
    functions = (tool["function"] for tool in tools)
    return next((function for function in functions if function["name"] == name), None)
