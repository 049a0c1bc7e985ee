"""Templates with tools of their own, thinking, and other ends of turn."""

import asyncio
import json

import pytest

from astuner.errors import ConfigError, RequestError
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.trajectory.merge import merge_calls
from tests.chats import ADD_TOOL, make_chat
from tests.fakes import CHATML, ByteTokenizer, ScriptedEngine
from tests.tiny_model import make_tiny_model

NATIVE_TOOLS = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n"
    "<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}\n</tool_call>"
    "{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = {"role": "user", "content": "What is 2 + 3?"}


def complete(chat, messages, **options):
    return asyncio.run(chat.complete(ChatRequest(messages=messages, **options)))


def test_a_template_with_its_own_tool_format_is_used_as_it_is():
    tokenizer = ByteTokenizer(NATIVE_TOOLS)
    template = ChatTemplate(tokenizer)
    assert template.tool_format.name == "hermes"
    text = tokenizer.decode(template.prompt_ids([QUESTION], [ADD_TOOL]))
    assert text.startswith("<|im_start|>system\nTools: [{")


def test_attempts_that_begin_alike_have_their_beginning_written_once(monkeypatch):
    template, written = ChatTemplate(ByteTokenizer(NATIVE_TOOLS)), []
    apply = ByteTokenizer.apply_chat_template

    def count(tokenizer, messages, **options):
        written.append(messages)
        return apply(tokenizer, messages, **options)

    template.tool_format  # noqa: B018  # found out by writing conversations
    monkeypatch.setattr(ByteTokenizer, "apply_chat_template", count)
    other_tool = {**ADD_TOOL, "function": {**ADD_TOOL["function"], "name": "multiply"}}
    asked = [(question, tool) for question in ("1 + 1", "1 + 2") for tool in (ADD_TOOL, other_tool)]
    texts = [
        template.prompt_text([{"role": "user", "content": question}], [tool])
        for question, tool in asked * 3
    ]
    assert len(written) == 4
    assert texts == texts[:4] * 3
    assert len({*texts}) == 4


def nested(depth: int) -> dict:
    schema: dict = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def in_itself() -> dict:
    schema: dict = {}
    schema["items"] = schema
    return schema


@pytest.mark.parametrize("schema", [nested(5000), in_itself(), {"enum": {1, 2}}])
def test_a_tool_that_cannot_be_written_is_refused_in_a_first_call_too(schema):
    template = ChatTemplate(ByteTokenizer(NATIVE_TOOLS))
    tool = {**ADD_TOOL, "function": {**ADD_TOOL["function"], "parameters": schema}}
    with pytest.raises(RequestError, match="refused the conversation"):
        template.prompt_text([QUESTION], [tool])


def test_a_tool_conversation_of_such_a_template_is_one_sequence_whatever_the_spacing():
    spaced = '<tool_call>\n{"name":  "add",\n "arguments": {"a":2,"b":3}}\n</tool_call>'
    engine = ScriptedEngine([spaced, "5"])
    chat = make_chat(engine, tokenizer=ByteTokenizer(NATIVE_TOOLS))
    first = complete(chat, [QUESTION], tools=[ADD_TOOL])
    call = first.tool_calls[0]
    arguments = json.dumps(call.arguments)
    reply = {
        "role": "assistant",
        "content": [],
        "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": "add", "arguments": arguments}}
        ],
    }
    result = {"role": "tool", "tool_call_id": call.id, "content": "5"}
    complete(chat, [QUESTION, reply, result], tools=[ADD_TOOL])
    (sequence,) = merge_calls(chat.recorder.calls)
    assert spaced in ByteTokenizer().decode(sequence.ids)


def test_reasoning_is_split_off_and_dropping_it_starts_a_new_sequence():
    engine = ScriptedEngine(["<think>\nhm\n</think>\n\nfive", "ok"])
    chat = make_chat(engine, tokenizer=ByteTokenizer(THINKING))
    reply = complete(chat, [QUESTION])
    assert (reply.reasoning, reply.text) == ("hm", "five")
    complete(chat, [QUESTION, {"role": "assistant", "content": "five"}, QUESTION])
    assert "the agent dropped the reasoning" in chat.recorder.calls[1].break_reason
    assert len(merge_calls(chat.recorder.calls)) == 2


def test_the_end_of_turn_of_the_template_stops_generation_beside_the_tokenizers_own():
    tokenizer = ByteTokenizer(CHATML)
    tokenizer.eos_token_id = 258
    assert ChatTemplate(tokenizer, extra_stop_ids=[7]).stop_ids == {7, 257, 258}


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatTemplate(tokenizer)


def test_the_bytes_of_tokens_join_to_the_text_also_inside_of_characters(tmp_path):
    from transformers import AutoTokenizer

    make_tiny_model(tmp_path)
    template = ChatTemplate(AutoTokenizer.from_pretrained(tmp_path))
    text = "naïve 日本 🦆 \n"
    ids = template.encode(text)
    assert any("\ufffd" in template.decode([id_]) for id_ in ids), "some are parts"
    assert b"".join(template.encoding.token_bytes(id_) for id_ in ids).decode() == text
