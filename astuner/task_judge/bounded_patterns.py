"""Regular expressions of settings on texts of a model, which together may take for ever.

A search runs in a worker process that is ended at its deadline: a pattern holds the interpreter's
lock while it runs.
"""

import re
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError, JudgeError
from astuner.workers.pool import Computation, Unanswerable, WorkerFailure, WorkerPool
from astuner.workers.shared import Shared

MAX_SECONDS = 2.0
MAX_TEXT_CHARS = 200_000
"""Of the end of a text, what is searched."""

_searching = Shared(
    lambda: WorkerPool(
        Computation(
            process="the process that searches by patterns",
            file=Path(__file__).with_name("pattern_search.py"),
            module="re",
            package="python",
        )
    )
)


class TakesTooLong(Exception):
    """The pattern found nothing in its time on this text."""


def checked_pattern(pattern: str, where: str) -> None:
    """Raises ConfigError, with `where` it was set, for what is no pattern."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{where}: {pattern!r} is no regular expression: {error}") from error


def is_found(pattern: str, text: str) -> bool:
    """Whether it matches anywhere. May block; raises TakesTooLong, and JudgeError where no process
    can be had."""
    return _answer(pattern, text)["found"] is not None


def last_match(pattern: str, text: str) -> str | None:
    """The first group of the last match, or all of it where there is none. A search that takes too
    long finds nothing. May block; raises JudgeError as `is_found`."""
    try:
        return _answer(pattern, text)["found"]
    except TakesTooLong:
        return None


def prepare_patterns() -> None:
    """Have a process ready."""
    _answer("", "")


def _answer(pattern: str, text: str) -> dict[str, Any]:
    request = {"pattern": pattern, "text": text[-MAX_TEXT_CHARS:]}
    try:
        return _searching.get().ask(request, timeout_seconds=MAX_SECONDS)
    except Unanswerable as error:
        raise TakesTooLong(pattern) from error
    except WorkerFailure as error:
        raise JudgeError(f"a pattern could not be searched for: {error}") from error
