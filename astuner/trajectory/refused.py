"""Model calls of an episode that came to nothing, as data of a bounded size.

What such a call asks is not kept: it is the client's, and may be long. Owns no HTTP.
"""

from dataclasses import dataclass
from typing import Self

MAX_KINDS = 32
"""Refused calls of one episode that are told apart; of further ones only the number is kept."""
IN_PROCESS = "model_tuner"
MAX_CHARACTERS = 500
"""Longest text that is kept of each."""
_ANSWERED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCall:
    """A call that was refused, or answered with nothing. Texts are one line each."""

    path: str
    """Of the gateway; IN_PROCESS for a call that took no HTTP."""
    status: int
    """As of HTTP: 400 to 599; 200 for an answer that held nothing."""
    field: str | None
    """The field of the body that is at fault; None where it is not one field."""
    message: str

    @classmethod
    def of(cls, *, path: str, status: int, field: str | None, message: str) -> Self:
        return cls(
            path=_one_line(path),
            status=status,
            field=None if field is None else _one_line(field),
            message=_one_line(message),
        )

    @classmethod
    def answered_with_nothing(cls, *, path: str, num_prompt_tokens: int) -> Self:
        """Its prompt left no room for an answer."""
        return cls.of(
            path=path,
            status=_ANSWERED,
            field=None,
            message=f"answered with nothing: its prompt of {num_prompt_tokens} tokens leaves no "
            "room for a reply (docs/runs.md, limits)",
        )

    @property
    def is_empty_reply(self) -> bool:
        """Whether it was answered, with nothing: the agent ran out of room."""
        return self.status == _ANSWERED

    def line(self) -> str:
        """For a person."""
        at_fault = f" {self.field}" if self.field else ""
        return f"{self.path} {self.status}{at_fault}: {self.message}"


def _one_line(text: str) -> str:
    """Parts of it are the client's, who is not to write lines of our log or move the cursor."""
    shown = "".join(c if c.isprintable() else " " for c in text[: MAX_CHARACTERS + 1])
    return shown if len(shown) <= MAX_CHARACTERS else f"{shown[: MAX_CHARACTERS - 1]}…"
