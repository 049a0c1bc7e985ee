"""What spans of each set of names say."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astuner.traces.messages import read_messages, read_text, read_tools
from astuner.traces.span import TracedEvent
from astuner.traces.trace import Step, TracedToolCall
from astuner.traces.vocabularies.known import read_span
from astuner.traces.vocabulary import SpanReading
from tests.otlp_files import START, traced

CALL = TracedToolCall(call_id="c1", name="weather", arguments='{"city": "Paris"}')
ASKED = [
    Step(role="system", text="Be short."),
    Step(role="user", text="Weather?"),
    Step(role="assistant", text="", tool_calls=(CALL,)),
    Step(role="tool", text="rainy", tool_call_id="c1"),
]
FUNCTION = {"name": "weather", "parameters": {"type": "object"}}
TOOLS = ({"type": "function", "function": FUNCTION},)
REPLY = Step(
    role="assistant",
    text="It rains.",
    span_id="00f067aa0ba902b7",
    model="m",
    tools=TOOLS,
    input_tokens=5,
    output_tokens=2,
    started=START,
    seconds=0.5,
)
OPENAI = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rainy"},
]
PARTS = [
    {"role": "system", "parts": [{"type": "text", "content": "Be short."}]},
    {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
    {
        "role": "assistant",
        "parts": [
            {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Paris"}}
        ],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rainy"}]},
]
OUTPUT = [
    {
        "role": "assistant",
        "parts": [{"type": "text", "content": "It rains."}],
        "finish_reason": "stop",
    }
]
OF_CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "m",
    "gen_ai.usage.input_tokens": 5,
    "gen_ai.usage.output_tokens": 2,
}
FLAT = {"type": "function", **FUNCTION}
NEW = {
    "gen_ai.input.messages": PARTS,
    "gen_ai.output.messages": OUTPUT,
    "gen_ai.tool.definitions": [FLAT],
}


def event(name: str, body: Any = None, **told: Any) -> TracedEvent:
    return TracedEvent(name=name, attributes=told, body=body)


def flattened(value: Any, prefix: str) -> dict[str, Any]:
    """With a dot and the index or the name of each."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        pairs = list(enumerate(value))
    else:
        return {} if value is None else {prefix: value}
    return {
        key: inner
        for name, one in pairs
        for key, inner in flattened(one, f"{prefix}.{name}").items()
    }


def openinference(messages: list[Any]) -> list[Any]:
    """OpenAI's messages as that has them."""
    made = []
    for one in messages:
        calls = [{"tool_call": call} for call in one.get("tool_calls", [])]
        made.append({"message": {**one, "tool_calls": calls}})
    return made


OLD = {
    "gen_ai.request.model": "m",
    "gen_ai.usage.prompt_tokens": 5,
    "gen_ai.usage.completion_tokens": "2",
}
LOG_EVENTS = [
    event("gen_ai.system.message", {"content": "Be short."}),
    event("gen_ai.user.message", {"content": "Weather?"}),
    event("gen_ai.assistant.message", {"tool_calls": OPENAI[2]["tool_calls"]}),
    event("gen_ai.tool.message", {"content": "rainy", "id": "c1"}),
    event("gen_ai.choice", {"index": 0, "message": {"role": "assistant", "content": "It rains."}}),
]
OF_LLM = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "m",
    "llm.token_count.prompt": 5,
    "llm.token_count.completion": 2,
    "llm.tools.0.tool.json_schema": json.dumps(TOOLS[0]),
}
SPOKEN: dict[str, tuple[dict[str, Any], list[TracedEvent]]] = {
    "structures": ({**OF_CALL, **NEW}, []),
    "texts": ({**OF_CALL, **{key: json.dumps(value) for key, value in NEW.items()}}, []),
    "system apart": (
        {
            **OF_CALL,
            **NEW,
            "gen_ai.input.messages": PARTS[1:],
            "gen_ai.system_instructions": [{"type": "text", "content": "Be short."}],
        },
        [],
    ),
    "an event of the span": (OF_CALL, [event("gen_ai.client.inference.operation.details", **NEW)]),
    "the body of a log record": (
        OF_CALL,
        [event("gen_ai.client.inference.operation.details", NEW)],
    ),
    "old texts": (
        {
            **OLD,
            "gen_ai.prompt": json.dumps(OPENAI),
            "gen_ai.completion": json.dumps([{"role": "assistant", "content": "It rains."}]),
            **flattened([FUNCTION], "llm.request.functions"),
            "llm.request.functions.0.parameters": '{"type": "object"}',
        },
        [],
    ),
    "OpenLLMetry's indices": (
        {
            **OLD,
            "llm.request.type": "chat",
            **flattened(
                [
                    *OPENAI[:2],
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'}
                        ],
                    },
                    OPENAI[3],
                ],
                "gen_ai.prompt",
            ),
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "It rains.",
            "gen_ai.completion.0.finish_reason": "stop",
            "gen_ai.tool.definitions": [FLAT],
        },
        [],
    ),
    "an event for each message": ({**OF_CALL, "gen_ai.tool.definitions": [FLAT]}, LOG_EVENTS),
    "an event with content as JSON": (
        {**OF_CALL, "gen_ai.tool.definitions": [FLAT]},
        [event(one.name, **{"gen_ai.event.content": json.dumps(one.body)}) for one in LOG_EVENTS],
    ),
    "OpenInference": (
        {
            **OF_LLM,
            **flattened(openinference(OPENAI), "llm.input_messages"),
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "It rains.",
        },
        [],
    ),
    "OpenInference's values": (
        {
            **OF_LLM,
            "input.value": json.dumps({"model": "m", "messages": OPENAI}),
            "output.value": json.dumps(
                {
                    "choices": [
                        {"index": 0, "message": {"role": "assistant", "content": "It rains."}}
                    ]
                }
            ),
        },
        [],
    ),
    "AgentScope 1.x": (
        {
            **OF_CALL,
            "agentscope.function.input": json.dumps(
                {"args": [OPENAI], "kwargs": {"tools": list(TOOLS), "tool_choice": None}}
            ),
            "gen_ai.output.messages": json.dumps(OUTPUT),
        },
        [],
    ),
}


def said(attributes: Mapping[str, Any], *events: TracedEvent, **changed: Any) -> SpanReading:
    return read_span(traced(attributes=attributes, **changed), events)


@pytest.mark.parametrize("spoken", SPOKEN)
def test_the_same_call_is_read_the_same_from_every_vocabulary(spoken: str) -> None:
    attributes, events = SPOKEN[spoken]
    reading = said(attributes, *events)
    assert reading.kind == "chat" and reading.num_unreadable == 0
    assert list(reading.input) == ASKED
    assert list(reading.output) == [REPLY]


@pytest.mark.parametrize("key", ["gen_ai.conversation.id", "session.id"])
def test_who_talked_is_read_from_whatever_names_it(key: str) -> None:
    told = {**OF_LLM, key: '"run 7"', "user.id": "u", "agent.name": "shop", "tag.tags": ["a", "b"]}
    reading = said({**told, "metadata": '{"channel": "web"}'})
    assert (reading.session, reading.user, reading.agent) == ("run 7", "u", "shop")
    assert list(reading.tags) == ["a", "b"] and reading.metadata == {"channel": "web"}


def test_no_session_of_agentscope_2_is_none() -> None:
    assert said({**OF_CALL, "gen_ai.conversation.id": "[no_session_id]"}).session is None


def test_agents_and_tools_are_told_apart_from_calls() -> None:
    agent = said(
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "Meteo",
            "gen_ai.input.messages": json.dumps(PARTS[1:2]),
            "gen_ai.output.messages": json.dumps(OUTPUT),
        }
    )
    assert agent.kind == "agent" and agent.agent == "Meteo"
    assert [step.text for step in (*agent.input, *agent.output)] == ["Weather?", "It rains."]
    tool = said(
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "weather",
            "gen_ai.tool.call.id": "c1",
            "gen_ai.tool.call.result": {"sky": "rain"},
        },
        error="slow",
    )
    [result] = tool.output
    assert tool.kind == "tool" and result.text == '{"sky": "rain"}'
    assert (result.name, result.tool_call_id, result.error) == ("weather", "c1", "slow")
    old = said({"openinference.span.kind": "AGENT", "input.value": "Hi", "output.value": "Hello"})
    assert [(step.role, step.text) for step in (*old.input, *old.output)] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
    ]


def langchains(**told: Any) -> dict[str, Any]:
    return {"content": "rainy", "type": "tool", "tool_call_id": "c1", **told}


@pytest.mark.parametrize(
    "output",
    [
        langchains(),
        {"type": "tool", "data": langchains(name="weather", status="success")},
        {"lc": 1, "id": ["langchain", "schema", "ToolMessage"], "kwargs": langchains()},
    ],
)
def test_a_tool_of_langchain_tells_which_call_it_answered(output: dict[str, Any]) -> None:
    told = {"openinference.span.kind": "TOOL", "tool.name": "weather"}
    [result] = said({**told, "output.value": json.dumps(output)}).output
    assert (result.text, result.name, result.tool_call_id) == ("rainy", "weather", "c1")
    assert result.error is None


def test_a_tool_of_langchain_that_failed_says_so() -> None:
    output = {"type": "tool", "data": langchains(status="error", content="no such city")}
    told = {"openinference.span.kind": "TOOL", "output.value": json.dumps(output)}
    assert said(told).output[0].error == "no such city"


def test_an_agent_of_langchain_is_named_by_what_it_tells_of_itself() -> None:
    told = {**OF_LLM, "metadata": '{"lc_agent_name": "shop", "langgraph_step": 1}'}
    assert said(told).agent == "shop"
    assert said({**told, "agent.name": "Meteo"}).agent == "Meteo"
    assert said({**told, "metadata": '{"langgraph_step": 1}'}).agent is None


def test_what_a_tool_returned_stays_as_it_is() -> None:
    told = {"openinference.span.kind": "TOOL", "tool.name": "weather"}
    for output in ('{"sky": "rain"}', "rain", '{"role": "user", "sky": 1}'):
        [result] = said({**told, "output.value": output}).output
        assert (result.text, result.tool_call_id, result.name) == (output, None, "weather")


def test_of_chains_only_the_outermost_is_an_agent() -> None:
    told = {
        "openinference.span.kind": "CHAIN",
        "input.value": '{"input": "Hi"}',
        "output.value": '{"messages": [{"type": "human", "content": "Hi"}, ["ai", "x"], '
        '{"type": "ai", "content": "Hello"}]}',
    }
    outer = said(told)
    assert outer.kind == "agent" and [step.text for step in outer.input] == ["Hi"]
    assert [step.text for step in outer.output] == ["Hello"]
    assert said(told, parent_id="r").kind == "other"


def test_a_call_that_failed_without_a_word_is_a_reply_with_its_error() -> None:
    told = {key: value for key, value in NEW.items() if "output" not in key}
    [reply] = said({**OF_CALL, **told}, error="overloaded").output
    assert (reply.text, reply.error, reply.model) == ("", "overloaded", "m")


def test_a_span_of_something_else_says_nothing() -> None:
    assert said({"http.request.method": "GET", "db.system": "x"}) == SpanReading(kind="other")


def test_what_is_no_text_becomes_a_placeholder_and_is_counted() -> None:
    parts = [
        {"type": "text", "content": "Look:"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "aGk="},
        {"type": "uri", "modality": "video", "uri": "https://x.example/a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "input_audio", "input_audio": {"data": "aGk="}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "document", "source": {"data": "aGk="}},
        {"inline_data": {"mime_type": "application/pdf"}},
    ]
    [step] = read_messages([{"role": "user", "content": parts}]).steps
    shown = ["[image]", "[video]", "[image]", "[audio]", "[file]", "[document]", "[inline_data]"]
    assert step.text.splitlines() == ["Look:", *shown]
    assert step.num_left_out == 7 and "aGk=" not in step.text


def test_messages_of_other_makers_are_read_too() -> None:
    anthropic = [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "no"}],
                    "is_error": True,
                },
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    assert list(read_messages(anthropic).steps) == [
        Step(role="assistant", text="Let me see.", reasoning="hm", tool_calls=(CALL,)),
        Step(role="tool", text="no", tool_call_id="c1", error="no"),
        Step(role="user", text="Well?"),
    ]
    whole_turn = [*PARTS[2]["parts"], *PARTS[3]["parts"], *OUTPUT[0]["parts"]]
    assert list(read_messages([{"role": "assistant", "parts": whole_turn}]).steps) == [
        *ASKED[2:],
        Step(role="assistant", text="It rains."),
    ]
    gemini = [
        {"role": "model", "parts": [{"function_call": {"name": "weather", "args": {"city": "x"}}}]},
        {"role": "user", "parts": [{"function_response": {"name": "weather", "response": "y"}}]},
    ]
    called, answered = read_messages(gemini).steps
    assert called.role == "assistant" and called.tool_calls[0].arguments == '{"city": "x"}'
    assert (answered.role, answered.name, answered.text) == ("tool", "weather", "y")
    langchain = [
        {"type": "human", "content": "Hi"},
        {"lc": 1, "id": ["langchain", "schema", "AIMessage"], "kwargs": {"content": "Hello"}},
        {"type": "ai", "data": {"content": "Bye", "tool_calls": [{"name": "f", "args": {}}]}},
    ]
    roles = [(step.role, step.text) for step in read_messages(langchain).steps]
    assert roles == [("user", "Hi"), ("assistant", "Hello"), ("assistant", "Bye")]


def test_texts_that_look_like_json_stay_texts() -> None:
    told = '{"city": "Paris"}'
    [step] = read_messages([{"role": "user", "content": told}]).steps
    assert step.text == told
    [step] = read_messages(told, role="user").steps
    assert json.loads(step.text) == {"city": "Paris"}
    assert read_text([1, {"a": 2}]) == '1\n{"a": 2}'


def test_messages_without_a_form_are_counted_and_the_others_are_read() -> None:
    read = read_messages([{"role": "critic", "content": "x"}, 7, PARTS[1], {"a": 1}])
    assert [step.text for step in read.steps] == ["Weather?"] and read.num_unreadable == 3
    assert read_messages(None).steps == () and read_messages("[broken").num_unreadable == 1


def test_tools_come_in_openais_form_from_every_other() -> None:
    schema = {"name": "weather", "input_schema": {"type": "object"}}
    for told in (TOOLS, [FLAT], json.dumps([FLAT]), [json.dumps(FLAT)], [schema], FLAT):
        assert read_tools(told) == list(TOOLS)
    assert read_tools("none") == [] == read_tools(None)


KEYS = [
    *sorted({key for attributes, _ in SPOKEN.values() for key in attributes}),
    "gen_ai.prompt.0.role",
    "gen_ai.prompt.x",
    "llm.input_messages.0",
    "llm.input_messages.0.message",
    "llm.input_messages.a.message.role",
    "llm.output_messages.0.message.tool_calls.0",
    "llm.output_messages.0.message.contents",
    "llm.tools.0",
    "llm.tools.0.tool",
    "tag.tags",
    "metadata",
    "gen_ai.tool.call.result",
    "gen_ai.tool.call.id",
    "astuner.reply_ids",
    "gen_ai.event.content",
    "message",
    "tool_calls",
]
NAMES = ["gen_ai.choice", "gen_ai.tool.message", "gen_ai.client.inference.operation.details"]
WORDS = sorted(
    {"role", "parts", "content", "type", "tool_calls", "function", "arguments", "message", "name"}
    | {"messages", "args", "kwargs", "tools", "choices", "function_call", "response", "id", "tool"}
    | {"user", "tool_call", "tool_result", "image", "text", "reasoning", "data", "AGENT", "chat"}
    | {"LLM", "TOOL", "execute_tool", "[", '{"role": 1}', '[{"type": "text"}]', "json_schema"}
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text()
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    attributes=st.dictionaries(
        st.sampled_from(KEYS), ANYTHING | ANYTHING.map(json.dumps), max_size=6
    ),
    body=ANYTHING,
    name=st.sampled_from(NAMES),
)
def test_no_value_of_an_attribute_stops_the_reading(
    attributes: dict[str, Any], body: Any, name: str
) -> None:
    reading = said(attributes, event(name, body, **attributes))
    for step in (*reading.input, *reading.output):
        assert isinstance(step.text, str) and isinstance(step.reasoning, str)
        assert step.tool_call_id is None or isinstance(step.tool_call_id, str)
        assert step.name is None or isinstance(step.name, str)
        assert all(isinstance(call.arguments, str) for call in step.tool_calls)
        json.dumps([dict(tool) for tool in step.tools])
