"""An episode as one JSON line, and back.

A call stores only what it adds: the messages and prompt tokens behind the call that it extends.
`episode_from_record` rebuilds everything, so a record proves what the engine saw.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from astuner.trajectory.episode import Episode, Failure
from astuner.trajectory.merge import Sequence, merge_calls
from astuner.trajectory.recorder import BreakKind, Call
from astuner.types import Completion, Task, Verdict


def episode_to_record(episode: Episode) -> dict[str, Any]:
    """Everything about an episode as JSON-able data; metadata values that are not become text."""
    return {
        "episode_id": episode.episode_id,
        "step": episode.step,
        "attempt": episode.attempt,
        "is_validation": episode.is_validation,
        "task": episode.task.model_dump(mode="json"),
        "verdict": asdict(episode.verdict) if episode.verdict else None,
        "failure": asdict(episode.failure) if episode.failure else None,
        "metadata": _jsonable(episode.metadata),
        "overflowed": sorted(map(list, episode.overflowed)),
        "madness": episode.madness,
        "seconds": round(episode.seconds, 4),
        "calls": [_call_to_record(episode, call) for call in episode.calls],
        "sequences": [_sequence_to_record(sequence) for sequence in episode.sequences],
    }


def episode_from_record(record: Mapping[str, Any]) -> Episode:
    """Rebuild an episode. Raises KeyError or ValueError for a record that is not whole."""
    calls: list[Call] = []
    for entry in record["calls"]:
        calls.append(_call_from_record(entry, calls))
    return Episode(
        episode_id=record["episode_id"],
        task=Task(**record["task"]),
        step=record["step"],
        attempt=record["attempt"],
        is_validation=record["is_validation"],
        calls=tuple(calls),
        sequences=tuple(merge_calls(calls)),
        verdict=Verdict(**record["verdict"]) if record["verdict"] else None,
        failure=Failure(**record["failure"]) if record["failure"] else None,
        metadata=record["metadata"],
        overflowed=frozenset((name, target_tag) for name, target_tag in record["overflowed"]),
        madness=record["madness"],
        seconds=record["seconds"],
    )


def _call_to_record(episode: Episode, call: Call) -> dict[str, Any]:
    earlier = episode.calls[call.extends] if call.extends is not None else None
    num_messages = len(earlier.messages) + 1 if earlier and not call.is_joined_by_text else 0
    num_ids = earlier.num_ids if earlier else 0
    return {
        "agent_name": call.agent_name,
        "target_tag": call.target_tag,
        "extends": call.extends,
        "break_reason": call.break_reason,
        "break_kind": call.break_kind,
        "break_message": call.break_message,
        "is_trained": call.is_trained,
        "is_joined_by_text": call.is_joined_by_text,
        "num_drifted": call.num_drifted,
        "messages": list(call.messages[num_messages:]),
        "tools": None if earlier and earlier.tools == call.tools else list(call.tools),
        "prompt_ids": list(call.prompt_ids[num_ids:]),
        "completion_ids": list(call.completion.ids),
        "logprobs": [round(value, 6) for value in call.completion.logprobs],
        "finish_reason": call.completion.finish_reason,
        "weight_version": call.completion.weight_version,
        "temperature": call.temperature,
        "reply": call.reply,
        "started_seconds": round(call.started_seconds, 4),
        "seconds": round(call.seconds, 4),
        **({} if call.is_taken else {"is_taken": False}),
        **({"format_check": call.format_check} if call.format_check else {}),
    }


def _call_from_record(entry: Mapping[str, Any], calls: list[Call]) -> Call:
    earlier = calls[entry["extends"]] if entry["extends"] is not None else None
    by_text = entry.get("is_joined_by_text", False)
    known = (*earlier.messages, earlier.reply) if earlier and not by_text else ()
    kind = entry.get("break_kind")
    return Call(
        agent_name=entry["agent_name"],
        target_tag=entry["target_tag"],
        messages=(*known, *entry["messages"]),
        tools=earlier.tools if earlier and entry["tools"] is None else tuple(entry["tools"]),
        prompt_ids=(earlier.ids if earlier else ()) + tuple(entry["prompt_ids"]),
        completion=Completion(
            ids=tuple(entry["completion_ids"]),
            logprobs=tuple(entry["logprobs"]),
            finish_reason=entry["finish_reason"],
            weight_version=entry["weight_version"],
        ),
        reply=entry["reply"],
        temperature=entry["temperature"],
        extends=entry["extends"],
        break_reason=entry["break_reason"],
        started_seconds=entry["started_seconds"],
        seconds=entry["seconds"],
        is_trained=entry.get("is_trained", True),
        is_taken=entry.get("is_taken", True),
        break_kind=None if kind is None else BreakKind(kind),
        break_message=entry.get("break_message"),
        is_joined_by_text=by_text,
        num_drifted=entry.get("num_drifted", 0),
        format_check=entry.get("format_check"),
    )


def _sequence_to_record(sequence: Sequence) -> dict[str, Any]:
    """The mask as runs: for each span its call, its length and whether it is trained."""
    return {
        "agent_name": sequence.agent_name,
        "target_tag": sequence.target_tag,
        "spans": [
            {"call": span.call, "length": len(span.ids), "is_trained": span.is_trained}
            for span in sequence.spans
        ],
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    return str(value)
