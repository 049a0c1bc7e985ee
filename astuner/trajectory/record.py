"""Attempts and episodes as one JSON line each, and back.

A call stores only what it adds: the messages and prompt tokens behind the call that it extends, and
how many of that call's messages it repeats where these are not all.
`episode_from_record` rebuilds everything, so a record proves what the engine saw.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from astuner.errors import AstunerError, JudgeError
from astuner.trajectory.attempt import Attempt, Failure
from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import Sequence, merge_calls
from astuner.trajectory.plain import plain
from astuner.trajectory.recorder import Agent, BreakKind, Call
from astuner.trajectory.refused import RefusedCall
from astuner.types import Completion, Message, Task, Verdict, WorkflowOutput

RECORD_FORMAT = 3
"""Stands in each line. 2 had verdicts without note and parts; 1, which names no format, had neither
the output's reward nor the agents."""


def episode_to_record(episode: Episode) -> dict[str, Any]:
    """Everything about an episode as JSON-able data; what is none in metadata becomes text."""
    return judged_to_record(episode) | calls_to_record(episode)


def attempt_to_record(attempt: Attempt) -> dict[str, Any]:
    """The same of an attempt that is not judged yet: without a verdict."""
    return _to_record(attempt) | calls_to_record(attempt)


def judged_to_record(episode: Episode) -> dict[str, Any]:
    """What stands in an episode's record beside calls and sequences, which are nearly all of it."""
    return _to_record(episode) | {
        "verdict": _verdict_to_record(episode.verdict),
        "judging_seconds": round(episode.judging_seconds, 4),
    }


def calls_to_record(attempt: Attempt) -> dict[str, Any]:
    """The part of the record that is known once an attempt has ended."""
    return {
        "calls": [_call_to_record(attempt, call) for call in attempt.calls],
        "sequences": [_sequence_to_record(sequence) for sequence in attempt.sequences],
    }


def _to_record(attempt: Attempt) -> dict[str, Any]:
    return {
        "format": RECORD_FORMAT,
        "episode_id": attempt.episode_id,
        "step": attempt.step,
        "attempt": attempt.attempt,
        "is_validation": attempt.is_validation,
        "task": attempt.task.model_dump(mode="json"),
        "verdict": None,
        "failure": asdict(attempt.failure) if attempt.failure else None,
        "output": _output_to_record(attempt.output),
        "metadata": plain(attempt.metadata),
        "agents": [[*agent, is_trained] for agent, is_trained in attempt.agents.items()],
        "overflowed": sorted(map(list, attempt.overflowed)),
        "madness": attempt.madness,
        "seconds": round(attempt.seconds, 4),
        **_refused_to_record(attempt),
    }


def episode_from_record(record: Mapping[str, Any]) -> Episode:
    """Rebuild an episode, of this format or an earlier one.

    Raises AstunerError for a format that is newer than this version of astuner, KeyError or
    ValueError for a record that is not whole.
    """
    return Episode(
        **_shared_fields(record),
        failure=Failure(**record["failure"]) if record["failure"] else None,
        verdict=_verdict_from_record(record["verdict"]),
        judging_seconds=record.get("judging_seconds", 0.0),
    )


def attempt_from_record(record: Mapping[str, Any]) -> Attempt:
    """What is recorded of an attempt or an episode, as it was before it was judged.

    Raises as `episode_from_record` does.
    """
    known = _shared_fields(record)
    is_judges = known["output"] is not None or not record["failure"]
    return Attempt(**known, failure=None if is_judges else Failure(**record["failure"]))


def _shared_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """All fields that attempts and episodes take from a record alike."""
    record_format = record.get("format", 1)
    if record_format > RECORD_FORMAT:
        raise AstunerError(
            f"episode {record.get('episode_id')!r} is recorded in format {record_format}; this "
            f"version of astuner reads up to {RECORD_FORMAT}: read it with the version that wrote "
            "it, or a newer one"
        )
    calls: list[Call] = []
    for entry in record["calls"]:
        calls.append(_call_from_record(entry, calls))
    is_first = record_format == 1
    return {
        "episode_id": record["episode_id"],
        "task": Task(**record["task"]),
        "step": record["step"],
        "attempt": record["attempt"],
        "is_validation": record["is_validation"],
        "calls": tuple(calls),
        "sequences": tuple(merge_calls(calls)),
        "agents": _agents_of_calls(calls) if is_first else _agents_from_record(record["agents"]),
        "output": _output_before(record) if is_first else _output_from_record(record),
        "overflowed": frozenset((name, target_tag) for name, target_tag in record["overflowed"]),
        "madness": record["madness"],
        "seconds": record["seconds"],
        "refused_calls": _refused_from_record(record.get("refused_calls", ())),
        "num_refused_calls": record.get("num_refused_calls", 0),
        "num_empty_replies": record.get("num_empty_replies", 0),
    }


def _verdict_to_record(verdict: Verdict | None) -> dict[str, Any] | None:
    """Without call rewards where it has none."""
    if verdict is None:
        return None
    record = asdict(verdict)
    if not record["call_rewards"]:
        del record["call_rewards"]
    return record


def _verdict_from_record(record: Mapping[str, Any] | None) -> Verdict | None:
    if not record:
        return None
    return Verdict(**{**record, "call_rewards": tuple(record.get("call_rewards", ()))})


def _refused_to_record(attempt: Attempt) -> dict[str, Any]:
    """Nothing where none was refused, as in records that know no refused calls."""
    if attempt.num_refused_calls == 0:
        return {}
    calls = attempt.refused_calls.items()
    return {
        "num_refused_calls": attempt.num_refused_calls,
        "num_empty_replies": attempt.num_empty_replies,
        "refused_calls": [{**asdict(call), "times": times} for call, times in calls],
    }


def _refused_from_record(entries: Iterable[Mapping[str, Any]]) -> dict[RefusedCall, int]:
    return {
        RefusedCall(
            path=entry["path"],
            status=entry["status"],
            field=entry["field"],
            message=entry["message"],
        ): entry["times"]
        for entry in entries
    }


def _output_to_record(output: WorkflowOutput | None) -> dict[str, Any] | None:
    """Without its metadata, which has a place of its own."""
    if output is None:
        return None
    steps = output.step_rewards
    return {
        "reward": plain(output.reward),
        "is_success": plain(output.is_success),
        **({} if steps is None else {"step_rewards": plain(steps)}),
    }


def _output_from_record(record: Mapping[str, Any]) -> WorkflowOutput | None:
    """A reward that was no finite number is a text in the record, and a number again here."""
    if record["output"] is None:
        return None
    return WorkflowOutput(**record["output"], metadata=record["metadata"])


def _output_before(record: Mapping[str, Any]) -> WorkflowOutput | None:
    """What format 1 tells of it: the verdict has the reward that a workflow gave."""
    failure, verdict = record["failure"], record["verdict"]
    if failure and failure["kind"] != JudgeError.__name__:
        return None
    if not verdict or verdict["source"] != "workflow":
        return WorkflowOutput(metadata=record["metadata"])
    return WorkflowOutput(
        reward=verdict["rewards"] or verdict["reward"],
        is_success=verdict["is_success"],
        metadata=record["metadata"],
    )


def _agents_from_record(entries: Iterable[tuple[str, str, bool]]) -> dict[Agent, bool]:
    return {(name, target_tag): is_trained for name, target_tag, is_trained in entries}


def _agents_of_calls(calls: Iterable[Call]) -> dict[Agent, bool]:
    """A call that nobody took is no sign that its agent is not trained."""
    agents: dict[Agent, bool] = {}
    for call in calls:
        agents[call.agent] = agents.get(call.agent, False) or call.is_trained or not call.is_taken
    return agents


def _call_to_record(attempt: Attempt, call: Call) -> dict[str, Any]:
    earlier = attempt.calls[call.extends] if call.extends is not None else None
    usual = _usually_repeated(earlier, is_joined_by_text=call.is_joined_by_text)
    num_repeated = _num_equal(usual, call.messages)
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
        "messages": list(call.messages[num_repeated:]),
        **({} if num_repeated == len(usual) else {"num_repeated_messages": num_repeated}),
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
        **({} if call.name is None else {"name": call.name}),
        **({} if call.state is None else {"state": call.state}),
        **({"counted_tokens": list(call.counted_tokens)} if call.counted_tokens else {}),
        **_kwargs_to_record(call),
    }


def _kwargs_to_record(call: Call) -> dict[str, Any]:
    """Nothing where the template read none."""
    kwargs = call.chat_template_kwargs
    return {"chat_template_kwargs": plain(kwargs)} if kwargs else {}


def _usually_repeated(earlier: Call | None, *, is_joined_by_text: bool) -> tuple[Message, ...]:
    """What a call sends of the one that it extends; one that sends plain text says less of it."""
    return (*earlier.messages, earlier.reply) if earlier and not is_joined_by_text else ()


def _num_equal(some: tuple[Message, ...], others: tuple[Message, ...]) -> int:
    """How many messages both begin with, each equal in every part."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(some), len(others)))


def _call_from_record(entry: Mapping[str, Any], calls: list[Call]) -> Call:
    earlier = calls[entry["extends"]] if entry["extends"] is not None else None
    by_text = entry.get("is_joined_by_text", False)
    repeated = _usually_repeated(earlier, is_joined_by_text=by_text)
    repeated = repeated[: entry.get("num_repeated_messages")]
    kind = entry.get("break_kind")
    return Call(
        agent_name=entry["agent_name"],
        target_tag=entry["target_tag"],
        messages=(*repeated, *entry["messages"]),
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
        chat_template_kwargs=entry.get("chat_template_kwargs", {}),
        name=entry.get("name"),
        state=entry.get("state"),
        counted_tokens=_counted(entry.get("counted_tokens")),
    )


def _counted(tokens: Iterable[int] | None) -> tuple[int, int] | None:
    if tokens is None:
        return None
    num_prompt, num_sampled = tokens
    return num_prompt, num_sampled


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
