"""One model call after another: placement, limits, tools, madness."""

import asyncio

import pytest

from astuner.errors import EngineError, EpisodeError
from astuner.inference.limits import TokenLimits
from astuner.inference.request import ChatRequest
from astuner.trajectory.merge import merge_calls
from tests.chats import ADD_TOOL, WIDE, make_chat
from tests.fakes import FORGETFUL, ByteTokenizer, ScriptedEngine

QUESTION = {"role": "user", "content": "What is 2 + 3?"}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def complete(chat, messages, **options):
    return asyncio.run(chat.complete(ChatRequest(messages=messages, **options)))


def assistant(reply):
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in reply.tool_calls
    ]
    return {"role": "assistant", "content": reply.text, "tool_calls": calls}


def test_a_conversation_with_a_tool_call_becomes_one_sequence():
    engine = ScriptedEngine([CALL, "It is 5."])
    chat = make_chat(engine)
    first = complete(chat, [QUESTION], tools=[ADD_TOOL])
    assert first.tool_calls[0].name == "add" and first.tool_calls[0].arguments == {"a": 2, "b": 3}
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "5"}
    second = complete(chat, [QUESTION, assistant(first), result], tools=[ADD_TOOL])
    assert second.text == "It is 5."
    (sequence,) = merge_calls(chat.recorder.calls)
    assert sequence.ids == engine.seen[1][0] + engine.seen[1][1].ids
    assert sequence.num_trained == len(CALL) + len("It is 5.") + 2


def test_the_extended_prompt_reads_as_the_template_would_write_it():
    tokenizer = ByteTokenizer()
    engine = ScriptedEngine(["five", "sure"])
    chat = make_chat(engine)
    complete(chat, [QUESTION])
    conversation = [
        QUESTION,
        {"role": "assistant", "content": "five"},
        {"role": "user", "content": "?"},
    ]
    complete(chat, conversation)
    wanted = tokenizer.apply_chat_template(conversation, add_generation_prompt=True)
    assert tokenizer.decode(engine.seen[1][0]) == wanted


def test_a_reply_cut_by_its_limit_gets_its_end_of_turn_as_given_token():
    tokenizer = ByteTokenizer()
    limits = TokenLimits(**{**_fields(WIDE), "max_response_length_in_one_turn": 3})
    engine = ScriptedEngine(["a long answer", "b"])
    chat = make_chat(engine, limits=limits)
    reply = complete(chat, [QUESTION])
    assert (reply.text, reply.finish_reason) == ("a l", "length")
    complete(chat, [QUESTION, {"role": "assistant", "content": "a l"}, QUESTION])
    (sequence,) = merge_calls(chat.recorder.calls)
    assert "a l<|im_end|>\n<|im_start|>user" in tokenizer.decode(sequence.ids)
    assert sequence.spans[2].ids[0] == tokenizer.eos_token_id


def _fields(limits):
    return {name: getattr(limits, name) for name in limits.__slots__}


def test_a_template_that_rewrites_history_starts_a_new_sequence_and_says_where():
    chat = make_chat(ScriptedEngine(["five", "sure"]), tokenizer=ByteTokenizer(FORGETFUL))
    complete(chat, [QUESTION])
    complete(chat, [QUESTION, {"role": "assistant", "content": "five"}, QUESTION])
    assert len(merge_calls(chat.recorder.calls)) == 2
    assert "rewrote its text" in chat.recorder.calls[1].break_reason


def test_an_edited_reply_starts_a_new_sequence_and_names_the_message():
    chat = make_chat(["five", "sure"])
    complete(chat, [QUESTION])
    complete(chat, [QUESTION, {"role": "assistant", "content": "FIVE"}, QUESTION])
    assert chat.recorder.calls[1].extends is None
    assert (
        chat.recorder.calls[1].break_reason
        == "message 1 (assistant): content differs from character 0"
    )


def test_changed_tools_start_a_new_sequence():
    chat = make_chat(["five", "sure"])
    complete(chat, [QUESTION], tools=[ADD_TOOL])
    complete(chat, [QUESTION, {"role": "assistant", "content": "five"}, QUESTION])
    assert chat.recorder.calls[1].break_reason == "the offered tools changed"


def test_text_blocks_and_plain_text_are_the_same_message():
    chat = make_chat(["five", "sure"])
    complete(chat, [QUESTION])
    blocks = [{"role": "user", "content": [{"text": QUESTION["content"]}]}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "five"}]}
    complete(chat, [*blocks, answer, QUESTION])
    assert chat.recorder.calls[1].extends == 0


def test_a_required_tool_call_is_begun_for_the_model_and_the_beginning_is_not_trained():
    engine = ScriptedEngine(['2, "b": 3}}\n</tool_call>'], tokenizer=ByteTokenizer())
    engine._answers = ['{"a": 2, "b": 3}}\n</tool_call>']
    chat = make_chat(engine)
    reply = complete(chat, [QUESTION], tools=[ADD_TOOL], tool_choice="required")
    assert reply.tool_calls[0].arguments == {"a": 2, "b": 3}
    (sequence,) = merge_calls(chat.recorder.calls)
    assert ByteTokenizer().decode(sequence.spans[0].ids).endswith('"arguments":')
    assert sequence.num_trained == len('{"a": 2, "b": 3}}\n</tool_call>') + 1


def test_tool_choice_none_leaves_a_tool_call_as_text():
    reply = complete(make_chat([CALL]), [QUESTION], tools=[ADD_TOOL], tool_choice="none")
    assert reply.tool_calls == () and reply.text == CALL


def test_an_unknown_named_tool_is_refused():
    with pytest.raises(EngineError, match="'subtract'"):
        complete(make_chat([""]), [QUESTION], tools=[ADD_TOOL], tool_choice="subtract")


def test_a_full_context_gives_an_empty_reply_and_raises_the_overflow_flag():
    limits = TokenLimits(**{**_fields(WIDE), "max_model_len": 60, "max_prompt_length": 60})
    engine = ScriptedEngine(["x" * 200])
    chat = make_chat(engine, limits=limits)
    cut = complete(chat, [QUESTION])
    assert cut.finish_reason == "context_overflow" and chat.recorder.context_overflow
    assert len(engine.seen[0][0]) + len(engine.seen[0][1].ids) == 60
    empty = complete(chat, [QUESTION, {"role": "assistant", "content": cut.text}, QUESTION])
    assert (empty.text, empty.num_sampled_tokens) == ("", 0) and len(engine.seen) == 1


def test_a_first_prompt_beyond_its_limit_names_the_setting():
    limits = TokenLimits(**{**_fields(WIDE), "max_prompt_length": 10})
    with pytest.raises(EngineError, match=r"data\.max_prompt_length allows 10"):
        complete(make_chat([""], limits=limits), [QUESTION])


def test_an_agent_may_shorten_a_first_prompt_that_was_refused():
    limits = TokenLimits(**{**_fields(WIDE), "max_prompt_length": 60})
    chat = make_chat(["fine"], limits=limits)
    with pytest.raises(EngineError, match=r"data\.max_prompt_length allows 60"):
        complete(chat, [{"role": "user", "content": "x" * 100}])
    assert complete(chat, [{"role": "user", "content": "x"}]).text == "fine"


def test_the_whole_episode_stays_within_its_response_length():
    limits = TokenLimits(**{**_fields(WIDE), "max_response_length": 40})
    engine = ScriptedEngine(["ab", "x" * 200])
    chat = make_chat(engine, limits=limits)
    complete(chat, [QUESTION])
    complete(
        chat, [QUESTION, {"role": "assistant", "content": "ab"}, {"role": "user", "content": "?"}]
    )
    (sequence,) = merge_calls(chat.recorder.calls)
    assert len(sequence.ids) - len(engine.seen[0][0]) == 40
    assert chat.recorder.context_overflow


def _narrow(**limits):
    return TokenLimits(**{**_fields(WIDE), **limits})


ANSWERED = {"role": "assistant", "content": "ab"}


def test_each_conversation_of_an_agent_has_the_whole_response_length():
    chat = make_chat(["x" * 30] * 3, limits=_narrow(max_response_length=40))
    for question in ("one", "another that is longer", "a third one in still more words"):
        reply = complete(chat, [{"role": "user", "content": question}])
        assert (reply.text, reply.finish_reason) == ("x" * 30, "stop")
    assert not chat.recorder.overflowed and chat.recorder.num_refused == 0


def test_a_turn_counts_behind_the_first_prompt_of_the_conversation_that_it_continues():
    engine = ScriptedEngine(["ab", "cd", "x" * 200, "x" * 200])
    chat = make_chat(engine, limits=_narrow(max_response_length=60))
    other = {"role": "user", "content": "a longer question, of another conversation"}
    complete(chat, [QUESTION])
    complete(chat, [other])
    complete(chat, [other, {"role": "assistant", "content": "cd"}, QUESTION])
    complete(chat, [QUESTION, ANSWERED, {"role": "user", "content": "?"}])
    first, second, of_second, of_first = chat.recorder.calls
    assert (of_second.extends, of_first.extends) == (1, 0)
    assert of_second.num_ids - len(second.prompt_ids) == 60
    assert of_first.num_ids - len(first.prompt_ids) == 60


@pytest.mark.parametrize(
    "later",
    [
        pytest.param([{"role": "user", "content": "x" * 90}], id="an unrelated question"),
        pytest.param([QUESTION, {"role": "assistant", "content": "AB"}, QUESTION], id="edited"),
        pytest.param([QUESTION], id="asked again"),
        pytest.param([{"role": "user", "content": "5 + 2? ab! And now?" * 4}], id="folded"),
    ],
)
def test_a_prompt_that_starts_anew_is_not_charged_for_what_went_before(later):
    limits = _narrow(max_prompt_length=80, max_response_length=70)
    chat = make_chat(["ab", "y" * 20], limits=limits)
    complete(chat, [QUESTION])
    reply = complete(chat, later)
    assert (reply.text, reply.finish_reason) == ("y" * 20, "stop")
    assert chat.recorder.calls[1].extends is None and not chat.recorder.overflowed


def test_a_sequence_is_at_most_a_prompt_and_a_response_long():
    engine = ScriptedEngine(["ab", "y" * 200])
    chat = make_chat(engine, limits=_narrow(max_prompt_length=80, max_response_length=70))
    complete(chat, [QUESTION])
    cut = complete(chat, [{"role": "user", "content": "x" * 90}])
    assert cut.finish_reason == "context_overflow" and chat.recorder.calls[1].num_ids == 150
    assert complete(chat, [{"role": "user", "content": "x" * 150}]).is_empty


def test_plain_texts_are_counted_by_their_own_beginnings():
    engine = ScriptedEngine(["x" * 200, "y" * 30, "z" * 200])
    chat = make_chat(
        engine, limits=_narrow(max_response_length=60, max_response_length_in_one_turn=40)
    )
    cut = complete(chat, [], prompt="Once")
    assert (cut.num_sampled_tokens, cut.finish_reason) == (40, "length")
    complete(chat, [], prompt="Twice, which is another text")
    rest = complete(chat, [], prompt="Once" + cut.text + "!")
    assert (rest.num_sampled_tokens, rest.finish_reason) == (19, "context_overflow")


def test_madness_is_noted_and_refuses_the_next_call():
    chat = make_chat(
        ["fine", "mad", "never"],
        find_madness=lambda r: "nonsense: mad" if r.parsed.text == "mad" else None,
    )
    complete(chat, [QUESTION])
    complete(chat, [QUESTION])
    assert chat.recorder.madness == "nonsense: mad"
    with pytest.raises(EpisodeError, match="madness"):
        complete(chat, [QUESTION])


def test_a_message_with_an_image_is_refused_by_its_index():
    messages = [QUESTION, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
    with pytest.raises(EngineError, match="message 1: content block 'image_url'"):
        complete(make_chat([""]), messages)
