"""JSON schemas that callers send: whether they are schemas, and why a value does not fit one.

A schema of a few lines may take for ever, or all memory, to be followed. So what a few steps do not
settle is done in a worker process, within a time, and what takes longer is refused as unusable.
Whoever must not wait, such as code in an event loop, asks inside of `at_once`.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.errors import EngineError
from astuner.inference.schema_fit import Misfit, TooManySteps, find_misfit
from astuner.inference.weight import weight
from astuner.workers.pool import Computation, Unanswerable, WorkerFailure, WorkerPool
from astuner.workers.shared import Shared

MAX_SCHEMA_CHARACTERS = 262_144
"""Twice what OpenAI takes."""
MAX_SECONDS = 5.0
"""In workers, for all checks of one `in_time` together."""
MAX_STEPS_AT_ONCE = 1_000
"""Of all checks in one `at_once`, some 10 to 20 ms."""
MAX_WEIGHT_AT_ONCE = 16_384
"""Of a schema, or of a value, that is not given to a worker unread."""
_LEAST_SECONDS = 0.5
"""In less, a busy machine and a hostile schema cannot be told apart."""
_MAX_KNOWN = 1_024
"""Schemas of which the verdict is kept, without the schema."""
_CHARACTERS_A_STEP = 500
_TOO_LONG = (
    "checking it takes too long; make it smaller, with fewer alternatives that refer to each "
    "other, no repetition within a repetition in its patterns, and no uniqueItems on long lists"
)

_checking = Shared(
    lambda: WorkerPool(
        Computation(
            process="the process that checks JSON schemas",
            file=Path(__file__).with_name("schema_fit.py"),
            module="jsonschema",
            package="astuner",
        )
    )
)


class _OutOfTime(ValueError):
    """Says something of this call, or of the machine, and not of the schema for good."""


class NeedsTime(Exception):
    """A check that is not to be made where nobody may wait."""


@dataclass(slots=True)
class _Allowance:
    """What is left of what the checks of one call may take. Used by one thread."""

    may_wait: bool
    steps: int = MAX_STEPS_AT_ONCE
    seconds: float = MAX_SECONDS
    """In workers."""

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise TooManySteps


_allowance: ContextVar[_Allowance | None] = ContextVar("allowance", default=None)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Inside, checks raise NeedsTime in place of taking longer than a few milliseconds together."""
    with _allowing(_Allowance(may_wait=False)):
        yield


@contextlib.contextmanager
def in_time(seconds: float = MAX_SECONDS) -> Iterator[None]:
    """Inside, checks may block, for so long together."""
    with _allowing(_Allowance(may_wait=True, seconds=seconds)):
        yield


@contextlib.contextmanager
def _allowing(allowance: _Allowance) -> Iterator[None]:
    token = _allowance.set(allowance)
    try:
        yield
    finally:
        _allowance.reset(token)


def checking_pool() -> WorkerPool:
    """Its threads are where checks may block."""
    return _checking.get()


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises ValueError that says what is wrong with it."""
    text = _text(schema)
    _spend_reading(text)
    digest = _digest(text)
    found = _known.get(digest)
    if found is None:
        try:
            first_error(schema, None)
            found = ""
        except _OutOfTime:
            raise
        except ValueError as error:
            found = str(error)
        _known[digest] = found
        while len(_known) > _MAX_KNOWN:
            del _known[next(iter(_known))]
    if found:
        raise ValueError(found)


def first_error(schema: Mapping[str, Any], value: Any) -> Misfit | None:
    """The most telling reason why `value` does not fit the schema; None when it does.

    Raises ValueError for a schema that is none, that cannot be followed for this value, or whose
    check would take too long; EngineError where the check fails of itself.
    """
    allowance = _allowance.get() or _Allowance(may_wait=True)
    try:
        return _few_steps(schema, value, allowance)
    except TooManySteps:
        if not allowance.may_wait:
            raise NeedsTime from None
    return _in_worker(schema, value, allowance)


_known: dict[bytes, str] = {}
"""By the digest of a schema, why it is none, oldest first; empty texts for those that are one."""


def _few_steps(schema: Mapping[str, Any], value: Any, allowance: _Allowance) -> Misfit | None:
    text = _text(schema)
    allowance.spend(1 + len(text) // _CHARACTERS_A_STEP)
    if len(text) > MAX_WEIGHT_AT_ONCE or weight(value, MAX_WEIGHT_AT_ONCE) == MAX_WEIGHT_AT_ONCE:
        raise TooManySteps
    return find_misfit(
        text,
        value,
        spend=allowance.spend,
        in_worker=False,
        is_checked=_known.get(_digest(text)) == "",
    )


def _spend_reading(text: str) -> None:
    """Even of schemas that are known, an event loop reads so many only."""
    allowance = _allowance.get()
    if allowance is None or allowance.may_wait:
        return
    try:
        allowance.spend(1 + len(text) // _CHARACTERS_A_STEP)
    except TooManySteps:
        raise NeedsTime from None


def _in_worker(schema: Mapping[str, Any], value: Any, allowance: _Allowance) -> Misfit | None:
    if allowance.seconds < _LEAST_SECONDS:
        raise _OutOfTime(_TOO_LONG)
    started, text = time.monotonic(), _text(schema)
    is_checked = _known.get(_digest(text)) == ""
    request = {"schema": text, "value": value, "is_checked": is_checked}
    try:
        answer = checking_pool().ask(request, timeout_seconds=allowance.seconds)
    except Unanswerable as error:
        raise _OutOfTime(_TOO_LONG) from error
    except WorkerFailure as error:
        raise EngineError(f"a JSON schema could not be checked: {error}") from error
    finally:
        allowance.seconds -= time.monotonic() - started
    if "unusable" in answer:
        raise ValueError(answer["unusable"])
    if "is_too_long" in answer:
        raise ValueError(_TOO_LONG)
    found = answer["misfit"]
    return None if found is None else Misfit(**{**found, "expected": tuple(found["expected"])})


def _text(schema: Mapping[str, Any]) -> str:
    """Raises ValueError for one that is too long."""
    if weight(schema, MAX_SCHEMA_CHARACTERS) == MAX_SCHEMA_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_SCHEMA_CHARACTERS} characters; make it smaller")
    return json.dumps(schema, sort_keys=True)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
