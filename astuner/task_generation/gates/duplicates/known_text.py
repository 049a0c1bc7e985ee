"""A question that others must not repeat, and when two questions are about different things."""

import re
from dataclasses import dataclass
from functools import lru_cache

from astuner.llm.quoting import short
from astuner.task_generation.draft import DraftCandidate
from astuner.task_generation.gates.duplicates.words import operators_of, words_of


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownText:
    """A question with its answer."""

    question: str
    answer: str
    """Empty where it is not known, as of many seeds."""
    place: str
    """Where it stands, for messages: "turn 12", "seed gsm8k/3"."""

    @classmethod
    def of(cls, candidate: DraftCandidate) -> "KnownText":
        draft, turn = candidate.draft, candidate.turn
        return cls(question=draft.question, answer=draft.answer, place=f"turn {turn.number}")

    def __str__(self) -> str:
        return f"{self.place}, {short(self.question)!r}"


_NAME = re.compile(
    r"`[^`]{1,80}`|[\"“][^\"”]{1,80}[\"”]"  # quoted
    r"|\d[\d.,]*\d|\w*\d\w*"  # numbers, and words with digits
    r"|\w+(?:[_./:]+\w+)+"  # identifiers and paths
    r"|\b[A-Z]{2,}\b|\b\w+[a-z][A-Z]\w*\b"  # GRPO, TaskReader
)
_FEW_WORDS = 4
"""Of an answer that is one thing, such as "fifteen minutes": its unit is shared by others."""
_QUOTES = '`"“”'
_MAX_REMEMBERED = 2**16
"""Texts; those of one template meet each other again and again."""


def are_about_different_things(one: KnownText, other: KnownText) -> bool:
    """Whether two questions of like wording or meaning still ask for different things.

    "What is the default of `max_calls`?" and "… of `max_tokens`?" differ in one word of many, and
    lie close together by any measure of whole sentences. So they are told apart by what they name:
    each names something (a number, an operator beside one, an identifier, a quoted word, an
    abbreviation) that the other does not; or by their answers, which were checked against the text
    by then: these name different things only; or, of a few words, each has one that the other has
    not; or, of more words, they have none in common.
    """
    if _each_names_its_own(one.question, other.question):
        return True
    if not one.answer or not other.answer:
        return False
    named, other_named = names_in(one.answer), names_in(other.answer)
    if named and other_named:
        return not named & other_named
    words, other_words = _words_in(one.answer), _words_in(other.answer)
    if max(len(words), len(other_words)) <= _FEW_WORDS:
        return bool(words - other_words) and bool(other_words - words)
    return not words & other_words


@lru_cache(_MAX_REMEMBERED)
def names_in(text: str) -> frozenset[str]:
    """What a text names by more than a plain word; numbers as they compare."""
    return frozenset(_plain(found) for found in _NAME.findall(text))


@lru_cache(_MAX_REMEMBERED)
def _words_in(text: str) -> frozenset[str]:
    return frozenset(words_of(text))


def _each_names_its_own(one: str, other: str) -> bool:
    named, other_named = (names_in(text) | operators_of(text) for text in (one, other))
    return bool(named - other_named) and bool(other_named - named)


def _plain(name: str) -> str:
    bare = name.strip(_QUOTES).casefold()
    try:
        return f"{float(bare.replace(',', '')):g}"
    except ValueError:
        return bare
