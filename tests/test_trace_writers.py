"""Our own episodes as ATIF and as OTLP, read back as they were."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from google.protobuf import json_format
from hypothesis import given, settings
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from astuner.traces.reader import read_traces
from astuner.traces.reading import Unread
from astuner.traces.sources.atif import trajectory_traces
from astuner.traces.sources.known import open_source
from astuner.traces.sources.run_dir import traces_of_episode
from astuner.traces.trace import (
    Origin,
    Step,
    Trace,
    TracedTokens,
    TracedToolCall,
    TraceFeedback,
)
from astuner.traces.writers.atif import atif_trajectory, continuations
from astuner.traces.writers.otlp import otlp_lines
from tests.made_traces import TRACE
from tests.test_rollout import run

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ORIGIN = Origin(source="run_dir", address="run", ids=("step1-7-0",))


def reply(number: int, text: str, **more: Any) -> Step:
    return Step(
        role="assistant",
        text=text,
        span_id=str(number),
        agent="ann",
        tools=(TOOL,),
        input_tokens=3,
        output_tokens=2,
        seconds=0.5,
        tokens=TracedTokens(prompt_ids=(1, 2, 3), reply_ids=(4, 5), logprobs=(-0.5, -1.25)),
        **more,
    )


TALK = Trace(
    trace_id="step1-7-0",
    steps=(
        Step(role="system", text="Be short."),
        Step(role="user", text="Weather in Paris and Rome?", name="erik"),
        reply(
            0,
            "",
            reasoning="Two calls.",
            tool_calls=(
                TracedToolCall(call_id="a", name="weather", arguments='{"city":  "Paris"}'),
                TracedToolCall(call_id="b", name="weather", arguments='{"city": "Rome"}'),
            ),
        ),
        Step(role="tool", text="rain", name="weather", tool_call_id="a"),
        Step(role="tool", text="sun", name="weather", tool_call_id="b", error="late"),
        reply(1, "Rain, and sun."),
        Step(role="user", text="Thanks."),
        reply(2, "No.", error="cut"),
    ),
    session="step1-7",
    agent="ann",
    user="erik",
    tags=("seer",),
    metadata={"task_id": "7", "step": 1, "is_validation": False},
    feedback=(
        TraceFeedback(name="reward", score=0.5, label="success", comment="Right.", by="code"),
        TraceFeedback(name="thumb", score=0.0, span_id="1", correction="Rain.", told=12.5),
    ),
    error="JudgeError: it hung",
    origin=ORIGIN,
)


def through_atif(trace: Trace) -> Trace:
    told = json.loads(json.dumps(atif_trajectory(trace)))
    [read] = trajectory_traces(told, "name", "address")
    return replace(read, origin=trace.origin)


def through_otlp(folder: Path, *traces: Trace) -> list[Trace]:
    for trace in traces:
        lines = otlp_lines(trace, version="1")
        for kind, of_kind in (("traces", lines.traces), ("feedback", lines.feedback)):
            with (folder / f"{kind}.jsonl").open("a") as file:
                file.writelines(f"{json.dumps(line)}\n" for line in of_kind)
    unread = Unread()
    found = list(read_traces(open_source(str(folder)), unread))
    assert not unread.counts, unread
    return found


def said(trace: Trace) -> list[Any]:
    """All of the steps but by which ids and where they were recorded."""
    return [replace(step, span_id=None, started=None, seconds=None) for step in trace.steps]


def judged(trace: Trace) -> list[Any]:
    """Feedback, with the place in the conversation that it is about."""
    places = {step.span_id: index for index, step in enumerate(trace.steps) if step.span_id}
    return [
        (one.span_id and places[one.span_id], replace(one, span_id=None)) for one in trace.feedback
    ]


def test_a_conversation_comes_back_from_atif_as_it_was() -> None:
    assert through_atif(TALK) == TALK


@pytest.mark.parametrize("logprobs", [None, (), (-0.5,), (-0.5, None), (-0.5, -1.0, -1.5)])
@pytest.mark.parametrize("reply_ids", [None, (), (4, 5)])
def test_log_probabilities_that_do_not_fit_the_tokens_come_back_as_they_were(
    reply_ids: tuple[int, ...] | None, logprobs: tuple[float | None, ...] | None
) -> None:
    tokens = TracedTokens(reply_ids=reply_ids, logprobs=logprobs)
    trace = replace(TALK, steps=(Step(role="assistant", text="Hi.", tokens=tokens),), feedback=())
    assert through_atif(trace) == trace


@settings(max_examples=25)
@given(trace=TRACE.filter(lambda trace: bool(trace.trace_id)))
def test_any_trace_comes_back_from_atif(trace: Trace) -> None:
    assert through_atif(trace) == trace


def test_atif_has_tokens_tools_and_results_where_others_look_for_them() -> None:
    told = atif_trajectory(TALK)
    assert told["schema_version"] == "ATIF-v1.8"
    assert (told["trajectory_id"], told["session_id"]) == ("step1-7-0", "step1-7")
    assert told["agent"]["tool_definitions"] == [TOOL]
    assert [step["source"] for step in told["steps"]] == [
        *("system", "user", "agent", "agent", "user", "agent")
    ]
    assert [step["step_id"] for step in told["steps"]] == [1, 2, 3, 4, 5, 6]
    called = told["steps"][2]
    assert called["reasoning_content"] == "Two calls."
    assert called["tool_calls"][0] == {
        "tool_call_id": "a",
        "function_name": "weather",
        "arguments": {"city": "Paris"},
    }
    results = called["observation"]["results"]
    assert [(one["source_call_id"], one["content"]) for one in results] == [
        ("a", "rain"),
        ("b", "sun"),
    ]
    assert called["metrics"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "prompt_token_ids": [1, 2, 3],
        "completion_token_ids": [4, 5],
        "logprobs": [-0.5, -1.25],
    }
    assert told["final_metrics"] == {
        "total_prompt_tokens": 9,
        "total_completion_tokens": 6,
        "total_steps": 6,
    }


def test_replies_that_were_handed_in_as_history_are_no_material_for_training_in_atif() -> None:
    history = (Step(role="user", text="Hi."), Step(role="assistant", text="Hello."))
    told = atif_trajectory(replace(TALK, steps=(*history, *TALK.steps[1:])))
    copied = [step.get("is_copied_context") for step in told["steps"]]
    assert copied == [None, True, None, None, None, None, None]


def test_an_agent_that_went_on_with_another_history_is_continued() -> None:
    def talk(name: str, agent: str, *numbers: int) -> Trace:
        steps = tuple(replace(reply(number, "Yes."), agent=agent) for number in numbers)
        return replace(TALK, trace_id=name, agent=agent, steps=steps, feedback=())

    first, aside = talk("a-0", "ann", 0, 2), talk("a-1", "bob", 1)
    branched, later = talk("a-2", "ann", 1, 3), talk("a-3", "ann", 4)
    found = continuations([first, aside, branched, later])
    assert found == {"a-0": "a-3"}
    told = atif_trajectory(first, continued_in="a-3.json")
    assert told["continued_trajectory_ref"] == "a-3.json"


def test_a_conversation_comes_back_from_otlp_with_messages_tools_tokens_and_feedback(
    tmp_path: Path,
) -> None:
    [read] = through_otlp(tmp_path, TALK)
    assert said(read) == [
        replace(one, tokens=one.tokens and _listed(one.tokens)) for one in said(TALK)
    ]
    assert judged(read) == judged(TALK)
    assert (read.session, read.agent, read.user) == (TALK.session, TALK.agent, TALK.user)
    assert (read.tags, read.metadata["task_id"]) == (TALK.tags, "7")


def _listed(tokens: TracedTokens) -> TracedTokens:
    def listed(numbers: Sequence[Any] | None) -> list[Any] | None:
        return None if numbers is None else list(numbers)

    return TracedTokens(
        prompt_ids=listed(tokens.prompt_ids),
        reply_ids=listed(tokens.reply_ids),
        logprobs=listed(tokens.logprobs),
    )


def test_conversations_of_one_episode_stay_apart_in_otlp(tmp_path: Path) -> None:
    other = replace(
        TALK,
        trace_id="step1-7-1",
        agent="bob",
        steps=(Step(role="user", text="You?"), replace(reply(3, "Me."), agent="bob")),
        feedback=(TraceFeedback(name="reward", score=-1.0),),
    )
    first, second = through_otlp(tmp_path, TALK, other)
    assert first.session == second.session
    assert [(one.agent, one.feedback[0].score) for one in (first, second)] == [
        ("ann", 0.5),
        ("bob", -1.0),
    ]


@settings(max_examples=25)
@given(trace=TRACE)
def test_any_trace_becomes_otlp_that_the_protocol_knows(trace: Trace) -> None:
    lines = otlp_lines(trace, version="1")
    for line in lines.traces:
        [span] = line["resourceSpans"][0]["scopeSpans"][0]["spans"]
        assert len(span["traceId"]) == 32 and len(span["spanId"]) == 16
        json_format.ParseDict(line, TracesData())
    for line in lines.feedback:
        json_format.ParseDict(line, LogsData())


def test_an_episode_that_was_run_comes_back_from_both(tmp_path: Path) -> None:
    [trace] = traces_of_episode(run(), "run")
    assert trace.steps[-1].tokens is not None and trace.steps[-1].tokens.reply_ids
    assert through_atif(trace) == replace(trace, steps=through_atif(trace).steps)
    [read] = through_otlp(tmp_path, trace)
    for found in (through_atif(trace), read):
        assert [(one.role, one.text, one.tool_calls, one.tools) for one in found.steps] == [
            (one.role, one.text, one.tool_calls, one.tools) for one in trace.steps
        ]
        assert _listed(_tokens(found)) == _listed(_tokens(trace))
        assert judged(found) == judged(trace)


def _tokens(trace: Trace) -> TracedTokens:
    tokens = trace.steps[-1].tokens
    assert tokens is not None
    return tokens
