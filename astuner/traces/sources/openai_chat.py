"""Conversations as OpenAI takes them for fine-tuning: JSON lines of messages and tools."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from astuner.traces.messages import read_messages, read_tools
from astuner.traces.reading import Found
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import RowFiles, StoredRow, WrongRow
from astuner.traces.trace import Origin, Step, Trace

_OWN = {"messages", "tools", "functions", "parallel_tool_calls"}


def openai_chat_files(address: SourceAddress) -> RowFiles:
    """Each line is a trace, whose other fields are its metadata."""

    def read_line(row: StoredRow) -> Iterator[Found]:
        yield _trace(row, address.shown)

    return RowFiles("openai_chat", address.shown, address.path, read_line)


def is_openai_chat_row(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("messages"), list)


def _trace(row: StoredRow, address: str) -> Trace:
    told = row.value
    if not isinstance(told.get("messages"), list):
        raise WrongRow("a line without a list of messages")
    read = read_messages(told["messages"])
    if read.num_unreadable:
        raise WrongRow("a message without a role or of a form that is not known")
    if not read.steps:
        raise WrongRow("a line with no message")
    tools = tuple(read_tools(told.get("tools") or told.get("functions")))
    return Trace(
        trace_id=row.name,
        steps=tuple(_offered(step, tools) for step in read.steps),
        metadata={key: value for key, value in told.items() if key not in _OWN},
        origin=Origin(source="openai_chat", address=address, ids=(row.name,)),
    )


def _offered(step: Step, tools: tuple[Mapping[str, Any], ...]) -> Step:
    return replace(step, tools=tools) if step.role == "assistant" else step
