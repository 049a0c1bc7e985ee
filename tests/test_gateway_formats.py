"""The wire formats, read by the SDKs that speak them: plain, streamed, with tools and reasoning."""

import asyncio
import itertools
import json

import anthropic
import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astuner.errors import RequestError
from astuner.gateway.wires.anthropic_messages import MESSAGES
from astuner.gateway.wires.chat_completions import CHAT_COMPLETIONS
from astuner.gateway.wires.completions import COMPLETIONS
from astuner.gateway.wires.responses import RESPONSES
from astuner.gateway.wires.wire_format import Head
from astuner.inference.messages import normalize_messages
from astuner.inference.request import ChatReply, SampledToken
from astuner.inference.tools.protocol import ToolCall
from astuner.inference.watch import Delta
from astuner.serving.refusal import Refusal
from tests.chats import ADD_TOOL
from tests.fakes import ByteTokenizer, ScriptedEngine
from tests.gateways import QUESTION, serving

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template with reasoning that is kept in the history, and without tools of its own."""
THOUGHT = "<think>\nTwo and three.\n</think>\n\n"


def served(body, script, **options):
    async def run():
        async with serving(script, **options) as it:
            return await body(it)

    return asyncio.run(run())


def thinking():
    return ByteTokenizer(THINKING)


# Responses


RESPONSES_TOOL = {"type": "function", **ADD_TOOL["function"], "strict": True}


def test_a_response_is_continued_item_by_item_in_one_sequence():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        items = [{"role": "user", "content": [{"type": "input_text", "text": "2 + 3?"}]}]
        first = await client.responses.create(
            model="m", instructions="Add.", input=items, tools=[RESPONSES_TOOL]
        )
        assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
        assert first.output_text == "Let me see." and first.status == "completed"
        call = first.output[2]
        assert (call.name, json.loads(call.arguments)) == ("add", {"a": 2, "b": 3})
        assert first.usage.output_tokens == len(it.calls[0].completion.ids)
        items += [item.model_dump(exclude_none=True) for item in first.output]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": "5"})
        second = await client.responses.create(
            model="m", instructions="Add.", input=items, tools=[RESPONSES_TOOL]
        )
        assert second.output_text == "It is 5." and it.calls[1].extends == 0
        assert it.calls[0].messages[0] == {"role": "system", "content": "Add."}

    served(body, [f"{THOUGHT}Let me see.\n{CALL}", "It is 5."], tokenizer=thinking())


def test_the_responses_stream_of_the_sdk_gives_the_response_that_is_not_streamed():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        fields = {"model": "m", "input": "2 + 3?", "tools": [RESPONSES_TOOL]}
        plain = await client.responses.create(**fields)
        async with client.responses.stream(**fields) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_response()
        assert kinds.count("response.output_text.delta") > 1
        assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
        assert _unnamed(streamed) == _unnamed(plain)

    engine = ScriptedEngine(
        lambda prompt: f"{THOUGHT}Let me see.\n{CALL}",
        tokenizer=thinking(),
        pieces=(30, 5),
        piece_seconds=0.01,
    )
    served(body, engine, tokenizer=thinking())


def _unnamed(response):
    """Without ids and times, and what the SDK itself parses out of an answer."""
    dropped = ("id", "created_at", "call_id", "parsed", "parsed_arguments")

    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in dropped and v is not None}
        return [strip(one) for one in value] if isinstance(value, list) else value

    return strip(response.model_dump())


def test_a_response_that_a_limit_cuts_is_incomplete():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        response = await client.responses.create(model="m", input="?", max_output_tokens=2)
        assert response.status == "incomplete" and response.output_text == "fi"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output[0].status == "incomplete"
        async with client.responses.stream(model="m", input="?", max_output_tokens=2) as stream:
            done = [e.item.status async for e in stream if e.type == "response.output_item.done"]
        assert done == ["incomplete"]

    served(body, ["five", "five"])


def test_a_response_may_leave_reasoning_to_the_model():
    async def body(it):
        reasoning = {"effort": None, "summary": None}
        response = await it.post("responses", {"input": "hi", "reasoning": reasoning})
        assert response.status_code == 200

    served(body, ["five"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "file": "a"}]}]},
            "input[0].content[0].file",
        ),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        ({"input": []}, "input"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"temperature": 0.1}, "temperature"),
    ],
)
def test_what_a_response_cannot_have_is_refused_by_its_name(fields, param):
    async def body(it):
        response = await it.post("responses", {"input": "hi", **fields})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param

    served(body, ["five"])


def test_a_response_in_a_json_format_is_parsed_by_the_sdk():
    from pydantic import BaseModel

    class Vote(BaseModel):
        vote: str

    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        response = await client.responses.parse(model="m", input="Vote.", text_format=Vote)
        assert response.output_parsed == Vote(vote="no")
        assert [call.format_check for call in it.calls] == ["invalid", "repaired"]
        completion = await client.chat.completions.parse(
            model="m", messages=QUESTION, response_format=Vote
        )
        assert completion.choices[0].message.parsed == Vote(vote="yes")

    served(body, ["No.", '{"vote": "no"}', '{"vote": "yes"}'])


# Anthropic's messages


def claude(it) -> anthropic.AsyncAnthropic:
    address = it.address()
    return anthropic.AsyncAnthropic(
        base_url=address.anthropic_base_url, api_key=address.api_key, max_retries=0
    )


CLAUDE_TOOL = {
    "name": "add",
    "description": ADD_TOOL["function"]["description"],
    "input_schema": ADD_TOOL["function"]["parameters"],
    "cache_control": {"type": "ephemeral"},
}


def test_an_anthropic_client_talks_and_uses_tools_in_one_sequence():
    async def body(it):
        async with claude(it) as client:
            messages = [{"role": "user", "content": "2 + 3?"}]
            fields = {"model": "m", "max_tokens": 200, "system": "Add.", "tools": [CLAUDE_TOOL]}
            first = await client.messages.create(messages=messages, **fields)
            assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
            assert first.stop_reason == "tool_use" and first.content[2].input == {"a": 2, "b": 3}
            assert first.usage.input_tokens == len(it.calls[0].prompt_ids)
            result = {"type": "tool_result", "tool_use_id": first.content[2].id, "content": "5"}
            messages += [
                {"role": "assistant", "content": first.content},
                {"role": "user", "content": [result]},
            ]
            second = await client.messages.create(messages=messages, **fields)
        assert second.content[0].text == "It is 5." and second.stop_reason == "end_turn"
        assert it.calls[1].extends == 0

    served(body, [f"{THOUGHT}Let me see.\n{CALL}", "It is 5."], tokenizer=thinking())


def test_a_tool_that_failed_says_so_to_the_model():
    async def body(it):
        call = {"type": "tool_use", "id": "c", "name": "add", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "c", "content": "no a", "is_error": True}
        history = [
            {"role": "user", "content": "2 + 3?"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
        await it.post("messages", {"messages": history, "max_tokens": 5})
        assert it.calls[0].messages[-1]["content"] == "Error:\nno a"

    served(body, ["five"])


def test_the_anthropic_stream_of_the_sdk_gives_the_message_that_is_not_streamed():
    async def body(it):
        async with claude(it) as client:
            fields = {"model": "m", "max_tokens": 200, "messages": QUESTION, "tools": [CLAUDE_TOOL]}
            plain = await client.messages.create(**fields)
            async with client.messages.stream(**fields) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                streamed = await stream.get_final_message()
        assert text == "Let me see."
        assert _unnamed(streamed) | {"content": None} == _unnamed(plain) | {"content": None}
        assert [_block(one) for one in streamed.content] == [_block(one) for one in plain.content]

    served(body, lambda prompt: f"{THOUGHT}Let me see.\n{CALL}", tokenizer=thinking())


def _block(block):
    fields = block.model_dump(exclude_none=True)
    fields.pop("id", None)
    return fields


def test_a_stop_sequence_is_named():
    async def body(it):
        async with claude(it) as client:
            message = await client.messages.create(
                model="m", max_tokens=50, messages=QUESTION, stop_sequences=["##", "ve"]
            )
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "ve")
        assert message.content[0].text == "fi"

    served(body, ["five ##"])


def test_an_anthropic_message_in_a_json_format_is_parsed_by_the_sdk():
    from pydantic import BaseModel

    class Vote(BaseModel):
        vote: str

    async def body(it):
        async with claude(it) as client:
            message = await client.messages.parse(
                model="m",
                max_tokens=50,
                messages=[{"role": "user", "content": "Vote."}],
                output_format=Vote,
            )
        assert message.parsed_output == Vote(vote="no")
        assert [call.format_check for call in it.calls] == ["invalid", "repaired"]

    served(body, ["No.", '{"vote": "no"}'])


def test_errors_have_the_shape_of_anthropic():
    async def body(it):
        response = await it.post("messages", {"messages": QUESTION, "max_tokens": 5, "mcp": 1})
        error = response.json()
        assert response.status_code == 400 and error["type"] == "error"
        assert (
            error["error"]["type"] == "invalid_request_error" and "mcp" in error["error"]["message"]
        )
        wrong = await it.post("messages", {}, headers={"authorization": "", "x-api-key": "no"})
        assert wrong.status_code == 401
        assert wrong.json()["error"]["type"] == "authentication_error"
        missing = await it.http.get(f"{it.address().base_url}/messages")
        assert missing.status_code == 405
        assert missing.json()["error"]["type"] == "not_found_error"

    served(body, ["five"])


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": None},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"top_k": 5},
        {"tools": [{"type": "bash_20250124", "name": "bash"}]},
        {"tool_choice": {"type": "any"}},
        {"messages": [{"role": "assistant", "content": "It is"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "link": "y"}]}]},
    ],
)
def test_what_a_message_cannot_have_is_refused(fields):
    async def body(it):
        response = await it.post("messages", {"messages": QUESTION, "max_tokens": 5, **fields})
        assert response.status_code == 400, response.text
        assert it.calls == []

    served(body, ["five"])


# plain completions


def test_a_text_completion_is_continued_by_its_own_tokens():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        first = await client.completions.create(model="m", prompt="One, ", max_tokens=3)
        assert first.choices[0].text == "two" and first.choices[0].finish_reason == "length"
        await client.completions.create(model="m", prompt="One, two, ", max_tokens=50)
        assert it.calls[1].extends == 0
        assert it.engine.seen[1][0] == it.calls[0].ids + tuple(b", ")
        assert bytes(it.engine.seen[0][0]) == b"One, ", "no template"

    served(body, ["two!", "three"])


def test_a_text_completion_writes_an_impossible_token_as_json_can():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        said = await client.completions.with_raw_response.create(
            model="m", prompt="a", max_tokens=20, logprobs=3
        )
        assert b"Infinity" not in said.content
        assert said.parse().choices[0].logprobs.top_logprobs[0]["C"] == -9999.0

    served(body, ["b"])


def test_logprobs_hold_the_bytes_of_parts_of_characters():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        chat = await client.chat.completions.create(model="m", messages=QUESTION, logprobs=True)
        entries = chat.choices[0].logprobs.content
        assert b"".join(bytes(entry.bytes) for entry in entries).decode() == "Zoë ✓"
        plain = await client.completions.create(model="m", prompt="a", max_tokens=20, logprobs=0)
        logprobs = plain.choices[0].logprobs
        assert logprobs.tokens[2:4] == ["bytes:\\xc3", "bytes:\\xab"]
        assert logprobs.text_offset == [0, 1, 2, 2, 3, 4, 4, 4]

    served(body, lambda prompt: "Zoë ✓")


def test_a_text_completion_streams_what_it_says_without_streaming():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        fields = {"model": "m", "prompt": ["a", "b"], "n": 2, "max_tokens": 20, "logprobs": 0}
        plain = await client.completions.create(**fields)
        stream = await client.completions.create(
            **fields, stream=True, stream_options={"include_usage": True}
        )
        texts, usage = ["", "", "", ""], None
        async for event in stream:
            usage = event.usage or usage
            for choice in event.choices:
                texts[choice.index] += choice.text
        assert texts == [choice.text for choice in plain.choices] == ["<a>", "<a>", "<b>", "<b>"]
        assert usage == plain.usage and usage.prompt_tokens == 2
        assert plain.choices[0].logprobs.tokens == list("<a>")
        assert plain.choices[0].logprobs.text_offset == [0, 1, 2]

    served(body, lambda prompt: f"<{prompt}>")


# chat completions


def test_the_chat_stream_of_the_sdk_gives_the_completion_that_is_not_streamed():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        fields = {"model": "m", "messages": QUESTION, "tools": [ADD_TOOL], "logprobs": True}
        plain = await client.chat.completions.create(**fields)
        async with client.chat.completions.stream(
            **fields, stream_options={"include_usage": True}
        ) as stream:
            async for _ in stream:
                pass
            streamed = await stream.get_final_completion()
        one, other = plain.choices[0], streamed.choices[0]
        assert (one.message.content, one.finish_reason) == ("Let me see.", "tool_calls")
        assert other.message.content == one.message.content
        assert other.message.tool_calls[0].function.arguments == '{"a": 2, "b": 3}'
        assert other.finish_reason == one.finish_reason and streamed.usage == plain.usage
        assert other.logprobs.content == one.logprobs.content
        assert one.message.reasoning_content == "Two and three."

    served(body, lambda prompt: f"{THOUGHT}Let me see.\n{CALL}", tokenizer=thinking())


# every format: a stream says what the answer says


@st.composite
def replies(draw):
    """A reply and how it may come: pieces of its reasoning, then of its text."""
    reasoning, text = draw(st.text(max_size=12)), draw(st.text(max_size=12))
    calls = draw(
        st.lists(
            st.builds(
                ToolCall,
                name=st.sampled_from(["add", "sub"]),
                arguments=st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
                id=st.uuids().map(str),
            ),
            max_size=2,
        )
    )
    reply = ChatReply(
        text=text,
        reasoning=reasoning,
        tool_calls=tuple(calls),
        finish_reason=draw(st.sampled_from(["stop", "length", "context_overflow", "cut"])),
        num_prompt_tokens=draw(st.integers(0, 99)),
        num_sampled_tokens=draw(st.integers(0, 99)),
        seconds=0.0,
        stop=draw(st.none() | st.just("##")),
        tokens=draw(st.none() | st.just((SampledToken(text="a", utf8=b"a", logprob=-0.5),))),
    )
    deltas = [
        Delta(kind=kind, text=piece)
        for kind, whole in (("reasoning", reasoning), ("text", text))
        for piece in _pieces(draw, whole)
    ]
    return reply, deltas


def _pieces(draw, whole):
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    places = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(places)]
    return [piece for piece in pieces if piece]


BODIES = {
    CHAT_COMPLETIONS: {"messages": QUESTION, "stream_options": {"include_usage": True}},
    RESPONSES: {"input": "hi"},
    MESSAGES: {"messages": QUESTION, "max_tokens": 9},
}


@pytest.mark.parametrize("wire", BODIES, ids=lambda wire: wire.path)
@given(case=replies())
@settings(max_examples=60)
def test_a_joined_stream_is_the_answer_that_is_not_streamed(wire, case):
    reply, deltas = case
    ask = wire.read({**BODIES[wire], "stream": True})
    head = Head(id="abc", created=1)
    writer = wire.events(ask, head)
    raw = [*writer.start(), *(e for d in deltas for e in writer.delta(0, d)), *writer.end([reply])]
    events = [parsed for event in raw if (parsed := _event(event)) is not None]
    wanted = json.loads(json.dumps(wire.write(ask, head, [reply])))
    assert JOINERS[wire](events) == wanted


@given(text=st.text(), kind=st.sampled_from(["text", "reasoning"]), choice=st.integers(0, 3))
@example("text of a delta", "text", 0)
@example('"usage":null', "text", 1)
@settings(max_examples=30)
def test_a_chunk_is_the_same_to_the_byte_whatever_stands_in_its_text(text, kind, choice):
    body = {**BODIES[CHAT_COMPLETIONS], "stream": True, "model": '"text of a delta"'}
    writer = CHAT_COMPLETIONS.events(CHAT_COMPLETIONS.read(body), Head(id="abc", created=1))
    key = {"text": "content", "reasoning": "reasoning_content"}[kind]
    chosen = {
        "index": choice, "delta": {key: text}, "logprobs": None, "finish_reason": None
    }  # fmt: skip
    chunk = {
        "id": "chatcmpl-abc", "object": "chat.completion.chunk", "created": 1,
        "model": '"text of a delta"', "choices": [chosen], "usage": None,
    }  # fmt: skip
    written = json.dumps(chunk, separators=(",", ":"))
    assert writer.delta(choice, Delta(kind=kind, text=text)) == [f"data: {written}\n\n".encode()]


def _event(raw):
    line = raw.decode().strip().splitlines()[-1]
    data = line.removeprefix("data: ")
    return None if data == "[DONE]" else json.loads(data)


def _join_chat(events):
    message: dict = {"role": "assistant", "content": "", "refusal": None}
    choice: dict = {"index": 0, "message": message, "logprobs": None, "finish_reason": None}
    usage = None
    for event in events:
        usage = event.get("usage") or usage
        for part in event["choices"]:
            delta = part["delta"]
            for key in ("content", "reasoning_content"):
                if delta.get(key):
                    message[key] = message.get(key, "") + delta[key]
            for call in delta.get("tool_calls", ()):
                call = dict(call)
                assert call.pop("index") == len(message.setdefault("tool_calls", []))
                message["tool_calls"].append(call)
            choice["logprobs"] = part["logprobs"] or choice["logprobs"]
            choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
    if "tool_calls" in message and not message["content"]:
        message["content"] = None
    first = {key: events[0][key] for key in ("id", "created", "model")}
    return {**first, "object": "chat.completion", "choices": [choice], "usage": usage}


def _join_responses(events):
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    said: dict = {}
    items = []
    for event in events:
        kind = event["type"]
        if kind.endswith((".output_text.delta", ".reasoning_text.delta", "arguments.delta")):
            said[event["item_id"]] = said.get(event["item_id"], "") + event["delta"]
        if kind == "response.output_item.done":
            assert event["output_index"] == len(items)
            item = event["item"]
            items.append(item)
            whole = item["arguments"] if "arguments" in item else item["content"][0]["text"]
            assert said.get(item["id"], "") == whole
    final = events[-1]["response"]
    assert events[-1]["type"] == f"response.{final['status']}"
    return {**final, "output": items}


def _join_messages(events):
    message = events[0]["message"]
    blocks: list = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]))
        if event["type"] == "content_block_delta":
            delta, block = event["delta"], blocks[event["index"]]
            if delta["type"] == "input_json_delta":
                block["input"] = json.loads(delta["partial_json"])
            else:
                key = "text" if delta["type"] == "text_delta" else "thinking"
                block[key] += delta[key]
        if event["type"] == "message_delta":
            message |= {**event["delta"], "usage": event["usage"]}
    assert events[-1]["type"] == "message_stop"
    return {**message, "content": blocks}


JOINERS = {
    CHAT_COMPLETIONS: _join_chat,
    RESPONSES: _join_responses,
    MESSAGES: _join_messages,
}


# every format: whatever is sent, the answer is an error of that format


JSON = st.deferred(
    lambda: (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.lists(JSON, max_size=3)
        | st.dictionaries(st.text(max_size=5), JSON, max_size=3)
    )
)
FIELDS = [
    *(
        "messages",
        "input",
        "prompt",
        "tools",
        "tool_choice",
        "stop",
        "n",
        "seed",
        "model",
        "stream",
    ),
    *("stream", "temperature", "top_p", "max_tokens", "response_format", "text", "system"),
    *("thinking", "stop_sequences", "include", "instructions", "logprobs", "stream_options"),
]


@pytest.mark.parametrize(
    "wire", [CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, MESSAGES], ids=lambda wire: wire.path
)
@given(
    body=st.dictionaries(st.sampled_from(FIELDS), JSON),
    item=st.dictionaries(
        st.sampled_from(["content", "type", "tool_calls", "text", "name", "reasoning_content"]),
        JSON,
    ).flatmap(
        lambda item: st.sampled_from(["user", "assistant", "tool"]).map(
            lambda role: {**item, "role": role}
        )
    ),
)
@settings(max_examples=150)
def test_no_body_breaks_a_reader(wire, body, item):
    for filled in (body, {**body, "messages": [item], "input": [item], "max_tokens": 5}):
        try:
            (request, *_) = wire.read(filled).requests
            if request.prompt is None:
                assert all(isinstance(m["content"], str) for m in messages_of(request))
        except Refusal as refusal:
            assert refusal.status == 400 and wire.error(refusal)["error"]["message"]
        except RequestError as error:
            assert error.param == "messages"


def messages_of(request):
    return normalize_messages(request.messages)


def test_the_sdk_shows_which_field_was_refused():
    async def body(it):
        client = it.tuner.as_raw_openai_sdk_client()
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model="m", messages=QUESTION, extra_body={"guided_json": {}}
            )
        assert caught.value.param == "guided_json"
        assert caught.value.code == "unsupported_parameter"

    served(body, ["five"])
