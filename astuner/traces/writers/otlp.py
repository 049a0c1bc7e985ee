"""Traces as spans of OpenTelemetry's newest conventions for generative AI, in lines of OTLP.

A conversation is a trace of OpenTelemetry with a span for each reply, which tells the whole
history, and one for each result of a tool that has a time or an error. Its ids are made of the
trace's own, so that feedback, which stands in lines of logs, finds them. What the conventions have
no name for stands under `astuner.`, as `astuner serve --record` writes it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from astuner.traces.genai_messages import (
    genai_definition,
    genai_message,
    numbers_text,
    short_logprob,
)
from astuner.traces.otlp_json import JSON, attributes, logs_data, nanoseconds, traces_data
from astuner.traces.trace import Step, Trace, TracedTokens, TraceFeedback
from astuner.traces.vocabularies.evaluations import CORRECTION, EVALUATION
from astuner.traces.vocabularies.genai import METADATA
from astuner.traces.writers.sampled import sampled_replies

_INTERNAL, _CLIENT = 1, 3
_ERROR = 2
_INFO = 9
_MAX_SECONDS = 18_446_744_073


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpLines:
    """A trace as lines of OTLP."""

    traces: list[JSON]
    """TracesData, one span each."""
    feedback: list[JSON]
    """LogsData, one record each; for a file of their own."""


def otlp_lines(trace: Trace, *, version: str) -> OtlpLines:
    """The lines of a trace. `version` is of this package."""
    resource = {"service.name": "astuner", "service.version": version}
    scope = {"name": "astuner.traces", "version": version}
    trace_id = _digest(trace.trace_id, num_bytes=16)
    spans = {index: _digest(f"{trace.trace_id} {index}", num_bytes=8) for index in _told(trace)}
    return OtlpLines(
        traces=[
            traces_data(_span(trace, index, trace_id, span_id), resource=resource, scope=scope)
            for index, span_id in spans.items()
        ],
        feedback=[
            logs_data(_record(one, trace, trace_id, spans), resource=resource, scope=scope)
            for one in trace.feedback
        ],
    )


def _told(trace: Trace) -> Iterator[int]:
    """The steps with a span."""
    sampled = sampled_replies(trace)
    for index, step in enumerate(trace.steps):
        has_more = step.started is not None or step.error is not None or step.span_id
        if index in sampled or (step.role == "tool" and has_more):
            yield index


def _span(trace: Trace, index: int, trace_id: str, span_id: str) -> JSON:
    step = trace.steps[index]
    is_tool = step.role == "tool"
    told = _tool(step) if is_tool else _call(trace, index)
    name = f"execute_tool {step.name}" if is_tool else f"chat {step.model or ''}".strip()
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "name": name,
        "kind": _INTERNAL if is_tool else _CLIENT,
        **_times(step),
        "attributes": attributes({key: one for key, one in told.items() if one is not None}),
        "status": {} if step.error is None else {"code": _ERROR, "message": step.error},
    }


def _times(step: Step) -> JSON:
    """Nothing for what is not known, which is 1970 in OTLP."""
    ended = None if step.started is None else step.started + (step.seconds or 0.0)
    return {**_time("startTimeUnixNano", step.started), **_time("endTimeUnixNano", ended)}


def _time(name: str, seconds: float | None) -> JSON:
    """Nothing also for a time that 64 bits of nanoseconds do not hold."""
    is_held = seconds is not None and 0 < seconds < _MAX_SECONDS
    return {name: nanoseconds(seconds)} if is_held and seconds is not None else {}


def _call(trace: Trace, index: int) -> JSON:
    step = trace.steps[index]
    says = bool(step.text or step.tool_calls or step.reasoning or step.error is None)
    reason = "tool_call" if step.tool_calls else "stop"
    output = {**genai_message(_message(step)), "finish_reason": reason}
    rest = {key: value for key, value in trace.metadata.items() if value is not None}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "astuner",
        "gen_ai.response.model": step.model,
        "gen_ai.agent.name": step.agent or trace.agent,
        "gen_ai.conversation.id": trace.session,
        "user.id": trace.user,
        "gen_ai.usage.input_tokens": step.input_tokens,
        "gen_ai.usage.output_tokens": step.output_tokens,
        "gen_ai.input.messages": [genai_message(_message(one)) for one in trace.steps[:index]],
        "gen_ai.output.messages": [output] if says else None,
        "gen_ai.tool.definitions": [genai_definition(tool) for tool in step.tools] or None,
        "tag.tags": list(trace.tags) or None,
        METADATA: json.dumps(rest) if rest else None,
        **_tokens(step.tokens),
    }


def _tokens(tokens: TracedTokens | None) -> JSON:
    if tokens is None or tokens.reply_ids is None:
        return {}
    prompt_ids, logprobs = tokens.prompt_ids, tokens.logprobs
    short = [None if one is None else short_logprob(one) for one in logprobs or ()]
    return {
        "astuner.prompt_ids": None if prompt_ids is None else numbers_text(prompt_ids),
        "astuner.reply_ids": numbers_text(tokens.reply_ids),
        "astuner.reply_logprobs": None if logprobs is None else numbers_text(short),
    }


def _tool(step: Step) -> JSON:
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": step.name,
        "gen_ai.tool.call.id": step.tool_call_id,
        "gen_ai.tool.call.result": step.text,
    }


def _message(step: Step) -> Mapping[str, Any]:
    """As our own server has messages."""
    calls = [
        {"id": call.call_id, "function": {"name": call.name, "arguments": call.arguments}}
        for call in step.tool_calls
    ]
    return {
        "role": step.role,
        "content": step.text,
        "reasoning_content": step.reasoning,
        "name": step.name,
        "tool_call_id": step.tool_call_id,
        "tool_calls": calls,
    }


def _record(feedback: TraceFeedback, trace: Trace, trace_id: str, spans: Mapping[int, str]) -> JSON:
    place = next(
        (
            span_id
            for index, span_id in spans.items()
            if feedback.span_id is not None and trace.steps[index].span_id == feedback.span_id
        ),
        None,
    )
    told = {
        "gen_ai.evaluation.name": feedback.name,
        "gen_ai.evaluation.score.value": feedback.score,
        "gen_ai.evaluation.score.label": feedback.label,
        "gen_ai.evaluation.explanation": feedback.comment,
        "gen_ai.evaluation.evaluator.name": feedback.by,
        CORRECTION: feedback.correction,
    }
    return {
        **_time("timeUnixNano", feedback.told),
        "severityNumber": _INFO,
        "eventName": EVALUATION,
        "traceId": trace_id,
        **({"spanId": place} if place else {}),
        "attributes": attributes({key: one for key, one in told.items() if one is not None}),
    }


def _digest(text: str, *, num_bytes: int) -> str:
    data = text.encode(errors="replace")
    return hashlib.blake2b(data, digest_size=num_bytes, person=b"astuner export").hexdigest()
