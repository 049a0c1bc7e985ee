"""An episode survives its JSON line."""

import asyncio
import json
from dataclasses import replace

import pytest

from astuner.errors import AstunerError
from astuner.inference.answer_format import AnswerFormat
from astuner.inference.placement import JoiningPolicy
from astuner.inference.request import ChatRequest
from astuner.run_dir import json_line
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import RECORD_FORMAT, episode_from_record, episode_to_record
from astuner.types import WorkflowOutput
from tests.chats import ADD_TOOL, WIDE, make_chat
from tests.fakes import ByteTokenizer
from tests.test_placement import TRIMMING
from tests.test_rollout import Judge, _raises, run, workflow_that


def round_trip(episode):
    return episode_from_record(json.loads(json.dumps(episode_to_record(episode), allow_nan=False)))


def test_an_episode_reads_back_with_the_same_tokens_masks_and_logprobs():
    episode = run()
    again = round_trip(episode)
    assert again.sequences == episode.sequences
    assert again.verdict == episode.verdict
    assert again.calls[0].prompt_ids == episode.calls[0].prompt_ids


def test_a_failed_episode_keeps_its_reason():
    episode = run(workflow_that(_raises))
    assert round_trip(episode).failure == episode.failure


def test_what_json_cannot_hold_becomes_text():
    async def body(task, tuner):
        from astuner.types import WorkflowOutput

        return WorkflowOutput(reward=1.0, metadata={"odd": {1, 2}, "nan": float("nan")})

    record = episode_to_record(run(workflow_that(body)))
    assert record["metadata"] == {"odd": "{1, 2}", "nan": "nan"}


def of_format_1(episode):
    """As versions without a number wrote it."""
    record = json.loads(json.dumps(episode_to_record(episode)))
    for key in ("format", "output", "agents"):
        del record[key]
    return record


def rewarded(reward):
    async def body(task, tuner):
        tuner.as_agentscope_model("ann", "seer")
        return WorkflowOutput(reward=reward, is_success=False, metadata={"answer": 5})

    return run(workflow_that(body))


def test_a_record_without_a_number_is_read_as_before():
    episode = run()
    again = episode_from_record(of_format_1(episode))
    assert again.sequences == episode.sequences and again.verdict == episode.verdict
    assert again.output == episode.output
    assert again.agents == episode.agents


@pytest.mark.parametrize("reward", [0.25, {"seer": 0.5}])
def test_a_record_without_a_number_tells_what_the_workflow_returned(reward):
    again = episode_from_record(of_format_1(rewarded(reward)))
    assert again.output.model_dump() == {
        "reward": reward,
        "is_success": False,
        "metadata": {"answer": 5},
    }


def test_of_a_failed_episode_a_record_without_a_number_tells_whether_its_judge_failed():
    by_judge = run(judge=Judge(lambda: 1 / 0))
    assert episode_from_record(of_format_1(by_judge)).output == by_judge.output
    assert episode_from_record(of_format_1(run(workflow_that(_raises)))).output is None


def test_a_record_of_a_newer_format_is_refused_by_name():
    record = episode_to_record(run()) | {"format": RECORD_FORMAT + 1}
    with pytest.raises(AstunerError, match=f"'e' is recorded in format {RECORD_FORMAT + 1}"):
        episode_from_record(record)


@pytest.mark.parametrize("reward", [0.25, {"seer": 0.5}, None])
def test_what_the_workflow_returned_reads_back_whole(reward):
    episode = rewarded(reward)
    again = round_trip(episode)
    assert (again.output, again.agents) == (episode.output, episode.agents)


def test_a_reward_that_is_no_finite_number_stays_none():
    for odd in (float("nan"), float("-inf")):
        again = round_trip(rewarded(odd))
        assert repr(again.output.reward) == repr(odd) and again.verdict is None


TOO_LONG = (
    "ValueError: Exceeds the limit (4300 digits) for integer string conversion; use "
    "sys.set_int_max_str_digits() to increase the limit"
)


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no words")


class Leaving:
    def __str__(self):
        exit()


class Interrupting(dict):
    def items(self):
        raise KeyboardInterrupt


class Unlistable(dict):
    def items(self):
        raise KeyError("gone")


def holds_itself():
    value = {"answer": 5}
    value["again"] = [value]
    return value


def nested(depth):
    value = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (holds_itself(), {"answer": 5, "again": ["<not recorded: a dict that holds itself>"]}),
        (Unspeakable(), "<not recorded: Unspeakable: RuntimeError: no words>"),
        ({Unspeakable(): 1}, {"<not recorded: Unspeakable: RuntimeError: no words>": 1}),
        ([Leaving()], ["<not recorded: Leaving: SystemExit: None>"]),
        ({Leaving(): 1}, {"<not recorded: Leaving: SystemExit: None>": 1}),
        (Interrupting(a=1), "<not recorded: Interrupting: KeyboardInterrupt>"),
        (Unlistable(a=Unspeakable()), "<not recorded: Unlistable: KeyError: 'gone'>"),
        ([1, 10**5000], [1, f"<not recorded: int: {TOO_LONG}>"]),
        ({10**5000: 1}, {f"<not recorded: int: {TOO_LONG}>": 1}),
        (10**300, 10**300),
        ("lone \udcff", "lone \udcff"),
        ([shared := [1], shared], [[1], [1]]),
    ],
)
def test_what_cannot_be_encoded_costs_its_place_in_the_record_and_no_more(value, kept):
    async def body(task, tuner):
        return WorkflowOutput(reward=1.0, metadata={"odd": value, "answer": 5})

    line = json_line(episode_to_record(run(workflow_that(body))), where="test")
    again = episode_from_record(json.loads(line))
    assert again.verdict.reward == 1.0
    assert again.metadata == {"odd": kept, "answer": 5}


def test_metadata_that_is_nested_deeper_than_json_can_hold_is_cut():
    async def body(task, tuner):
        return WorkflowOutput(reward=1.0, metadata={"deep": nested(5000), "some": nested(90)})

    line = json_line(episode_to_record(run(workflow_that(body))), where="test")
    again = episode_from_record(json.loads(line))
    assert b"<not recorded: a list inside of 100 others>" in line
    assert again.metadata["some"] == nested(90)


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


def called_with(call_id):
    function = {"name": "add", "arguments": {"a": 2, "b": 3}}
    return said("", tool_calls=[{"id": call_id, "type": "function", "function": function}])


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
TWO_TURNS = [user("5?"), said("yes"), user("sure?")]
CONVERSATIONS = {
    "one that goes on": [{"messages": TWO_TURNS[:1]}, {"messages": TWO_TURNS}],
    "a text that goes on twice": [
        {"prompt": "On"},
        {"prompt": "Onyesce"},
        {"prompt": "Onyesceyesupon"},
    ],
    "several answers to a text that goes on": [
        {"prompt": "On"},
        {"prompt": "Onyesce"},
        {"prompt": "Onyesce"},
        {"prompt": "Onyesceyes"},
    ],
    "texts between messages": [
        {"prompt": "On"},
        {"messages": TWO_TURNS[:1]},
        {"prompt": "Onyesce"},
        {"messages": TWO_TURNS},
    ],
    "a text that another one begins anew": [{"prompt": "On"}, {"prompt": "Other"}],
    "joined though the tools changed": [
        {"messages": TWO_TURNS[:1], "tools": [ADD_TOOL]},
        {"messages": TWO_TURNS},
    ],
    "an answer that was asked for again": [
        {"messages": TWO_TURNS[:1], "answer_format": AnswerFormat(schema={"type": "string"})}
    ],
}


def read_back(chat):
    calls = tuple(chat.recorder.calls)
    episode = replace(run(), calls=calls, sequences=tuple(merge_calls(calls)))
    return calls, round_trip(episode)


def check_calls(chat):
    calls, again = read_back(chat)
    for call, other in zip(calls, again.calls, strict=True):
        assert (other.messages, other.tools) == (call.messages, call.tools)
        assert (other.prompt_ids, other.reply) == (call.prompt_ids, call.reply)
    return calls


def converse(requests, *, answer="yes", max_new_tokens=3, **options):
    """Answers are cut before their end token, so that a text can go on."""
    limits = replace(WIDE, max_response_length_in_one_turn=max_new_tokens)
    chat = make_chat(lambda _prompt: answer, limits=limits, **options)
    for request in requests:
        asyncio.run(chat.complete(ChatRequest(**{"messages": (), **request})))
    return check_calls(chat)


@pytest.mark.parametrize("requests", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_each_call_reads_back_with_its_own_messages(requests):
    converse(requests)


def test_calls_that_were_joined_by_text_read_back_with_their_own_messages():
    requests = [
        {"messages": TWO_TURNS[:1]},
        {"messages": [user("5?"), said("  yes "), user("sure?")]},
    ]
    (_, second) = converse(
        requests,
        max_new_tokens=4,
        tokenizer=ByteTokenizer(TRIMMING),
        joining=JoiningPolicy(joins_by_text=True),
    )
    assert second.is_joined_by_text


def test_a_reply_that_came_back_with_other_ids_reads_back_as_it_was_sent():
    """Two calls agree in what the model sees of them, and are not equal for that."""
    result = {"role": "tool", "tool_call_id": "mine", "content": "5"}
    requests = [
        {"messages": TWO_TURNS[:1], "tools": [ADD_TOOL]},
        {"messages": [user("5?"), called_with("mine"), result], "tools": [ADD_TOOL]},
    ]
    (_, second) = converse(requests, answer=CALL, max_new_tokens=200)
    assert second.extends == 0
    assert second.messages[1]["tool_calls"][0]["id"] == "mine"
