"""The tool-call format of gpt-oss: a message of a channel, with a recipient."""

import re
from collections.abc import Iterator, Sequence

from astuner.inference.channels import CALL, CHANNEL, MESSAGE, START
from astuner.inference.tools.json_calls import after_space, as_arguments, decode, encode
from astuner.inference.tools.protocol import ParsedReply, ToolCall
from astuner.inference.tools.stretches import Stretch, answer_start, take_apart
from astuner.types import Tool

_NAMESPACE = "functions."
_HEADER = re.compile(
    r"(?:(?:\A|<\|start\|>assistant)[ ]?to=(?P<early>[^\s<]+)<\|channel\|>\w+"
    r"|(?:<\|start\|>assistant)?<\|channel\|>\w+ to=(?P<late>[^\s<]+))"
    r"[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_BOUNDARY = re.compile(r"<\|(?:end|call|return)\|>|(?=<\|(?:start|channel)\|>)|\Z")


class Harmony:
    """`<|channel|>commentary to=functions.name<|message|>{…}<|call|>` for each call.

    The recipient may stand before the channel too. What a model thinks and says in other channels
    is split off before: see `astuner.inference.channels`.
    """

    name = "harmony"
    starts = (CHANNEL, START, f"to={_NAMESPACE}")
    call_end = CALL

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return take_apart(text, self._find(text))

    def opening(self, name: str | None) -> str:
        start = f" to={_NAMESPACE}"
        return start if name is None else f"{start}{name}{CHANNEL}commentary json{MESSAGE}"

    def write(self, calls: Sequence[ToolCall]) -> str:
        return f"{START}assistant".join(
            f"{self.opening(call.name)}{encode(call.arguments)}{CALL}" for call in calls
        )

    def _find(self, text: str) -> Iterator[Stretch]:
        at = answer_start(text)
        while (header := _HEADER.search(text, at)) is not None:
            found = self._read(text, header)
            yield found
            at = found.end

    def _read(self, text: str, header: re.Match[str]) -> Stretch:
        try:
            decoded = decode(text, header.end())
            end = after_space(text, decoded.end)
            boundary = _BOUNDARY.match(text, end)
            if boundary is None:
                raise ValueError("text after the JSON")
            recipient = header["early"] or header["late"]
            call = ToolCall(
                name=recipient.removeprefix(_NAMESPACE), arguments=as_arguments(decoded.value)
            )
        except ValueError as error:
            boundary = _BOUNDARY.search(text, header.end())
            end = boundary.end() if boundary else len(text)
            return Stretch(start=header.start(), end=end, problem=str(error))
        return Stretch(start=header.start(), end=boundary.end(), calls=(call,))
