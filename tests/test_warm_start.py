"""What a warm start learns: in which tokens, which of them, and what is left out."""

import asyncio
import json
from dataclasses import replace

import pytest
import torch

from astuner.algorithm.loss import negative_log_likelihood
from astuner.errors import TaskReadError
from astuner.inference.template import ChatTemplate
from astuner.traces.reading import Unread
from astuner.training.held_out import mean_negative_log_likelihood
from astuner.trajectory.merge import merge_calls
from astuner.types import Task
from astuner.warm_start.chat_files import conversations_of_path
from astuner.warm_start.conversation import GivenConversation
from astuner.warm_start.from_tasks import conversations_of_tasks
from astuner.warm_start.plan import make_plan
from astuner.warm_start.replay import NotReplayed, replay
from astuner.warm_start.samples import LearnedConversation, LeftOut, learned_conversations
from tests.chats import ADD_TOOL
from tests.fakes import FORGETFUL, ByteTokenizer
from tests.template_families import FAMILIES
from tests.test_template_families import CASES, NEXT, QUESTION, Talk, said
from tests.test_trainer import SETTINGS, bandit_samples, tiny_model, trainer

USER = {"role": "user", "content": "hi"}
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content and loop.last %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(arguments: object = '{"a": 2, "b": 3}', id_="call_abc"):
    return {"id": id_, "type": "function", "function": {"name": "add", "arguments": arguments}}


def given(*messages, tools=(), learned=None):
    return GivenConversation(name="c", messages=messages, tools=tools, learned=learned)


def replayed(conversation, template=None):
    return asyncio.run(replay(conversation, template or ChatTemplate(ByteTokenizer())))


def learned_texts(sequences, tokenizer=None):
    tokenizer = tokenizer or ByteTokenizer()
    return [tokenizer.decode(s.ids) for one in sequences for s in one.spans if s.is_trained]


# --- Tokens


def test_exactly_what_the_assistant_said_is_learned_with_the_token_that_ends_it():
    asked = {"role": "system", "content": "Be short."}
    (sequence,) = replayed(given(asked, USER, assistant("yes"), USER, assistant("no")))
    assert learned_texts([sequence]) == ["yes<|im_end|>", "no<|im_end|>"]
    whole = ByteTokenizer().decode(sequence.ids)
    assert whole == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nno<|im_end|>"
    )


def without_thoughts(family, text, *, before=True):
    """As a model that could think says that it did not."""
    opened = {"Qwen 3": "<think>\n\n</think>\n\n", "DeepSeek R1": "\n</think>\n\n"}
    written, is_cut = said(family, opened.get(family.name, "") + text)
    return (written if before else written.removeprefix(family.before)), is_cut


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_conversation_has_the_tokens_of_a_rollout_of_it(family, kind):
    talk = Talk(family, kind, *(without_thoughts(family, text) for text in ("It is 5.", "ok")))
    for message in (QUESTION, NEXT):
        talk.ask(message)
    found = replayed(given(*talk.messages), talk.template)
    rolled_out = merge_calls(talk.calls)
    assert [(s.ids, s.mask) for s in found] == [(s.ids, s.mask) for s in rolled_out]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_tool_calls_have_the_tokens_of_a_rollout_too(family):
    kind = family.tokenizers[0]
    spaced = {
        "[TOOL_CALLS] ": f"[TOOL_CALLS]{family.before}",
        '"name":"add","arguments":': '"name": "add", "arguments": ',
        '"a":2,"b":3': '"a": 2, "b": 3',
    }
    written = family.call
    for tight, wide in spaced.items():  # as the template writes it
        written = written.replace(tight, wide)
    called = without_thoughts(family, written, before=not written.startswith("["))
    says = (called, *(without_thoughts(family, text) for text in ("It is 5.", "ok")))
    talk = Talk(family, kind, *says, tools=[ADD_TOOL])
    talk.ask(QUESTION)
    talk.ask({"role": "tool", "content": "5", "tool_call_id": "call_0_0"})
    talk.ask(NEXT)
    told = json.loads(json.dumps(talk.messages).replace("call_0_0", "call_of_another_server"))
    found = replayed(given(*told, tools=[ADD_TOOL]), talk.template)
    rolled_out = merge_calls(talk.calls)
    assert [(s.ids, s.mask) for s in found] == [(s.ids, s.mask) for s in rolled_out]


def test_a_tool_call_is_learned_with_its_arguments_as_text_or_as_an_object():
    result = {"role": "tool", "content": "5", "tool_call_id": "call_abc"}
    texts = [
        learned_texts(
            replayed(
                given(
                    USER,
                    assistant("Let me add.", tool_calls=[call(arguments)]),
                    result,
                    assistant("5"),
                    tools=[ADD_TOOL],
                )
            )
        )
        for arguments in ('{"a": 2, "b": 3}', {"a": 2, "b": 3})
    ]
    first = 'Let me add.\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
    assert texts == [[f"{first}<|im_end|>", "5<|im_end|>"]] * 2


def test_thoughts_are_learned_where_the_model_has_them():
    template = ChatTemplate(ByteTokenizer(THINKING))
    reply = assistant("4", reasoning_content="2 and 2")
    sequences = replayed(given(USER, reply), template)
    assert learned_texts(sequences) == ["<think>\n2 and 2\n</think>\n\n4<|im_end|>"]


def test_each_reply_is_learned_once_where_the_template_rewrites_earlier_ones():
    template = ChatTemplate(ByteTokenizer(FORGETFUL))
    sequences = replayed(given(USER, assistant("yes"), USER, assistant("no")), template)
    assert learned_texts(sequences) == ["yes<|im_end|>", "no<|im_end|>"]
    assert len(sequences) == 2


def test_a_reply_that_is_not_to_be_learned_is_there_to_be_read():
    (sequence,) = replayed(
        given(USER, assistant("bad"), USER, assistant("good"), learned=frozenset({3}))
    )
    assert learned_texts([sequence]) == ["good<|im_end|>"]
    assert "bad" in ByteTokenizer().decode(sequence.ids)


@pytest.mark.parametrize(
    ("messages", "tools", "why"),
    [
        ([USER, assistant("a<|im_end|>b")], [], "message 1: read back otherwise.*character 1"),
        ([USER, assistant("", tool_calls=[call()])], [], "message 1: .*the conversation offers no"),
        ([USER, assistant("x", tool_calls=[call("[1]")])], [ADD_TOOL], "its tool calls|its text"),
        ([USER, assistant("", tool_calls=[call("{")])], [ADD_TOOL], "message 1: .*not JSON"),
        ([USER, assistant("")], [], "message 1: the assistant says nothing"),
        ([USER, assistant("", function_call={"name": "add"})], [], "function_call is no longer"),
        ([USER], [], "no message of the assistant"),
        ([{"role": "robot", "content": "x"}, assistant("y")], [], "message 0: role is 'robot'"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}, assistant("y")],
            [],
            "'image_url' is not supported",
        ),
        ([USER, assistant("4", reasoning_content="so")], [], "its reasoning parts|its text parts"),
    ],
)
def test_what_is_not_read_back_as_it_was_given_is_refused(messages, tools, why):
    with pytest.raises(NotReplayed, match=why):
        replayed(given(*messages, tools=tools))


# --- What is found


def learned_of(conversations, **options):
    left_out = LeftOut()
    limits = {"max_tokens": 1000, "overlong": "drop"} | options

    async def collect():
        found = learned_conversations(
            conversations, ChatTemplate(ByteTokenizer()), left_out, joining=None, **limits
        )
        return [one async for one in found]

    return asyncio.run(collect()), left_out


def test_a_refused_conversation_is_named_and_the_others_are_learned():
    bad = GivenConversation(name="chats.jsonl, line 7", messages=[USER, assistant("")])
    learned, left_out = learned_of([bad, given(USER, assistant("yes"))])
    assert [one.name for one in learned] == ["c"]
    assert list(left_out.refused) == ["chats.jsonl, line 7"]


def test_a_conversation_that_is_too_long_is_dropped_or_loses_its_end():
    long = given(USER, assistant("yes"), USER, assistant("x" * 500))
    assert learned_of([long], max_tokens=200)[1].too_long == ["c"]
    (one,), left_out = learned_of([long], max_tokens=200, overlong="cut")
    (sample,) = one.samples
    assert len(sample.ids) == 200 and left_out.num_cut == 1
    (whole,) = replayed(long)
    assert (sample.ids, sample.mask) == (whole.ids[:200], whole.mask[:200])
    nothing_left = given(USER, assistant("yes"))
    assert learned_of([nothing_left], max_tokens=10, overlong="cut")[1].too_long == ["c"]


def test_files_of_conversations_and_of_tasks_are_read_and_odd_lines_counted(tmp_path):
    lines = [
        {"messages": [USER, assistant("a"), USER, assistant("b", weight=0)], "tools": [ADD_TOOL]},
        {"main_query": "hi", "metadata": {"answer": "c"}},
        {"main_query": "hi", "metadata": {}},
        {"messages": "hi"},
        {"steps": []},
        [1],
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n\n{torn"
    (tmp_path / "good.jsonl").write_text(text)
    (tmp_path / "tasks.test.jsonl").write_text(json.dumps(lines[0]))
    (tmp_path / ".hidden.jsonl").write_text(json.dumps(lines[0]))
    unread = Unread()
    found = list(conversations_of_path(tmp_path, unread, answer_key=None))
    assert [one.name for one in found] == ["good.jsonl, line 1", "task good.jsonl, line 2"]
    assert [found[0].is_learned(i) for i in range(4)] == [False, True, False, False]
    assert found[1].messages[-1] == assistant("c")
    assert sum(unread.counts.values()) == 5
    assert unread.places["the line is not JSON"] == "good.jsonl, line 8"


def test_a_folder_without_conversations_is_an_error(tmp_path):
    with pytest.raises(TaskReadError, match="holds no file"):
        list(conversations_of_path(tmp_path, Unread(), answer_key=None))


def test_only_the_reference_answer_of_a_task_is_learned():
    history = [USER, assistant("hello")]
    tasks = [
        Task(main_query="2+2?", init_messages=history, task_id="0", metadata={"answer": 4}),
        Task(main_query="3+3?", task_id="1", metadata={"answer": None, "reference": "6"}),
        Task(main_query="4+4?", task_id="2", metadata={"gold": "8"}),
    ]
    unread = Unread()
    found = list(conversations_of_tasks(tasks, unread, answer_key=None))
    assert [learned_texts(replayed(one)) for one in found] == [["4<|im_end|>"], ["6<|im_end|>"]]
    assert unread.places.popitem()[1] == "task 2"
    (own,) = conversations_of_tasks(tasks, Unread(), answer_key="gold")
    assert own.messages[-1] == assistant("8")


# --- The plan


def conversations(number):
    return [LearnedConversation(name=str(i), samples=()) for i in range(number)]


def names(plan):
    return [[one.name for one in update] for update in plan.updates]


def test_each_epoch_deals_all_that_is_not_held_out_and_a_seed_fixes_it():
    options = {"epochs": 2.0, "batch_size": 4, "validation_share": 0.2}
    plan = make_plan(conversations(10), seed=1, **options)
    held_out = {one.name for one in plan.held_out}
    first, second = names(plan)[:2], names(plan)[2:]
    assert len(held_out) == 2 and len(names(plan)) == 4
    for epoch in (first, second):
        dealt = [name for update in epoch for name in update]
        assert sorted([*dealt, *held_out]) == sorted(map(str, range(10)))
    assert first != second
    assert names(plan) == names(make_plan(conversations(10), seed=1, **options))
    assert names(plan) != names(make_plan(conversations(10), seed=2, **options))
    assert [update for update in range(1, 5) if plan.is_measured_after(update)] == [2, 4]


@pytest.mark.parametrize(("epochs", "num_updates"), [(0.5, 2), (0.01, 1), (1.5, 6)])
def test_a_part_of_an_epoch_is_some_of_its_updates(epochs, num_updates):
    plan = make_plan(conversations(16), epochs=epochs, batch_size=4, validation_share=0.0, seed=0)
    assert len(plan.updates) == num_updates
    assert plan.is_measured_after(num_updates)
    assert plan.measured and not plan.held_out


def test_one_conversation_is_never_held_out():
    plan = make_plan(conversations(1), epochs=1, batch_size=4, validation_share=0.9, seed=0)
    assert names(plan) == [["0"]] and not plan.held_out


# --- The loss


def test_the_gradient_is_that_of_cross_entropy_on_the_same_tokens():
    model, expected = tiny_model(), tiny_model()
    samples = [
        replace(sample, temperature=1.0, logprobs=(0.0,) * len(sample.ids))
        for sample in bandit_samples(model)[:3]
    ]
    loss = torch.zeros(())
    for sample in samples:
        ids, mask = torch.tensor(sample.ids), torch.tensor(sample.mask)
        logits = expected(input_ids=ids[None]).logits[0, :-1]
        labels = ids[1:].masked_fill(~mask[1:], -100)
        loss = loss + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    loss = loss / sum(sum(sample.mask) for sample in samples)
    loss.backward()
    gradients = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

    def keep(name, gradient):
        gradients[name] += gradient

    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: keep(name, gradient))
    measured = mean_negative_log_likelihood(model, samples, max_tokens=40)
    own = trainer(model, replace(SETTINGS, policy_loss=negative_log_likelihood))
    metrics = own.train_step(samples)
    assert metrics["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert measured == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
