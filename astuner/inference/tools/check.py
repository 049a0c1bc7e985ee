"""Tools and calls held to their schemas."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from astuner.errors import RequestError
from astuner.inference.excerpt import SHOWN_CHARACTERS, excerpt
from astuner.inference.json_schema import check_schema, first_error
from astuner.inference.schema_fit import Misfit
from astuner.inference.tools.protocol import ToolCall, function_named
from astuner.types import FunctionSchema, Tool


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises RequestError for a tool whose parameters are no schema."""
    for tool in tools:
        function = tool["function"]
        try:
            check_schema(_parameters(function))
        except ValueError as error:
            raise _unusable(function["name"], error) from error


def check_call(call: ToolCall, tools: Sequence[Tool]) -> str | None:
    """Say why a call is wrong; None if its tool was offered and the arguments fit the schema.

    Raises RequestError if the schema of the tool is itself invalid.
    """
    function = function_named(call.name, tools)
    if function is None:
        return _not_offered(call.name, tools)
    try:
        error = first_error(_parameters(function), call.arguments)
    except ValueError as problem:
        raise _unusable(call.name, problem) from problem
    return None if error is None else f"call of {call.name!r}: {excerpt(_in_words(error))}"


def _parameters(function: FunctionSchema) -> Mapping[str, Any]:
    return function.get("parameters") or {"type": "object"}


def _unusable(name: str, error: ValueError) -> RequestError:
    return RequestError(
        f"tool {name!r}: its parameters are not a valid JSON schema: {excerpt(str(error))}. "
        "Correct the tool that the workflow offers.",
        param="tools",
    )


def _not_offered(name: str, tools: Sequence[Tool]) -> str:
    offered = [tool["function"]["name"] for tool in tools]
    if not offered:
        return f"call of {excerpt(name)!r}, but no tools were offered"
    near = difflib.get_close_matches(name[:SHOWN_CHARACTERS], offered, n=1)
    hint = f"nearest is {near[0]!r}" if near else f"offered are {excerpt(', '.join(offered))}"
    return f"call of {excerpt(name)!r}, which was not offered; {hint}"


def _in_words(misfit: Misfit) -> str:
    where = misfit.path.removeprefix("$").removeprefix(".")
    if misfit.keyword == "required":
        inside = f" in {where!r}" if where else ""
        return f"argument {misfit.expected[0]!r} is missing{inside}"
    if misfit.keyword == "type":
        types = " or ".join(misfit.expected)
        return f"argument {where!r} is {excerpt(misfit.found)}, not of type {types}"
    return f"argument {where!r}: {misfit.message}" if where else misfit.message
