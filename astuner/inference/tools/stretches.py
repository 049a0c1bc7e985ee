"""A reply as stretches: calls, fragments that look like calls, and the text around them.

A format finds its stretches; how the reply is taken apart along them is the same for all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from astuner.inference.excerpt import excerpt
from astuner.inference.tools.json_calls import after_space
from astuner.inference.tools.protocol import ParsedReply, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Calls in text[start:end], or with `problem` a fragment that looks like a call."""

    start: int
    end: int
    calls: tuple[ToolCall, ...] = ()
    problem: str | None = None


def answer_start(text: str) -> int:
    """Index at which the answer begins: after a leading `<think>` block, else 0.

    A block that is never closed leaves no answer.
    """
    if not text.lstrip().startswith("<think>"):
        return 0
    close = text.find("</think>")
    return len(text) if close < 0 else close + len("</think>")


def take_apart(text: str, found: Iterable[Stretch]) -> ParsedReply:
    """Separate the calls from the text; `found` in order and without overlap."""
    pieces: list[str] = []
    calls: list[ToolCall] = []
    malformed: list[str] = []
    kept_from = 0
    for stretch in found:
        if stretch.problem is not None:
            fragment = excerpt(text[stretch.start : stretch.end])
            malformed.append(f"{stretch.problem}: {fragment!r}")
            continue
        piece = text[kept_from : stretch.start].rstrip()
        pieces.append(piece.lstrip() if calls else piece)
        calls.extend(stretch.calls)
        kept_from = stretch.end
    rest = text[kept_from:]
    pieces.append(rest.lstrip() if calls else rest)
    return ParsedReply(
        text="\n".join(piece for piece in pieces if piece),
        tool_calls=tuple(calls),
        malformed=tuple(malformed),
    )


def after_closing(text: str, at: int, tag: str) -> int:
    """Index after `tag`, which may be missing at the end of the text.

    Raises ValueError where something else stands there.
    """
    at = after_space(text, at)
    if text.startswith(tag, at):
        return at + len(tag)
    if at < len(text):
        raise ValueError(f"text where {tag} should stand")
    return at
