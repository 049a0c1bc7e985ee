"""LangSmith: runs as its client writes them as JSON lines, and as its bulk export does as Parquet.

Source: docs.langchain.com/langsmith/run-data-format, and what LangChain and the wrappers of the
client put into inputs and outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astuner.traces.messages import as_json, parsed
from astuner.traces.reading import Found, FoundFeedback
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import RowFiles, StoredRow, WrongRow
from astuner.traces.sources.values import first_of, number_of, seconds_since_1970
from astuner.traces.span import TracedSpan
from astuner.traces.trace import TraceFeedback

_KINDS = {"llm": "chat", "tool": "execute_tool", "chain": "invoke_agent"}
_SESSIONS = ("session_id", "thread_id", "conversation_id")
"""In the metadata of a run: what LangSmith calls a thread."""
_ASKED = ("messages", "input", "question", "query", "prompt", "prompts")
_ANSWERED = ("messages", "output", "answer", "response", "result", "text")


def langsmith_files(address: SourceAddress) -> RowFiles:
    """One run a line or row, in any order."""
    return RowFiles("langsmith", address.shown, address.path, read_run)


def is_langsmith_row(row: Mapping[str, Any]) -> bool:
    return "run_type" in row and "id" in row


def read_run(row: StoredRow) -> Iterator[Found]:
    """A run as a span, and what was said of it."""
    told = row.value
    if not told.get("id") or not told.get("run_type"):
        raise WrongRow("a run without id or run_type")
    run_id = str(told["id"])
    trace_id = str(told.get("trace_id") or run_id)
    yield TracedSpan(
        trace_id=trace_id,
        span_id=run_id,
        parent_id=_parent(told),
        name=str(told.get("name") or ""),
        started=seconds_since_1970(told.get("start_time")),
        ended=seconds_since_1970(told.get("end_time")),
        attributes=_attributes(told),
        error=_error(told.get("error")),
    )
    yield from _feedback(told, trace_id, run_id)


def _parent(told: Mapping[str, Any]) -> str | None:
    """Which the dotted order tells too: `{time}Z{id}.{time}Z{id}`."""
    if parent := first_of(told, "parent_run_id"):
        return str(parent)
    above = str(told.get("dotted_order") or "").split(".")[:-1]
    names = [part.partition("Z")[2] for part in above if "Z" in part]
    return names[-1] if names else None


def _attributes(told: Mapping[str, Any]) -> dict[str, Any]:
    """Under the names of OpenTelemetry's conventions."""
    extra = _object(told.get("extra"))
    metadata = {**_object(extra.get("metadata")), **_object(told.get("metadata"))}
    kind = _KINDS.get(str(told["run_type"]), "")
    inputs, outputs = _object(told.get("inputs")), _object(told.get("outputs"))
    found: dict[str, Any] = {
        "gen_ai.operation.name": kind or None,
        "gen_ai.conversation.id": first_of(metadata, *_SESSIONS),
        "user.id": first_of(metadata, "user_id"),
        "tag.tags": told.get("tags"),
    }
    if kind == "chat":
        found |= _call(told, extra, metadata, inputs, outputs)
    elif kind == "execute_tool":
        found |= _tool(told, inputs, outputs)
    elif kind:
        found["gen_ai.agent.name"] = None if _parent(told) else told.get("name")
        found["gen_ai.input.messages"] = _messages(inputs, _ASKED, "user")
        found["gen_ai.output.messages"] = _messages(outputs, _ANSWERED, "assistant")[-1:]
    return {key: value for key, value in found.items() if value not in (None, "", [])}


def _call(
    told: Mapping[str, Any],
    extra: Mapping[str, Any],
    metadata: Mapping[str, Any],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
) -> dict[str, Any]:
    options = _object(extra.get("invocation_params"))
    usage = {
        **_object(_object(outputs.get("llm_output")).get("token_usage")),
        **_object(outputs.get("usage")),
        **_object(outputs.get("usage_metadata")),
    }
    return {
        "gen_ai.request.model": first_of(options, "model", "model_name")
        or first_of(metadata, "ls_model_name")
        or first_of(inputs, "model"),
        "gen_ai.tool.definitions": first_of(options, "tools") or first_of(inputs, "tools"),
        "gen_ai.input.messages": _messages(inputs, _ASKED, "user"),
        "gen_ai.output.messages": _replies(outputs),
        "gen_ai.usage.input_tokens": first_of(usage, "input_tokens", "prompt_tokens")
        or first_of(told, "prompt_tokens"),
        "gen_ai.usage.output_tokens": first_of(usage, "output_tokens", "completion_tokens")
        or first_of(told, "completion_tokens"),
    }


def _tool(
    told: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> dict[str, Any]:
    result = first_of(outputs, "output", *_ANSWERED)
    message = _object(result)
    message = {**message, **_object(message.get("kwargs"))}
    return {
        "gen_ai.tool.name": told.get("name"),
        "gen_ai.tool.call.id": first_of(message, "tool_call_id")
        or first_of(inputs, "tool_call_id"),
        "gen_ai.tool.call.result": message.get("content", result if result else outputs),
    }


def _replies(outputs: Mapping[str, Any]) -> list[Any]:
    """Of a model: LangChain's generations, OpenAI's choices, or one message."""
    generations = outputs.get("generations")
    if isinstance(generations, list):
        flat = [one for some in generations for one in (some if isinstance(some, list) else [some])]
        return [_generation(one) for one in flat if isinstance(one, Mapping)]
    if isinstance(choices := outputs.get("choices"), list):
        return choices
    if isinstance(message := outputs.get("message"), Mapping):
        return [message]
    if "role" in outputs or "content" in outputs:
        return [{"role": "assistant", **outputs}]
    return _messages(outputs, _ANSWERED, "assistant")[-1:]


def _generation(one: Mapping[str, Any]) -> Any:
    message = one.get("message")
    return message if isinstance(message, Mapping) else _said("assistant", one.get("text"))


def _messages(told: Mapping[str, Any], names: Sequence[str], role: str) -> list[Any]:
    """A conversation; LangChain's callbacks put each in a list of batches."""
    value = parsed(first_of(told, *names))
    if isinstance(value, list):
        while len(value) == 1 and isinstance(value[0], list):
            value = value[0]
        return [one if isinstance(one, Mapping) else _said(role, one) for one in value]
    if isinstance(value, Mapping) and not {"role", "content", "kwargs"}.isdisjoint(value):
        return [value]
    return [] if value is None else [_said(role, value)]


def _said(role: str, value: Any) -> Mapping[str, Any]:
    return {"role": role, "content": as_json(value) if value is not None else ""}


def _feedback(told: Mapping[str, Any], trace_id: str, run_id: str) -> Iterator[FoundFeedback]:
    """Each one where the export has them, else what LangSmith counted of them."""
    single = parsed(told.get("feedback"))
    if isinstance(single, list):
        for one in single:
            yield FoundFeedback(trace_id=trace_id, feedback=_single(one, run_id))
        return
    for name, counted in _object(told.get("feedback_stats")).items():
        stats = _object(counted)
        values = _object(stats.get("values"))
        label = max(values, key=lambda value: number_of(values[value]) or 0.0, default=None)
        comments = stats.get("comments")
        feedback = TraceFeedback(
            name=str(name),
            score=number_of(stats.get("avg")),
            label=label,
            comment="\n".join(map(str, comments)) if isinstance(comments, list) else None,
            span_id=run_id,
        )
        if feedback.score is not None or feedback.label or feedback.comment:
            yield FoundFeedback(trace_id=trace_id, feedback=feedback)


def _single(one: Mapping[str, Any], run_id: str) -> TraceFeedback:
    source = _object(one.get("feedback_source"))
    value, correction = one.get("value"), parsed(one.get("correction"))
    if isinstance(correction, Mapping):
        correction = first_of(correction, *_ANSWERED, "content") or correction
    return TraceFeedback(
        name=str(one.get("key") or "feedback"),
        score=number_of(one.get("score")),
        label=value if isinstance(value, str) else None,
        comment=one.get("comment"),
        by={"app": "human", "model": "model"}.get(str(source.get("type"))),
        span_id=str(one.get("run_id") or run_id),
        correction=None if correction is None else as_json(correction),
        told=seconds_since_1970(one.get("created_at")),
    )


def _object(value: Any) -> Mapping[str, Any]:
    told = parsed(value)
    return told if isinstance(told, Mapping) else {}


def _error(value: Any) -> str | None:
    return None if value in (None, "") else as_json(value)
