"""OpenInference's names: Phoenix, and the instrumentations of its family.

Source: Arize-ai/openinference, spec/semantic_conventions.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from astuner.traces.messages import ReadMessages, parsed, read_messages, read_text, read_tools
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.trace import Step
from astuner.traces.vocabularies.nested import nested
from astuner.traces.vocabularies.replies import reading_of, replies, tool_result
from astuner.traces.vocabularies.signs import first_text, signs_of, tags_of
from astuner.traces.vocabulary import SpanReading

_TOLD_ANSWERS = ("output", "answer", "response", "result", "text", "content")
"""Names under which frameworks put an answer in the output of a span."""
_LANGCHAINS_AGENT = "lc_agent_name"
"""In the metadata of all that an agent of LangChain does that has a name."""


def read_openinference(span: TracedSpan, events: Sequence[TracedEvent]) -> SpanReading | None:
    told = span.attributes
    if not any(key.startswith(("openinference.", "llm.input_messages.")) for key in told):
        return None
    if span.parent_id and str(told.get("openinference.span.kind")).upper() == "CHAIN":
        return SpanReading(kind="other")  # a step of a program; the outermost one is an agent
    metadata = _metadata(told.get("metadata"))
    signs = signs_of(told)
    signs = replace(signs, agent=signs.agent or first_text(metadata, (_LANGCHAINS_AGENT,)))
    kind = "chat" if signs.kind == "other" and nested(told, "llm.output_messages") else signs.kind
    asked, answered = _asked(told), _answered(told)
    output: Sequence[Step] = answered.steps
    if kind == "chat":
        output = replies(span, answered.steps, tools=_tools(told))
    elif kind == "tool":
        asked, output = ReadMessages(steps=()), [_tool_step(span)]
    return reading_of(
        signs,
        asked,
        answered,
        kind=kind,
        output=output,
        tags=tags_of(told),
        metadata=metadata,
    )


def _asked(told: Mapping[str, Any]) -> ReadMessages:
    if isinstance(messages := nested(told, "llm.input_messages"), list):
        return read_messages([_message(one) for one in messages])
    value = parsed(told.get("input.value"))
    if isinstance(value, Mapping) and "messages" in value:
        return read_messages(value["messages"], role="user")
    return read_messages(_said(value, ("input", "question", "query", "prompt")), role="user")


def _answered(told: Mapping[str, Any]) -> ReadMessages:
    if isinstance(messages := nested(told, "llm.output_messages"), list):
        return read_messages([_message(one) for one in messages], role="assistant")
    value = parsed(told.get("output.value"))
    if isinstance(value, Mapping) and isinstance(value.get("choices"), list):
        return read_messages(value["choices"], role="assistant")
    if isinstance(value, Mapping) and isinstance(messages := value.get("messages"), list):
        return read_messages(messages[-1:], role="assistant")
    return read_messages(_said(value, _TOLD_ANSWERS), role="assistant")


def _said(value: Any, names: Sequence[str]) -> Any:
    """The text under the first of these names; a text is it itself, anything else stays."""
    if not isinstance(value, Mapping):
        return value
    return next((value[name] for name in names if isinstance(value.get(name), str)), value)


def _message(item: Any) -> Any:
    """In OpenAI's form."""
    told = _inside(item, "message")
    if not isinstance(told, Mapping):
        return item
    made = {"content": "", **told}
    if isinstance(contents := told.get("contents"), list):
        made["content"] = [_inside(content, "message_content") for content in contents]
    if isinstance(calls := told.get("tool_calls"), list):
        made["tool_calls"] = [_inside(call, "tool_call") for call in calls]
    if name := told.get("function_call_name"):
        arguments = told.get("function_call_arguments_json", "{}")
        made["tool_calls"] = [{"name": name, "arguments": arguments}]
    return made


def _inside(item: Any, name: str) -> Any:
    return item.get(name, item) if isinstance(item, Mapping) else item


def _tools(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = nested(told, "llm.tools")
    schemas = [_inside(_inside(one, "tool"), "json_schema") for one in tools or ()]
    return read_tools(schemas)


def _tool_step(span: TracedSpan) -> Step:
    told = span.attributes
    value = parsed(told.get("output.value"))
    message = value if isinstance(value, Mapping) else {}
    found = [one for one in read_messages(message).steps if one.role == "tool"]
    said = found[0] if found else Step(role="tool", text=read_text(message.get("content", value)))
    result = tool_result(
        span,
        name=first_text(told, ("tool.name",)) or span.name,
        call_id=first_text(told, ("tool_call.id", "tool.id")) or said.tool_call_id,
        text=said.text,
    )
    return replace(result, error=result.error or said.error)


def _metadata(value: Any) -> Mapping[str, Any]:
    told = parsed(value)
    return told if isinstance(told, Mapping) else {}
