"""Holds a value to a JSON schema in a bounded number of steps.

Runs in worker processes, and elsewhere with few steps only. Imports nothing of astuner, since a
worker runs this file alone. References lead inside the schema only; nothing is fetched from the
network. Source: JSON Schema, draft 2020-12.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

MAX_MEMORY_BYTES = 512 * 1024**2
MAX_STEPS = 50_000
"""Of one check in a worker process, a second or less."""
_FOUND_CHARACTERS = 161
_MESSAGE_CHARACTERS = 120
_KEPT_CHARACTERS = 500
_STEPS_OF_A_SCHEMA = 10
"""What one schema in a schema costs to be held to the schema of schemas, some 0.2 ms."""
_COMPARISONS_A_STEP = 10
_SEARCHING = ("pattern", "patternProperties")
_UNCOUNTED = ("$dynamicRef", "unevaluatedItems", "unevaluatedProperties")
"""What these do is not done through other keywords, so their steps cannot be counted."""
_COMPARING = ("enum", "const", "uniqueItems")


class TooManySteps(Exception):
    """The check was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """The most telling reason why a value does not fit a schema. Texts are cut to a size."""

    path: str
    """To the part of the value that is wrong, such as `$.a[2]`."""
    keyword: str | None
    """Of the schema; None where the schema is `false`."""
    message: str
    found: str
    """That part as JSON."""
    expected: tuple[str, ...]
    """For `type` the types, for `required` the keys that are missing."""


def find_misfit(
    schema_text: str,
    value: Any,
    *,
    spend: Callable[[int], None],
    in_worker: bool,
    is_checked: bool = False,
) -> Misfit | None:
    """None where the value fits. `is_checked`: the schema is known to be one.

    `spend` is told of steps before they are done, and may raise TooManySteps, which outside of a
    worker is also raised for what no count of steps would bound. Raises ValueError for a schema
    that is none, or that cannot be followed for this value.
    """
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    _steps.spend, _steps.in_worker = spend, in_worker
    try:
        if not is_checked:
            _check(schema_text)
        error = best_match(_validator(schema_text).iter_errors(value))
        return None if error is None else _misfit(error)
    except Unresolvable as error:
        raise ValueError(f"it refers to {error.ref!r}, which it does not hold") from error
    except RecursionError as error:
        raise ValueError("it refers to itself without end, or is nested too deep") from error
    except OverflowError as error:
        raise ValueError("it divides by, or is given, a number that no float holds") from error


def prepare() -> None:
    answer({"schema": "{}", "value": None})  # loads jsonschema


def answer(request: dict[str, Any]) -> dict[str, Any]:
    left = MAX_STEPS

    def spend(steps: int) -> None:
        nonlocal left
        left -= steps
        if left < 0:
            raise TooManySteps

    try:
        found = find_misfit(
            request["schema"],
            request["value"],
            spend=spend,
            in_worker=True,
            is_checked=request.get("is_checked", False),
        )
    except TooManySteps:
        return {"is_too_long": True}
    except ValueError as error:
        return {"unusable": str(error)[:_KEPT_CHARACTERS]}
    return {"misfit": None if found is None else asdict(found)}


class _Steps(threading.local):
    """Of the check that this thread makes."""

    spend: Callable[[int], None]
    in_worker: bool

    def need_worker(self) -> None:
        if not self.in_worker:
            raise TooManySteps


_steps = _Steps()


def _check(schema_text: str) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if any(f'"{keyword}"' in schema_text for keyword in _SEARCHING):
        _steps.need_worker()  # patterns are compiled to see whether they are some
    schema = json.loads(schema_text)
    _steps.spend(_STEPS_OF_A_SCHEMA * _num_parts(schema))
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{error.message} at {error.json_path}") from error


@functools.lru_cache(maxsize=16)
def _validator(schema_text: str) -> Any:
    from referencing import Registry

    schema = json.loads(schema_text)
    schema.pop("$schema", None)
    # Further inside it would bring a validator of another draft, whose steps nobody counts.
    if "$schema" in schema_text and '"$schema"' in json.dumps(schema):
        _steps.need_worker()
    return _counting_validator()(schema, registry=Registry())


@functools.cache
def _counting_validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    functions = Draft202012Validator.VALIDATORS
    return extend(
        Draft202012Validator,
        {keyword: _counted(keyword, function) for keyword, function in functions.items()},
    )


Keyword = Callable[[Any, Any, Any, Any], Any]


def _counted(keyword: str, function: Keyword) -> Keyword:
    """The function of a keyword, which spends steps before it runs."""

    def check(validator: Any, wanted: Any, instance: Any, schema: Any) -> Any:
        if keyword in (*_SEARCHING, *_UNCOUNTED):
            _steps.need_worker()
        if keyword == "additionalProperties" and "patternProperties" in schema:
            _steps.need_worker()
        _steps.spend(_cost(keyword, wanted, instance))
        return function(validator, wanted, instance, schema)

    return check


def _cost(keyword: str, wanted: Any, instance: Any) -> int:
    if keyword not in _COMPARING:
        return 1 + _length(wanted) + _length(instance)
    cost = 1 + _num_parts(wanted) + _num_parts(instance)
    if keyword == "uniqueItems" and isinstance(instance, list) and not _is_sortable(instance):
        return cost * len(instance) // _COMPARISONS_A_STEP  # each is compared with each
    return cost


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _num_parts(value: Any) -> int:
    return sum(1 for _ in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    pending = [value]
    while pending:
        part = pending.pop()
        yield part
        if isinstance(part, dict):
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def _is_sortable(items: list[Any]) -> bool:
    """As jsonschema does it, which then compares neighbours only."""
    kinds = {type(item) for item in items}
    return kinds <= {str} or kinds <= {int, float}


def _misfit(error: Any) -> Misfit:
    """Of jsonschema's ValidationError."""
    return Misfit(
        path=error.json_path[:_KEPT_CHARACTERS],
        keyword=error.validator,
        message=_shortened(error.message),
        found=json.dumps(error.instance, ensure_ascii=False)[:_FOUND_CHARACTERS],
        expected=_expected(error),
    )


def _shortened(message: str) -> str:
    """jsonschema's begin with the value and end with what is wrong with it."""
    if len(message) <= _MESSAGE_CHARACTERS:
        return message
    half = _MESSAGE_CHARACTERS // 2
    return f"{message[:half]}…{message[-half:]}"


def _expected(error: Any) -> tuple[str, ...]:
    wanted = error.validator_value
    if error.validator == "type":
        return (wanted,) if isinstance(wanted, str) else tuple(wanted)
    if error.validator == "required":
        return tuple(key for key in wanted if key not in error.instance)[:1]
    return ()
