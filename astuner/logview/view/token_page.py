"""As many tokens as a page shows at once, in blocks that read as text.

A block ends at a line's end, so that blocks under each other look like the text that they are.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from astuner.logview.view.tokens import Fate, ShownSequence, ShownToken, tokens_of

if TYPE_CHECKING:
    from astuner.logview.reading.vocabulary import Vocabulary

WINDOW = 20_000
"""Tokens on a page."""
_BLOCK, _LONGEST_BLOCK = 250, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRun:
    """Consecutive tokens that look alike, as one text."""

    look: str
    """`given`, `sampled`, or of both with `special` or `bytes` behind."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBlock:
    first: int
    """Number of its first token."""
    last: int
    """Number behind its last."""
    runs: tuple[TextRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencePart:
    """What a window has of a sequence."""

    sequence: ShownSequence
    blocks: tuple[TokenBlock, ...]
    is_begun: bool
    """Whether the window has its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWindow:
    first: int
    last: int
    num_tokens: int
    """Of all sequences."""
    parts: tuple[SequencePart, ...]
    data: dict[str, Any]
    """For the script: every token of the window in columns."""

    @property
    def is_whole(self) -> bool:
        return self.last - self.first == self.num_tokens


def token_window(
    sequences: Sequence[ShownSequence],
    vocabulary: "Vocabulary | None",
    *,
    first: int = 0,
    size: int = WINDOW,
) -> TokenWindow:
    """The window that begins at token `first`; a number beyond the last shows the last window."""
    num_tokens = sequences[-1].end if sequences else 0
    first = max(0, min(first, num_tokens - 1)) if num_tokens else 0
    last = min(num_tokens, first + size)
    parts, columns = [], []
    pieces: dict[int, str] = {}
    special: set[int] = set()
    partial: set[int] = set()
    for sequence in sequences:
        if sequence.end <= first or sequence.start >= last:
            continue
        tokens = list(tokens_of(sequence, vocabulary, first=first, last=last))
        for token in tokens:
            if token.piece is not None and token.id not in pieces:
                pieces[token.id] = token.piece.text
                special |= {token.id} if token.piece.is_special else set()
                partial |= {token.id} if token.piece.is_partial else set()
        parts.append(
            SequencePart(
                sequence=sequence,
                blocks=tuple(map(_block, _cut(tokens))),
                is_begun=sequence.start >= first,
            )
        )
        columns.append(_columns(sequence, tokens))
    return TokenWindow(
        first=first,
        last=last,
        num_tokens=num_tokens,
        parts=tuple(parts),
        data={
            "first": first,
            "last": last,
            "total": num_tokens,
            "pieces": pieces,
            "special": sorted(special),
            "partial": sorted(partial),
            "sequences": columns,
        },
    )


def _cut(tokens: Sequence[ShownToken]) -> Iterator[Sequence[ShownToken]]:
    start = 0
    for place, token in enumerate(tokens, 1):
        size = place - start
        ends_line = token.piece is not None and token.piece.text.endswith("\n")
        if (size >= _BLOCK and ends_line) or size >= _LONGEST_BLOCK:
            yield tokens[start:place]
            start = place
    if start < len(tokens):
        yield tokens[start:]


def _block(tokens: Sequence[ShownToken]) -> TokenBlock:
    runs = [
        TextRun(look=look, text="".join(map(_text, run))) for look, run in groupby(tokens, _look)
    ]
    return TokenBlock(first=tokens[0].number, last=tokens[-1].number + 1, runs=tuple(runs))


def _look(token: ShownToken) -> str:
    origin = "given" if token.fate is Fate.GIVEN else "sampled"
    if token.piece is None:
        return origin
    if token.piece.is_special:
        return f"{origin} special"
    return f"{origin} bytes" if token.piece.is_partial else origin


def _text(token: ShownToken) -> str:
    if token.piece is None:
        return f"{token.id} "
    return f"{token.piece.text} " if token.piece.is_partial else token.piece.text


def _columns(sequence: ShownSequence, tokens: Iterable[ShownToken]) -> dict[str, Any]:
    """Spans of tokens that share their fate, with a column for each number."""
    spans = []
    for (call, fate, why, version), run in groupby(
        tokens, key=lambda token: (token.call, token.fate, token.why, token.weight_version)
    ):
        held = list(run)
        span: dict[str, Any] = {"call": call, "fate": str(fate), "why": why}
        span |= {"start": held[0].number, "ids": [token.id for token in held]}
        if fate is not Fate.GIVEN:
            span["version"] = version
            span["logprobs"] = [_short(token.logprob) for token in held]
        if any(token.recomputed is not None for token in held):
            span["recomputed"] = [_short(token.recomputed) for token in held]
        if held[0].advantage is not None and held[0].advantage != sequence.advantage:
            span["advantage"] = held[0].advantage
        spans.append(span)
    return {"index": sequence.index, "advantage": sequence.advantage, "spans": spans}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
