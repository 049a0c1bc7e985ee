"""Streams: what is told early is the beginning of what is said, whatever the pieces and the cut."""

import asyncio
import contextlib
import json
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astuner.inference.request import ChatRequest
from astuner.inference.tools.formats import FORMATS
from astuner.inference.watch import GrowingText
from tests.chats import ADD_TOOL, make_chat
from tests.fakes import CHATML, ByteTokenizer, ScriptedEngine
from tests.gateways import QUESTION, serving

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
WRITTEN = {
    "hermes": "<tool_call>\n{{ dict(name=c.name, arguments=c.arguments) | tojson }}\n</tool_call>",
    "qwen3_coder": "<tool_call>\n<function={{ c.name }}>\n{% for k, v in c.arguments.items() %}"
    "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>",
    "llama3_json": '{{ \'{"name": "\' + c.name + \'", "parameters": \' }}'
    "{{ c.arguments | tojson }}{{ '}' }}",
    "mistral": "[TOOL_CALLS][{{ dict(name=c.name, arguments=c.arguments) | tojson }}]",
    "mistral_args": "[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments | tojson }}",
    "harmony": " to=functions.{{ c.name }}<|channel|>commentary json<|message|>"
    "{{ c.arguments | tojson }}",
}
"""How templates write one call, by format."""


def template_of(name, *, thinks, opens=False):
    """A template with tools of its own in this format, and with think tags or without."""
    text = CHATML.replace("<|im_start|>{{ m.role }}", "{% set _ = 0 %}<|im_start|>{{ m.role }}", 1)
    text = text.replace(
        "{{ m.content }}",
        "{{ m.content }}{% for call in m.tool_calls or [] %}{% set c = call.function %}"
        + WRITTEN[name]
        + "{% endfor %}",
    )
    text = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + text
    if thinks:
        text = "{# <think> </think> #}" + text
    if opens:
        text = text.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    return ByteTokenizer(text)


FRAGMENTS = st.sampled_from(
    [
        "<think>", "</think>", "\n", " ", "ok", "é", "€", "🙂", "{", "}", "<", "<tool_call>",
        "</tool_call>", "<function=add>", "</function>", "<parameter=a>\n2\n</parameter>\n",
        '{"name": "add", "arguments": {"a": 2}}', '{"name": "add", "parameters": {"a": 2}}', ";",
        "[TOOL_CALLS]", '[{"name": "add", "arguments": {"a": 2}}]', 'add[ARGS]{"a": 2}', "STOP",
        "ST", "<tool", "[TOOL", "<|channel|>commentary to=functions.add<|message|>", "<|end|>",
    ]
)  # fmt: skip
TEXTS = st.lists(FRAGMENTS, max_size=9).map("".join)


def reply_of(script, tokenizer, pieces, request, *, streams):
    """The reply, what was told of it, and the recorded call."""
    chat = make_chat(
        ScriptedEngine([script, "ok"], tokenizer=tokenizer, pieces=pieces), tokenizer=tokenizer
    )
    told = []

    async def run():
        return await chat.complete(request, on_delta=told.append if streams else None)

    reply = asyncio.run(run())
    return reply, told, chat.recorder.calls[0]


@pytest.mark.parametrize("name", FORMATS)
@given(
    text=TEXTS,
    pieces=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    thinks=st.booleans(),
    opens=st.booleans(),
    has_tools=st.booleans(),
    stops=st.sampled_from([(), ("STOP",), ("STOP", "\n "), ("é",)]),
    only_one_call=st.booleans(),
    limit=st.none() | st.integers(1, 40),
)
@settings(max_examples=60)
@example("<think>\nhm", [1], True, False, True, (), False, None)
@example("é", [1], False, False, False, ("é",), False, 1)
def test_told_pieces_join_to_the_reply_that_is_not_streamed(
    name, text, pieces, thinks, opens, has_tools, stops, only_one_call, limit
):
    tokenizer = template_of(name, thinks=thinks or opens, opens=opens)
    request = ChatRequest(
        messages=QUESTION,
        tools=[ADD_TOOL] if has_tools else [],
        stops=stops,
        only_one_call=only_one_call and name != "mistral",
        max_new_tokens=limit,
        wants_tokens=True,
    )
    plain, _, call = reply_of(text, tokenizer, [1], request, streams=False)
    streamed, told, same = reply_of(text, tokenizer, pieces, request, streams=True)
    assert "".join(d.text for d in told if d.kind == "reasoning") == plain.reasoning
    assert "".join(d.text for d in told if d.kind == "text") == plain.text
    assert all(delta.text for delta in told)
    kinds = [delta.kind for delta in told]
    assert kinds == sorted(kinds), "reasoning first"
    for field in ("text", "reasoning", "tool_calls", "finish_reason", "stop", "tokens"):
        assert getattr(streamed, field) == getattr(plain, field)
    assert (same.completion, same.reply) == (call.completion, call.reply)


def test_what_was_sampled_since_the_event_loop_last_looked_is_told_as_one_piece():
    tokenizer, text = ByteTokenizer(), "All of it at once."
    request = ChatRequest(messages=QUESTION)
    reply, told, _ = reply_of(text, tokenizer, [1], request, streams=True)
    assert ["".join(delta.text for delta in told), reply.text] == [text, text]
    assert len(told) == 1, "the engine gave every token before the loop ran again"


@given(
    text=TEXTS,
    stops=st.lists(st.sampled_from(["STOP", "T", "é", "\n", "k<", "🙂"]), min_size=1, max_size=3),
    pieces=st.lists(st.integers(1, 50), min_size=1, max_size=4),
)
@settings(max_examples=100)
def test_a_stop_string_ends_the_record_at_the_token_that_completes_it(text, stops, pieces):
    tokenizer = ByteTokenizer()
    request = ChatRequest(messages=QUESTION, stops=stops)
    reply, _, call = reply_of(text, tokenizer, pieces, request, streams=False)
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        assert (reply.text, reply.stop, call.completion.finish_reason) == (text, None, "stop")
        return
    first_end = min(len(text[: at + len(stop)].encode()) for at, stop in found)
    assert bytes(call.completion.ids) == text.encode()[:first_end]
    assert call.completion.logprobs == tuple(-(i + 1) / 10 for i in range(first_end))
    assert (reply.finish_reason, reply.stop) == ("cut", reply.stop) and reply.stop in stops
    assert text.startswith(reply.text) and reply.stop not in reply.text
    assert (reply.text + reply.stop).encode() == text.encode()[:first_end]


@given(data=st.binary(max_size=60))
@settings(max_examples=150)
def test_growing_text_is_the_beginning_of_the_whole_text_and_never_half_a_character(data):
    decode = ByteTokenizer().decode
    growing, text = GrowingText(decode), ""
    for index, byte in enumerate(data):
        text += growing.add(byte)
        whole = decode(data[: index + 1])
        assert whole.startswith(text)
        assert set(whole[len(text) :]) <= {"\ufffd"}, "only what may be a beginning is held back"
    valid = data.decode(errors="ignore")
    if valid.encode() == data:
        assert text == valid


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "llama3_json", "mistral_args"])
def test_only_one_call_ends_behind_the_first_whole_call_in_every_format(name):
    from astuner.inference.tools.protocol import ToolCall

    written = FORMATS[name].write([ToolCall(name="add", arguments={"a": 2})])
    tokenizer = template_of(name, thinks=False)
    request = ChatRequest(messages=QUESTION, tools=[ADD_TOOL], only_one_call=True)
    joint = "; " if name == "llama3_json" else ""
    reply, _, call = reply_of(written + joint + written, tokenizer, [3], request, streams=False)
    assert [c.arguments for c in reply.tool_calls] == [{"a": 2}]
    assert bytes(call.completion.ids).decode() == written


def test_one_call_only_is_refused_where_calls_are_one_piece():
    async def body():
        async with serving(["x"], tokenizer=template_of("mistral", thinks=False)) as it:
            response = await it.ask(tools=[ADD_TOOL], parallel_tool_calls=False)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "parallel_tool_calls"

    asyncio.run(body())


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages", "completions"])
def test_pieces_arrive_while_the_engine_still_samples(path):
    engine = ScriptedEngine(["one two three"], piece_seconds=0.02)
    body = {"messages": QUESTION, "max_tokens": 50, "stream": True}
    if path == "responses":
        body = {"input": "?", "stream": True}
    if path == "completions":
        body = {"prompt": "?", "max_tokens": 50, "stream": True}

    async def run():
        async with serving(engine) as it:
            address, seen = it.address(), []
            headers = {"authorization": f"Bearer {address.api_key}"}
            url = f"{address.base_url}/{path}"
            async with it.http.stream("POST", url, json=body, headers=headers) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                async for _ in response.aiter_raw():
                    seen.append(len(it.calls))
            assert seen[0] == 0 and seen[-1] == 1

    asyncio.run(run())


def test_a_stream_that_breaks_says_so_in_an_event():
    engine = ScriptedEngine(["one two three"], piece_seconds=0.05)

    async def run():
        async with serving(engine) as it:
            call = asyncio.create_task(it.ask(stream=True))
            while not engine.running:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.15)
            await it.door.close()
            response = await call
            last = response.text.strip().split("\n\n")[-1]
            error = json.loads(last.removeprefix("data: "))["error"]
            assert response.status_code == 200 and error["code"] == "episode_finished"
            assert "[DONE]" not in response.text

    asyncio.run(run())


def test_a_client_that_does_not_read_is_left_soon_after_the_episode(caplog):
    # Each character takes six bytes of JSON.
    engine = ScriptedEngine(lambda prompt: "\1" * 9000, pieces=(3000,), piece_seconds=0.05)

    async def run():
        async with serving(engine, seconds=60) as it, raw_call(it, n=8) as num_waiting:
            while len(it.calls) < 8:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert await num_waiting() == 1
            await it.door.close()
            await until_none(num_waiting)
            assert not any(call.is_trained for call in it.calls)

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_client_that_does_not_send_its_body_is_left_soon_after_the_episode(caplog):
    async def run():
        async with serving(["five"]) as it, raw_call(it, num_missing=1) as num_waiting:
            await asyncio.sleep(0.1)
            assert await num_waiting() == 1
            await it.door.close()
            await until_none(num_waiting)
            assert it.engine.indices == []

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@contextlib.asynccontextmanager
async def raw_call(it, *, num_missing=0, **fields):
    """A stream is asked for by a client that reads nothing and keeps bytes of its body back.

    Gives a function for the number of calls that wait.
    """
    body = json.dumps({"messages": QUESTION, "stream": True, **fields}).encode()
    address = it.address()
    place = urlsplit(address.base_url)
    # Small buffers, so that the server has to wait for the reader.
    it.gateway._server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    async def num_waiting():
        return (await it.http.get(f"http://{place.netloc}/healthz")).json()["waiting_calls"]

    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (place.hostname, place.port))
        key = f"authorization: Bearer {address.api_key}\r\ncontent-length: {len(body)}"
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{key}\r\n\r\n"
        await loop.sock_sendall(client, head.encode() + body[: len(body) - num_missing])
        yield num_waiting


async def until_none(num_waiting):
    async with asyncio.timeout(60):
        while await num_waiting():
            await asyncio.sleep(0.05)
