r"""Whether two mathematical expressions are equal: by text, by exact number, then symbolically.

`exact_equality` settles almost every pair and needs nothing. What is left is `algebra.py`'s, whose
parser and whose arithmetic may take forever or eat the memory: it runs in worker processes only,
each answer has a deadline, and a worker that misses it is killed.
"""

import asyncio
import itertools
import logging
import re
import sys
from pathlib import Path

from astuner.errors import JudgeError
from astuner.task_judge.math.calendar_date import same_date
from astuner.task_judge.math.number import MAX_NUMBER_CHARS, parse_number, parse_ratio
from astuner.task_judge.math.numerals import has_base
from astuner.task_judge.math.plain import plain_math
from astuner.task_judge.math.residue import same_residue
from astuner.task_judge.math.structure import (
    Same,
    compare,
    in_usual_order,
    label_and_value,
    parts_of,
)
from astuner.task_judge.math.times import same_time
from astuner.task_judge.math.units import without_unit
from astuner.task_judge.math.words import (
    choice_of,
    chosen_text,
    is_prose,
    relation_in_signs,
    same_words,
)
from astuner.workers.pool import (
    NUM_WORKERS,
    Computation,
    Unanswerable,
    WorkerFailure,
    WorkerPool,
)
from astuner.workers.shared import Shared

logger = logging.getLogger(__name__)

MAX_EXPRESSION_CHARS = 2_000
"""Longer expressions are equal only to the same text."""
MAX_DEPTH = 60
"""Brackets inside of each other; as above."""
MAX_PAIRS = 100
"""Of parts that are compared in the judge's own process; about 0.1 ms each, or 1 at worst."""
COMPARING = Computation(
    process="the process that compares expressions",
    file=Path(__file__).with_name("worker.py"),
    module="math_verify",
    package="astuner[math]",
)
_INTEGER = re.compile(r"-?[1-9]\d{0,17}|0", re.ASCII)
_SINGLE_BRACED = re.compile(r"([_^])\{(\w)\}(?!\w)")
_NEEDLESS_SPACE = re.compile(r"(?<=[^A-Za-z0-9]) | (?=[^A-Za-z0-9])|(?<=\d) (?=[A-Za-z])")
_VARIABLE = re.compile(r"(?:\\?[A-Za-z]+(?:_\w)?)\s?(?=[<>]|\\[lg]eq)")
_SIGN = re.compile(r"(<|>|\\leq|\\geq|\\neq)(?![A-Za-z])\s?")


def exact_equality(answer: str, reference: str) -> bool | None:
    """Compare what needs no algebra: texts, words, numbers, and lists of them. None: only algebra
    can tell.
    """
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(reference):
        return answer == reference
    answer, reference = plain_math(answer), plain_math(reference)
    if not answer or not reference:
        return False
    try:
        return equality(answer, reference, _AtMost(MAX_PAIRS, same_without_algebra))
    except _TooManyPairs:
        return None


class _TooManyPairs(Exception):
    """Comparing part by part takes too long here; the worker has a deadline."""


class _AtMost:
    """Compares a number of pairs, and then raises _TooManyPairs."""

    def __init__(self, num_pairs: int, same: Same) -> None:
        self._num_left = num_pairs
        self._same = same

    def __call__(self, one: str, other: str) -> bool | None:
        if self._num_left == 0:
            raise _TooManyPairs
        self._num_left -= 1
        return self._same(one, other)


def equality(answer: str, reference: str, same: Same) -> bool | None:
    """Compare what `plain_math` gave, as a whole and then part by part."""
    if _bare(answer) == _bare(reference) or same_words(answer, reference):
        return True
    if max(_depth(answer), _depth(reference)) > MAX_DEPTH:
        return False
    answer, reference = _in_usual_form(answer), _in_usual_form(reference)
    if choice_of(answer) and choice_of(reference):
        return False
    chosen = chosen_text(answer), chosen_text(reference)
    if chosen[0] and chosen[1]:
        is_same_letter = chosen[0][0] == chosen[1][0]
        return is_same_letter and equality(chosen[0][1], chosen[1][1], same)
    if chosen[0] or chosen[1]:
        letter, text = chosen[0] or chosen[1] or ("", "")
        other = reference if chosen[0] else answer
        return choice_of(other) == letter if choice_of(other) else equality(text, other, same)
    numbers = parse_number(answer), parse_number(reference)
    if numbers[0] is not None and numbers[1] is not None:
        return same(answer, reference)
    if max(len(answer), len(reference)) > MAX_EXPRESSION_CHARS:
        return False
    if numbers[0] is not None or numbers[1] is not None:
        number, other = (answer, reference) if numbers[0] is not None else (reference, answer)
        if is_prose(other):
            return False
        parts = parts_of(label_and_value(other)[1])
        if parts is not None and (parts.kind != "set" or len(parts.items) > 1):
            return same(number, other) if parts.kind == "union" else False
    return compare(answer, reference, same)


def _depth(text: str) -> int:
    """How many brackets stand inside of each other."""
    steps = ((char in "([{") - (char in ")]}") for char in text)
    return max(itertools.accumulate(steps), default=0)


def _in_usual_form(text: str) -> str:
    if len(text) > MAX_NUMBER_CHARS:
        return text
    return without_unit(in_usual_order(relation_in_signs(text)))


def same_without_algebra(answer: str, reference: str) -> bool | None:
    """Whether two texts without parts are equal; None where only algebra can tell."""
    if _bare(answer) == _bare(reference):
        return True
    if len(answer) > 1 and same_words(answer, reference):
        return True
    for same_figures in (same_time, same_date, same_residue):
        verdict = same_figures(answer, reference)
        if verdict is not None:
            return verdict
    numbers = parse_number(answer), parse_number(reference)
    if numbers[0] is not None and numbers[1] is not None:
        labels = label_and_value(answer)[0], label_and_value(reference)[0]
        is_same_variable = not all(labels) or labels[0] == labels[1]
        return is_same_variable and numbers[0].equals(numbers[1])
    ratios = parse_ratio(answer), parse_ratio(reference)
    if ratios[0] and ratios[1]:
        return ratios[0] == ratios[1]
    if has_base(answer) and has_base(reference):
        return False
    relation = _same_relation(answer, reference)
    if relation is not None:
        return relation
    return False if is_prose(answer) or is_prose(reference) else None


def _same_relation(answer: str, reference: str) -> bool | None:
    """Of `x > 5` and `> 5`, where at least one names no variable."""
    if not (_SIGN.match(answer) or _SIGN.match(reference)):
        return None
    texts = _VARIABLE.sub("", answer, count=1), _VARIABLE.sub("", reference, count=1)
    signs = _SIGN.match(texts[0]), _SIGN.match(texts[1])
    if not (signs[0] and signs[1]) or signs[0][1] != signs[1][1]:
        return False
    return same_without_algebra(texts[0][signs[0].end() :], texts[1][signs[1].end() :])


def _bare(text: str) -> str:
    """Without the spaces and braces that mean nothing."""
    return _NEEDLESS_SPACE.sub("", _SINGLE_BRACED.sub(r"\1\2", text))


class SymbolicComparer:
    """A few worker processes, started when they are needed and shared by all who ask.

    Close it when done. Safe from several threads and event loops.
    """

    def __init__(
        self, *, num_workers: int = NUM_WORKERS, interpreter: str = sys.executable
    ) -> None:
        """`interpreter` is the Python that runs the workers; it must have math-verify."""
        self._pool = WorkerPool(COMPARING, num_workers=num_workers, interpreter=interpreter)

    def prepare(self) -> None:
        """Start a worker in the background, where there is none: no comparison then waits for it.

        One that cannot be started is told by the first comparison.
        """
        self._pool.prepare()

    async def is_equal(self, answer: str, reference: str, *, timeout_seconds: float) -> bool:
        """Symbolic equality. False as well when the process computes until the deadline, or dies,
        over the expressions.

        The deadline counts from the moment that a worker is free. Raises JudgeError when that is
        not known: no worker can be started, it was killed, or the machine gave it no time.
        """
        answer, reference = plain_math(answer), plain_math(reference)
        future = self._pool.threads.submit(self._compare, answer, reference, timeout_seconds)
        return await asyncio.wrap_future(future)

    @property
    def idle_process_ids(self) -> list[int]:
        """Of the workers that wait for an expression."""
        return self._pool.idle_process_ids

    def close(self) -> None:
        """End all workers; waits for the comparisons that are running, at most their deadline."""
        self._pool.close()

    def _compare(self, answer: str, reference: str, timeout_seconds: float) -> bool:
        request = {"answer": answer, "reference": reference}
        try:
            return self._pool.ask(request, timeout_seconds=timeout_seconds)["equal"]
        except Unanswerable as error:
            logger.warning("comparison stopped reason=%s answer=%.80r", error, answer)
            return False
        except WorkerFailure as error:
            raise JudgeError(str(error)) from error


_shared = Shared(SymbolicComparer)


def shared_comparer() -> SymbolicComparer:
    """The one comparer of this process, closed when the interpreter ends."""
    return _shared.get()
