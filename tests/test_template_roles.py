"""Templates without a system role, and templates that insist that user and assistant take turns."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astuner.errors import RequestError
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.trajectory.merge import merge_calls
from tests.chats import ADD_TOOL, make_chat
from tests.fakes import CHATML, ByteTokenizer

REFUSE = "{{ raise_exception('roles must alternate') }}"
TURNS = (
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    + REFUSE
    + "{% endif %}"
    "<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first else '' }}{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% set rest = messages %}{% set first = '' %}" + TURNS
)
"""In the manner of Gemma 1 and 2, and of the first Mistral."""
FIRST_SYSTEM = (
    "{% set first = '' %}{% set rest = messages %}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}{% endif %}" + TURNS
)
"""In the manner of Gemma 3 and Llama 2."""
DROPS_SYSTEM = CHATML.replace("%}<|im_start|>{{", "if m.role != 'system' %}<|im_start|>{{", 1)
"""Leaves system messages out without a word."""
ONE_SYSTEM = CHATML.replace(
    "%}<|im_start|>{{",
    "%}{% if m.role == 'system' and not loop.first %}" + REFUSE + "{% endif %}<|im_start|>{{",
    1,
)
"""Takes a system message at the beginning only, and any order of the others."""
STRICT = {"no system": NO_SYSTEM, "first system": FIRST_SYSTEM}
FAMILIES = {**STRICT, "drops system": DROPS_SYSTEM, "one system": ONE_SYSTEM, "chatml": CHATML}

QUESTION = {"role": "user", "content": "What is 2 + 3?"}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def message(role, content):
    return {"role": role, "content": content}


def written(template, *messages, tools=()):
    return ChatTemplate(ByteTokenizer(template)).prompt_text(messages, tools)


def complete(chat, messages, **options):
    return asyncio.run(chat.complete(ChatRequest(messages=messages, **options)))


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_system_prompt_begins_the_first_user_message_where_there_is_no_system_role(template):
    text = written(template, message("system", "Be brief."), QUESTION)
    assert text.startswith("<|im_start|>user\nBe brief.\n\nWhat is 2 + 3?<|im_end|>\n")
    assert "system" not in text


def test_tools_are_described_in_the_first_user_message_behind_the_agents_own_system_prompt():
    text = written(NO_SYSTEM, message("system", "Be brief."), QUESTION, tools=[ADD_TOOL])
    assert text.startswith("<|im_start|>user\nBe brief.\n\nYou can call functions.")
    assert text.index('"name": "add"') < text.index("\n\nWhat is 2 + 3?<|im_end|>")
    assert text.count("<|im_start|>") == 2


@pytest.mark.parametrize("template", STRICT.values(), ids=STRICT)
def test_messages_of_one_role_in_a_row_are_joined_by_a_blank_line_where_they_are_refused(template):
    reply = message("assistant", "5")
    text = written(template, QUESTION, message("user", "Quick!"), reply, QUESTION, QUESTION)
    assert "user\nWhat is 2 + 3?\n\nQuick!<|im_end|>" in text
    assert text.count("<|im_start|>user") == 2


@pytest.mark.parametrize("template", FAMILIES.values(), ids=FAMILIES)
def test_results_of_parallel_calls_and_a_question_behind_them_continue_the_call(template):
    chat = make_chat([f"{CALL}\n{CALL}", "10"], tokenizer=ByteTokenizer(template))
    first = complete(chat, [QUESTION], tools=[ADD_TOOL])
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in first.tool_calls
    ]
    results = [{"role": "tool", "tool_call_id": c["id"], "content": "5"} for c in calls]
    reply = {"role": "assistant", "content": "", "tool_calls": calls}
    complete(chat, [QUESTION, reply, *results, message("user", "And?")], tools=[ADD_TOOL])
    assert chat.recorder.calls[1].break_reason is None
    (sequence,) = merge_calls(chat.recorder.calls)
    text = ByteTokenizer().decode(sequence.ids)
    assert text.count("<tool_response>\n5\n</tool_response>") == 2
    is_joined = "</tool_response>\n\n<tool_response>" in text
    assert is_joined == (template in STRICT.values())


def test_a_template_that_takes_everything_gets_the_conversation_as_it_is():
    conversation = [
        message("system", "a"),
        message("system", "b"),
        message("user", "c"),
        message("user", "d"),
        message("assistant", "e"),
        message("assistant", "f"),
        message("system", "g"),
        message("user", "h"),
    ]
    expected = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in conversation)
    assert written(CHATML, *conversation) == f"{expected}<|im_start|>assistant\n"


@pytest.mark.parametrize("template", [*STRICT.values(), ONE_SYSTEM])
def test_a_system_message_behind_others_is_the_users_where_it_is_refused(template):
    text = written(template, QUESTION, message("assistant", "5"), message("system", "Be kind."))
    assert "<|im_start|>user\nBe kind.<|im_end|>" in text


def test_two_system_messages_at_the_beginning_become_one_where_only_one_is_taken():
    messages = message("system", "Be brief."), message("system", "Be kind."), QUESTION
    text = written(ONE_SYSTEM, *messages)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nBe kind.<|im_end|>\n<|im_start|>user")


def test_a_system_prompt_that_the_assistant_answers_is_the_users_where_it_would_get_lost():
    text = written(FIRST_SYSTEM, message("system", "Say hello."))
    assert text == "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>model\n"


@pytest.mark.parametrize("template", STRICT.values(), ids=STRICT)
def test_a_conversation_that_the_assistant_begins_is_refused_with_the_reason(template):
    with pytest.raises(RequestError, match=r"begins with a message of the assistant.*put one"):
        written(template, message("assistant", "Hello!"), QUESTION)


@pytest.mark.parametrize("template", STRICT.values(), ids=STRICT)
def test_replies_in_a_row_are_refused_and_never_joined(template):
    reply = message("assistant", "5")
    with pytest.raises(RequestError, match="two messages of the assistant stand in a row"):
        written(template, QUESTION, reply, reply, QUESTION)


def test_a_name_that_only_one_of_two_joined_messages_has_is_left_out():
    named = TURNS.replace("{{ m.content", "{{ m.name or '' }}: {{ m.content")
    template = "{% set rest = messages %}{% set first = '' %}" + named
    ann = {"role": "user", "content": "Hi.", "name": "Ann"}
    assert "user\nAnn: Hi.\n\nHi.<" in written(template, ann, ann)
    assert "user\n: Hi.\n\nWhat" in written(template, ann, QUESTION)


contents = st.text("ab \n", max_size=4).map(lambda text: f"x{text}x")
asked = st.lists(
    st.builds(message, st.sampled_from(["user", "user", "tool", "system"]), contents),
    min_size=1,
    max_size=3,
)
turns = st.lists(st.tuples(asked, contents), min_size=1, max_size=4)


@pytest.mark.parametrize("template", FAMILIES.values(), ids=FAMILIES)
@settings(max_examples=25)
@given(turns=turns, has_tools=st.booleans())
def test_what_stands_before_a_reply_stays_as_it_is(template, turns, has_tools):
    chat_template = ChatTemplate(ByteTokenizer(template))
    tools = [ADD_TOOL] if has_tools else []
    conversation, before = [], ""
    for messages, reply in turns:
        conversation += messages
        prompt = chat_template.prompt_text(conversation, tools)
        answered = chat_template.answered_text(conversation, message("assistant", reply), tools)
        assert prompt.startswith(before) and answered.startswith(prompt)
        conversation.append(message("assistant", reply))
        before = answered
