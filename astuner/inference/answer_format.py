"""JSON that a caller demands of an answer: whether it is there, and how to ask for it once more.

Sampling is never constrained: the trainer recomputes log-probabilities without a constraint, so the
tokens have to come from the model's own distribution. Owns no call.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from astuner.errors import RequestError
from astuner.inference.tool_calls import SHOWN_CHARACTERS

FormatCheck = Literal["validated", "repaired", "invalid"]
"""How an answer came to the demanded format: at once, in a second call, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """The answer is to be JSON."""

    schema: Mapping[str, Any] | None
    """It is to fit this JSON schema; None: it is to be an object."""


def check_format(answer_format: AnswerFormat) -> None:
    """Raise RequestError for a schema that is none."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if answer_format.schema is None:
        return
    try:
        Draft202012Validator.check_schema(answer_format.schema)
    except SchemaError as error:
        raise RequestError(
            f"the demanded format is not a valid JSON schema: {error.message} at "
            f"{error.json_path}; correct it",
            param="response_format",
        ) from error


def format_problem(text: str, answer_format: AnswerFormat) -> str | None:
    """Why the text is not what was demanded; None when it is."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"it is not JSON: {error}"
    if answer_format.schema is None:
        return None if isinstance(value, dict) else "it is not a JSON object"
    # An empty registry keeps references inside the schema: nothing is fetched from the network.
    validator = Draft202012Validator(answer_format.schema, registry=Registry())
    try:
        error = best_match(validator.iter_errors(value))
    except Unresolvable as unresolvable:
        return f"the schema refers to what it does not hold: {unresolvable}"
    return None if error is None else f"{error.message} at {error.json_path}"


def repair_message(text: str, answer_format: AnswerFormat) -> dict[str, Any]:
    """What is said to the model after an answer that is not what was demanded."""
    problem = format_problem(text, answer_format) or "it is not in the demanded format"
    wanted = "one JSON object"
    if answer_format.schema is not None:
        schema = json.dumps(answer_format.schema, ensure_ascii=False)
        wanted = f"JSON that fits this schema: {schema}"
    content = f"This answer cannot be used: {problem[:SHOWN_CHARACTERS]}. Answer with {wanted}"
    return {"role": "user", "content": content}
