"""The tool-call format of older Mistral models."""

from collections.abc import Iterator, Sequence
from typing import Any

from astuner.inference.tools.json_calls import as_call, decode, encode
from astuner.inference.tools.protocol import ParsedReply, ToolCall
from astuner.inference.tools.stretches import Stretch, answer_start, take_apart
from astuner.types import Tool

TOOL_CALLS = "[TOOL_CALLS]"


class Mistral:
    """`[TOOL_CALLS]` before one JSON list of {"name", "arguments"}."""

    name = "mistral"
    starts = (TOOL_CALLS,)
    call_end = None

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return take_apart(text, self._find(text))

    def opening(self, name: str | None) -> str:
        start = f'{TOOL_CALLS}[{{"name": '
        return f'{start}"' if name is None else f'{start}{encode(name)}, "arguments":'

    def write(self, calls: Sequence[ToolCall]) -> str:
        return f"{TOOL_CALLS}{encode([self._entry(call) for call in calls])}" if calls else ""

    def _entry(self, call: ToolCall) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": call.name, "arguments": call.arguments}
        return entry if call.id is None else {**entry, "id": call.id}

    def _find(self, text: str) -> Iterator[Stretch]:
        start = text.find(TOOL_CALLS, answer_start(text))
        if start >= 0:
            yield self._read(text, start)

    def _read(self, text: str, start: int) -> Stretch:
        try:
            decoded = decode(text, start + len(TOOL_CALLS))
            if not isinstance(decoded.value, list) or not decoded.value:
                raise ValueError("the JSON is not a list of calls")
            if text[decoded.end :].strip():
                raise ValueError("text after the JSON")
            calls = tuple(as_call(entry, "arguments") for entry in decoded.value)
        except ValueError as error:
            return Stretch(start=start, end=len(text), problem=str(error))
        return Stretch(start=start, end=len(text), calls=calls)
