"""The tool-call format of Qwen3-Coder."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astuner.inference.tools.hermes import fragment_end
from astuner.inference.tools.json_calls import Decoded, decode_all, encode
from astuner.inference.tools.protocol import ParsedReply, ToolCall, function_named
from astuner.inference.tools.stretches import Stretch, after_closing, answer_start, take_apart
from astuner.types import Tool

_START = re.compile(r"<tool_call>|<function=")
_FUNCTION = re.compile(r"<tool_call>\s*<function=([^<>\n]+)>")
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>\n?")
_VALUE_END = re.compile(r"</parameter>(?=\s*(?:<parameter=|</function>))")
_END = re.compile(r"\s*</function>")
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_TYPE_NAMES: dict[type, set[str]] = {
    type(None): {"null"},
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    str: {"string"},
    list: {"array"},
    dict: {"object"},
}


class Qwen3Coder:
    """`<tool_call>` around `<function=…>` and `<parameter=…>` elements.

    The format has no escapes: a value that holds `</parameter>` followed by another of its tags
    does not survive, and a value is text unless the tool's schema says otherwise.
    """

    name = "qwen3_coder"
    starts = ("<tool_call>", "<function=")
    call_end = "</tool_call>"

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return take_apart(text, self._find(text, tools))

    def opening(self, name: str | None) -> str:
        start = "<tool_call>\n<function="
        return start if name is None else f"{start}{name}>\n"

    def write(self, calls: Sequence[ToolCall]) -> str:
        return "\n".join(self._write(call) for call in calls)

    def _write(self, call: ToolCall) -> str:
        lines = [f"<tool_call>\n<function={call.name}>\n"]
        for key, value in call.arguments.items():
            written = value if isinstance(value, str) else encode(value)
            lines.append(f"<parameter={key}>\n{written}\n</parameter>\n")
        return "".join([*lines, "</function>\n</tool_call>"])

    def _find(self, text: str, tools: Sequence[Tool]) -> Iterator[Stretch]:
        at = answer_start(text)
        value_ends = [end.start() for end in _VALUE_END.finditer(text, at)]
        while (start := _START.search(text, at)) is not None:
            found = self._read(text, start.start(), value_ends, tools)
            yield found
            at = found.end

    def _read(self, text: str, start: int, value_ends: list[int], tools: Sequence[Tool]) -> Stretch:
        try:
            function = _FUNCTION.match(text, start)
            if function is None:
                raise ValueError("not <tool_call> followed by <function=name>")
            values = _read_parameters(text, function.end(), value_ends)
            end = after_closing(text, values.end, "</tool_call>")
        except ValueError as error:
            return Stretch(start=start, end=fragment_end(text, start), problem=str(error))
        name = function[1].strip()
        types = _parameter_types(name, tools)
        arguments = {key: _typed(raw, types.get(key, set())) for key, raw in values.value.items()}
        return Stretch(start=start, end=end, calls=(ToolCall(name=name, arguments=arguments),))


def _read_parameters(text: str, at: int, value_ends: list[int]) -> Decoded:
    """Read the parameters of one function as texts, up to its closing tag.

    `value_ends`: ascending indices of the closing tags that can end a value.
    """
    values: dict[str, str] = {}
    while (function_end := _END.match(text, at)) is None:
        parameter = _PARAMETER.match(text, at)
        if parameter is None:
            raise ValueError("neither <parameter=name> nor </function>")
        index = bisect_left(value_ends, parameter.end())
        if index == len(value_ends):
            raise ValueError(f"parameter {parameter[1]!r} is not closed")
        if parameter[1] in values:
            raise ValueError(f"parameter {parameter[1]!r} is given twice")
        end = value_ends[index]
        values[parameter[1]] = text[parameter.end() : end].removesuffix("\n")
        at = end + len("</parameter>")
    return Decoded(value=values, end=function_end.end())


def _parameter_types(name: str, tools: Sequence[Tool]) -> dict[str, set[str]]:
    """JSON types that the tool's schema allows for each parameter, as far as it says."""
    function = function_named(name, tools) or {}
    root = function.get("parameters") or {}
    properties = root.get("properties") or {}
    return {key: _schema_types(schema, root) for key, schema in properties.items()}


def _schema_types(schema: object, root: Mapping[str, Any]) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    if str(schema.get("$ref", "")).startswith("#/$defs/"):
        name = schema["$ref"].removeprefix("#/$defs/")
        return _schema_types(root.get("$defs", {}).get(name), root)
    own = schema.get("type", [])
    types = {own} if isinstance(own, str) else set(own)
    for key in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(key, []):
            types |= _schema_types(option, root)
    return types


def _typed(raw: str, types: set[str]) -> Any:
    """The value that `raw` stands for if it is of one of the types; else `raw` itself."""
    if types <= {"string"}:
        return raw
    try:
        value = _decode_parameter(raw)
    except ValueError:
        return raw
    return value if _type_names(value) & types else raw


def _decode_parameter(raw: str) -> Any:
    # Chat templates print booleans and null as Python does.
    if raw.strip() in _PYTHON_WORDS:
        return _PYTHON_WORDS[raw.strip()]
    return decode_all(raw)


def _type_names(value: object) -> set[str]:
    """The JSON types that a decoded value belongs to."""
    if isinstance(value, float) and value.is_integer():
        return {"number", "integer"}
    return _TYPE_NAMES[type(value)]
