"""The tool-call format of Llama 3."""

import re
from collections.abc import Iterator, Sequence

from astuner.inference.tools.json_calls import after_space, as_call, decode, encode
from astuner.inference.tools.protocol import ParsedReply, ToolCall
from astuner.inference.tools.stretches import Stretch, after_closing, answer_start, take_apart
from astuner.types import Tool

_START = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"[^"]*"\s*,\s*'
    r'"(?:parameters|arguments)"\s*:'
)
_PYTHON_TAG = "<|python_tag|>"


class Llama3Json:
    """The whole reply is {"name", "parameters"}, several separated by `;`.

    A reply that is some other JSON is text.
    """

    name = "llama3_json"
    starts = ("{", _PYTHON_TAG)
    call_end = "}"

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return take_apart(text, self._find(text))

    def opening(self, name: str | None) -> str:
        return '{"name": "' if name is None else f'{{"name": {encode(name)}, "parameters":'

    def write(self, calls: Sequence[ToolCall]) -> str:
        return "; ".join(
            encode({"name": call.name, "parameters": call.arguments}) for call in calls
        )

    def _find(self, text: str) -> Iterator[Stretch]:
        start = at = after_space(text, answer_start(text))
        if text.startswith(_PYTHON_TAG, at):
            at += len(_PYTHON_TAG)
        elif _START.match(text, at) is None:
            return
        while start < len(text):
            found = self._read(text, start, at)
            yield found
            start = at = found.end

    def _read(self, text: str, start: int, at: int) -> Stretch:
        try:
            decoded = decode(text, at)
            call = as_call(decoded.value, "parameters", "arguments")
            end = after_closing(text, decoded.end, ";")
        except ValueError as error:
            return Stretch(start=start, end=len(text), problem=str(error))
        return Stretch(start=start, end=end, calls=(call,))
