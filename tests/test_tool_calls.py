"""Tool calls in text: each format, detection of a template's format, folding, checking."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, TemplateError

from astuner.errors import ConfigError, EngineError, RequestError
from astuner.inference.tools.check import check_call
from astuner.inference.tools.detect import detect_format
from astuner.inference.tools.fold import default_tool_prompt, fold_tools
from astuner.inference.tools.formats import FORMATS
from astuner.inference.tools.protocol import ToolCall

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "hourly": {"type": "boolean"},
                "area": {"$ref": "#/$defs/Area"},
                "unit": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "label": {"type": ["string", "null"]},
            },
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {
                "Area": {
                    "type": "object",
                    "properties": {"radius": {"type": "number"}},
                    "required": ["radius"],
                }
            },
        },
    },
}
NOTHING = {"type": "function", "function": {"name": "stop"}}
TOOLS = [WEATHER, NOTHING]
CITY = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
OSLO = ToolCall(name="get_weather", arguments={"city": "Oslo"})
BERN = ToolCall(name="get_weather", arguments={"city": "Bern", "days": 2})


def parse(format_name: str, text: str):
    return FORMATS[format_name].parse(text, TOOLS)


HERMES_CALLS = {
    "plain": f"<tool_call>\n{CITY}\n</tool_call>",
    "one line": f"<tool_call>{CITY}</tool_call>",
    "unclosed at the end": f"<tool_call>\n{CITY}",
    "unclosed with a line break": f"<tool_call>\n{CITY}\n",
    "arguments as text": '<tool_call>{"name": "get_weather", '
    '"arguments": "{\\"city\\": \\"Oslo\\"}"}',
    "keys in another order": '<tool_call>{"arguments": {"city": "Oslo"}, "name": "get_weather"}',
    "other keys": '<tool_call>{"type": "function", ' + CITY[1:],
}


@pytest.mark.parametrize("text", HERMES_CALLS.values(), ids=HERMES_CALLS)
def test_hermes_reads_a_call(text):
    reply = parse("hermes", text)
    assert (reply.text, reply.tool_calls, reply.malformed) == ("", (OSLO,), ())


CODER_CALLS = {
    "plain": "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "</function>\n</tool_call>",
    "one line": "<tool_call><function=get_weather><parameter=city>Oslo</parameter></function>"
    "</tool_call>",
    "unclosed at the end": "<tool_call><function=get_weather><parameter=city>Oslo</parameter>"
    "</function>",
}


@pytest.mark.parametrize("text", CODER_CALLS.values(), ids=CODER_CALLS)
def test_qwen3_coder_reads_a_call(text):
    reply = parse("qwen3_coder", text)
    assert (reply.text, reply.tool_calls, reply.malformed) == ("", (OSLO,), ())


@pytest.mark.parametrize(
    ("parameter", "raw", "value"),
    [
        ("days", "3", 3),
        ("days", "three", "three"),
        ("days", "3 or 4", "3 or 4"),
        ("hourly", "true", True),
        ("hourly", "True", True),
        ("hourly", "1", "1"),
        ("area", '{"radius": 2.5}', {"radius": 2.5}),
        ("unit", "None", None),
        ("unit", "null", None),
        ("unit", "2", 2),
        ("unit", "many", "many"),
        ("city", "3", "3"),
        ("city", "null", "null"),
        ("label", "null", None),
        ("label", "5", "5"),
        ("unknown", "3", "3"),
        ("city", "<b>\n</parameter> x\n\n", "<b>\n</parameter> x\n\n"),
    ],
)
def test_qwen3_coder_reads_values_by_the_schema(parameter, raw, value):
    text = (
        f"<tool_call>\n<function=get_weather>\n<parameter={parameter}>\n{raw}\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    (call,) = parse("qwen3_coder", text).tool_calls
    assert call.arguments == {parameter: value} and type(call.arguments[parameter]) is type(value)


LLAMA = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
LLAMA_CALLS = {
    "plain": LLAMA,
    "arguments": CITY,
    "python tag": f"<|python_tag|>{LLAMA}",
    "space around": f"\n {LLAMA}\n",
    "type first": '{"type": "function", ' + LLAMA[1:],
}


@pytest.mark.parametrize("text", LLAMA_CALLS.values(), ids=LLAMA_CALLS)
def test_llama3_json_reads_a_call(text):
    reply = parse("llama3_json", text)
    assert (reply.text, reply.tool_calls, reply.malformed) == ("", (OSLO,), ())


def test_llama3_json_reads_several_calls():
    assert parse("llama3_json", f"{LLAMA}; {LLAMA};{LLAMA}").tool_calls == (OSLO,) * 3


def test_mistral_reads_a_list_of_calls_with_ids():
    reply = parse("mistral", f'Wait.[TOOL_CALLS] [{CITY}, {CITY[:-1]}, "id": "a1b2c3d4e"}}]')
    with_id = ToolCall(name=OSLO.name, arguments=OSLO.arguments, id="a1b2c3d4e")
    assert (reply.text, reply.tool_calls) == ("Wait.", (OSLO, with_id))


def test_mistral_args_reads_calls_with_ids():
    text = (
        'Wait.\n[TOOL_CALLS]get_weather[CALL_ID]a1[ARGS]{"city": "Oslo"}\n[TOOL_CALLS]stop[ARGS]{}'
    )
    reply = parse("mistral_args", text)
    with_id = ToolCall(name=OSLO.name, arguments=OSLO.arguments, id="a1")
    assert reply.tool_calls == (with_id, ToolCall(name="stop", arguments={}))
    assert reply.text == "Wait." and reply.malformed == ()


NO_CALLS = [
    "",
    " \n",
    "  Oslo is rainy.\n\n",
    "I would call get_weather.",
    '{"answer": 5}',
    '{"name": "Ann", "age": 5}',
    "[1, 2]",
    "a tool call [TOOL CALLS]",
    "<think>\nI could write <tool_call> or <function=f> or [TOOL_CALLS] here.\n</think>\nNo need.",
    '<think>{"name": "f", "parameters": {',
    "<think> still thinking <tool_call>",
    "<tool_response>\n5\n</tool_response>",
]


@pytest.mark.parametrize("text", NO_CALLS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_reply_without_calls_comes_back_unchanged(name, text):
    reply = parse(name, text)
    assert (reply.text, reply.tool_calls, reply.malformed) == (text, (), ())


MALFORMED = [
    ("hermes", "<tool_call>", "not valid JSON"),
    ("hermes", '<tool_call>{"name": "get_wea', "not valid JSON"),
    ("hermes", "<tool_call>{'name': 'f', 'arguments': {}}</tool_call>", "not valid JSON"),
    ("hermes", "<tool_call>[1]</tool_call>", "not an object"),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', "no 'arguments'"),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>', "no 'name'"),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "not an object"),
    ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', "not an object"),
    ("hermes", '<tool_call>{"name": "f", "arguments": "x"}</tool_call>', "not valid JSON"),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{} x"}</tool_call>', "text after"),
    ("hermes", f"<tool_call>{CITY}}}</tool_call>", "</tool_call> should stand"),
    ("hermes", f"<tool_call>{CITY} is my call", "</tool_call> should stand"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}', "out of range"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1e999}}', "out of range"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": ' + "9" * 5000, "out of range"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}', "surrogate"),
    ("hermes", '<tool_call>{"name": "f", "arguments": ' + "[" * 50_000, "nested too deep"),
    ("qwen3_coder", "<tool_call>{}</tool_call>", "<function=name>"),
    ("qwen3_coder", "<function=stop></function>", "<function=name>"),
    ("qwen3_coder", "<tool_call><function=stop>", "</function>"),
    ("qwen3_coder", "<tool_call><function=stop><parameter=a>1</function></tool_call>", "closed"),
    (
        "qwen3_coder",
        "<tool_call><function=f><parameter=a>1</parameter><parameter=a>1</parameter></function>",
        "twice",
    ),
    ("llama3_json", LLAMA[:-1], "not valid JSON"),
    ("llama3_json", f"{LLAMA} Done.", "; should stand"),
    ("llama3_json", '{"name": "f", "parameters": 3}', "not an object"),
    ("llama3_json", "<|python_tag|>print(1)", "not valid JSON"),
    ("mistral", f"[TOOL_CALLS]{CITY}", "not a list"),
    ("mistral", "[TOOL_CALLS][]", "not a list of calls"),
    ("mistral", f"[TOOL_CALLS][{CITY}", "not valid JSON"),
    ("mistral", f"[TOOL_CALLS][{CITY}] Done.", "text after"),
    ("mistral", "[TOOL_CALLS]get_weather[ARGS]{}", "not valid JSON"),
    ("mistral_args", f"[TOOL_CALLS][{CITY}]", "not a name"),
    ("mistral_args", "[TOOL_CALLS]stop[ARGS]{", "not valid JSON"),
    ("mistral_args", "[TOOL_CALLS]stop[ARGS]{} Done.", "text after"),
    ("harmony", "<|channel|>commentary to=functions.f json<|message|>", "not valid JSON"),
    ("harmony", "<|channel|>commentary to=functions.f json<|message|>[1]", "not an object"),
    ("harmony", " to=functions.f<|channel|>commentary json<|message|>{} Done.", "text after"),
]


@pytest.mark.parametrize(("name", "text", "reason"), MALFORMED)
def test_a_malformed_call_stays_in_the_text_with_a_reason(name, text, reason):
    reply = parse(name, text)
    assert (reply.text, reply.tool_calls) == (text, ())
    (malformed,) = reply.malformed
    assert reason in malformed and len(malformed) < 400


def test_text_around_calls_loses_only_the_space_beside_them():
    call = HERMES_CALLS["plain"]
    reply = parse("hermes", f"  First \n\n{call}\n\n second\n{call}{call}\n third \n")
    assert reply.text == "  First\nsecond\nthird \n"
    assert reply.tool_calls == (OSLO,) * 3


def test_a_malformed_call_between_two_good_ones_is_kept_alone():
    call, bad = HERMES_CALLS["plain"], "<tool_call>\n{'name'}\n</tool_call>"
    reply = parse("hermes", f"{call}\n{bad}\n{call}")
    assert (reply.text, reply.tool_calls, len(reply.malformed)) == (bad, (OSLO, OSLO), 1)


def test_an_unclosed_call_before_another_is_malformed():
    reply = parse("hermes", f"<tool_call>\n{CITY}\n<tool_call>\n{CITY}\n</tool_call>")
    assert (reply.tool_calls, len(reply.malformed)) == ((OSLO,), 1)


def test_a_call_follows_a_thought_that_mentions_one():
    thought = "<think>\nMaybe <tool_call>?\n</think>"
    reply = parse("hermes", f"{thought}\n\n{HERMES_CALLS['plain']}")
    assert (reply.text, reply.tool_calls, reply.malformed) == (thought, (OSLO,), ())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
tricky_texts = st.sampled_from(
    [
        "</tool_call>",
        "<tool_call>",
        "[TOOL_CALLS]x[ARGS]{}",
        "</think>",
        "; ",
        '"}\n',
        "<|python_tag|>",
        "<|call|>",
        " to=functions.x<|channel|>commentary json<|message|>{}",
    ]
)
json_calls = st.builds(
    ToolCall,
    name=names,
    arguments=st.dictionaries(st.text(), json_values | tricky_texts, max_size=4),
)


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"qwen3_coder"}))
@given(calls=st.lists(json_calls, min_size=1, max_size=3).map(tuple))
def test_written_calls_are_read_back(name, calls):
    reply = FORMATS[name].parse(FORMATS[name].write(calls), [])
    assert (reply.text, reply.tool_calls, reply.malformed) == ("", calls, ())


def tool_for(call: ToolCall) -> dict[str, Any]:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
    kinds |= {dict: "object", type(None): "null"}
    properties = {key: {"type": kinds[type(value)]} for key, value in call.arguments.items()}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": call.name, "parameters": parameters}}


@given(
    call=st.builds(ToolCall, name=names, arguments=st.dictionaries(names, json_values, max_size=4))
)
def test_written_calls_are_read_back_by_qwen3_coder_with_the_schema(call):
    coder = FORMATS["qwen3_coder"]
    reply = coder.parse(coder.write([call, call]), [tool_for(call)])
    assert (reply.text, reply.tool_calls, reply.malformed) == ("", (call, call), ())


@given(
    st.text()
    | st.lists(tricky_texts | st.sampled_from([*LLAMA_CALLS.values(), '{"name": "'])).map("".join)
)
@pytest.mark.parametrize("name", FORMATS)
def test_any_text_parses(name, text):
    reply = FORMATS[name].parse(text, TOOLS)
    assert reply.tool_calls or reply.text == text


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tool_name", [None, "get_weather"])
def test_the_opening_begins_what_the_format_writes(name, tool_name):
    tool_format = FORMATS[name]
    opening, written = tool_format.opening(tool_name), tool_format.write([BERN])
    assert written.startswith(opening) and opening == opening.rstrip(" ")
    sampled = written[len(opening) :]
    assert tool_format.parse(opening + sampled, TOOLS).tool_calls == (BERN,)


def render_with(template: str):
    """A chat template as `detect_format` gets it."""

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    compiled = environment.from_string(template)
    return lambda messages, tools: compiled.render(messages=messages, tools=tools)


PLAIN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)

TEMPLATES = {
    "hermes": """
{%- if tools %}TOOLS:{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}

<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}""",
    "qwen3_coder": """
{%- if tools %}TOOLS:{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}
{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}<think>

</think>

{% endif %}
{{ m.content }}{% for c in m.tool_calls or [] %}
<tool_call>
<function={{ c.function.name }}>
{% for key, value in c.function.arguments.items() %}
<parameter={{ key }}>
{{ value }}
</parameter>
{% endfor %}
</function>
</tool_call>{% endfor %}<|im_end|>
{% endfor %}""",
    "llama3_json": """
{%- for m in messages %}<|header|>{{ m.role }}<|/header|>

{% if tools and m.role == 'user' %}FUNCTIONS {{ tools | tojson(indent=4) }} {% endif %}
{% if m.tool_calls %}
{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{% set f = m.tool_calls[0].function %}
{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}
{%- else %}{{ m.content }}{% endif %}<|eot|>
{%- endfor %}""",
    "mistral": """
{%- for m in messages %}
{% if m.role == 'user' %}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}{% endif %}
[INST] {{ m.content }}[/INST]
{% elif m.tool_calls %}[TOOL_CALLS] [
{% for c in m.tool_calls %}
{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }},
{{- ' "id": ' }}"{{ c.id }}"}{{ "" if loop.last else ", " }}{% endfor %}]</s>
{% else %} {{ m.content }}</s>{% endif %}
{% endfor %}""",
    "mistral_args": """
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]
{%- else %}{{ m.content }}{% for c in m.tool_calls or [] %}
[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}
{%- endfor %}</s>{% endif %}{% endfor %}""",
    "harmony": """
{%- if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}
{% for m in messages %}<|start|>{{ m.role }}
{%- if m.tool_calls %} to=functions.{{ m.tool_calls[0].function.name }}<|channel|>commentary json
{%- raw %}{% endraw %}<|message|>{{ m.tool_calls[0].function.arguments | tojson }}<|call|>
{%- elif m.role == 'assistant' %}<|channel|>final<|message|>{{ m.content }}<|return|>
{%- else %}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}""",
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_of_a_template_is_found(name):
    assert detect_format(render_with(TEMPLATES[name])) is FORMATS[name]


NO_TOOL_TEMPLATES = {
    "ignores tools": PLAIN_TEMPLATE,
    "lists tools but drops calls": "{{ tools | tojson if tools else '' }}" + PLAIN_TEMPLATE,
    "refuses calls": "{{ tools | tojson if tools else '' }}{% for m in messages %}"
    "{% if m.tool_calls %}{{ raise_exception('no calls') }}{% endif %}{{ m.content }}{% endfor %}",
    "adds text to objects": "{{ tools | tojson if tools else '' }}{% for m in messages %}"
    "{{ m.content + m.tool_calls[0].function.arguments if m.tool_calls else m.content }}"
    "{% endfor %}",
}


@pytest.mark.parametrize("template", NO_TOOL_TEMPLATES.values(), ids=NO_TOOL_TEMPLATES)
def test_a_template_without_calls_has_no_format(template):
    assert detect_format(render_with(template)) is None


def test_a_renderer_that_refuses_has_no_format():
    def refuse(messages, tools):
        raise EngineError("the chat template refused the conversation")

    assert detect_format(refuse) is None


def test_an_unknown_format_is_a_configuration_error_that_lists_the_known_ones():
    template = TEMPLATES["hermes"].replace("tool_call>", "action>")
    with pytest.raises(ConfigError, match=r"<action>.*Known formats: hermes, qwen3_coder"):
        detect_format(render_with(template))


CALL_MESSAGE = {
    "role": "assistant",
    "content": "Let me look.",
    "tool_calls": [
        {
            "id": "1",
            "type": "function",
            "function": {"name": OSLO.name, "arguments": OSLO.arguments},
        },
        {
            "id": "2",
            "type": "function",
            "function": {"name": BERN.name, "arguments": BERN.arguments},
        },
    ],
}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    CALL_MESSAGE,
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
    {"role": "tool", "tool_call_id": "2", "content": None},
    {"role": "assistant", "content": "Rain."},
    {"role": "user", "content": "Thanks."},
]


def test_folded_messages_have_plain_roles_and_texts():
    folded = fold_tools(CONVERSATION, TOOLS)
    assert [set(message) for message in folded] == [{"role", "content"}] * 7
    assert [m["role"] for m in folded] == [
        "system", "user", "assistant", "user", "user", "assistant", "user",
    ]  # fmt: skip
    assert folded[0]["content"] == "Be brief.\n\n" + default_tool_prompt(TOOLS)
    assert folded[3]["content"] == "<tool_response>\nrain\n</tool_response>"
    reply = FORMATS["hermes"].parse(folded[2]["content"], TOOLS)
    assert (reply.text, reply.tool_calls) == ("Let me look.", (OSLO, BERN))


@pytest.mark.parametrize("length", range(1, len(CONVERSATION)))
def test_folding_only_appends(length):
    for start in (0, 1):
        conversation = CONVERSATION[start:]
        whole = fold_tools(conversation, TOOLS)
        part = fold_tools(conversation[:length], TOOLS)
        assert whole[: len(part)] == part


def test_tools_get_a_system_message_when_there_is_none():
    folded = fold_tools([{"role": "user", "content": "Hi"}], TOOLS)
    assert folded == [
        {"role": "system", "content": default_tool_prompt(TOOLS)},
        {"role": "user", "content": "Hi"},
    ]


def test_without_tools_only_calls_and_results_are_folded():
    folded = fold_tools(CONVERSATION, None)
    assert folded[:2] == CONVERSATION[:2] and "tool_calls" not in folded[2]


def test_folding_keeps_the_reasoning_and_leaves_its_input_alone():
    message = {**CALL_MESSAGE, "content": None, "reasoning_content": "hm"}
    (folded,) = fold_tools([message], None)
    assert folded["reasoning_content"] == "hm" and folded["content"].startswith("<tool_call>")
    assert message["tool_calls"] is CALL_MESSAGE["tool_calls"]


def test_the_tool_prompt_names_every_tool_and_shows_a_call_that_parses():
    prompt = default_tool_prompt(TOOLS)
    listed = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert [json.loads(line) for line in listed.splitlines()] == [t["function"] for t in TOOLS]
    assert len(FORMATS["hermes"].parse(prompt, TOOLS).tool_calls) == 1


def call(name: str = "get_weather", **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


@pytest.mark.parametrize(
    "good", [OSLO, BERN, call("stop"), call(city="x", area={"radius": 1}, unit=None, days=2.0)]
)
def test_a_call_that_fits_is_right(good):
    assert check_call(good, TOOLS) is None


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (call("get_wether"), "'get_wether', which was not offered; nearest is 'get_weather'"),
        (call("zzz"), "which was not offered; offered are get_weather, stop"),
        (call(), "argument 'city' is missing"),
        (call(city=5), "argument 'city' is 5, not of type string"),
        (call(city="x", days="2"), "argument 'days' is \"2\", not of type integer"),
        (call(city="x", label=2), "not of type string or null"),
        (call(city="x", area={}), "argument 'radius' is missing in 'area'"),
        (
            call(city="x", area={"radius": "y"}),
            "argument 'area.radius' is \"y\", not of type number",
        ),
        (call(city="x", planet="Mars"), "'planet' was unexpected"),
    ],
)
def test_a_wrong_call_has_a_reason_in_plain_words(wrong, reason):
    assert reason in (check_call(wrong, TOOLS) or "")


def test_a_call_without_any_tools_is_wrong():
    assert check_call(OSLO, []) == "call of 'get_weather', but no tools were offered"


def test_an_invalid_schema_is_the_workflow_s_error():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "objct"}}}
    with pytest.raises(RequestError, match=r"tool 'f'.*'objct'"):
        check_call(call("f"), [tool])
