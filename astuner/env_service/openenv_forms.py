"""What OpenEnv's actions and observations look like, and how an agent says and reads them. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from astuner.env_service.tool_calls import AskedCall, read_json, text_of_blocks, tool_of
from astuner.types import Tool

_CODE_FIELDS = ("code", "command")
_NOT_FOR_AGENTS = ("metadata", "done", "reward")
_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionForm:
    """How actions of one environment are written, by its JSON schema."""

    fields: Mapping[str, Mapping[str, Any]]
    """Schema of each field that an agent fills, references resolved."""
    required: frozenset[str]
    constants: Mapping[str, Any]
    """Fields with one value only."""

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> Self:
        properties = {
            name: _resolved(field, schema)
            for name, field in schema.get("properties", {}).items()
            if name != "metadata"
        }
        constants = {name: field["const"] for name, field in properties.items() if "const" in field}
        return cls(
            fields={name: field for name, field in properties.items() if name not in constants},
            required=frozenset(schema.get("required", ())) - constants.keys(),
            constants=constants,
        )

    @property
    def lists_tools(self) -> bool:
        """Whether the server answers which tools there are: its actions are OpenEnv's own."""
        return not self.fields or self.constants.get("type") == "call_tool"

    @property
    def takes_calls(self) -> bool:
        """Whether an action is a tool call."""
        return not self.fields or {"tool_name", "arguments"} <= self.fields.keys()

    def action_of_call(self, call: AskedCall) -> dict[str, Any]:
        constants = self.constants if self.fields else {"type": "call_tool"}
        return {**constants, "tool_name": call.name, "arguments": call.arguments}

    def action_of_text(self, text: str) -> dict[str, Any]:
        """The action that an agent's text means.

        An environment with one field gets the text there. Where it has more, the text is a JSON
        object, plain or fenced; one that names none of its other fields may be the plain value of
        the only one that is required. Raises ValueError, whose text is for the agent.
        """
        values = None if len(self.fields) == 1 else self._object_in(text)
        if values is None:
            values = {self._only_field(): self._value(self._only_field(), text)}
        return {**self.constants, **values}

    def _object_in(self, text: str) -> dict[str, Any] | None:
        for piece in (text, *_FENCED.findall(text)):
            try:
                value = read_json(piece)
            except ValueError:
                continue
            if isinstance(value, dict) and value.keys() <= {*self.fields, *self.constants}:
                return value
        return None

    def _only_field(self) -> str:
        texts = {name for name, field in self.fields.items() if _takes_text(field)}
        for candidates in (self.fields.keys(), self.required, texts - self.required or texts):
            if len(candidates) == 1:
                return next(iter(candidates))
        raise ValueError(
            f"Nothing was done: an action is one JSON object with these fields: {self._told()}."
        )

    def _value(self, name: str, text: str) -> Any:
        if _takes_text(self.fields[name]):
            fenced = _FENCED.findall(text) if name in _CODE_FIELDS else ()
            return fenced[0] if fenced else text.strip()
        try:
            return read_json(text)
        except ValueError:
            raise ValueError(
                f"Nothing was done: an action is one JSON value, and nothing else: {self._told()}."
            ) from None

    def _told(self) -> str:
        return "; ".join(
            f"{name} ({_type_of(field)}{', required' if name in self.required else ''})"
            for name, field in self.fields.items()
        )


def _resolved(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what it refers to, such as the values of an enumeration."""
    reference = field.get("$ref", "")
    if not reference.startswith("#/$defs/"):
        return field
    target = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    return {**target, **{key: value for key, value in field.items() if key != "$ref"}}


def _takes_text(field: Mapping[str, Any]) -> bool:
    if any(_takes_text(choice) for choice in (*field.get("anyOf", ()), *field.get("oneOf", ()))):
        return True
    types = field.get("type")
    return types == "string" or (isinstance(types, list) and "string" in types)


def _type_of(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return "one of " + ", ".join(json.dumps(value) for value in field["enum"])
    choices = [*field.get("anyOf", ()), *field.get("oneOf", ())]
    return " or ".join(map(_type_of, choices)) or str(field.get("type", "any value"))


def tools_in(observation: Mapping[str, Any]) -> Sequence[Tool]:
    """Those that an answer to `list_tools` tells."""
    return [
        tool_of(tool["name"], tool.get("description"), tool.get("input_schema"))
        for tool in observation.get("tools") or ()
    ]


def text_of_observation(observation: Mapping[str, Any]) -> str:
    """What an agent reads of it: the text, where it has nothing else, or its fields as JSON.

    Its metadata only where nothing else is in it: worlds of tools begin so.
    """
    fields = {
        name: value
        for name, value in observation.items()
        if name not in _NOT_FOR_AGENTS and value is not None
    }
    values = list(fields.values())
    if not values:
        metadata = observation.get("metadata")
        return json.dumps(metadata, ensure_ascii=False) if metadata else ""
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return json.dumps(fields, ensure_ascii=False)


def text_of_result(observation: Mapping[str, Any]) -> str:
    """The answer to a tool call."""
    error, result = observation.get("error"), observation.get("result")
    if error is not None:
        return f"error: {error['message'] if isinstance(error, Mapping) else error}"
    if isinstance(result, Mapping) and isinstance(result.get("content"), list):
        return text_of_blocks(result["content"])
    if result is None:  # of an environment with an observation of its own
        return text_of_observation(observation)
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def text_of_refusal(data: Mapping[str, Any]) -> str:
    """Why the server takes no such action, for the agent that said it."""
    reasons = [
        f"{'.'.join(map(str, error.get('loc', ()))) or 'action'}: {error.get('msg')}"
        for error in data.get("errors") or ()
    ]
    told = "; ".join(reasons) or str(data.get("message"))
    return f"Nothing was done: the action does not fit. {told}"
