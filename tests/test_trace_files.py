"""Files with traces of many makers: recognised by what is in them, read row by row."""

import gzip
import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from astuner.errors import ConfigError, TraceSourceError
from astuner.inference.request import ChatRequest
from astuner.run_dir import append_json_lines
from astuner.traces.reading import Unread
from astuner.traces.sources.known import SOURCES, open_source
from astuner.traces.sources.run_dir import traces_of_episode
from astuner.traces.trace import Trace, TracedTokens, TracedToolCall, TraceFeedback
from astuner.trajectory.record import episode_to_record
from astuner.types import WorkflowOutput
from tests.otlp_files import START, chat, json_line, texts
from tests.test_rollout import run, workflow_that
from tests.trace_stores import phoenix_row, read_all
from tests.traces import said

HI, HELLO = ("user", "Hi"), ("assistant", "Hello")
TIME = "2023-11-14T22:13:20Z"
"""START."""
LINE = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ],
    "tools": [{"type": "function", "function": {"name": "weather"}}],
    "parallel_tool_calls": False,
    "shop": 7,
}
ATIF: dict[str, Any] = {
    "schema_version": "ATIF-v1.7",
    "session_id": "s1",
    "trajectory_id": "t1",
    "agent": {
        "name": "terminus",
        "version": "2",
        "model_name": "m",
        "tool_definitions": [{"type": "function", "function": {"name": "weather"}}],
    },
    "steps": [
        {"step_id": 1, "source": "system", "message": "Be short."},
        {
            "step_id": 2,
            "source": "user",
            "timestamp": TIME,
            "message": [
                {"type": "text", "text": "Weather?"},
                {"type": "image", "source": {"media_type": "image/png", "path": "a.png"}},
            ],
        },
        {
            "step_id": 3,
            "source": "agent",
            "timestamp": TIME,
            "message": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "tool_call_id": "c1",
                    "function_name": "weather",
                    "arguments": {"city": "Paris"},
                }
            ],
            "observation": {"results": [{"source_call_id": "c1", "content": "rain"}]},
            "metrics": {
                "prompt_tokens": 3,
                "completion_tokens": 2,
                "prompt_token_ids": [1, 2, 3],
                "completion_token_ids": [4, 5],
                "logprobs": [-0.5, -0.25],
            },
        },
        {"step_id": 4, "source": "agent", "message": "It rains.", "model_name": "n"},
    ],
    "final_metrics": {"total_prompt_tokens": 3},
}
CALL = TracedToolCall(call_id="c1", name="weather", arguments='{"city": "Paris"}')


def json_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def langsmith_runs() -> list[dict[str, Any]]:
    """An agent of LangChain, as the client writes its runs."""
    human = {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "HumanMessage"]}
    ai = {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "AIMessage"]}
    question = {**human, "kwargs": {"content": "Weather?", "type": "human"}}
    answer = {**ai, "kwargs": {"content": "It rains.", "type": "ai"}}
    shared = {"trace_id": "r0", "start_time": TIME, "end_time": "2023-11-14T22:13:20.5"}
    return [
        {
            **shared,
            "id": "r0",
            "run_type": "chain",
            "name": "Shop",
            "inputs": {"input": "Weather?"},
            "outputs": {"output": "It rains."},
            "dotted_order": "20231114T221320000000Zr0",
            "tags": ["v1"],
            "extra": {"metadata": {"thread_id": "s1", "user_id": "u1"}},
            "feedback_stats": {"liked": {"n": 2, "avg": 0.5, "values": {"so": 2}}, "odd": None},
        },
        {
            **shared,
            "id": "r1",
            "run_type": "llm",
            "name": "ChatOpenAI",
            "inputs": {"messages": [[question]]},
            "outputs": {
                "generations": [[{"text": "It rains.", "message": answer}]],
                "llm_output": {"token_usage": {"prompt_tokens": 5, "completion_tokens": 2}},
            },
            "dotted_order": "20231114T221320000000Zr0.20231114T221320000001Zr1",
            "tags": ["v1"],
            "extra": {
                "invocation_params": {"model": "m", "tools": LINE["tools"]},
                "metadata": {"thread_id": "s1"},
            },
            "feedback": [
                {
                    "key": "fix",
                    "score": 0,
                    "comment": "no",
                    "correction": {"output": "It snows."},
                    "feedback_source": {"type": "app"},
                    "created_at": TIME,
                }
            ],
        },
    ]


def langfuse_rows() -> list[dict[str, Any]]:
    """Of an export to a bucket."""
    shared = {"trace_id": "t1", "start_time": TIME, "end_time": "2023-11-14T22:13:20.500Z"}
    shared |= {"session_id": "s1", "user_id": "u1", "trace_name": "chat", "tags": ["v1"]}
    return [
        {**shared, "id": "o0", "type": "AGENT", "name": "Shop", "level": "DEFAULT"},
        {
            **shared,
            "id": "o1",
            "parent_observation_id": "o0",
            "type": "GENERATION",
            "name": "call",
            "input": json.dumps({"messages": LINE["messages"][:2], "tools": LINE["tools"]}),
            "output": json.dumps({"role": "assistant", "content": "It rains."}),
            "provided_model_name": "m",
            "usage_details": {"input": 5, "output": 2},
        },
        {
            "id": "x1",
            "trace_id": "t1",
            "observation_id": "o1",
            "name": "liked",
            "value": 1,
            "string_value": "True",
            "data_type": "BOOLEAN",
            "source": "ANNOTATION",
            "comment": "fine",
            "timestamp": TIME,
        },
        {
            "id": "x2",
            "trace_id": "t1",
            "name": "output",
            "value": None,
            "string_value": "It snows.",
            "data_type": "CORRECTION",
            "source": "ANNOTATION",
        },
    ]


def mlflow_trace() -> dict[str, Any]:
    """As `mlflow traces search --output json` printed it, shortened."""
    ids = {"trace_id": "+/cfL1GRfCCTpbj9j18rhw==", "parent_span_id": None}
    span = {
        **ids,
        "span_id": "mmSX8wgs0+E=",
        "name": "llm",
        "start_time_unix_nano": 1_700_000_000_000_000_000,
        "end_time_unix_nano": 1_700_000_000_500_000_000,
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "events": [],
        "attributes": {
            "mlflow.spanType": '"CHAT_MODEL"',
            "mlflow.spanInputs": json.dumps(
                {"model": "m", "messages": LINE["messages"][:2], "tools": LINE["tools"]}
            ),
            "mlflow.spanOutputs": json.dumps(
                {"choices": [{"message": {"role": "assistant", "content": "It rains."}}]}
            ),
            "mlflow.chat.tokenUsage": '{"input_tokens": 5, "output_tokens": 2}',
        },
    }
    trace_id = "tr-fbf71f2f51917c2093a5b8fd8f5f2b87"
    return {
        "info": {
            "trace_id": trace_id,
            "state": "OK",
            "request_time": TIME,
            "tags": {"team": "x", "mlflow.traceName": "llm"},
            "trace_metadata": {"mlflow.trace.session": "s1", "mlflow.trace.user": "u1"},
            "assessments": [
                {
                    "assessment_name": "liked",
                    "source": {"source_type": "HUMAN", "source_id": "bob"},
                    "feedback": {"value": True},
                    "rationale": "fine",
                    "create_time": TIME,
                },
                {
                    "assessment_name": "expected_response",
                    "source": {"source_type": "HUMAN"},
                    "expectation": {"value": "It snows."},
                },
                {
                    "assessment_name": "tone",
                    "source": {"source_type": "LLM_JUDGE"},
                    "span_id": "9a6497f3082cd3e1",
                    "feedback": {"value": "polite"},
                },
            ],
        },
        "data": {"spans": [span]},
    }


FILES: Mapping[str, list[Any]] = {
    "otlp": [json.loads(json_line(chat("a1", [HI], HELLO)))],
    "openai_chat": [LINE],
    "atif": [ATIF],
    "langsmith": langsmith_runs(),
    "langfuse": langfuse_rows(),
    "mlflow": [mlflow_trace()],
    "phoenix": [phoenix_row(chat("a1", [HI], HELLO), 1)],
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_recognised_by_what_is_in_it(name: str, tmp_path: Path) -> None:
    path = json_lines(tmp_path / "some.json", *FILES[name])
    assert open_source(str(path)).name == name
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(b"\n" + path.read_bytes()))
    assert open_source(str(packed)).name == name
    told, again = read_all(path)[0], read_all(packed)[0]
    assert told and [one.steps for one in again] == [one.steps for one in told]


def bent(value: Any, chance: Random) -> Any:
    """With other values here and there."""
    if chance.random() < 0.04:
        return chance.choice([None, 5, "", [], {}, [[1]], {"a": 1}, "{", float("nan"), 1e400])
    if isinstance(value, dict):
        return {key: bent(one, chance) for key, one in value.items() if chance.random() > 0.02}
    if isinstance(value, list):
        return [bent(one, chance) for one in value]
    return value


@pytest.mark.parametrize("name", FILES)
def test_rows_of_any_form_are_no_failure(name: str, tmp_path: Path) -> None:
    chance = Random(name)
    rows = [bent(row, chance) for row in FILES[name] for _ in range(60)]
    path = json_lines(tmp_path / "some.jsonl", *rows)
    unread = Unread()
    assert len(read_all(path, unread, format=name)[0]) + unread.counts.total() > 0


def test_of_a_folder_all_files_are_read_and_only_what_is_new_the_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "chats"
    (folder / "deep").mkdir(parents=True)
    first = json_lines(folder / "a.jsonl", LINE)
    json_lines(folder / "deep" / "b.jsonl", LINE, LINE)
    (folder / "notes.txt").write_text("no traces")
    traces, cursor = read_all(folder)
    assert [trace.trace_id for trace in traces] == ["a-0", "b-0", f"b-{first.stat().st_size}"]
    assert read_all(folder, since=cursor) == ([], cursor)
    with first.open("a") as file:
        file.write(json.dumps(LINE) + "\n")
    [[new], _] = read_all(folder, since=cursor)
    assert new.trace_id == f"a-{first.stat().st_size // 2}"
    first.write_text(json.dumps({**LINE, "tools": []}) + "\n")
    assert len(read_all(folder, since={"bytes": {"a.jsonl": 10**6}})[0]) == 3


def test_lines_that_do_not_parse_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    wrong = [{"messages": [{"role": "user"}, {"text": "?"}]}, {"messages": 5}, {"other": 1}, 7]
    lines = [LINE, *wrong, {"messages": []}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{bad\n" + '{"mess')
    unread = Unread()
    traces, cursor = read_all(path, unread)
    assert len(traces) == 1
    assert unread.counts == {
        "a message without a role or of a form that is not known": 1,
        "a line without a list of messages": 2,
        "a line with no message": 1,
        "a line that is no JSON": 2,
        "a torn last line": 1,
    }
    assert unread.places["a torn last line"] == f"{path}, line 8"
    with path.open("a") as file:
        file.write('ages": []}\n')
    later = Unread()
    read_all(path, later, since=cursor)
    assert later.counts == {"a line with no message": 1}


def test_a_document_that_is_cut_off_is_one_thing_that_does_not_parse(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    path.write_text(json.dumps({"traces": [mlflow_trace()] * 3}, indent=2)[:-40])
    unread = Unread()
    assert read_all(path, unread, format="mlflow")[0] == []
    assert unread.counts == {"a JSON document that is cut off or changed": 1}


def test_a_packed_file_that_is_cut_off_gives_what_stands_before(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl.gz"
    other = {"messages": [{"role": "user", "content": "x" * 200_000}]}
    path.write_bytes(gzip.compress((json.dumps(LINE) + "\n" + json.dumps(other)).encode())[:-30])
    unread = Unread()
    assert len(read_all(path, unread)[0]) == 1
    [reason] = unread.counts
    assert "cut off" in reason


@pytest.mark.parametrize("damage", ["data", "checksum", "length"])
def test_a_packed_file_that_was_changed_is_told_and_fails_nothing(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "chats.jsonl.gz"
    lines = "".join(json.dumps({**LINE, "id": number}) + "\n" for number in range(2_000))
    packed = bytearray(gzip.compress(lines.encode()))
    place = {"data": len(packed) // 2, "checksum": -8, "length": -4}[damage]
    packed[place] ^= 0xFF
    path.write_bytes(packed)
    unread = Unread()
    read_all(path, unread, format="openai_chat")
    assert any("cut off or changed" in reason for reason in unread.counts)


def test_a_conversation_for_fine_tuning_is_a_trace(tmp_path: Path) -> None:
    [[trace], _] = read_all(json_lines(tmp_path / "chats.jsonl", LINE))
    assert [(step.role, step.text) for step in trace.steps] == [
        ("system", "Be short."),
        ("user", "Weather?"),
        ("assistant", ""),
        ("tool", "rain"),
        ("assistant", "It rains."),
    ]
    assert trace.steps[2].tool_calls == (CALL,) and trace.steps[3].tool_call_id == "c1"
    assert trace.steps[4].tools == tuple(LINE["tools"])  # pyright: ignore[reportArgumentType]
    assert trace.metadata == {"shop": 7}


def test_a_trajectory_is_a_trace_with_its_tokens(tmp_path: Path) -> None:
    below = {**ATIF, "trajectory_id": "t2", "steps": ATIF["steps"][:2]}
    path = json_lines(tmp_path / "t.json", {**ATIF, "subagent_trajectories": [below]})
    [[trace, other], _] = read_all(path)
    assert (trace.trace_id, other.trace_id, trace.session, trace.agent) == (
        *("t1", "t2", "s1", "terminus"),
    )
    assert [(step.role, step.text) for step in trace.steps] == [
        ("system", "Be short."),
        ("user", "Weather?\n[image]"),
        ("assistant", ""),
        ("tool", "rain"),
        ("assistant", "It rains."),
    ]
    asked, called, result, answered = trace.steps[1:]
    assert asked.num_left_out == 1 and asked.started == START
    assert called.tool_calls == (CALL,) and called.reasoning == "hm" and called.model == "m"
    assert called.tokens == TracedTokens(
        prompt_ids=[1, 2, 3], reply_ids=[4, 5], logprobs=[-0.5, -0.25]
    )
    assert (result.name, result.tool_call_id) == ("weather", "c1")
    assert answered.model == "n" and answered.tokens is None and len(answered.tools) == 1
    assert trace.metadata == {"final_metrics": {"total_prompt_tokens": 3}, "agent_version": "2"}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"source": "ghost"}, "a step whose source is neither system nor user nor agent"),
        (
            {
                "source": "agent",
                "message": "a",
                "metrics": {"completion_token_ids": [1], "logprobs": [0.0, 0.0]},
            },
            "log-probabilities of another number than token ids",
        ),
        (
            {"source": "agent", "message": "a", "tool_calls": [{}]},
            "fields in another form (KeyError: 'function_name')",
        ),
    ],
)
def test_a_trajectory_of_another_form_is_counted(
    step: Mapping[str, Any], reason: str, tmp_path: Path
) -> None:
    unread = Unread()
    path = json_lines(tmp_path / "t.jsonl", {**ATIF, "steps": [step]}, ATIF)
    assert len(read_all(path, unread)[0]) == 1
    assert unread.counts == {reason: 1}


def told_call(trace: Trace) -> tuple[Any, ...]:
    """What sources tell alike of the one call of a trace."""
    reply = trace.steps[-1]
    return (
        *(texts(trace), trace.session, trace.user, trace.agent, reply.model, reply.tools),
        *(reply.input_tokens, reply.output_tokens, reply.started, reply.seconds),
    )


def test_runs_of_langsmith_are_a_trace_with_what_was_said_of_it(tmp_path: Path) -> None:
    [[trace], _] = read_all(json_lines(tmp_path / "runs.jsonl", *langsmith_runs()))
    words = [("user", "Weather?"), ("assistant", "It rains.")]
    tools = tuple(LINE["tools"])  # pyright: ignore[reportArgumentType]
    assert told_call(trace) == (words, "s1", "u1", "Shop", "m", tools, 5, 2, START, 0.5)
    assert trace.tags == ("v1",)
    assert sorted(trace.feedback, key=lambda one: one.name) == [
        TraceFeedback(
            name="fix",
            score=0.0,
            comment="no",
            by="human",
            span_id="r1",
            correction="It snows.",
            told=START,
        ),
        TraceFeedback(name="liked", score=0.5, label="so"),
    ]


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (
            {"messages": [{"role": "user", "content": "Weather?"}], "model": "m"},
            {"choices": [{"message": {"role": "assistant", "content": "It rains."}}]},
        ),
        ({"prompts": ["Weather?"]}, {"generations": [[{"text": "It rains."}]]}),
        (
            {"messages": [{"type": "human", "content": "Weather?"}]},
            {"role": "assistant", "content": "It rains."},
        ),
        (
            json.dumps({"messages": [["human", "x"]]}).replace('["human", "x"]', '"Weather?"'),
            json.dumps({"message": {"type": "ai", "content": "It rains."}}),
        ),
    ],
)
def test_models_of_langsmith_are_read_in_the_forms_that_wrappers_write(
    inputs: Any, outputs: Any, tmp_path: Path
) -> None:
    run = {"id": "r1", "run_type": "llm", "inputs": inputs, "outputs": outputs, "error": None}
    [[trace], _] = read_all(json_lines(tmp_path / "runs.jsonl", run))
    assert texts(trace) == [("user", "Weather?"), ("assistant", "It rains.")]


def test_an_export_of_langfuse_is_a_trace_with_its_scores(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    for name, rows in (("observations_v2", langfuse_rows()[:2]), ("scores", langfuse_rows()[2:])):
        (folder / name).mkdir(parents=True)
        json_lines(folder / name / "1.jsonl", *rows)
    [[trace], _] = read_all(folder)
    words = [("system", "Be short."), ("user", "Weather?"), ("assistant", "It rains.")]
    tools = tuple(LINE["tools"])  # pyright: ignore[reportArgumentType]
    assert told_call(trace) == (words, "s1", "u1", "Shop", "m", tools, 5, 2, START, 0.5)
    assert trace.tags == ("v1",)
    assert trace.feedback == (
        TraceFeedback(
            name="liked",
            score=1.0,
            label="True",
            comment="fine",
            by="human",
            span_id="o1",
            told=START,
        ),
        TraceFeedback(name="output", by="human", correction="It snows."),
    )


def test_a_trace_that_a_page_of_langfuse_saved_is_read(tmp_path: Path) -> None:
    call = {
        "id": "o1",
        "type": "GENERATION",
        "startTime": TIME,
        "input": [{"role": "user", "content": "Hi"}],
        "output": "Hello",
        "level": "ERROR",
        "statusMessage": "late",
    }
    trace = {"id": "t1", "name": "chat", "sessionId": "s1", "metadata": {"k": 1}, "timestamp": TIME}
    apart = tmp_path / "trace-t1.json"
    apart.write_text(json.dumps({"trace": trace, "observations": [call]}, indent=1))
    inside = json_lines(tmp_path / "inside.json", {**trace, "observations": [call]})
    for path in (apart, inside):
        [[read], _] = read_all(path)
        assert texts(read) == [HI, HELLO] and read.steps[1].error == "late"
        assert read.session == "s1" and read.metadata["langfuse.trace.metadata"] == {"k": 1}


def test_traces_that_mlflow_printed_are_read(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    path.write_text(json.dumps({"traces": [mlflow_trace()], "next_page_token": None}, indent=2))
    [[trace], _] = read_all(path)
    words = [("system", "Be short."), ("user", "Weather?"), ("assistant", "It rains.")]
    tools = tuple(LINE["tools"])  # pyright: ignore[reportArgumentType]
    assert told_call(trace) == (words, "s1", "u1", None, "m", tools, 5, 2, START, 0.5)
    assert trace.metadata == {"tags": {"team": "x"}}
    assert trace.feedback == (
        TraceFeedback(name="liked", score=1.0, comment="fine", by="human", told=START),
        TraceFeedback(name="expected_response", by="human", correction="It snows."),
        TraceFeedback(name="tone", label="polite", by="model", span_id="9a6497f3082cd3e1"),
    )


def test_a_table_of_spans_from_the_client_of_phoenix_is_read(tmp_path: Path) -> None:
    row = {
        "context.span_id": "a1",
        "context.trace_id": "t1",
        "name": "call",
        "span_kind": "LLM",
        "parent_id": None,
        "start_time": "2023-11-14T22:13:20+00:00",
        "status_code": "OK",
        "attributes.llm.input_messages": [{"message.role": "user", "message.content": "Hi"}],
        "attributes.llm.output_messages": [
            {"message.role": "assistant", "message.content": "Hello"}
        ],
        "attributes.llm.model_name": "m",
        "attributes.metadata": {"k": 1},
    }
    path = tmp_path / "spans.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, {**row, "name": None}]), path)
    [[trace], cursor] = read_all(path)
    assert texts(trace) == [HI, HELLO] and trace.metadata == {"k": 1}
    assert trace.steps[1].model == "m" and trace.started == START
    assert read_all(path, since=cursor)[0] == []


def test_a_table_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "spans.parquet"
    path.write_bytes(b"PAR1" + b"x" * 50)
    with pytest.raises(TraceSourceError, match="begins like a table of Parquet and is none"):
        read_all(path)


async def ask(tuner: Any, *messages: Any) -> Any:
    return await tuner._chat.complete(ChatRequest(messages=messages))


def test_episodes_of_a_run_are_traces_with_tokens_and_the_verdict(tmp_path: Path) -> None:
    async def body(task: Any, tuner: Any) -> WorkflowOutput:
        one, two = said("user", "one"), said("user", "two")
        await ask(tuner, one)
        await ask(tuner, one, said("assistant", "5"), two)
        await ask(tuner, two)
        return WorkflowOutput(reward=1.0)

    episode = run(workflow_that(body))
    folder = tmp_path / "run"
    append_json_lines(folder / "episodes" / "step_000001.jsonl", [episode_to_record(episode)])
    traces, cursor = read_all(folder)
    assert [trace.trace_id for trace in traces] == ["e-0", "e-1"]
    assert [texts(trace) for trace in traces] == [
        [("user", "one"), ("assistant", "5"), ("user", "two"), ("assistant", "5")],
        [("user", "two"), ("assistant", "5")],
    ]
    replies = [step for trace in traces for step in trace.steps if step.role == "assistant"]
    for reply, call in zip(replies, episode.calls, strict=True):
        tokens = reply.tokens
        assert tokens is not None and reply.input_tokens == len(call.prompt_ids)
        assert (tokens.prompt_ids, tokens.reply_ids) == (call.prompt_ids, call.completion.ids)
        assert tokens.logprobs == pytest.approx(call.completion.logprobs, abs=1e-6)
    verdict = TraceFeedback(name="reward", score=1.0, label="success", by="code")
    assert {trace.feedback for trace in traces} == {(verdict,)}
    assert {trace.session for trace in traces} == {"e"}
    assert read_all(folder, since=cursor)[0] == []
    assert read_all(folder / "episodes" / "step_000001.jsonl")[0][0].steps == traces[0].steps
    again = traces_of_episode(episode, str(folder))
    assert [texts(trace) for trace in again] == [texts(trace) for trace in traces]


def test_a_failed_episode_is_a_trace_with_its_error_and_no_verdict() -> None:
    async def body(task: Any, tuner: Any) -> WorkflowOutput:
        await ask(tuner, said("user", "one"))
        raise RuntimeError("the shop is closed")

    [trace] = traces_of_episode(run(workflow_that(body)), "run")
    assert trace.feedback == () and "the shop is closed" in str(trace.error)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"hello there\n", "hello there"),
        (b'{"a": 1, "b": 2}\n', "JSON with a, b"),
        (b"\x1f\x8bxx", "a packed file that cannot be unpacked"),
    ],
)
def test_a_file_of_something_else_is_told_with_what_was_found_and_what_is_known(
    content: bytes, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(content)
    with pytest.raises(TraceSourceError) as told:
        open_source(str(path))
    assert found in str(told.value) and all(name in str(told.value) for name in SOURCES)


def test_what_is_not_there_or_not_of_a_format_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceSourceError, match="there is no such file or folder"):
        open_source(str(tmp_path / "gone"))
    with pytest.raises(TraceSourceError, match="no file in this folder ends in"):
        open_source(str(tmp_path))
    with pytest.raises(ConfigError, match=r"format 'csv' of .* is not known; there are otlp"):
        open_source(str(tmp_path), format="csv")
    with pytest.raises(ConfigError, match="studio is the database of AgentScope Studio"):
        open_source("http://127.0.0.1:9", format="studio")


def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "chats.jsonl", *[{**LINE, "padding": "x" * 5_000}] * 400)
    source = open_source(str(path))
    tracemalloc.start()
    try:
        number = sum(1 for _ in source.read(Unread(), {}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert number == 400 and peak < path.stat().st_size / 4
