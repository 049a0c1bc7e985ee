"""JSON schemas that callers send: whether they are schemas, and why a value does not fit one.

References lead inside the schema only; nothing is fetched from the network.
Source: JSON Schema, draft 2020-12.
"""

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises ValueError that says what is wrong with it."""
    first_error(schema, None)


def first_error(schema: Mapping[str, Any], value: Any) -> "ValidationError | None":
    """The most telling reason why `value` does not fit the schema; None when it does.

    Raises ValueError for a schema that is none, or that cannot be followed for this value.
    """
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        return best_match(_validator(json.dumps(schema, sort_keys=True)).iter_errors(value))
    except Unresolvable as error:
        raise ValueError(f"it refers to {error.ref!r}, which it does not hold") from error
    except RecursionError as error:
        raise ValueError("it refers to itself without end, or is nested too deep") from error


@functools.lru_cache(maxsize=256)
def _validator(schema_json: str) -> "Draft202012Validator":
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    schema = json.loads(schema_json)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{error.message} at {error.json_path}") from error
    return Draft202012Validator(schema, registry=Registry())
