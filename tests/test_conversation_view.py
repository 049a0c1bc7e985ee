"""What is shown of an episode: each message once, in order, whatever shape it has."""

import json
from dataclasses import replace

import pytest

from astuner.logview.view.conversation import read_conversation
from astuner.logview.view.said import read_message
from astuner.logview.view.timeline import BetweenKind, read_timeline
from astuner.logview.view.verdict import read_verdict
from astuner.trajectory.attempt import Failure
from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import BreakKind, Call
from astuner.trajectory.refused import RefusedCall
from astuner.types import Completion, Task, Verdict, WorkflowOutput

ASK = {"role": "user", "content": "What is 2 + 3?"}
ADD = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
    ],
}
SUM = {"role": "tool", "content": "5", "tool_call_id": "c1"}
FIVE = {"role": "assistant", "content": "five"}


def make_call(messages, reply, *, start=0.0, seconds=1.0, finish="stop", given=(1, 2), **more):
    known = {
        "agent_name": "ann",
        "target_tag": "tag",
        "tools": (),
        "temperature": 1.0,
        "extends": None,
        "break_reason": None,
    }
    return Call(
        messages=tuple(messages),
        reply=reply,
        prompt_ids=tuple(given),
        completion=Completion(
            ids=(7, 8, 9), logprobs=(-0.1, -0.2, -0.3), finish_reason=finish, weight_version=4
        ),
        started_seconds=start,
        seconds=seconds,
        **known | more,
    )


def make_episode(*calls, **more):
    known = {
        "episode_id": "step1-t-0",
        "task": Task(main_query="What is 2 + 3?", task_id="t", metadata={"answer": "5"}),
        "step": 1,
        "attempt": 0,
        "is_validation": False,
        "agents": {call.agent: True for call in calls},
        "output": WorkflowOutput(reward=1.0, metadata={"final_answer": "five"}),
        "failure": None,
        "overflowed": frozenset(),
        "madness": None,
        "seconds": 10.0,
        "verdict": Verdict(reward=1.0, is_success=True, source="judge"),
    }
    return Episode(calls=calls, sequences=tuple(merge_calls(calls)), **known | more)


def in_two_calls():
    return (
        make_call([ASK], ADD),
        make_call(
            [ASK, ADD, SUM], FIVE, start=3.0, given=(1, 2, 7, 8, 9, 5), extends=0, finish="length"
        ),
    )


def test_each_call_shows_what_it_added_and_its_reply():
    first, second = read_conversation(make_episode(*in_two_calls())).calls
    assert [message.text for message in first.added] == ["What is 2 + 3?"]
    assert first.num_repeated == 0 and first.repeats is None
    assert [message.role for message in second.added] == ["tool"]
    assert (second.num_repeated, second.repeats, second.added[0].index) == (2, 0, 2)
    assert second.reply.text == "five" and second.reply.is_reply


def test_what_another_agent_said_is_shown_again():
    other = make_call([ASK], FIVE, agent_name="bob")
    conversation = read_conversation(make_episode(make_call([ASK], FIVE), other))
    assert conversation.calls[1].num_repeated == 0
    assert conversation.has_several_agents
    assert [speaker.name for speaker in conversation.speakers] == ["ann", "bob"]


def test_of_an_edited_history_only_what_stands_behind_the_edit_is_shown():
    edited = {"role": "assistant", "content": "I add."}
    calls = (
        make_call([ASK], ADD),
        make_call(
            [ASK, edited, SUM],
            FIVE,
            break_reason="message 1 (assistant): content differs",
            break_kind=BreakKind.EDITED,
            break_message=1,
        ),
    )
    shown = read_conversation(make_episode(*calls)).calls[1]
    assert (shown.num_repeated, shown.repeats) == (1, 0)
    assert [message.text for message in shown.added] == ["I add.", "5"]
    assert shown.starts_sequence and shown.break_reason and shown.break_kind == "edited"


def test_messages_that_differ_in_ids_of_tool_calls_only_are_the_same():
    again = json.loads(json.dumps(ADD))
    again["tool_calls"][0]["id"] = "other"
    calls = make_call([ASK], ADD), make_call([ASK, again], FIVE)
    assert read_conversation(make_episode(*calls)).calls[1].num_repeated == 2


def test_a_tools_message_names_the_call_that_it_answers_and_is_found_by_its_id():
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": {}}}
        for name in ("one", "two")
    ]
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    results = [{"role": "tool", "content": n, "tool_call_id": n} for n in ("two", "one")]
    shown = read_conversation(make_episode(make_call([ASK, asked, *results], FIVE))).calls[0]
    assert [message.answers.name for message in shown.added[2:]] == ["two", "one"]


def test_an_answered_call_is_known_where_an_earlier_call_of_the_model_made_it():
    second = read_conversation(make_episode(*in_two_calls())).calls[1]
    assert second.added[0].answers.fields == (("a", "2"), ("b", "3"))


def test_a_tools_message_without_an_id_answers_the_first_open_call():
    asked = read_message(ADD, index=0).tool_calls
    assert (
        read_message({"role": "tool", "content": "5"}, index=1, earlier=asked).answers is asked[0]
    )
    assert read_message({"role": "user", "content": "5"}, index=1, earlier=asked).answers is None


def test_arguments_stand_as_text_as_value_and_by_name():
    call = {"function": {"name": "run", "arguments": '{"code": "a\\nb", "n": [1]}'}}
    (shown,) = read_message({"role": "assistant", "tool_calls": [call]}, index=0).tool_calls
    assert shown.parsed == {"code": "a\nb", "n": [1]}
    assert shown.arguments == '{"code": "a\\nb", "n": [1]}'
    assert shown.fields[0] == ("code", "a\nb")
    call["function"]["arguments"] = "{not json"
    (shown,) = read_message({"role": "assistant", "tool_calls": [call]}, index=0).tool_calls
    assert (shown.arguments, shown.parsed, shown.fields) == ("{not json", None, ())


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"},
        {"role": "assistant", "content": "<think>2 and 2</think>\n\n4"},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "2 and 2"}, {"type": "text", "text": "4"}],
        },
    ],
)
def test_reasoning_stands_apart(message):
    shown = read_message(message, index=0)
    assert (shown.reasoning, shown.text, shown.is_reasoning_open) == ("2 and 2", "4", False)


def test_a_thought_that_was_cut_is_all_of_the_reply():
    shown = read_message({"role": "assistant", "content": "<think>2 and"}, index=0)
    assert (shown.reasoning, shown.text, shown.is_reasoning_open) == ("2 and", "", True)


def test_a_user_who_writes_think_tags_does_not_think():
    shown = read_message({"role": "user", "content": "<think>a</think>b"}, index=0)
    assert (shown.text, shown.reasoning) == ("<think>a</think>b", "")


def test_what_is_no_text_is_named():
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "AAA"}},
        {"type": "hologram", "depth": 3},
    ]
    shown = read_message({"role": "user", "content": parts}, index=0)
    assert shown.text == "look"
    assert shown.attachments == (
        "image_url: image/png, 4 characters",
        "image_url: https://example.com/a.png",
        "image image/gif: 3 characters",
        'hologram: {"type": "hologram", "depth": 3}',
    )


def test_parts_of_a_message_that_are_not_known_are_named():
    message = {"role": "assistant", "content": "a", "audio": None, "function_call": {"name": "f"}}
    assert read_message(message, index=0).attachments == ('function_call: {\n  "name": "f"\n}',)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (None, ""),
        ("said", "said"),
        (5, "5"),
        ([], ""),
        ({}, ""),
        ({"role": 7, "content": None}, ""),
        ({"role": "user", "content": 4.5}, "4.5"),
        ({"role": "user", "content": ["a", 1, None, {"text": "b"}]}, "a\n1\nnull\nb"),
        ({"role": "user", "content": {"type": "text"}}, ""),
        ({"role": "user", "content": "\ud800 \x1b[2J"}, "\ud800 \x1b[2J"),
        ({"role": "assistant", "content": None, "tool_calls": "x"}, ""),
        ({"role": "assistant", "content": None, "tool_calls": [None, {"function": 3}, {}]}, ""),
        ({"role": "assistant", "content": "a", "reasoning_content": 3}, "a"),
        ({"role": "tool", "content": "a", "tool_call_id": 3, "name": ["n"]}, "a"),
    ],
)
def test_a_message_of_any_shape_is_shown(message, text):
    shown = read_message(message, index=0)
    assert shown.text == text and shown.raw
    calls = (
        make_call([message], message),
        make_call([message], message, extends=0, given=(1, 2, 7, 8, 9)),
        make_call([message, message], message),
    )
    shown_in_calls = read_conversation(make_episode(*calls)).calls
    assert [len(call.added) for call in shown_in_calls] == [1, 0, 0]
    assert read_timeline(make_episode(*calls)).lanes


def test_a_plain_text_that_goes_on_shows_what_is_new():
    calls = (
        make_call(
            [{"role": "prompt", "content": "One, "}], {"role": "assistant", "content": "two"}
        ),
        make_call(
            [{"role": "prompt", "content": "One, two, "}],
            {"role": "assistant", "content": "three"},
            extends=0,
            is_joined_by_text=True,
            given=(1, 2, 7, 8, 9, 3),
        ),
    )
    message = read_conversation(make_episode(*calls)).calls[1].added[0]
    assert (message.text, message.new_text) == ("One, two, ", ", ")


def test_tokens_and_how_the_reply_ended_are_told():
    first, second = read_conversation(make_episode(*in_two_calls())).calls
    assert (first.num_prompt_tokens, first.num_given_tokens, first.num_sampled_tokens) == (2, 2, 3)
    assert (second.num_prompt_tokens, second.num_given_tokens) == (6, 1)
    assert not first.is_cut and second.is_cut and "limit" in second.finished
    assert (first.weight_version, first.temperature, first.sequences) == (4, 1.0, (0,))


def test_tokens_that_a_server_kept_to_itself_are_not_known():
    (call,) = read_conversation(make_episode(make_call([ASK], FIVE, given=()))).calls
    assert call.num_prompt_tokens is call.num_given_tokens is call.num_sampled_tokens is None


def test_it_is_told_why_a_reply_is_not_trained():
    calls = (
        make_call([ASK], FIVE),
        make_call([ASK], FIVE, is_trained=False, is_taken=False),
        make_call([ASK], FIVE, is_trained=False, agent_name="bob"),
    )
    agents = {("ann", "tag"): True, ("bob", "tag"): False}
    shown = read_conversation(make_episode(*calls, agents=agents)).calls
    assert shown[0].untrained_because is None
    assert "nobody took" in shown[1].untrained_because
    assert shown[2].untrained_because == "this agent is not trained"


def test_refused_calls_are_counted_beyond_the_kinds_that_are_kept():
    refused = RefusedCall.of(path="/v1/chat/completions", status=400, field="n", message="is 3")
    episode = make_episode(make_call([ASK], FIVE), refused_calls={refused: 2}, num_refused_calls=5)
    conversation = read_conversation(episode)
    assert conversation.refused[0].line == "/v1/chat/completions 400 n: is 3"
    assert conversation.refused[0].times == 2 and conversation.num_refused_unshown == 3


def test_a_thousand_calls_that_each_add_one_message_show_it_once():
    calls, messages = [], [ASK]
    for number in range(1000):
        reply = {"role": "assistant", "content": str(number)}
        calls.append(make_call(messages, reply))
        messages = [*messages, reply, {"role": "user", "content": f"and after {number}?"}]
    shown = read_conversation(make_episode(*calls)).calls
    assert all(len(call.added) == 1 for call in shown)
    assert shown[-1].repeats == 998 and shown[-1].num_repeated == 1998


# --- the time line


def test_what_lies_between_calls_is_told_by_what_the_reply_before_called():
    calls = (
        make_call([ASK], ADD, start=0.5, seconds=1.0),
        make_call([ASK, ADD, SUM], FIVE, start=3.5, seconds=2.0),
        make_call([ASK], FIVE, start=6.0, seconds=1.0),
    )
    timeline = read_timeline(make_episode(*calls, seconds=10.0, judging_seconds=2.0))
    (lane,) = timeline.lanes
    kinds = [call.before.kind for call in lane.calls]
    assert kinds == [BetweenKind.BEGIN, BetweenKind.TOOLS, BetweenKind.OWN]
    assert [call.before.seconds for call in lane.calls] == [0.5, 2.0, 0.5]
    assert lane.calls[1].before.tools == ("add",)
    assert (timeline.total_seconds, timeline.judging_seconds) == (10.0, 2.0)
    assert (timeline.end.kind, timeline.end.seconds) == (BetweenKind.END, 1.0)
    assert (timeline.tool_seconds, timeline.own_seconds, timeline.engine_seconds) == (2.0, 0.5, 4.0)


def test_calls_at_once_overlap_and_their_common_time_counts_once():
    calls = (
        make_call([ASK], FIVE, start=1.0, seconds=4.0),
        make_call([ASK], FIVE, start=2.0, seconds=1.0),
        make_call([ASK], FIVE, start=4.0, seconds=3.0, agent_name="bob"),
        make_call([ASK], FIVE, start=6.0, seconds=1.0),
    )
    timeline = read_timeline(make_episode(*calls))
    ann, bob = timeline.lanes
    assert [call.before and call.before.seconds for call in ann.calls] == [1.0, None, 1.0]
    assert bob.calls[0].before.kind is BetweenKind.BEGIN and bob.calls[0].before.seconds == 4.0
    assert timeline.engine_seconds == 6.0 and timeline.begin_seconds == 1.0


def test_a_record_that_tells_nothing_of_judging_is_not_said_to_take_no_time():
    judged = make_episode(make_call([ASK], FIVE))
    assert read_timeline(judged).judging_seconds is None
    own = replace(judged, verdict=replace(judged.verdict, source="workflow"))
    assert read_timeline(own).judging_seconds == 0.0


def test_an_episode_without_calls_has_a_time_line_and_a_conversation():
    episode = make_episode(
        output=None, verdict=None, failure=Failure(kind="WorkflowError", message="x", traceback="")
    )
    timeline = read_timeline(episode)
    assert timeline.lanes == () and timeline.end is None and timeline.begin_seconds is None
    assert read_conversation(episode).calls == ()


# --- the verdict


def test_the_verdict_stands_beside_answer_and_reference():
    shown = read_verdict(make_episode(make_call([ASK], FIVE)))
    assert (shown.reward, shown.outcome, shown.source) == (1.0, "solved", "judge")
    assert (shown.answer.text, shown.reference.text, shown.note) == ("five", "5", None)


def test_a_failure_is_shown_with_its_traceback_and_no_reward():
    failure = Failure(kind="WorkflowError", message="no\nmore", traceback="Traceback …\n")
    episode = make_episode(make_call([ASK], FIVE), output=None, verdict=None, failure=failure)
    shown = read_verdict(episode)
    assert shown.outcome == "failed" and shown.reward is None
    assert (shown.failure.first_line, shown.failure.traceback) == ("no", "Traceback …")


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (
            {"evaluation": 0.5, "num_steps": 7, "terminated": True},
            "0.5 after 7 steps, ended by itself",
        ),
        (
            {"evaluation": 0.0, "num_steps": 1, "truncated": True},
            "0 after 1 step, ended by a limit",
        ),
        ({"num_steps": 0, "terminated": False, "truncated": False}, "0 steps, not ended"),
        ("of a workflow", None),
        ({"of": "a workflow"}, None),
    ],
)
def test_what_an_environment_found_is_said_in_a_line(left, said):
    output = WorkflowOutput(reward=1.0, metadata={"environment": left})
    assert read_verdict(make_episode(output=output)).environment == said


def test_metadata_of_any_kind_is_shown():
    loop = {}
    loop["self"] = loop
    output = WorkflowOutput(reward=1.0, metadata={"n": float("nan"), "loop": loop, "text": "a\nb"})
    facts = {f.name: f.text for f in read_verdict(make_episode(output=output)).metadata}
    assert facts["n"] == "nan" and "holds itself" in facts["loop"] and facts["text"] == "a\nb"
