"""Models that write in channels, as gpt-oss does: thoughts, calls and answers as messages."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astuner.errors import ConfigError, RequestError
from astuner.inference.channels import is_unsettled, split_channels
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.inference.tools.protocol import ParsedReply
from astuner.rollout.madness import nonsense, wrong_toolcall
from astuner.trajectory.merge import merge_calls
from tests.chats import ADD_TOOL, make_chat
from tests.fakes import CHANNEL_TOKENS, ByteTokenizer, ScriptedEngine

CHANNELLED = (
    "<|start|>system<|message|>Effort: {{ reasoning_effort or 'medium' }}<|end|>"
    "{% set developer = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% if tools or developer %}<|start|>developer<|message|>{{ developer }}"
    "{% for t in tools or [] %}type {{ t.function.name }} = (_: any) => any;{% endfor %}<|end|>"
    "{% endif %}{% set called = namespace(name='') %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if '<|channel|>' in m.content or '<|channel|>' in (m.thinking or '') %}"
    "{{ raise_exception('a tag in a text') }}{% endif %}"
    "{% set ended = namespace(found=false) %}{% for later in messages[loop.index:] %}"
    "{% if later.role == 'assistant' and 'tool_calls' not in later %}"
    "{% set ended.found = true %}{% endif %}{% endfor %}"
    "{% if 'tool_calls' in m %}{% set call = m.tool_calls[0].function %}"
    "{% if m.content and m.thinking %}{{ raise_exception('not both') }}{% endif %}"
    "{% if (m.content or m.thinking) and not ended.found %}"
    "<|start|>assistant<|channel|>analysis<|message|>{{ m.content or m.thinking }}<|end|>"
    "{% endif %}"
    "<|start|>assistant to=functions.{{ call.name }}<|channel|>commentary json<|message|>"
    "{{ call.arguments | tojson }}<|call|>{% set called.name = call.name %}"
    "{% elif loop.last and not add_generation_prompt %}{% if m.thinking %}"
    "<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}"
    "{% elif m.role == 'tool' %}<|start|>functions.{{ called.name }} to=assistant"
    "<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>"
    "{% elif m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""In the manner of gpt-oss: thoughts go once their turn is over."""

QUESTION = {"role": "user", "content": "What is 2 + 3?"}
THOUGHT = "<|channel|>analysis<|message|>2 and 3 is 5.<|end|><|start|>assistant"
ANSWER = f"{THOUGHT}<|channel|>final<|message|>The answer is 5."
AFTER = "a\n<|channel|>analysis<|message|>b"
CALLS = {
    "in the channel": "<|channel|>commentary to=functions.add <|constrain|>json<|message|>",
    "before it": " to=functions.add<|channel|>commentary json<|message|>",
    "while thinking": "<|channel|>analysis to=functions.add code<|message|>",
}
ARGUMENTS = '{"a": 2, "b": 3}'


def tokenizer():
    made = ByteTokenizer(CHANNELLED, more_tokens=CHANNEL_TOKENS)
    made.eos_token_id = made.encode("<|return|>")[0]
    return made


def chat_over(script, **options):
    return make_chat(script, tokenizer=tokenizer(), **options)


def complete(chat, messages, **options):
    on_delta = options.pop("on_delta", None)
    request = ChatRequest(messages=messages, **options)
    return asyncio.run(chat.complete(request, on_delta=on_delta))


def as_message(reply):
    message = {"role": "assistant", "content": reply.text}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        functions = [{"name": c.name, "arguments": c.arguments} for c in reply.tool_calls]
        message["tool_calls"] = [
            {"id": "1", "type": "function", "function": function} for function in functions
        ]
    return message


def test_what_is_thought_is_reasoning_and_what_is_said_in_the_end_is_the_text():
    reply = complete(chat_over([ANSWER]), [QUESTION])
    assert (reply.text, reply.reasoning) == ("The answer is 5.", "2 and 3 is 5.")
    assert reply.finish_reason == "stop"


def test_a_good_reply_passes_the_checks_for_gibberish():
    seen = []
    chat = chat_over([ANSWER], find_madness=seen.append)
    complete(chat, [QUESTION], tools=[ADD_TOOL])
    (reply,) = seen
    assert nonsense(reply.parsed, reply.tools) is None
    assert wrong_toolcall(reply.parsed, reply.tools) is None


def test_a_reply_that_speaks_for_the_user_is_nonsense():
    _, text = split_channels(f"{ANSWER}<|end|><|start|>user<|message|>And 3 + 4?")
    assert nonsense(ParsedReply(text=text, tool_calls=(), malformed=()), ()) is not None


@pytest.mark.parametrize("header", CALLS.values(), ids=CALLS)
def test_a_message_with_a_recipient_is_a_tool_call_and_ends_the_turn(header):
    chat = chat_over([f"{THOUGHT}{header}{ARGUMENTS}<|call|>"])
    reply = complete(chat, [QUESTION], tools=[ADD_TOOL])
    (call,) = reply.tool_calls
    assert (call.name, call.arguments) == ("add", {"a": 2, "b": 3})
    assert (reply.text, reply.reasoning) == ("", "2 and 3 is 5.")
    assert reply.finish_reason == "stop"


def test_commentary_to_nobody_is_text_before_the_call():
    preamble = "<|channel|>commentary<|message|>Let me add.<|end|><|start|>assistant"
    chat = chat_over([f"{preamble}{CALLS['before it']}{ARGUMENTS}<|call|>"])
    reply = complete(chat, [QUESTION], tools=[ADD_TOOL])
    assert reply.text == "Let me add." and [call.name for call in reply.tool_calls] == ["add"]


def test_a_call_that_is_no_json_is_named_as_malformed():
    seen = []
    chat = chat_over([f"{CALLS['before it']}{{'a'}}<|call|>"], find_madness=seen.append)
    reply = complete(chat, [QUESTION], tools=[ADD_TOOL])
    assert reply.tool_calls == () and "not valid JSON" in seen[0].parsed.malformed[0]


def test_a_call_of_what_was_not_offered_is_named():
    seen = []
    python = "<|channel|>analysis to=python code<|message|>{}<|call|>"
    complete(chat_over([python], find_madness=seen.append), [QUESTION], tools=[ADD_TOOL])
    assert "'python', which was not offered" in wrong_toolcall(seen[0].parsed, seen[0].tools)


@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        ("plain words", ("", "plain words")),
        ("<|channel|>analysis<|message|>I was cut", ("I was cut", "")),
        ("<|message|>no channel", ("", "no channel")),
        ("<|channel|>final<|message|> a \n", ("", " a \n")),
        ("<|channel|>final<|message|>a<|return|>", ("", "a")),
        (
            "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b",
            ("a", "b"),
        ),
        ("<|channel|>final<|message|>a<|end|><|channel|>analysis<|message|>b", ("", AFTER)),
        (f"{THOUGHT}<|channel|>fin", ("2 and 3 is 5.", "")),
        (f"{THOUGHT}{THOUGHT}<|channel|>final<|message|>b", ("2 and 3 is 5.\n2 and 3 is 5.", "b")),
    ],
)
def test_a_reply_is_split_by_its_channels(reply, parts):
    assert split_channels(reply) == parts


def test_generation_stops_at_the_end_of_a_turn_and_not_at_the_end_of_a_message():
    made = tokenizer()
    (end,) = made.encode("<|end|>")
    stops = ChatTemplate(made, extra_stop_ids=[end, 258]).stop_ids
    assert stops == {258, *made.encode("<|return|><|call|>")}


def test_a_tokenizer_that_lacks_the_tokens_of_channels_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"in channels.*no token .*<\|call\|>"):
        ChatTemplate(ByteTokenizer(CHANNELLED, more_tokens=["<|return|>", "<|channel|>"]))


def test_the_result_of_a_call_continues_its_sequence_with_the_thought_as_it_was_sampled():
    said = f"{THOUGHT}{CALLS['in the channel']}{ARGUMENTS}<|call|>"
    chat = chat_over([said, ANSWER])
    reply = complete(chat, [QUESTION], tools=[ADD_TOOL])
    result = {"role": "tool", "tool_call_id": "1", "content": "5"}
    complete(chat, [QUESTION, as_message(reply), result], tools=[ADD_TOOL])
    (sequence,) = merge_calls(chat.recorder.calls)
    text = tokenizer().decode(sequence.ids)
    assert f"{said}<|start|>functions.add to=assistant<|channel|>commentary<|message|>" in text
    assert text.endswith(f"<|start|>assistant{ANSWER}<|return|>")


def test_a_thought_beside_a_text_and_a_call_is_given_to_the_template_as_one_thought():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {}}}
    reply = {"role": "assistant", "content": "Let me add.", "reasoning_content": "Hm."}
    text = ChatTemplate(tokenizer()).answered_text(
        [QUESTION], {**reply, "tool_calls": [call]}, [ADD_TOOL]
    )
    assert "<|channel|>analysis<|message|>Hm.\nLet me add.<|end|>" in text


def test_a_finished_turn_is_rewritten_and_starts_a_new_sequence_with_the_reason():
    chat = chat_over([ANSWER, "<|channel|>final<|message|>7"])
    reply = complete(chat, [QUESTION])
    complete(chat, [QUESTION, as_message(reply), QUESTION])
    assert chat.recorder.calls[1].break_reason.startswith("the template rewrote its text")
    assert len(merge_calls(chat.recorder.calls)) == 2
    assert "2 and 3 is 5." not in tokenizer().decode(chat.recorder.calls[1].prompt_ids)


@pytest.mark.parametrize(
    "says",
    [
        f"{ANSWER}<|channel|>analysis<|message|>hm",
        f"<|channel|>analysis<|message|>2<|channel|>final<|message|>3<|end|>{ANSWER}",
        f"<|channel|>final<|message|>{ANSWER}",
    ],
)
def test_a_text_with_marks_of_channels_inside_does_not_end_the_conversation(says):
    chat = chat_over([says, "<|channel|>final<|message|>7"])
    reply = complete(chat, [QUESTION])
    assert complete(chat, [QUESTION, as_message(reply), QUESTION]).text == "7"
    assert "<|channel|>" in f"{reply.text}{reply.reasoning}", "the agent gets it as it is"


def test_a_message_with_several_calls_is_refused_since_a_call_ends_the_turn():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {}}}
    reply = {"role": "assistant", "content": "", "tool_calls": [call, call]}
    with pytest.raises(RequestError, match="message 1 makes 2 tool calls"):
        ChatTemplate(tokenizer()).prompt_text([QUESTION, reply], [ADD_TOOL])


@pytest.mark.parametrize("choice", ["required", "add"])
def test_a_demanded_call_is_begun_for_the_model(choice):
    chat = chat_over([f"{ARGUMENTS}<|call|>"])
    reply = complete(chat, [QUESTION], tools=[ADD_TOOL], tool_choice=choice)
    assert [call.name for call in reply.tool_calls] == ["add"]
    prompt = tokenizer().decode(chat.recorder.calls[0].prompt_ids)
    assert prompt.endswith(
        "<|start|>assistant to=functions.add<|channel|>commentary json<|message|>"
    )


SAID = ["<|start|>assistant", "<|channel|>analysis", "<|channel|>final", "<|channel|>commentary"]
SAID += [" to=functions.add", ARGUMENTS, "user", "hm ", "a", " ", "\n", "<", "<|", "<|en"]
pieces = st.sampled_from([*CHANNEL_TOKENS, *SAID])


@settings(max_examples=200)
@given(said=st.lists(pieces, max_size=12).map("".join))
def test_what_a_growing_reply_says_once_it_is_settled_stays_so(said):
    whole = split_channels(said)
    for size in range(len(said)):
        if not is_unsettled(said[:size]):
            told = split_channels(said[:size])
            assert whole[0].startswith(told[0]) and whole[1].startswith(told[1])
            assert not told[1] or told[0] == whole[0], "thoughts first"


@pytest.mark.parametrize("tools", [(), (ADD_TOOL,)])
@pytest.mark.parametrize(
    "said", [ANSWER, f"{THOUGHT}{CALLS['before it']}{ARGUMENTS}<|call|>", "hi"]
)
def test_a_stream_tells_thoughts_as_reasoning_and_the_rest_as_it_comes(said, tools):
    deltas = []
    chat = chat_over(ScriptedEngine([said], tokenizer=tokenizer(), piece_seconds=0.0))
    reply = complete(chat, [QUESTION], tools=list(tools), on_delta=deltas.append)
    for kind, whole in (("text", reply.text), ("reasoning", reply.reasoning)):
        assert "".join(delta.text for delta in deltas if delta.kind == kind) == whole
    if said == ANSWER:
        assert len(deltas) > 10


@settings(max_examples=30)
@given(
    said=st.lists(pieces, max_size=12).map("".join),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    has_tools=st.booleans(),
    stops=st.sampled_from([(), ("a",), ("<|end|>", "hm ")]),
)
def test_a_stream_says_what_the_reply_says_thoughts_first(said, sizes, has_tools, stops):
    request = {"tools": [ADD_TOOL] if has_tools else [], "stops": stops}
    plain = complete(chat_over([said]), [QUESTION], **request)
    deltas = []
    engine = ScriptedEngine([said], tokenizer=tokenizer(), pieces=sizes)
    streamed = complete(chat_over(engine), [QUESTION], on_delta=deltas.append, **request)
    assert (streamed.text, streamed.reasoning) == (plain.text, plain.reasoning)
    assert "".join(delta.text for delta in deltas if delta.kind == "text") == plain.text
    assert "".join(delta.text for delta in deltas if delta.kind == "reasoning") == plain.reasoning
    kinds = [delta.kind for delta in deltas]
    assert kinds == sorted(kinds)
