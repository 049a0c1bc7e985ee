"""Conversations with tool calls are fitted to templates that are particular about them."""

import asyncio
import re

import pytest

from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import BreakKind
from tests.chats import ADD_TOOL, make_chat
from tests.fakes import ByteTokenizer
from tests.test_template_families import assistant

WRITES = (
    "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.tool_call_id }}\n"
    "{% if m.tool_calls %}CHECK{% for c in m.tool_calls %}<tool_call>\n"
    "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}\n</tool_call>"
    "{% endfor %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NINE = (
    "{% for c in m.tool_calls %}{% if (c.id | length) != 9 or not c.id.isalnum() %}"
    "{{ raise_exception('ids have nine letters') }}{% endif %}{% endfor %}"
)
ONE = "{% if (m.tool_calls | length) != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": %d, "b": 3}}\n</tool_call>'
QUESTION = {"role": "user", "content": "go"}
RESULTS = [("result 1", "y"), ("result 2", "x"), ("result 3", "z")]


def tokenizer(*checks):
    return ByteTokenizer(WRITES.replace("CHECK", "".join(checks)))


def loop(made, says, *, own_ids=()):
    """A question, calls, their results in turn, a reply and another question."""
    chat = make_chat([says, "done", "ok"], tokenizer=made)
    messages = [QUESTION]
    reply = ask(chat, messages)
    answer = assistant(reply)
    for call, own_id in zip(answer["tool_calls"], own_ids, strict=False):
        call["id"] = own_id
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"result {index}"}
        for index, call in enumerate(answer["tool_calls"])
    ]
    messages = [*messages, answer, *results]
    messages = [*messages, assistant(ask(chat, messages)), QUESTION]
    ask(chat, messages)
    return chat.recorder.calls


def ask(chat, messages):
    return asyncio.run(chat.complete(ChatRequest(messages=messages, tools=[ADD_TOOL])))


def test_ids_of_calls_have_nine_letters_where_the_template_insists_on_it():
    made = tokenizer(NINE)
    calls = loop(made, CALL % 1)
    assert [call.break_reason for call in calls] == [None, None, None]
    assert len(merge_calls(calls)) == 1
    assert re.search("start\\|>tool[a-z0-9]{9}\n", made.decode(calls[1].prompt_ids))
    assert calls[1].messages[-1]["tool_call_id"] == "call_0_0", "the agent keeps its own"


@pytest.mark.parametrize("own_id", ["toolu_01A09q90qw90lq917835lq9", "1", "", "köche9999"])
def test_so_do_ids_that_an_agent_made_up(own_id):
    calls = loop(tokenizer(NINE), CALL % 1, own_ids=[own_id])
    assert len(calls) == 3 and calls[2].extends == 1


def test_ids_that_the_template_takes_are_left_as_they_are():
    made = tokenizer()
    assert "tool" + "call_0_0" in made.decode(loop(made, CALL % 1)[1].prompt_ids)
    made = tokenizer(NINE)
    calls = loop(made, CALL % 1, own_ids=["abcDEF123"])
    assert "toolabcDEF123" in made.decode(calls[1].prompt_ids)


def test_calls_stand_one_by_one_with_their_results_where_a_message_has_room_for_one():
    made = tokenizer(ONE, NINE)
    calls = loop(made, f"{CALL % 1}\n{CALL % 2}")
    text = made.decode(calls[1].prompt_ids)
    places = [text.index(part) for part in ('"a": 1', "result 0", '"a": 2', "result 1")]
    assert places == sorted(places) and text.count("<|im_start|>assistant\n<tool_call>") == 2
    assert calls[1].break_kind == BreakKind.TEMPLATE
    assert calls[2].extends == 1, "what was fitted once stays so"


def test_results_that_answer_no_call_stand_behind_the_last_one():
    template = ChatTemplate(tokenizer(ONE))
    function = {"name": "add", "arguments": {}}
    calls = [{"id": id_, "type": "function", "function": function} for id_ in ("x", "y")]
    results = [{"role": "tool", "content": text, "tool_call_id": id_} for text, id_ in RESULTS]
    reply = {"role": "assistant", "content": "", "tool_calls": calls}
    text = template.prompt_text([QUESTION, reply, *results, QUESTION], [ADD_TOOL])
    written = re.findall("assistant\n<tool_call>|result .", text)
    assert written == [
        "assistant\n<tool_call>",
        "result 2",
        "assistant\n<tool_call>",
        "result 1",
        "result 3",
    ]
