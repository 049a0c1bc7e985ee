"""Long requests: none is read further than its limits need, and none holds up the others."""

import asyncio
import json
import re
import threading
from dataclasses import replace

import pytest

from astuner.errors import RequestError
from astuner.gateway.wires.body import parse_body
from astuner.inference.aside import Lane
from astuner.inference.encoding import TooLong
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.serving.refusal import Refusal
from tests.chats import ADD_TOOL, WIDE, make_chat
from tests.fakes import ByteTokenizer, ScriptedEngine
from tests.gateways import serving

NARROW = replace(WIDE, max_prompt_length=1000, max_model_len=2000)
MILLION = "word " * 200_000


class NotingTokenizer(ByteTokenizer):
    """Notes what it encodes and renders, and in which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0
        self.threads: set[int] = set()

    def forget(self) -> None:
        self.longest, self.threads = 0, set()

    def encode(self, text, **options):
        self.longest = max(self.longest, len(text))
        self.threads.add(threading.get_ident())
        return super().encode(text, **options)

    def apply_chat_template(self, messages, **options):
        self.threads.add(threading.get_ident())
        return super().apply_chat_template(messages, **options)


class FoldingTokenizer(ByteTokenizer):
    """One token for a run of spaces, however long."""

    def encode(self, text, **options):
        return super().encode(re.sub(" +", " ", text), **options)


def say(*contents: str) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def asked(chat, tokenizer, **fields):
    """The reply, and whether all was done in the thread of the event loop, or nothing."""

    async def run():
        tokenizer.forget()
        here = {threading.get_ident()}
        reply = await chat.complete(ChatRequest(**fields))
        assert tokenizer.threads == here or not tokenizer.threads & here
        return reply, tokenizer.threads == here

    return asyncio.run(run())


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": say(MILLION)},
        {"messages": say(*["x"] * 100_001)},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": MILLION}]}]},
        {"messages": (), "prompt": MILLION},
    ],
)
def test_a_first_prompt_that_is_far_too_long_is_refused_by_its_beginning(fields) -> None:
    tokenizer = NotingTokenizer()
    chat = make_chat(["5"], tokenizer=tokenizer, limits=NARROW)
    tokenizer.forget()
    with pytest.raises(RequestError, match=r"at least \d+ tokens; data\.max_prompt_length allows"):
        asyncio.run(chat.complete(ChatRequest(**fields)))
    assert tokenizer.longest == 100_000


def test_a_later_prompt_that_is_far_too_long_overflows_by_its_beginning() -> None:
    tokenizer = NotingTokenizer()
    chat = make_chat(["5", "6"], tokenizer=tokenizer, limits=NARROW)
    asked(chat, tokenizer, messages=say("hi"))
    reply, _ = asked(chat, tokenizer, messages=say("hi", "5", MILLION))
    assert reply.is_empty and chat.recorder.context_overflow
    assert reply.num_prompt_tokens > NARROW.max_model_len and tokenizer.longest == 100_000
    reply, _ = asked(chat, tokenizer, messages=say("other", "5", MILLION))
    assert reply.is_empty and tokenizer.longest == 100_000


def test_a_long_prompt_that_fits_is_put_into_tokens_beside_the_event_loop() -> None:
    tokenizer = NotingTokenizer()
    limits = replace(WIDE, max_prompt_length=10**7, max_model_len=10**7, max_response_length=10**7)
    chat = make_chat(ScriptedEngine(["5", "6", "7"]), tokenizer=tokenizer, limits=limits)
    assert asked(chat, tokenizer, messages=say("hi"))[1]
    reply, is_here = asked(chat, tokenizer, messages=say("hi", "5", MILLION))
    assert reply.text == "6" and not is_here
    (first, second) = chat.recorder.calls
    assert second.extends == 0 and second.prompt_ids[: len(first.ids)] == first.ids
    reply, is_here = asked(chat, tokenizer, messages=say(*["x"] * 60_001))
    assert reply.text == "7" and not is_here


def test_a_text_of_many_characters_and_few_tokens_is_not_too_long() -> None:
    template = ChatTemplate(FoldingTokenizer())
    text = "a" + " " * 2_000_000 + "b"
    assert len(template.encoding.encode_within(text, 10)) == 3


@pytest.mark.parametrize("max_tokens", [0, 1, 99_000, 100_100, 1_000_000])
def test_what_is_refused_by_its_beginning_is_too_long_as_a_whole(max_tokens) -> None:
    template = ChatTemplate(ByteTokenizer())
    text = "<|im_end|>\u4e00x" * 20_000
    try:
        assert template.encoding.encode_within(text, max_tokens) == template.encode(text)
    except TooLong as error:
        assert max_tokens < error.num_tokens <= len(template.encode(text))


def test_the_work_of_one_owner_is_done_one_piece_at_a_time_also_when_it_is_cancelled() -> None:
    async def body() -> None:
        lane, go, order = Lane(), threading.Event(), []

        def first() -> None:
            order.append("first")
            go.wait(timeout=30)
            order.append("first ends")

        left = asyncio.create_task(lane.in_thread(first))
        while not order:
            await asyncio.sleep(0.001)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        then = asyncio.create_task(lane.in_thread(order.append, "second"))
        assert await Lane().in_thread(len, "other") == 5
        await asyncio.sleep(0.01)
        assert order == ["first"]
        go.set()
        await then
        assert order == ["first", "first ends", "second"]

    asyncio.run(body())


@pytest.mark.parametrize(
    "values", ["[]," * 200_001, "{}," * 200_001, "0," * 200_001, '"a",' * 200_001, "[" * 200_001]
)
def test_a_body_of_too_many_values_is_refused_before_it_is_read(values) -> None:
    with pytest.raises(Refusal, match="more than 200000 values") as refusal:
        parse_body(f'{{"a": [{values}'.encode())
    assert refusal.value.status == 400


def test_what_stands_in_texts_is_no_value() -> None:
    text = json.dumps([{"a": 1, "b": '"'}] * 100_000)
    assert parse_body(json.dumps({"a": text, "b": [text, "\\"]}).encode())["a"] == text


@pytest.mark.parametrize(
    "field",
    [{"metadata": {"a": [0] * 60_000}}, {"user": "x" * 300_000}, {"tools": [ADD_TOOL] * 900}],
)
def test_a_long_body_is_answered_like_a_short_one(field) -> None:
    async def body() -> None:
        engine = ScriptedEngine(lambda prompt: "five")
        limits = {"max_body_bytes": 10**6}
        async with serving(engine, **limits) as it:
            response = await it.ask(**field)
            if "tools" in field:
                assert response.status_code == 400
                assert "max_prompt_length" in response.json()["error"]["message"]
            else:
                assert response.status_code == 200
            wrong = await it.ask(**field, n="x")
            assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "n"

    asyncio.run(body())
