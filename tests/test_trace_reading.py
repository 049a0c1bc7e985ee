"""From spans to conversations: which call goes on with which, and what belongs to it."""

import asyncio
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from astuner.errors import TraceSourceError
from astuner.model_server.feedback import AnsweredCalls, FeedbackDesk
from astuner.model_server.recording import CallRecorder, RecordingOptions
from astuner.model_server.served_call import ServedCall
from astuner.traces import growing_traces, spool
from astuner.traces.growing_traces import GrowingTraces
from astuner.traces.reader import read_traces
from astuner.traces.reading import FoundFeedback, Unread
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.spool import SpanSpool
from astuner.traces.trace import Origin, Step, Trace, TracedTokens, TraceFeedback
from tests.otlp_files import (
    START,
    TRACE,
    GivenSource,
    OtlpPaths,
    chat,
    message,
    opinion,
    texts,
    traced,
    traces_of,
)
from tests.traces import said, served_call

HI, HELLO, MORE, DONE = (
    ("user", "Hi"),
    ("assistant", "Hello"),
    ("user", "More"),
    ("assistant", "Ok"),
)
OTHER_TRACE = "11111111111111111111111111111111"
CALLED: Any = {
    "role": "assistant",
    "parts": [{"type": "tool_call", "id": "c1", "name": "look", "arguments": {"b": 1, "a": "x"}}],
}
RESULT: Any = {
    "role": "tool",
    "parts": [{"type": "tool_call_response", "id": "c1", "response": "found"}],
}


def agent_span(span_id: str, asked: Any, answer: Any, **more: Any) -> TracedSpan:
    told = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "Shop",
        "gen_ai.input.messages": [message(asked)],
        "gen_ai.output.messages": [message(answer)],
    }
    return traced(span_id, attributes=told, **more)


def test_calls_that_go_on_from_each_other_are_one_trace() -> None:
    first = chat("a1", [("system", "S"), HI], HELLO)
    second = chat("a2", [("system", "S"), HI, HELLO, MORE], DONE, at=1, trace_id=OTHER_TRACE)
    [trace] = traces_of(second, first)
    assert texts(trace) == [("system", "S"), HI, HELLO, MORE, DONE]
    assert trace.trace_id == f"{TRACE}-a1" and trace.session == "s"
    assert [step.span_id for step in trace.steps] == [None, None, "a1", None, "a2"]
    assert trace.steps[4].started == START + 1 and trace.started == START
    assert trace.origin == Origin(
        source="otlp", address="given", ids=(TRACE, OTHER_TRACE), replies=("a1", "a2")
    )


def test_what_recorders_change_in_a_history_breaks_no_trace() -> None:
    """White space at ends, the order of arguments, thoughts, and a system's words told apart."""
    reply = {**CALLED, "parts": [{"type": "reasoning", "content": "hm"}, *CALLED["parts"]]}
    again = dict(CALLED["parts"][0], id=None, arguments='{"a": "x",  "b": 1}')
    later = [("user", "Hi\n"), {"role": "assistant", "parts": [again]}, RESULT]
    [trace] = traces_of(
        chat("a1", [HI], reply),
        chat("a2", [("system", "S"), *later], DONE, at=1),
        chat("a3", [*later, DONE, MORE], HELLO, at=2),
    )
    roles = [step.role for step in trace.steps]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert trace.steps[2].reasoning == "hm" and trace.steps[3].name == "look"


@pytest.mark.parametrize(
    "changed",
    [
        [HI, ("assistant", "Hello you"), MORE],
        [("user", "Hey"), HELLO, MORE],
        [("system", "T"), HI, HELLO, MORE],
        [MORE],
        [HI],
    ],
)
def test_a_history_that_was_rewritten_begins_a_trace_of_the_same_session(changed: Any) -> None:
    one, other = traces_of(
        chat("a1", [("system", "S"), HI], HELLO), chat("a2", changed, DONE, at=1)
    )
    assert texts(one)[1:] == [HI, HELLO] and texts(other) == [*changed, DONE]
    assert one.session == other.session == "s" and one.trace_id != other.trace_id


def test_of_several_choices_each_has_its_trace_and_the_next_call_tells_which_was_taken() -> None:
    both = {"gen_ai.output.messages": [message(HELLO), message(("assistant", "Hey"))]}
    one, other = traces_of(
        chat("a1", [HI], HELLO, attributes=both),
        chat("a2", [HI, ("assistant", "Hey"), MORE], DONE, at=1),
    )
    assert texts(one) == [HI, HELLO]
    assert texts(other) == [HI, ("assistant", "Hey"), MORE, DONE]
    assert other.trace_id == f"{TRACE}-a1-1"


def test_calls_without_a_session_are_found_by_what_they_go_on_from() -> None:
    traces = traces_of(
        chat("a1", [HI], HELLO, session=""),
        chat("b1", [HI], HELLO, at=1, session="", trace_id=OTHER_TRACE),
        chat("a2", [HI, HELLO, MORE], DONE, at=2, session="", trace_id="2" * 32),
    )
    assert sorted(len(trace.steps) for trace in traces) == [2, 4]
    assert {trace.session for trace in traces} == {None}


def test_conversations_of_two_users_are_never_joined() -> None:
    def of(user: str) -> Any:
        return {"user.id": user}

    one, other = traces_of(
        chat("a1", [HI], HELLO, session="", attributes=of("ann")),
        chat("a2", [HI, HELLO, MORE], DONE, at=1, session="", attributes=of("bob"), trace_id="2"),
    )
    assert (one.user, other.user) == ("ann", "bob") and len(one.steps) == 2


def test_a_try_that_failed_is_replaced_by_the_next_and_stays_where_it_was_the_last() -> None:
    failed = chat("a1", [HI], HELLO, attributes={"gen_ai.output.messages": []}, error="overloaded")
    [trace] = traces_of(failed, chat("a2", [HI], HELLO, at=1))
    assert texts(trace) == [HI, HELLO] and not trace.is_failed
    [trace] = traces_of(failed)
    assert texts(trace) == [HI, ("assistant", "")] and trace.steps[1].error == "overloaded"


def test_a_tools_span_gives_its_result_time_and_error() -> None:
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": "c1"}
    [trace] = traces_of(
        chat("a1", [HI], CALLED),
        traced("t1", attributes=tool, started=START + 1, ended=START + 3, error="no such key"),
        chat("a2", [HI, CALLED, RESULT], DONE, at=4),
    )
    result = trace.steps[2]
    assert (result.name, result.text, result.error) == ("look", "found", "no such key")
    assert (result.span_id, result.started, result.seconds) == ("t1", START + 1, 2.0)


def test_agents_are_used_where_no_call_below_them_tells() -> None:
    [told] = traces_of(
        agent_span("r", HI, HELLO), chat("a1", [("system", "S"), HI], HELLO, parent_id="r")
    )
    assert texts(told)[0] == ("system", "S") and told.agent == "Shop"
    assert told.steps[-1].agent == "Shop"
    [untold] = traces_of(
        agent_span("r", HI, HELLO), agent_span("q", HI, HELLO, parent_id="r", started=START + 1)
    )
    assert texts(untold) == [HI, HELLO] and untold.steps[1].span_id == "r"
    unread = Unread()
    silent = traced("a1", parent_id="r", attributes={"gen_ai.operation.name": "chat"})
    [trace] = read_traces(GivenSource([agent_span("r", HI, HELLO), silent]), unread)
    assert texts(trace) == [HI, HELLO]
    assert list(unread.counts) == ["a model call whose messages were not recorded"]


def test_a_call_without_a_reply_is_counted() -> None:
    unread = Unread()
    nothing = {"gen_ai.output.messages": [{"role": "assistant", "parts": []}]}
    found = GivenSource([chat("a1", [HI], HELLO, attributes=nothing)])
    assert list(read_traces(found, unread)) == []
    assert unread.counts == {"a model call without a reply": 1}


def test_the_error_of_the_agent_is_that_of_its_conversation() -> None:
    [trace] = traces_of(
        agent_span("r", HI, HELLO, error="gave up"), chat("a1", [HI], HELLO, parent_id="r")
    )
    assert trace.error == "gave up" and trace.is_failed


def test_feedback_finds_its_step_its_request_or_the_whole() -> None:
    spans = [
        chat("a1", [HI], HELLO, parent_id="r"),
        chat("b1", [("user", "Sub")], DONE, at=1, parent_id="r"),
        agent_span("r", HI, HELLO),
    ]
    main, sub = traces_of(opinion("b1"), opinion(None, score=0.5), opinion("r", score=0.0), *spans)
    assert [(one.score, one.span_id) for one in main.feedback] == [(0.5, None), (0.0, None)]
    assert [(one.name, one.score, one.span_id, one.told) for one in sub.feedback] == [
        ("liked", 1.0, "b1", START + 9)
    ]
    given = TraceFeedback(name="stars", label="good")
    later = chat("a2", [HI, HELLO, MORE], DONE, at=5, trace_id=OTHER_TRACE)
    [trace] = traces_of(spans[0], later, FoundFeedback(trace_id=TRACE, feedback=given))
    assert [(one.label, one.span_id) for one in trace.feedback] == [("good", "a1")]


def test_feedback_that_names_only_the_answer_or_the_span_is_found() -> None:
    by_answer = TracedEvent(
        name="gen_ai.evaluation.result",
        attributes={"gen_ai.response.id": "answer-1", "gen_ai.evaluation.score.label": "bad"},
    )
    span = chat("a1", [HI], HELLO, attributes={"gen_ai.response.id": "answer-1"})
    [trace] = traces_of(by_answer, span, opinion("a1", trace_id=""))
    assert [(one.label, one.score, one.span_id) for one in trace.feedback] == [
        ("bad", None, "a1"),
        (None, 1.0, "a1"),
    ]


def test_feedback_for_a_trace_that_is_gone_is_counted() -> None:
    unread = Unread()
    found = [opinion("a1", trace_id=OTHER_TRACE), chat("a1", [HI], HELLO)]
    [trace] = read_traces(GivenSource(found), unread)
    assert trace.feedback == ()
    assert unread.counts == {"feedback for what is not there": 1}
    assert unread.places["feedback for what is not there"] == f"trace {OTHER_TRACE}"


def test_odd_spans_are_no_failure() -> None:
    """Parents that never came, circles, spans twice, without ids or times, from the future."""
    future = START + 1e9
    traces = traces_of(
        chat("a1", [HI], HELLO, parent_id="gone"),
        chat("a1", [HI], HELLO, parent_id="gone"),
        traced("x", parent_id="y"),
        traced("y", parent_id="x"),
        chat("b1", [("user", "B")], DONE, parent_id="x", at=1e9),
        chat("", [("user", "C")], DONE, trace_id=""),
        chat("", [("user", "D\ud800")], DONE, trace_id=""),
        traced("z", started=None, ended=None),
    )
    assert sorted(texts(trace)[0][1] for trace in traces) == ["B", "C", "D\ud800", "Hi"]
    assert max(trace.started or 0 for trace in traces) == future


def test_a_span_that_came_twice_counts_as_it_was_when_it_ended() -> None:
    begun = traced("a1", ended=None, attributes={"gen_ai.operation.name": "chat"})
    [trace] = traces_of(begun, chat("a1", [HI], HELLO))
    assert texts(trace) == [HI, HELLO]


def test_the_order_in_which_spans_come_changes_nothing() -> None:
    history: list[Any] = []
    spans: list[TracedSpan] = []
    for turn in range(12):
        history.append(("user", f"q{turn}"))
        spans.append(chat(f"{turn:02}", list(history), ("assistant", f"a{turn}"), at=turn))
        history.append(("assistant", f"a{turn}"))
    [expected] = traces_of(*spans)
    for seed in range(3):
        random.Random(seed).shuffle(spans)
        [trace] = traces_of(*spans)
        assert trace == expected


def test_whole_traces_of_a_source_pass_as_they_are() -> None:
    given = Trace(trace_id="t", steps=[], origin=Origin(source="atif", address="x"))
    assert traces_of(chat("a1", [HI], HELLO), given)[0] is given


def test_conversations_that_waited_longest_end_where_memory_would_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(growing_traces, "_MAX_OPEN", 2)
    spans = [chat(f"{n}", [("user", f"q{n}")], HELLO, at=n) for n in range(5)]
    late = chat("late", [("user", "q0"), HELLO, MORE], DONE, at=9)
    traces = traces_of(*spans, late)
    assert [len(trace.steps) for trace in traces] == [2, 2, 2, 2, 2, 4]


def test_ids_of_prompts_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_traces, "_MAX_PROMPT_IDS", 3)
    ids = {"astuner.prompt_ids": "[1,2]", "astuner.reply_ids": "[3]"}
    unread = Unread()
    spans = [
        chat("a1", [HI], HELLO, attributes=ids),
        chat("a2", [HI, HELLO, MORE], DONE, at=1, attributes=ids),
    ]
    [trace] = read_traces(GivenSource(spans), unread)
    kept = [step.tokens for step in trace.steps if step.tokens]
    assert kept == [
        TracedTokens(prompt_ids=[1, 2], reply_ids=[3]),
        TracedTokens(prompt_ids=None, reply_ids=[3]),
    ]
    assert list(unread.counts) == ["ids of a prompt in a conversation that has too many"]


def test_a_session_of_hundreds_of_turns_is_one_trace_that_holds_each_step_once() -> None:
    open_ones, steps = GrowingTraces(), [Step(role="user", text="q")]
    for turn in range(300):
        reply = Step(role="assistant", text=f"a{turn}", span_id=f"{turn}")
        grown = open_ones.extend(
            *(steps, reply, traced(f"{turn}")), choice=0, user=None, completed=lambda step: step
        )
        steps = [*steps, reply, Step(role="user", text="q")]
    assert [one is grown for one in open_ones.close_all()] == [True]
    assert [step.text for step in grown.steps] == [step.text for step in steps[:-1]]


def tell(recorder: CallRecorder, call: ServedCall, body: dict[str, Any]) -> None:
    """What a client thinks of an answer, as it sends it."""
    answered = AnsweredCalls()
    answered.served(call)
    desk = FeedbackDesk(recorder, answered, lambda headers: call.key)
    transport = httpx.ASGITransport(Starlette(routes=[desk.route()]))

    async def post() -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.post(
                "http://server/v1/feedback", json={"id": call.call_id, **body}
            )
            assert response.status_code == 200, response.text

    asyncio.run(post())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_what_our_own_server_records_is_read_back(tmp_path: Path, path: str) -> None:
    options = RecordingOptions(folder=tmp_path, is_masked=False, max_mb=None, version="1")
    recorder = CallRecorder(options)
    asked = [said("system", "Be short."), said("user", "What is 1 + 1?")]
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "add", "arguments": {"a": 1, "b": 1}},
    }
    reply = said("assistant", "", tool_calls=[call], reasoning_content="I add.")
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    recorder.served(served_call(path=path, messages=asked, reply=reply, tools=tools))
    later = [*asked, reply, said("tool", "2", tool_call_id="c1")]
    answered = served_call(
        path=path,
        call_id="chatcmpl-ffffffffffffffffffffffff",
        started=1_700_000_002.5,
        messages=later,
        tools=tools,
        prompt_ids=[5, 6, 7, 8, 9, 1],
        reply_ids=[3],
        logprobs=[float("-inf")],
    )
    recorder.served(answered)
    tell(recorder, answered, {"score": 0.0, "label": "bad", "comment": "no", "by": "ann"})
    recorder.close(seconds=20)
    unread = Unread()
    [trace] = read_traces(OtlpPaths(*sorted(tmp_path.glob("*.jsonl"))), unread)
    assert not unread.counts
    assert texts(trace) == [
        ("system", "Be short."),
        ("user", "What is 1 + 1?"),
        ("assistant", ""),
        ("tool", "2"),
        ("assistant", "2"),
    ]
    first, last = trace.steps[2], trace.steps[4]
    assert first.reasoning == "I add." and first.tool_calls[0].arguments == '{"a": 1, "b": 1}'
    assert first.tokens == TracedTokens(
        prompt_ids=[5, 6, 7], reply_ids=[8, 9], logprobs=[-0.5, -1.25]
    )
    assert last.tokens == TracedTokens(
        prompt_ids=[5, 6, 7, 8, 9, 1], reply_ids=[3], logprobs=[None]
    )
    assert list(first.tools) == tools and (first.input_tokens, first.output_tokens) == (3, 2)
    assert (trace.session, trace.user, last.model) == ("conversation-1", "somebody", "tiny")
    assert trace.metadata["astuner.weights"] == "step_3 sha256:12"
    [feedback] = trace.feedback
    assert (feedback.score, feedback.label, feedback.comment, feedback.by) == (
        0.0,
        "bad",
        "no",
        "ann",
    )
    assert feedback.span_id == last.span_id and (last.started, last.seconds) == (
        1_700_000_002.5,
        0.75,
    )


def nameless_files() -> Iterator[str]:
    """Of SQLite, open and in no folder any more."""
    for one in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            target = os.readlink(f"/proc/self/fd/{one}")
            if "etilqs" in target and target.endswith("(deleted)"):
                yield target


def test_what_waits_lies_in_files_without_a_name_and_a_full_disk_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "_CACHE_KIB", 64)
    before = set(nameless_files())
    with SpanSpool() as waiting:
        for number in range(200):
            noise = random.Random(number).randbytes(2_000).hex()
            waiting.add(chat(f"{number}", [("user", noise)], HELLO, session=""))
        waiting.settle()
        assert len(set(nameless_files()) - before) == 1
        assert len(list(waiting.spans())) == 200
    with pytest.raises(TraceSourceError, match="SQLITE_TMPDIR"), SpanSpool():
        raise sqlite3.OperationalError("database or disk is full")
