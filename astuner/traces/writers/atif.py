"""Traces as trajectories in ATIF, the one interchange format with room for token ids.

Source: Harbor's RFC 0001 and its models, ATIF 1.8. What the format has no room for stands in
`extra` under `astuner`, as fields of a step or a trace; sources/atif.py reads it back, others pass
it by.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from astuner.traces.otlp_json import JSON
from astuner.traces.sources.atif import OWN_EXTRA, trajectory_traces
from astuner.traces.trace import Step, Trace, TracedToolCall
from astuner.traces.trace_json import differing_fields
from astuner.traces.writers.sampled import sampled_replies

SCHEMA_VERSION = "ATIF-v1.8"
_SOURCES = {"system": "system", "user": "user", "assistant": "agent"}
_NO_NAME, _NO_VERSION = "agent", "unknown"
"""What the schema demands and a trace may not tell."""


def atif_trajectory(trace: Trace, *, continued_in: str | None = None) -> JSON:
    """The trajectory document of a trace.

    `continued_in` is the file of the trace in which the same agent went on with another history.
    """
    places: list[JSON] = []
    agent = _agent(trace)
    told: JSON = {
        "schema_version": SCHEMA_VERSION,
        "session_id": trace.session,
        "trajectory_id": trace.trace_id,
        "agent": agent,
        "steps": _steps(trace, agent, places),
        "final_metrics": _final_metrics(trace),
        "continued_trajectory_ref": continued_in,
    }
    told["final_metrics"]["total_steps"] = len(told["steps"])
    told = {key: value for key, value in told.items() if value is not None}
    _keep_the_rest(told, trace, places)
    return told


def continuations(traces: Sequence[Trace]) -> dict[str, str]:
    """Of traces of one session, the trace in which each goes on: trace id -> trace id.

    One goes on in the next of the same agent that began when it had ended.
    """
    found: dict[str, str] = {}
    for number, earlier in enumerate(traces):
        for later in traces[number + 1 :]:
            is_next = later.agent == earlier.agent and later.trace_id not in found.values()
            if is_next and _is_behind(later, earlier):
                found[earlier.trace_id] = later.trace_id
                break
    return found


def _is_behind(later: Trace, earlier: Trace) -> bool:
    last, first = _moments(earlier), _moments(later)
    return bool(last and first) and max(last) < min(first)


def _moments(trace: Trace) -> list[float]:
    """Of its calls: their times, or their numbers where these are all that is known."""
    steps = [trace.steps[index] for index in sampled_replies(trace)]
    times = [step.started for step in steps if step.started is not None]
    numbers = [float(one) for step in steps if (one := step.span_id) and one.isdecimal()]
    return times or numbers


def _agent(trace: Trace) -> JSON:
    replies = [step for step in trace.steps if step.role == "assistant"]
    models = dict.fromkeys(step.model for step in replies if step.model)
    tools = next((step.tools for step in reversed(replies) if step.tools), ())
    version = trace.metadata.get("service.version") or trace.metadata.get("agent_version")
    told = {
        "name": trace.agent or _NO_NAME,
        "version": version if isinstance(version, str) else _NO_VERSION,
        "model_name": next(iter(models)) if len(models) == 1 else None,
        "tool_definitions": [dict(tool) for tool in tools] or None,
    }
    return {key: value for key, value in told.items() if value is not None}


def _steps(trace: Trace, agent: JSON, places: list[JSON]) -> list[JSON]:
    """For each step of the trace, where it went is added to `places`."""
    written: list[JSON] = []
    sampled = sampled_replies(trace)
    call_ids: list[str] = []
    for index, step in enumerate(trace.steps):
        if step.role == "tool":
            places.append(_observe(written, step, call_ids))
            continue
        told: JSON = {"step_id": len(written) + 1, "source": _SOURCES[step.role]}
        if timestamp := _timestamp(step.started):
            told["timestamp"] = timestamp
        told["message"] = step.text
        if step.role == "assistant":
            call_ids = _call_ids(step.tool_calls, index)
            told |= _reply(step, agent, call_ids, is_sampled=index in sampled)
        written.append(told)
        places.append(told)
    return written


def _call_ids(calls: Sequence[TracedToolCall], index: int) -> list[str]:
    """One for each, different from the others, as the schema wants: the trace's own, or made."""
    found: list[str] = []
    for number, call in enumerate(calls):
        is_own = bool(call.call_id) and call.call_id not in found
        found.append(call.call_id if is_own and call.call_id else f"call_{index}_{number}")
    return found


def _reply(step: Step, agent: JSON, call_ids: Sequence[str], *, is_sampled: bool) -> JSON:
    calls = [
        {"tool_call_id": call_id, "function_name": call.name, "arguments": _arguments(call)}
        for call_id, call in zip(call_ids, step.tool_calls, strict=True)
    ]
    told = {
        "model_name": None if step.model == agent.get("model_name") else step.model,
        "reasoning_content": step.reasoning or None,
        "tool_calls": calls or None,
        "metrics": _metrics(step) or None,
        "llm_call_count": 1 if is_sampled else None,
        "is_copied_context": None if is_sampled else True,
    }
    return {key: value for key, value in told.items() if value is not None}


def _arguments(call: TracedToolCall) -> JSON:
    """An object, as the schema wants; empty for anything else, which stands in `extra`."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _metrics(step: Step) -> JSON:
    tokens = step.tokens
    logprobs = tokens.logprobs if tokens else None
    num_ids = len(tokens.reply_ids or ()) if tokens else 0
    is_whole = logprobs is not None and None not in logprobs and len(logprobs) == num_ids
    told = {
        "prompt_tokens": step.input_tokens,
        "completion_tokens": step.output_tokens,
        "prompt_token_ids": _listed(tokens.prompt_ids) if tokens else None,
        "completion_token_ids": _listed(tokens.reply_ids) if tokens else None,
        "logprobs": _listed(logprobs) if is_whole else None,
    }
    return {key: value for key, value in told.items() if value is not None}


def _listed(numbers: Sequence[Any] | None) -> list[Any] | None:
    return None if numbers is None else list(numbers)


def _observe(written: list[JSON], step: Step, call_ids: Sequence[str]) -> JSON:
    """Adds a tool's result to the step of the agent that it follows, else to one of its own."""
    if not written or not (written[-1]["source"] == "agent" or "observation" in written[-1]):
        written.append({"step_id": len(written) + 1, "source": "system", "message": ""})
    results = written[-1].setdefault("observation", {"results": []})["results"]
    call_id = step.tool_call_id
    is_known = not written[-1].get("tool_calls") or call_id in call_ids
    told = {"source_call_id": call_id} if call_id and is_known else {}
    results.append({**told, "content": step.text})
    return results[-1]


def _timestamp(seconds: float | None) -> str | None:
    """None also for a time that no calendar has."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _final_metrics(trace: Trace) -> JSON:
    told: JSON = {}
    inputs = [step.input_tokens for step in trace.steps if step.input_tokens is not None]
    outputs = [step.output_tokens for step in trace.steps if step.output_tokens is not None]
    if inputs:
        told["total_prompt_tokens"] = sum(inputs)
    if outputs:
        told["total_completion_tokens"] = sum(outputs)
    return told


def _keep_the_rest(told: JSON, trace: Trace, places: Sequence[JSON]) -> None:
    """Into `extra`, what whoever reads the trajectory would find otherwise than it was."""
    [read] = trajectory_traces(told, trace.trace_id, trace.origin.address)
    assert len(read.steps) == len(trace.steps) == len(places)
    for step, found, place in zip(trace.steps, read.steps, places, strict=True):
        if rest := differing_fields(step, found):
            place["extra"] = {OWN_EXTRA: rest}
    whole = replace(trace, steps=(), origin=read.origin)
    if rest := differing_fields(whole, replace(read, steps=())):
        told["extra"] = {OWN_EXTRA: rest}
