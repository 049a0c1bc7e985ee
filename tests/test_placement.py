"""Where prompts stand among earlier calls: what continues, what breaks, what a break is called."""

import asyncio
import logging

import pytest

from astuner.inference.placement import JoiningPolicy
from astuner.inference.request import ChatRequest
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import BreakKind
from tests.chats import ADD_TOOL, make_chat
from tests.fakes import CHATML, FORGETFUL, ByteTokenizer, ScriptedEngine

SYSTEM = {"role": "system", "content": "You play."}
THINKING = CHATML.replace(
    "{{ m.content }}",
    "{% if m.reasoning_content and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n"
    "{% endif %}{{ m.content }}",
)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def run_calls(chat, *conversations, tools=()):
    async def go():
        for messages in conversations:
            await chat.complete(ChatRequest(messages=messages, tools=tools))

    asyncio.run(go())
    return chat.recorder.calls


def history(*lines):
    """As AgentScope's multi-agent formatters write it."""
    return user("# History\n<history>\n" + "\n".join(lines) + "\n</history>")


BASE = [SYSTEM, user("go")]
SAID = [*BASE, assistant("one"), user("next"), assistant("two")]


@pytest.mark.parametrize(
    ("kind", "message", "earlier", "messages"),
    [
        (BreakKind.REPEATED, 2, [BASE], BASE),
        (BreakKind.EDITED, 2, [BASE], [*BASE, assistant("ONE"), user("next")]),
        (
            BreakKind.EDITED,
            1,
            [BASE],
            [SYSTEM, user("go!"), assistant("one"), user("next")],
        ),
        (BreakKind.UNRELATED, 1, [BASE], [SYSTEM, user("another task")]),
        (BreakKind.UNRELATED, 0, [BASE], [user("another task")]),
        (BreakKind.REMOVED, 2, [BASE, SAID[:4]], [*BASE, assistant("two"), user("?")]),
        (BreakKind.REMOVED, 2, [BASE], [*BASE, user("again")]),
        (
            BreakKind.FOLDED,
            1,
            [[SYSTEM, history("A: hi")]],
            [SYSTEM, history("A: hi", "B: one", "A: so?")],
        ),
    ],
)
def test_a_break_says_its_kind_and_message(kind, message, earlier, messages):
    calls = run_calls(make_chat(["one", "two", "three"]), *earlier, messages)
    broken = calls[-1]
    assert (broken.extends, broken.break_kind, broken.break_message) == (None, kind, message)
    assert broken.break_reason


def test_a_retry_that_removes_an_error_message_names_the_messages():
    error = user("Error: that was no JSON")
    calls = run_calls(
        make_chat(["bad", "good", "done"]),
        BASE,
        [*BASE, assistant("bad"), error],
        [*BASE, assistant("good"), user("go on")],
    )
    assert calls[2].break_kind == BreakKind.REMOVED
    assert calls[2].break_reason == "messages 2 to 3 are gone"


def test_dropped_reasoning_has_a_kind_of_its_own():
    chat = make_chat(["<think>\nhm\n</think>\n\none", "two"], tokenizer=ByteTokenizer(THINKING))
    calls = run_calls(chat, BASE, [*BASE, assistant("one"), user("next")])
    assert calls[1].break_kind == BreakKind.REASONING_DROPPED


def test_a_template_that_rewrites_history_has_a_kind_of_its_own():
    chat = make_chat(["one", "two"], tokenizer=ByteTokenizer(FORGETFUL))
    calls = run_calls(chat, BASE, [*BASE, assistant("one"), user("next")])
    assert calls[1].break_kind == BreakKind.TEMPLATE


def test_a_branch_goes_on_from_the_longest_call_that_it_repeats():
    calls = run_calls(
        make_chat(["one", "two", "three", "four"]),
        BASE,
        SAID[:4],
        [*SAID, user("left")],
        [*SAID[:3], user("right")],
    )
    assert [call.extends for call in calls] == [None, 0, 1, 0]
    left, right = merge_calls(calls)
    assert (left.calls, right.calls) == ((0, 1, 2), (0, 3))


def tool_chat(ignores_tools, template):
    return make_chat(
        ["one", "two"],
        tokenizer=ByteTokenizer(template),
        joining=JoiningPolicy(ignores_tools=ignores_tools),
    )


def with_other_tools(chat):
    other = {"type": "function", "function": {**ADD_TOOL["function"], "description": "Sum."}}
    run_calls(chat, BASE, tools=[ADD_TOOL])
    return run_calls(chat, SAID[:4], tools=[other])


TURNS = (
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
    "{{ m.content }}\n</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMING = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t.function.name }} {% endfor %}"
    "<|im_end|>\n{% endif %}" + TURNS
)
"""Shows the names of the tools, and not what they do."""
SHOWING = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + TURNS


def test_other_tools_that_the_template_does_not_show_break_nothing():
    chat = tool_chat(True, NAMING)
    calls = with_other_tools(chat)
    assert calls[1].extends == 0
    (sequence,) = merge_calls(calls)
    assert sequence.num_trained == len("one") + len("two") + 2


def test_other_tools_always_break_where_tools_are_compared():
    calls = with_other_tools(tool_chat(False, NAMING))
    assert (calls[1].extends, calls[1].break_kind) == (None, BreakKind.TOOLS)
    assert len(merge_calls(calls)) == 2, "though the tokens agree"


@pytest.mark.parametrize("ignores_tools", [True, False])
def test_other_tools_that_the_template_shows_break_whatever_the_setting(ignores_tools):
    calls = with_other_tools(tool_chat(ignores_tools, SHOWING))
    assert (calls[1].extends, calls[1].break_kind) == (None, BreakKind.TOOLS)


class PairTokenizer(ByteTokenizer):
    """Encodes "ab" as one token too, so that text has several encodings."""

    PAIR = 300

    def encode(self, text, *, add_special_tokens=False):
        ids = []
        for index, part in enumerate(text.split("ab")):
            ids += [self.PAIR] if index else []
            ids += super().encode(part)
        return ids

    def decode(self, ids, **options):
        whole = [b for i in ids for b in ([97, 98] if i == self.PAIR else [i])]
        return super().decode(whole, **options)


class SpellingEngine(ScriptedEngine):
    """Samples letter by letter, as a policy may and its tokenizer never does."""

    def _complete(self, answer, sampling):
        self._tokenizer, kept = ByteTokenizer(), self._tokenizer
        try:
            return super()._complete(answer, sampling)
        finally:
            self._tokenizer = kept


def padded(text):
    """What a framework makes of a reply, and a template that trims does not show."""
    return assistant(text + "\n")


TRIMMING = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")


def text_chat(policy):
    tokenizer = PairTokenizer(TRIMMING)
    engine = SpellingEngine(["abba", "done"], tokenizer=tokenizer)
    return make_chat(engine, tokenizer=tokenizer, joining=policy), engine


def test_only_the_text_agreeing_is_a_break_unless_asked_for():
    chat, _ = text_chat(JoiningPolicy())
    calls = run_calls(chat, BASE, [*BASE, padded("abba"), user("next")])
    assert (calls[1].extends, calls[1].break_kind) == (None, BreakKind.EDITED)


def test_joining_by_text_continues_the_sampled_tokens_and_counts_the_drift():
    chat, engine = text_chat(JoiningPolicy(joins_by_text=True))
    calls = run_calls(chat, BASE, [*BASE, padded("abba"), user("next")])
    joined = calls[1]
    assert (joined.extends, joined.is_joined_by_text) == (0, True)
    assert joined.prompt_ids[: calls[0].num_ids] == calls[0].ids
    assert joined.num_drifted == len("ab")
    (sequence,) = merge_calls(calls)
    assert sequence.ids == engine.seen[1][0] + engine.seen[1][1].ids


def test_joining_by_text_does_not_go_on_within_a_reply_that_was_cut():
    tokenizer = ByteTokenizer(TRIMMING)
    engine = ScriptedEngine(["abba", "done"], tokenizer=tokenizer)
    from astuner.inference.limits import TokenLimits

    limits = TokenLimits(
        max_model_len=9999,
        max_prompt_length=9000,
        max_response_length=9000,
        max_response_length_in_one_turn=2,
    )
    chat = make_chat(
        engine, tokenizer=tokenizer, limits=limits, joining=JoiningPolicy(joins_by_text=True)
    )
    calls = run_calls(chat, BASE, [*BASE, assistant("abba"), user("next")])
    assert calls[0].reply["content"] == "ab"
    assert calls[1].extends is None
    assert len(merge_calls(calls)) == 2, "though the tokens agree"


def test_each_break_is_logged_where_asked_for(caplog):
    chat = make_chat(["one", "two"], joining=JoiningPolicy(logs_breaks=True))
    with caplog.at_level(logging.INFO, logger="astuner.inference.placement"):
        run_calls(chat, BASE, [*BASE, assistant("ONE"), user("next")])
    (record,) = caplog.records
    assert "kind=edited message=2 reason=message 2 (assistant): content differs" in record.message


def test_a_conversation_of_many_calls_needs_two_renderings_for_each():
    counts = []

    class CountingTokenizer(ByteTokenizer):
        def apply_chat_template(self, messages, **options):
            counts.append(len(messages))
            return super().apply_chat_template(messages, **options)

    chat = make_chat(lambda _: "ok", tokenizer=CountingTokenizer())
    counts.clear()
    messages, num_calls = list(BASE), 20

    async def go():
        for _ in range(num_calls):
            await chat.complete(ChatRequest(messages=messages))
            messages.extend([assistant("ok"), user("next")])

    asyncio.run(go())
    assert len(counts) <= 2 * num_calls
    (sequence,) = merge_calls(chat.recorder.calls)
    assert len(sequence.calls) == num_calls
