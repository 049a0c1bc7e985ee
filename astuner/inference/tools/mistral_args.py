"""The tool-call format of newer Mistral models."""

import re
from collections.abc import Iterator, Sequence

from astuner.inference.tools.json_calls import after_space, as_arguments, decode, encode
from astuner.inference.tools.mistral import TOOL_CALLS
from astuner.inference.tools.protocol import ParsedReply, ToolCall
from astuner.inference.tools.stretches import Stretch, answer_start, take_apart
from astuner.types import Tool

_NAME = re.compile(r"\s*([^\s\[\]{}]+)(?:\[CALL_ID\]([^\s\[\]{}]+))?\[ARGS\]")


class MistralArgs:
    """`[TOOL_CALLS]name[ARGS]{…}` for each call, with or without `[CALL_ID]`."""

    name = "mistral_args"
    starts = (TOOL_CALLS,)
    call_end = "}"

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return take_apart(text, self._find(text))

    def opening(self, name: str | None) -> str:
        return TOOL_CALLS if name is None else f"{TOOL_CALLS}{name}[ARGS]"

    def write(self, calls: Sequence[ToolCall]) -> str:
        return "".join(self._write(call) for call in calls)

    def _write(self, call: ToolCall) -> str:
        call_id = "" if call.id is None else f"[CALL_ID]{call.id}"
        return f"{TOOL_CALLS}{call.name}{call_id}[ARGS]{encode(call.arguments)}"

    def _find(self, text: str) -> Iterator[Stretch]:
        at = answer_start(text)
        while (start := text.find(TOOL_CALLS, at)) >= 0:
            found = self._read(text, start)
            yield found
            at = found.end

    def _read(self, text: str, start: int) -> Stretch:
        try:
            name = _NAME.match(text, start + len(TOOL_CALLS))
            if name is None:
                raise ValueError("not a name followed by [ARGS]")
            decoded = decode(text, name.end())
            call = ToolCall(name=name[1], arguments=as_arguments(decoded.value), id=name[2])
            end = after_space(text, decoded.end)
            if end < len(text) and not text.startswith(TOOL_CALLS, end):
                raise ValueError("text after the JSON")
        except ValueError as error:
            next_tag = text.find(TOOL_CALLS, start + 1)
            end = len(text) if next_tag < 0 else next_tag
            return Stretch(start=start, end=end, problem=str(error))
        return Stretch(start=start, end=end, calls=(call,))
