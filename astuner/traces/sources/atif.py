"""Trajectories of agents in ATIF, which Harbor's agents write and others read.

Source: Harbor's RFC 0001, ATIF 1.0 to 1.8. Read leniently: what is not known is left out, and what
is missing is absent; only steps that say nothing of who speaks make a trajectory unreadable.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from astuner.errors import UnreadableError
from astuner.traces.messages import as_json, read_messages, read_tools
from astuner.traces.reading import Found
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import RowFiles, StoredRow, WrongRow
from astuner.traces.sources.values import first_of, seconds_since_1970
from astuner.traces.trace import Origin, Role, Step, Trace, TracedTokens, TracedToolCall
from astuner.traces.trace_json import with_fields

_SPEAKERS: dict[str, Role] = {"system": "system", "user": "user", "agent": "assistant"}
OWN_EXTRA = "astuner"
"""Key in `extra` of a trajectory, a step or a result, for fields of ours that ATIF has no room for;
see writers/atif.py."""
_OF_WHOLE = ("notes", "continued_trajectory_ref", "final_metrics", "extra")


def atif_files(address: SourceAddress) -> RowFiles:
    """One trajectory is a trace, and so is each that an agent below it made."""

    def read_trajectory(row: StoredRow) -> Iterator[Found]:
        yield from trajectory_traces(row.value, row.name, address.shown)

    return RowFiles("atif", address.shown, address.path, read_trajectory)


def is_atif_row(row: Mapping[str, Any]) -> bool:
    return str(row.get("schema_version", "")).upper().startswith("ATIF")


def trajectory_traces(told: Mapping[str, Any], name: str, address: str) -> Iterator[Trace]:
    """Of a trajectory and those below it; `name` is for one without an id. Raises WrongRow."""
    if not isinstance(told.get("steps"), list):
        raise WrongRow("a trajectory without a list of steps")
    agent = told.get("agent") or {}
    session = first_of(told, "session_id")
    own = first_of(told, "trajectory_id") or session or name
    trace = Trace(
        trace_id=str(own),
        steps=tuple(_steps(told["steps"], agent)),
        session=None if session is None else str(session),
        agent=first_of(agent, "name"),
        metadata=_metadata(told, agent),
        origin=Origin(source="atif", address=address, ids=(str(own),)),
    )
    yield _with_own_fields(trace, told)
    for number, below in enumerate(told.get("subagent_trajectories") or ()):
        yield from trajectory_traces({"session_id": session, **below}, f"{own}-{number}", address)


def _metadata(told: Mapping[str, Any], agent: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: told[key] for key in _OF_WHOLE if told.get(key) is not None}
    return found | ({"agent_version": agent["version"]} if agent.get("version") else {})


def _steps(steps: Sequence[Any], agent: Mapping[str, Any]) -> Iterator[Step]:
    tools = tuple(read_tools(agent.get("tool_definitions")))
    for step in steps:
        role = _SPEAKERS.get(str(step.get("source")))
        if role is None:
            raise WrongRow("a step whose source is neither system nor user nor agent")
        read = _message(step, role)
        if role == "assistant":
            yield _with_own_fields(_reply(step, read, agent, tools), step)
        elif read.text or read.num_left_out or not step.get("observation"):
            said = replace(read, started=seconds_since_1970(step.get("timestamp")))
            yield _with_own_fields(said, step)
        yield from _results(step)


def _message(step: Mapping[str, Any], role: Role) -> Step:
    """What is said, of a text or of parts."""
    return _read(role, step.get("message") or "")


def _read(role: Role, content: Any) -> Step:
    """A text may look like several messages and is one all the same."""
    read = read_messages([{"role": role, "content": content}]).steps
    is_one = len(read) == 1 and read[0].role == role
    return read[0] if is_one else Step(role=role, text=as_json(content))


def _reply(
    step: Mapping[str, Any],
    read: Step,
    agent: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]],
) -> Step:
    metrics = step.get("metrics") or {}
    return replace(
        read,
        reasoning=step.get("reasoning_content") or "",
        tool_calls=tuple(map(_tool_call, step.get("tool_calls") or ())),
        agent=first_of(agent, "name"),
        model=first_of(step, "model_name") or first_of(agent, "model_name"),
        tools=tools,
        input_tokens=metrics.get("prompt_tokens"),
        output_tokens=metrics.get("completion_tokens"),
        started=seconds_since_1970(step.get("timestamp")),
        tokens=_tokens(metrics),
    )


def _tool_call(call: Mapping[str, Any]) -> TracedToolCall:
    return TracedToolCall(
        call_id=first_of(call, "tool_call_id"),
        name=str(call["function_name"]),
        arguments=as_json(call.get("arguments") or {}),
    )


def _tokens(metrics: Mapping[str, Any]) -> TracedTokens | None:
    """Raises WrongRow where there is not one log-probability for each id."""
    prompt_ids, reply_ids = metrics.get("prompt_token_ids"), metrics.get("completion_token_ids")
    logprobs = metrics.get("logprobs")
    if prompt_ids is None and reply_ids is None:
        return None
    if logprobs is not None and len(logprobs) != len(reply_ids or ()):
        raise WrongRow("log-probabilities of another number than token ids")
    return TracedTokens(prompt_ids=prompt_ids, reply_ids=reply_ids, logprobs=logprobs)


def _results(step: Mapping[str, Any]) -> Iterator[Step]:
    """Of tools, and of what an environment tells without being asked."""
    names = {call.get("tool_call_id"): call for call in step.get("tool_calls") or ()}
    for result in (step.get("observation") or {}).get("results") or ():
        call_id = first_of(result, "source_call_id")
        read = _read("tool", result.get("content") or "")
        name = names.get(call_id, {}).get("function_name")
        yield _with_own_fields(replace(read, name=name, tool_call_id=call_id), result)


T = TypeVar("T", Trace, Step)


def _with_own_fields(value: T, told: Mapping[str, Any]) -> T:
    """What a writer of ours had no other room for. Raises WrongRow."""
    own = (told.get("extra") or {}).get(OWN_EXTRA)
    if not isinstance(own, Mapping):
        return value
    try:
        return with_fields(value, own)
    except UnreadableError as error:
        raise WrongRow(str(error)) from error
