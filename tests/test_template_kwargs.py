"""Values that a run or a call gives the chat template, such as enable_thinking."""

import asyncio
import json

import pytest

from astuner.backbone.chats import make_token_chat
from astuner.config import load_config
from astuner.errors import ConfigError, RequestError
from astuner.inference.placement import JoiningPolicy
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.inference.template_kwargs import check_kwargs
from astuner.run_dir import RunDir
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import episode_from_record, episode_to_record
from astuner.trajectory.recorder import Recorder
from astuner.types import Task, WorkflowTask
from tests.chats import ADD_TOOL, make_chat
from tests.fakes import CHATML, ByteTokenizer, ScriptedEngine
from tests.gateways import serving
from tests.runs import make_run
from tests.test_roles import make_episode

QUESTION = {"role": "user", "content": "What is 2 + 3?"}
SWITCHED = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
"""In the manner of Qwen3: without thoughts, the prompt ends with an empty block."""
OPENING = SWITCHED.replace("</think>\n\n{% endif %}", "</think>\n\n{% else %}<think>\n{% endif %}")
"""In the manner of GLM: with thoughts, the prompt begins them."""
OFF = {"enable_thinking": False}


def complete(chat, *messages, **options):
    return asyncio.run(chat.complete(ChatRequest(messages=messages or [QUESTION], **options)))


def prompts(chat):
    return [ByteTokenizer().decode(call.prompt_ids) for call in chat.recorder.calls]


def test_a_call_gives_the_template_a_value_and_the_next_call_does_not():
    chat = make_chat(["5", "5"], tokenizer=ByteTokenizer(SWITCHED))
    complete(chat, chat_template_kwargs=OFF)
    complete(chat)
    first, second = prompts(chat)
    assert first == f"{second}<think>\n\n</think>\n\n"


def test_a_reply_without_thoughts_is_text_where_the_prompt_would_begin_thoughts_otherwise():
    chat = make_chat(["5</think>5", "5</think>5"], tokenizer=ByteTokenizer(OPENING))
    thinking, off = complete(chat), complete(chat, chat_template_kwargs=OFF)
    assert (thinking.reasoning, thinking.text) == ("5", "5")
    assert (off.reasoning, off.text) == ("", "5</think>5")


def test_a_stream_without_thoughts_is_told_as_it_comes():
    deltas, tokenizer = [], ByteTokenizer(OPENING)
    engine = ScriptedEngine(["five"], tokenizer=tokenizer, piece_seconds=0.0)
    chat = make_chat(engine, tokenizer=tokenizer)
    request = ChatRequest(messages=[QUESTION], chat_template_kwargs=OFF)
    asyncio.run(chat.complete(request, on_delta=deltas.append))
    assert len(deltas) > 1
    assert "".join(delta.text for delta in deltas) == "five"


def test_a_demanded_call_closes_no_thought_where_none_is_open():
    chat = make_chat(["2}}"] * 2, tokenizer=ByteTokenizer(OPENING))
    complete(chat, tools=[ADD_TOOL], tool_choice="add")
    complete(chat, tools=[ADD_TOOL], tool_choice="add", chat_template_kwargs=OFF)
    thinking, off = prompts(chat)
    assert thinking.count("</think>") == 1 and "<think>\n\n</think>\n\n<tool_call>" in thinking
    assert off.count("</think>") == 1 and "<think>\n\n</think>\n\n<tool_call>" in off


def test_calls_with_other_values_continue_each_other_where_the_text_allows_it():
    chat = make_chat(["5", "7"], tokenizer=ByteTokenizer(SWITCHED))
    complete(chat)
    reply = {"role": "assistant", "content": "5"}
    complete(chat, QUESTION, reply, QUESTION, chat_template_kwargs=OFF)
    assert len(merge_calls(chat.recorder.calls)) == 1


@pytest.mark.parametrize("joins_by_text", [False, True])
def test_calls_with_other_values_are_parted_with_the_reason_where_the_text_differs(joins_by_text):
    dated = CHATML.replace("{% for", "{{ today or '' }}{% for", 1)
    chat = make_chat(
        ["5", "7"],
        tokenizer=ByteTokenizer(dated),
        joining=JoiningPolicy(joins_by_text=joins_by_text),
    )
    reply = {"role": "assistant", "content": "5"}
    complete(chat, chat_template_kwargs={"today": "Monday"})
    complete(chat, QUESTION, reply, QUESTION, chat_template_kwargs={"today": "Tuesday"})
    assert len(merge_calls(chat.recorder.calls)) == 2
    assert chat.recorder.calls[1].break_reason == "the call's chat_template_kwargs are others"


def test_going_on_from_an_earlier_call_because_of_other_values_is_told_as_that():
    chat = make_chat(["5", "7", "9"], tokenizer=ByteTokenizer(SWITCHED))
    messages = [QUESTION]
    for kwargs in ({}, OFF, {"enable_thinking": True}):
        reply = complete(chat, *messages, chat_template_kwargs=kwargs)
        messages += [{"role": "assistant", "content": reply.text}, QUESTION]
    _, second, third = chat.recorder.calls
    assert (second.extends, second.break_reason) == (0, None)
    assert third.break_kind == "template"
    assert third.break_reason == "the call's chat_template_kwargs are others"


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"enable_thinkin": True}, r"not read enable_thinkin \(did you mean 'enable_thinking'\?\)"),
        ({"color": 1, "size": 2}, "not read color, size; it reads enable_thinking"),
        ({"tools": []}, "tools is for astuner or the tokenizer to give"),
        ({"add_generation_prompt": False, "messages": []}, "add_generation_prompt, messages is"),
        ({"enable_thinking": {1, 2}}, "not JSON serializable"),
    ],
)
def test_values_that_the_template_cannot_be_given_are_refused_by_name(kwargs, reason):
    chat = make_chat(["5"], tokenizer=ByteTokenizer(SWITCHED))
    with pytest.raises(RequestError, match=reason) as refused:
        complete(chat, chat_template_kwargs=kwargs)
    assert refused.value.param == "chat_template_kwargs"
    assert chat.recorder.calls == []


def test_a_value_that_the_template_refuses_is_named():
    picky = CHATML + "{% if level is defined %}{{ level + 'x' }}{% endif %}"
    with pytest.raises(RequestError, match=r"chat_template_kwargs \{'level': 3\}"):
        ChatTemplate(ByteTokenizer(picky)).with_kwargs({"level": 3})


def test_a_name_that_a_template_sets_itself_is_not_one_that_it_reads():
    tokenizer = ByteTokenizer(CHATML)
    tokenizer.chat_template = (
        "{% if messages %}{% set size = 3 %}{% endif %}{{ size }}"
        "{% generation %}{{ color }}{% endgeneration %}"
        "{% if day is not defined %}{% set day = 1 %}{% endif %}{% set level = level or 2 %}"
    )
    with pytest.raises(ValueError, match=r"not read size; it reads color, day, level$"):
        check_kwargs({"size": 3}, tokenizer)


def test_a_call_adds_to_the_values_of_the_run():
    named = CHATML.replace("{% for", "{{ one }}{{ two }}{% for", 1)
    template = ChatTemplate(ByteTokenizer(named)).with_kwargs({"one": 1, "two": 2})
    assert template.with_kwargs({}) is template
    assert template.with_kwargs({"two": 3}).prompt_text([QUESTION], ()).startswith("13<|im_start|>")


def test_the_record_of_a_call_has_what_its_prompt_is_written_with_again():
    template = ChatTemplate(ByteTokenizer(OPENING.replace("{% for", "{{ one }}{% for", 1)))
    of_run = template.with_kwargs({"one": {"two": [1]}})
    chat = make_chat(["5", "7", "9"], template=of_run)
    complete(chat)
    complete(chat, chat_template_kwargs=OFF)
    asyncio.run(chat.complete(ChatRequest(messages=[], prompt="plain")))
    episode = make_episode(0, 1.0, calls=tuple(chat.recorder.calls))
    line = json.dumps(episode_to_record(episode))
    read = episode_from_record(json.loads(line))
    kwargs = [call.chat_template_kwargs for call in read.calls]
    assert kwargs == [{"one": {"two": [1]}}, {"one": {"two": [1]}, **OFF}, {}]
    assert line.count("chat_template_kwargs") == 2
    for call in read.calls[:2]:
        again = template.with_kwargs(call.chat_template_kwargs)
        assert again.prompt_ids(call.messages, call.tools) == call.prompt_ids


def test_a_call_ends_at_the_end_tokens_that_its_own_values_write():
    ends = "{% if short %}<|endoftext|>{% else %}<|im_end|>{% endif %}"
    stops = []

    class Engine(ScriptedEngine):
        async def generate(self, prompt_ids, sampling, **options):
            stops.append(sampling.stop_ids)
            return await super().generate(prompt_ids, sampling, **options)

    tokenizer = ByteTokenizer(CHATML.replace("<|im_end|>", ends))
    chat = make_chat(Engine(["5", "5"]), tokenizer=tokenizer)
    complete(chat)
    complete(chat, chat_template_kwargs={"short": True})
    assert stops == [{257}, {257, 258}]


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_the_gateway_reads_the_field_on_each_path_with_messages(path):
    body = {"input": "Hi"} if path == "responses" else {"messages": [QUESTION]}
    body |= {"model": "m", "max_tokens": 9} if path == "messages" else {}

    async def ask():
        async with serving(["5"], tokenizer=ByteTokenizer(SWITCHED)) as it:
            wrong = [{"color": 1}, {"tools": []}, "yes"]
            refused = [
                await it.post(path, {**body, "chat_template_kwargs": value}) for value in wrong
            ]
            assert [answer.status_code for answer in refused] == [400] * 3
            assert all("chat_template_kwargs" in answer.text for answer in refused)
            answer = await it.post(path, {**body, "chat_template_kwargs": OFF})
            assert answer.status_code == 200, answer.text
            return prompts(it.chat)

    (prompt,) = asyncio.run(ask())
    assert prompt.endswith("<think>\n\n</think>\n\n")


def test_openais_client_gives_it_in_the_extra_body():
    async def ask():
        async with serving(["5"], tokenizer=ByteTokenizer(SWITCHED)) as it:
            await it.tuner.as_raw_openai_sdk_client().chat.completions.create(
                model="m", messages=[QUESTION], extra_body={"chat_template_kwargs": OFF}
            )
            return prompts(it.chat)

    assert asyncio.run(ask())[0].endswith("<think>\n\n</think>\n\n")


def chats_of(tmp_path, rollout):
    conf = tmp_path / "conf.yaml"
    (tmp_path / "flow.py").write_text(
        "from astuner import Workflow\nclass Flow(Workflow):\n"
        "    async def execute(self, workflow_task, model_tuner): ...\n"
    )
    conf.write_text(
        "astuner:\n  model: {path: none}\n  rollout:\n    agentscope_workflow: flow.py->Flow\n"
        f"    max_model_len: 2000\n    max_response_length_in_one_turn: 100\n{rollout}"
        "  data: {max_prompt_length: 500, max_response_length: 500}\n"
    )
    run = make_run(load_config(conf), RunDir(root=tmp_path / "run"))
    tokenizer = ByteTokenizer(SWITCHED)
    engine = ScriptedEngine(lambda _: "5", tokenizer=tokenizer)
    make = make_token_chat(run, engine, ChatTemplate(tokenizer))

    def prompt(*, is_validation):
        task = WorkflowTask(
            task=Task(main_query="q", task_id="t"),
            episode_id="e",
            step=1,
            attempt=0,
            is_validation=is_validation,
        )
        chat = make(Recorder(), task)
        complete(chat)
        return prompts(chat)[0]

    return prompt


@pytest.mark.parametrize(
    ("rollout", "training_is_off", "validation_is_off"),
    [
        ("", False, False),
        ("    chat_template_kwargs: {enable_thinking: false}\n", True, True),
        ("    val_kwargs: {chat_template_kwargs: {enable_thinking: false}}\n", False, True),
        (
            "    chat_template_kwargs: {enable_thinking: false}\n"
            "    val_kwargs: {chat_template_kwargs: {}}\n",
            True,
            False,
        ),
    ],
)
def test_the_settings_hold_for_training_and_for_validation(
    tmp_path, rollout, training_is_off, validation_is_off
):
    prompt = chats_of(tmp_path, rollout)
    assert prompt(is_validation=False).endswith("</think>\n\n") == training_is_off
    assert prompt(is_validation=True).endswith("</think>\n\n") == validation_is_off


@pytest.mark.parametrize("section", ["rollout", "rollout.val_kwargs"])
def test_a_setting_that_the_template_does_not_read_is_refused_before_anything_runs(
    tmp_path, section
):
    line = "chat_template_kwargs: {thinking: false}"
    line = line if section == "rollout" else f"val_kwargs: {{{line}}}"
    with pytest.raises(ConfigError, match=rf"^{section}.chat_template_kwargs: .*not read thinking"):
        chats_of(tmp_path, f"    {line}\n")


@pytest.mark.parametrize("key", ["chat_template_kwargs", "val_kwargs.chat_template_kwargs"])
def test_an_override_may_name_one_value(tmp_path, key):
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        "astuner: {model: {path: none}, rollout: {agentscope_workflow: flow.py->Flow}}\n"
    )
    rollout = load_config(conf, [f"astuner.rollout.{key}.enable_thinking=false"]).settings.rollout
    section = rollout if key == "chat_template_kwargs" else rollout.val_kwargs
    assert section.chat_template_kwargs == OFF
