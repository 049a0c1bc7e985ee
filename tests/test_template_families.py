"""Every family of chat templates: a second prompt is what the template writes once.

The engine here samples what a model of the family would: the text, with the whitespace that the
template writes around it, in the tokens of a text in that place, and the family's end token.
"""

import asyncio
import functools
import re
from pathlib import Path

import pytest

from astuner.engine.protocol import Sampling
from astuner.inference.chat import TokenChat
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import BreakKind, Recorder
from astuner.types import Completion
from tests.chats import ADD_TOOL, WIDE
from tests.template_families import FAMILIES, Family

PAGE = Path(__file__).parent.parent / "docs" / "templates.md"
CASES = [
    pytest.param(family, kind, id=f"{family.name}-{kind}")
    for family in FAMILIES
    for kind in family.tokenizers
]
QUESTION = {"role": "user", "content": "What is 2 plus 3?"}
NEXT = {"role": "user", "content": "What is 4 plus 4?"}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def assistant(reply):
    message = {"role": "assistant", "content": reply.text}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in reply.tool_calls
        ]
    return message


class Model:
    """Samples the given texts; one that ends with None is cut off before its end token."""

    weight_version = 0

    def __init__(self, tokenizer, says, end):
        self._tokenizer, self._says = tokenizer, list(says)
        self._end = tokenizer.convert_tokens_to_ids(end)
        self.seen = []

    async def generate(self, prompt_ids, sampling, *, caller, index, observe=None):
        text, is_cut = self._says.pop(0)
        prompt = self._tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
        ids = [] if is_cut else [self._end]
        ids = (*self._in_place(prompt, text), *ids)
        self.seen.append((tuple(prompt_ids), ids))
        return Completion(
            ids=ids,
            logprobs=(-0.1,) * len(ids),
            finish_reason="length" if is_cut else "stop",
            weight_version=0,
        )

    def _in_place(self, prompt, text):
        """The ids of a text behind a prompt; where the two grow together, in single letters."""

        def ids_of(whole):
            return self._tokenizer.encode(whole, add_special_tokens=False)

        before, both = ids_of(prompt), ids_of(prompt + text)
        if both[: len(before)] == before:
            return both[len(before) :]
        anchor = ids_of("\n")
        return ids_of("\n" + text)[len(anchor) :]


@functools.cache
def tokenizer_of(family, kind):
    return family.tokenizer(kind)


class Talk:
    """A conversation with a model of a family."""

    def __init__(self, family: Family, kind: str, *says, tools=()):
        self.tokenizer = tokenizer_of(family, kind)
        stops = [self.tokenizer.convert_tokens_to_ids(stop) for stop in family.extra_stops]
        self.template = ChatTemplate(self.tokenizer, extra_stop_ids=stops)
        self.model = Model(self.tokenizer, says, family.end)
        self.messages, self._tools = [], list(tools)
        self._chat = TokenChat(
            self.model,
            self.template,
            Recorder(),
            episode_id="e",
            sampling=Sampling(
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
                max_new_tokens=500,
                stop_ids=self.template.stop_ids,
            ),
            limits=WIDE,
            offers_tools=True,
            find_madness=lambda reply: None,
            ends_on_madness=False,
        )

    def ask(self, message):
        self.messages.append(message)
        request = ChatRequest(messages=self.messages, tools=self._tools)
        reply = asyncio.run(self._chat.complete(request))
        self.messages = [*self.messages, assistant(reply)]
        return reply

    @property
    def calls(self):
        return self._chat.recorder.calls

    def fresh(self, index):
        """The tokens of a call's prompt, written and encoded anew."""
        call = self.calls[index]
        return self.template.prompt_ids(call.messages, call.tools)

    def text(self, index):
        return self.tokenizer.decode(list(self.calls[index].prompt_ids), skip_special_tokens=False)

    def assert_is_one_sequence(self):
        assert [call.break_reason for call in self.calls] == [None] * len(self.calls)
        (sequence,) = merge_calls(self.calls)
        assert sequence.num_trained == sum(len(ids) for _, ids in self.model.seen)
        assert [(call.prompt_ids, call.completion.ids) for call in self.calls] == self.model.seen


def said(family, text, *, is_cut=False):
    lead = "" if is_cut else family.lead
    return family.before + text + lead, is_cut


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_what_is_joined_is_what_the_template_writes_once(family, kind):
    texts = ("The answer is 5.", "hello there", "ok")
    talk = Talk(family, kind, *(said(family, text) for text in texts))
    replies = [talk.ask(message) for message in (QUESTION, NEXT, QUESTION)]
    assert [reply.text for reply in replies] == [*texts]
    if family.name == "DeepSeek R1":
        assert talk.calls[1].break_kind == BreakKind.TEMPLATE
        return
    talk.assert_is_one_sequence()
    for index in (1, 2):
        expected = talk.fresh(index)
        if family.name == "Falcon":
            # It writes no end token between turns, and one was sampled.
            end = talk.tokenizer.convert_tokens_to_ids(family.end)
            assert tuple(i for i in talk.calls[index].prompt_ids if i != end) == expected
            continue
        assert talk.calls[index].prompt_ids == expected


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_reply_that_was_cut_gets_the_end_of_turn_that_was_not_sampled(family, kind):
    talk = Talk(family, kind, said(family, "The answer is", is_cut=True), said(family, "ok"))
    talk.ask(QUESTION)
    talk.ask(NEXT)
    if family.name == "DeepSeek R1":
        return
    talk.assert_is_one_sequence()
    assert talk.text(1) == talk.tokenizer.decode(talk.fresh(1), skip_special_tokens=False)
    assert count(talk, family, talk.calls[1].prompt_ids) == count(talk, family, talk.fresh(1))


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_replies_with_whitespace_at_their_ends_are_joined_with_one_end_token(family, kind):
    texts = ("  five", "five  ", "five\n\n", "\n five \n", "ok")
    talk = Talk(family, kind, *(said(family, text) for text in texts))
    for _ in texts:
        talk.ask(QUESTION)
    if family.name == "DeepSeek R1":
        return
    talk.assert_is_one_sequence()
    for index in range(1, len(texts)):
        fresh = talk.fresh(index)
        num_unwritten = index if family.name == "Falcon" else 0
        num_ends = count(talk, family, talk.calls[index].prompt_ids)
        assert num_ends == count(talk, family, fresh) + num_unwritten
        if not family.trims and not num_unwritten:
            assert talk.text(index) == talk.tokenizer.decode(fresh, skip_special_tokens=False)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_reply_without_the_whitespace_that_the_template_writes_has_one_end_token(family, kind):
    talk = Talk(family, kind, ("five", False), said(family, "ok"))
    talk.ask(QUESTION)
    talk.ask(NEXT)
    if family.name == "DeepSeek R1":
        return
    talk.assert_is_one_sequence()
    is_written = family.name != "Falcon"
    expected = count(talk, family, talk.fresh(1)) + (not is_written)
    assert count(talk, family, talk.calls[1].prompt_ids) == expected


@pytest.mark.parametrize("num_calls", [1, 2])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_tool_loop_is_one_sequence(family, kind, num_calls):
    call = said(family, several(family.call, num_calls))
    talk = Talk(family, kind, call, said(family, "5"), said(family, "ok"), tools=[ADD_TOOL])
    reply = talk.ask(QUESTION)
    assert [call.arguments for call in reply.tool_calls] == [{"a": 2, "b": 3}] * num_calls
    *results, last = (
        {"role": "tool", "tool_call_id": call.id, "content": "5"} for call in reply.tool_calls
    )
    talk.messages += results
    talk.ask(last)
    talk.ask(NEXT)
    if family.name == "DeepSeek R1":
        assert talk.calls[1].break_kind == BreakKind.TEMPLATE
    elif family.moves_tools:
        kinds = [call.break_kind for call in talk.calls]
        assert kinds == [None, None, BreakKind.TEMPLATE]
    else:
        talk.assert_is_one_sequence()


def several(call, num_calls):
    """That many calls in a reply, in the format of the one."""
    if call.endswith("]"):
        start, _, entry = call.partition("[{")
        return f"{start}[{', '.join(['{' + entry.removesuffix(']')] * num_calls)}]"
    return "\n".join([call] * num_calls)


def count(talk, family, ids):
    return list(ids).count(talk.tokenizer.convert_tokens_to_ids(family.end))


def test_thoughts_that_the_template_drops_break_and_their_absence_does_not():
    (family,) = [family for family in FAMILIES if family.name == "Qwen 3"]
    thought = "<think>\nhm\n</think>\n\nfive"
    talk = Talk(family, "byte level", (thought, False), ("ok", False), ("ok", False))
    assert talk.ask(QUESTION).reasoning == "hm"
    talk.ask(NEXT)
    talk.ask(NEXT)
    kinds = [call.break_kind for call in talk.calls]
    assert kinds == [None, BreakKind.TEMPLATE, None]
    assert talk.calls[2].extends == 1


def rows():
    """The cells of the page's table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row for row in cells[2:]}


def test_the_page_has_a_row_for_each_family():
    of_families = [name for name, row in rows().items() if "level" in row[-1] or "piece" in row[-1]]
    assert of_families == [family.name for family in FAMILIES]
    for row in rows().values():
        for file in re.findall(r"test_\w+", row[-1]):
            assert (PAGE.parent.parent / "tests" / f"{file}.py").is_file(), row


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_the_row_of_a_family_says_what_its_template_does(family):
    _, joined, system, tools, _, tested = rows()[family.name]
    assert joined.startswith("no:" if family.name == "DeepSeek R1" else "yes")
    kinds = {kind.partition(",")[0] for kind in family.tokenizers}
    assert kinds == set(tested.partition(";")[0].split(", "))

    template = ChatTemplate(tokenizer_of(family, family.tokenizers[0]))
    briefed = template.prompt_text([{"role": "system", "content": "Be brief."}, QUESTION], [])
    is_moved = f"Be brief.\n\n{QUESTION['content']}" in briefed
    assert system == ("into the first question" if is_moved else "yes")
    assert briefed.index("Be brief.") < briefed.index(QUESTION["content"])

    is_described = "You can call functions." in template.prompt_text([QUESTION], [ADD_TOOL])
    functions = [{"name": "add", "arguments": {"a": 2, "b": 3}}] * 2
    calls = [
        {"id": f"call_0_{i}", "type": "function", "function": function}
        for i, function in enumerate(functions)
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "five"} for call in calls]
    called = {"role": "assistant", "content": "", "tool_calls": calls}
    text = template.prompt_text([QUESTION, called, *results], [ADD_TOOL])
    assert text.count("five") == 2
    are_joined = "five\n</tool_response>\n\n<tool_response>\nfive" in text
    expected = "described" if is_described else "its own"
    expected += ", results joined" if are_joined else ""
    expected += ", before the last question" if family.moves_tools else ""
    assert tools == expected
