r"""Whether two mathematical expressions are equal: by text, by exact number, then symbolically.

`exact_equality` settles almost every pair and needs nothing. What is left goes to math-verify,
which parses arbitrary expressions and may therefore take forever or eat the memory: it runs in
worker processes only, each answer has a deadline, and a worker that misses it is killed.
"""

import asyncio
import logging
import re
import sys
from pathlib import Path

from astuner.errors import JudgeError
from astuner.task_judge.math.number import parse_number
from astuner.task_judge.math.text import plain_math
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
COMPARING = Computation(
    process="the process that compares expressions",
    file=Path(__file__).with_name("worker.py"),
    module="math_verify",
    package="astuner[math]",
)
_CHOICE = re.compile(r"\(?([A-Za-z])\)?")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FUNCTIONS = re.compile(
    "a?(?:sin|cos|tan)h?|arc(?:sin|cos|tan)|cot|sec|csc|log|exp|sqrt|max|min|gcd|lcm|det|mod|frac"
    "|and|begin|end|[pbv]?matrix|cases|array|infty|infinity",
    re.IGNORECASE,
)


def exact_equality(answer: str, reference: str) -> bool | None:
    """Compare what needs no algebra: equal texts, and numbers. None: only algebra can tell."""
    answer, reference = plain_math(answer), plain_math(reference)
    if not answer or not reference:
        return False
    if _bare(answer) == _bare(reference):
        return True
    if _CHOICE.fullmatch(answer) and _CHOICE.fullmatch(reference):
        return False
    numbers = parse_number(answer), parse_number(reference)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0].equals(numbers[1])
    if max(len(answer), len(reference)) > MAX_EXPRESSION_CHARS:
        return False
    return False if is_prose(answer) or is_prose(reference) else None


def _bare(text: str) -> str:
    """Without spaces; words without case, and `(C)` as `C`."""
    text = "".join(text.split())
    choice = _CHOICE.fullmatch(text)
    if choice:
        return choice[1].lower()
    return text.lower() if _WORD.search(text) else text


def is_prose(text: str) -> bool:
    """Whether the text holds words that are no function names: `Tuesday`, `not 18`."""
    return not all(_FUNCTIONS.fullmatch(word) for word in _WORD.findall(text))


class SymbolicComparer:
    """A few worker processes, started when first needed and shared by all who ask.

    Close it when done. Safe from several threads and event loops.
    """

    def __init__(
        self, *, num_workers: int = NUM_WORKERS, interpreter: str = sys.executable
    ) -> None:
        """`interpreter` is the Python that runs the workers; it must have math-verify."""
        self._pool = WorkerPool(COMPARING, num_workers=num_workers, interpreter=interpreter)

    async def is_equal(self, answer: str, reference: str, *, timeout_seconds: float) -> bool:
        """Symbolic equality. False as well when the process computes until the deadline, or dies,
        over the expressions.

        The deadline counts from the moment that a worker is free. Raises JudgeError when that is
        not known: no worker can be started, it was killed, or the machine gave it no time.
        """
        answer, reference = _for_latex_parser(answer), _for_latex_parser(reference)
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


def _for_latex_parser(text: str) -> str:
    r"""Python's and everyday spellings as LaTeX: `2**3`, `3 pi`, `sqrt(3)`, `3 or -3`."""
    text = plain_math(text).replace("**", "^")
    text = re.sub(r"(?<![\\A-Za-z])(pi|sqrt)(?![A-Za-z])", r"\\\1", text)
    text = re.sub(r"\s(?:and|or)\s", ", ", text)
    return re.sub(r"\\sqrt\s?\(([^()]*)\)", r"\\sqrt{\1}", text)


_shared = Shared(SymbolicComparer)


def shared_comparer() -> SymbolicComparer:
    """The one comparer of this process, closed when the interpreter ends."""
    return _shared.get()
