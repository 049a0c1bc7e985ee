"""JSON that a caller demands of an answer, and whether it is there.

Sampling is never constrained: the trainer recomputes log-probabilities without a constraint, so the
tokens have to come from the model's own distribution. Owns no call.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from astuner.errors import RequestError
from astuner.inference.json_schema import check_schema, first_error

FormatCheck = Literal["validated", "repaired", "invalid"]
"""How an answer came to the demanded format: at once, in a second call, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """The answer is to be JSON."""

    schema: Mapping[str, Any] | None
    """It is to fit this JSON schema; None: it is to be an object."""


def check_format(answer_format: AnswerFormat) -> None:
    """Raise RequestError for a schema that is none."""
    if answer_format.schema is None:
        return
    try:
        check_schema(answer_format.schema)
    except ValueError as error:
        raise _unusable(error) from error


def format_problem(text: str, answer_format: AnswerFormat) -> str | None:
    """Why the text is not what was demanded; None when it is.

    Raises RequestError for a schema that cannot be followed.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"it is not JSON: {error}"
    if answer_format.schema is None:
        return None if isinstance(value, dict) else "it is not a JSON object"
    try:
        error = first_error(answer_format.schema, value)
    except ValueError as problem:
        raise _unusable(problem) from problem
    return None if error is None else f"{error.message} at {error.path}"


def _unusable(error: ValueError) -> RequestError:
    return RequestError(
        f"the demanded format is not a JSON schema that can be used: {error}",
        param="response_format",
    )
