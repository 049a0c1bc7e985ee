"""The tool-call format of Hermes, Qwen2.5, Qwen3 and SmolLM."""

import re
from collections.abc import Iterator, Sequence

from astuner.inference.tools.json_calls import as_call, decode, encode
from astuner.inference.tools.protocol import ParsedReply, ToolCall
from astuner.inference.tools.stretches import Stretch, after_closing, answer_start, take_apart
from astuner.types import Tool

_TAG = re.compile(r"</?tool_call>")


class Hermes:
    """`<tool_call>` around {"name", "arguments"}."""

    name = "hermes"
    starts = ("<tool_call>",)
    call_end = "</tool_call>"

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return take_apart(text, self._find(text))

    def opening(self, name: str | None) -> str:
        start = '<tool_call>\n{"name": '
        return f'{start}"' if name is None else f'{start}{encode(name)}, "arguments":'

    def write(self, calls: Sequence[ToolCall]) -> str:
        bodies = (encode({"name": call.name, "arguments": call.arguments}) for call in calls)
        return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)

    def _find(self, text: str) -> Iterator[Stretch]:
        at = answer_start(text)
        while (start := text.find("<tool_call>", at)) >= 0:
            found = self._read(text, start)
            yield found
            at = found.end

    def _read(self, text: str, start: int) -> Stretch:
        try:
            decoded = decode(text, start + len("<tool_call>"))
            call = as_call(decoded.value, "arguments")
            end = after_closing(text, decoded.end, "</tool_call>")
        except ValueError as error:
            return Stretch(start=start, end=fragment_end(text, start), problem=str(error))
        return Stretch(start=start, end=end, calls=(call,))


def fragment_end(text: str, start: int) -> int:
    """End of a malformed call: its closing tag, the next opening tag or the end of the text."""
    tag = _TAG.search(text, start + 1)
    if tag is None:
        return len(text)
    return tag.end() if tag[0].startswith("</") else tag.start()
