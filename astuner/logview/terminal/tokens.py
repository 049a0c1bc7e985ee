"""The tokens of an episode on a sheet: what was given, what was sampled, and what was trained.

Each stretch says above it what became of it, so that no colour is needed to tell; a shade behind
a sampled token says how improbable it was, and the least probable ones are named.
"""

import heapq
import math
from collections.abc import Sequence

from astuner.logview.reading.vocabulary import Vocabulary
from astuner.logview.terminal.sheet import BAD, DIM, STRONG, Part, Sheet
from astuner.logview.view.credit import credit_of
from astuner.logview.view.said import as_json
from astuner.logview.view.tokens import (
    Fate,
    ShownSequence,
    ShownSpan,
    ShownToken,
    tokens_of,
)
from astuner.logview.view.words import count

_SHADES = (
    (0.2, ""),
    (0.05, "black on #e8b98d"),
    (0.01, "black on #dd9050"),
    (0.0, "black on #c96a1e"),
)
"""By the least probability that each is for, the certain ones first."""
_NUM_NAMED = 5
_NAMED_BELOW = 0.5


def tokens_sheet(sequences: Sequence[ShownSequence], vocabulary: Vocabulary | None) -> Sheet:
    """Every sequence of an episode, token by token."""
    sheet = Sheet()
    if not sequences:
        sheet.add("no tokens are known: another server answered, or no call was made")
        return sheet
    _add_legend(sheet, vocabulary)
    for sequence in sequences:
        sheet.space()
        _add_sequence(sheet, sequence, vocabulary, num_sequences=len(sequences))
    return sheet


def _add_legend(sheet: Sheet, vocabulary: Vocabulary | None) -> None:
    if vocabulary is None:
        sheet.add(("tokens by their ids, since this run wrote no vocabulary", DIM))
    words: list[Part] = [("sampled with probability ", DIM)]
    for least, style in _SHADES:
        words += [(f" ≥ {least:.0%} " if least else " less ", style), " "]
    sheet.add(*words, ("; trained tokens are underlined", DIM))


def _add_sequence(
    sheet: Sheet, sequence: ShownSequence, vocabulary: Vocabulary | None, *, num_sequences: int
) -> None:
    credit = credit_of(sequence.sample)
    worth = f", advantage {credit.says}" if credit else ""
    num_tokens = sequence.end - sequence.start
    sheet.add(
        (f"sequence {sequence.index + 1} of {num_sequences}", STRONG),
        (
            f" of {sequence.agent[0]} ({num_tokens} tokens, {sequence.num_trained} trained{worth})",
            DIM,
        ),
    )
    if sequence.opening.reason is not None:
        sheet.add(
            (f"begins anew at call {sequence.opening.call + 1}: ", BAD), sequence.opening.reason
        )
    if sequence.problem is not None:
        sheet.add((sequence.problem, BAD))
    for span in sequence.spans:
        tokens = list(tokens_of(sequence, vocabulary, first=span.start, last=span.end))
        _add_span(sheet, span, tokens)


def _add_span(sheet: Sheet, span: ShownSpan, tokens: Sequence[ShownToken]) -> None:
    weights = "" if span.weight_version is None else f", by weights {span.weight_version}"
    title = f"call {span.span.call + 1}, {count(len(tokens), 'token')}, {span.why}{weights}:"
    sheet.add((title, DIM), indent=2)
    line: list[tuple[str, str]] = []
    for token in tokens:
        text, style = _text(token), _style(token)
        *ended, rest = text.split("\n")
        for part in ended:
            sheet.add(*line, (part, style), ("↵", style or DIM), indent=4)
            line = []
        if rest and line and line[-1][1] == style:
            line[-1] = (line[-1][0] + rest, style)
        elif rest:
            line.append((rest, style))
    if line:
        sheet.add(*line, indent=4)
    if least := _least_probable(tokens):
        sheet.add((f"least probable: {least}", DIM), indent=4)


def _text(token: ShownToken) -> str:
    piece = token.piece
    if piece is None:
        return f"{token.id} "
    return f"⟨{piece.text}⟩" if piece.is_partial else piece.text


def _style(token: ShownToken) -> str:
    if token.fate is Fate.GIVEN:
        return DIM
    shade = ""
    if token.logprob is not None:
        sampled = math.exp(min(0.0, token.logprob))
        shade = next(style for least, style in _SHADES if sampled >= least)
    is_trained = token.fate is Fate.TRAINED
    return " ".join(filter(None, [shade, "underline" if is_trained else ""]))


def _least_probable(tokens: Sequence[ShownToken]) -> str:
    known = [
        (token.logprob, token)
        for token in tokens
        if token.logprob is not None and token.logprob < math.log(_NAMED_BELOW)
    ]
    least = heapq.nsmallest(_NUM_NAMED, known, key=lambda pair: pair[0])
    return ", ".join(f"{_name(token)} {math.exp(logprob):.2g}" for logprob, token in least)


def _name(token: ShownToken) -> str:
    return f"{token.id}" if token.piece is None else as_json(_text(token))
