"""How a second prompt is put behind a reply, and what ends a reply, in the corners of templates."""

import asyncio
from datetime import datetime

import pytest

from astuner.errors import ConfigError
from astuner.inference.frozen_clock import with_frozen_clock
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import BreakKind
from tests.chats import make_chat
from tests.fakes import CHATML, ByteTokenizer, ScriptedEngine
from tests.template_families import FAMILIES

END = 257
TURNS = "{% for m in messages %}BEFORE{{ m.content }}BEHIND{% endfor %}{{ 'A:' if ASKED }}"


def turns(before, behind):
    asked = "add_generation_prompt"
    return TURNS.replace("BEFORE", before).replace("BEHIND", behind).replace("ASKED", asked)


ROLES = "{{ 'A:' if m.role == 'assistant' else 'U:' }}"
TEXTUAL = turns(ROLES, "\n### End\n\n")
"""Ends a turn in ordinary tokens."""
BLANK = turns(ROLES, "\n\n")
TAGGED = turns(ROLES, " [/turn]<|im_end|>\n")
SILENT_AT_LAST = turns(ROLES, "{{ '' if loop.last else '<|im_start|>\n' }}")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def complete(chat, messages, told=None, **options):
    def tell(delta):
        told.append(delta.text)

    request = ChatRequest(messages=messages, **options)
    return asyncio.run(chat.complete(request, on_delta=None if told is None else tell))


def two_turns(template, says):
    """The chat, and the text of the second prompt, of a conversation of two turns."""
    tokenizer = ByteTokenizer(template)
    chat = make_chat([says, "ok"], tokenizer=tokenizer)
    reply = complete(chat, [user("go")])
    complete(chat, [user("go"), assistant(reply.text), user("on")])
    return chat.recorder.calls, tokenizer.decode(chat.recorder.calls[1].prompt_ids)


@pytest.mark.parametrize("pieces", [(1,), (7,), (100,)])
def test_an_end_of_turn_in_ordinary_tokens_stops_the_reply_and_is_trained(pieces):
    tokenizer = ByteTokenizer(TEXTUAL)
    engine = ScriptedEngine(["five\n### End\n\nU:more", "ok"], tokenizer=tokenizer, pieces=pieces)
    chat, told = make_chat(engine, tokenizer=tokenizer), []
    reply = complete(chat, [user("go")], told)
    assert (reply.text, reply.finish_reason, reply.stop) == ("five", "stop", None)
    assert "".join(told) == "five"
    complete(chat, [user("go"), assistant("five"), user("on")])
    first, second = chat.recorder.calls
    assert tokenizer.decode(first.completion.ids) == "five\n### End"
    assert tokenizer.decode(second.prompt_ids) == (
        "U:go\n### End\n\nA:five\n### End\n\nU:on\n### End\n\nA:"
    )
    (sequence,) = merge_calls(chat.recorder.calls)
    assert sequence.num_trained == len("five\n### End") + len("ok") + 1


def test_a_client_that_stops_earlier_gets_its_own_stop_string():
    chat = make_chat(["five STOP\n### End"], tokenizer=ByteTokenizer(TEXTUAL))
    reply = complete(chat, [user("go")], stops=["STOP"])
    assert (reply.text, reply.finish_reason, reply.stop) == ("five ", "cut", "STOP")


def test_a_plain_text_is_not_ended_by_the_end_of_a_turn():
    chat = make_chat(["five\n### End six"], tokenizer=ByteTokenizer(TEXTUAL))
    assert complete(chat, [], prompt="go").text == "five\n### End six"


class WideTokenizer(ByteTokenizer):
    """Has one token for the end of a turn and what stands behind it."""

    WIDE = 300
    TEXT = "End\n\nU"

    def encode(self, text, *, add_special_tokens=False):
        ids = []
        for index, part in enumerate(text.split(self.TEXT)):
            ids += [self.WIDE] if index else []
            ids += super().encode(part)
        return ids

    def decode(self, ids, **options):
        wide = super().encode(self.TEXT)
        return super().decode([b for i in ids for b in (wide if i == self.WIDE else [i])])


@pytest.mark.parametrize("says", ["five\n### End\n\nU", "five### End\n\nU"])
def test_a_token_that_reaches_beyond_the_end_of_a_turn_is_not_repeated(says):
    tokenizer = WideTokenizer(TEXTUAL)
    chat = make_chat([says, "ok"], tokenizer=tokenizer)
    reply = complete(chat, [user("go")])
    assert (reply.text, reply.finish_reason) == ("five", "stop")
    complete(chat, [user("go"), assistant("five"), user("on")])
    first, second = chat.recorder.calls
    assert first.completion.ids[-1] == tokenizer.WIDE and second.extends == 0
    text = tokenizer.decode(second.prompt_ids)
    assert text.endswith(f"A:{says}:on\n### End\n\nA:")


def test_a_blank_end_of_turn_follows_behind_the_end_token_that_was_sampled():
    calls, text = two_turns(BLANK, "five")
    assert text == "U:go\n\nA:five<|im_end|>\n\nU:on\n\nA:"
    assert calls[1].extends == 0 and ChatTemplate(ByteTokenizer(BLANK)).stop_ids == {END}


@pytest.mark.parametrize("says", ["five [/turn]", "five"])
def test_a_tag_before_the_end_token_is_no_part_of_the_reply_and_stands_once(says):
    calls, text = two_turns(TAGGED, says)
    assert calls[0].reply["content"] == "five"
    assert text == f"U:go [/turn]<|im_end|>\nA:{says}<|im_end|>\nU:on [/turn]<|im_end|>\nA:"


def test_what_of_a_tag_stands_in_a_reply_is_told_once_it_is_known_to_be_text():
    tokenizer = ByteTokenizer(TAGGED)
    for says, text in (("a [/turn]", "a"), ("a [/turn] b", "a [/turn] b"), ("a [/tu", "a [/tu")):
        told = []
        reply = complete(make_chat([says], tokenizer=tokenizer), [user("go")], told)
        assert ("".join(told), reply.text) == (text, text)


def test_an_end_that_is_written_only_between_turns_is_found_there():
    assert 256 in ChatTemplate(ByteTokenizer(SILENT_AT_LAST)).stop_ids


def test_tokens_that_begin_the_next_turn_end_none():
    tokenizer = ByteTokenizer(CHATML)
    tokenizer.eos_token_id = 258
    assert ChatTemplate(tokenizer).stop_ids == {257, 258}


ASKS_ALWAYS = "{% for m in messages %}BEHIND{% endfor %}{{ 'BEGINassistant: ' }}"


@pytest.mark.parametrize(
    ("begin", "end"),
    [("<|im_start|>", "<|im_end|>\n"), ("Source: ", " <step> "), ("", "\n<|im_end|>")],
)
def test_a_template_that_always_asks_for_a_reply_ends_one_before_the_next_turn(begin, end):
    turn = f"{begin}{{{{ m.role }}}}: {{{{ m.content }}}}{end}"
    written = ASKS_ALWAYS.replace("BEHIND", turn).replace("BEGIN", begin)
    template = ChatTemplate(ByteTokenizer(written))
    assert template.stop_ids == {257}
    assert template.turn_end.lead + template.turn_end.mark == end.rstrip()
    calls, text = two_turns(written, f"five{end.rstrip()}")
    assert calls[0].reply["content"] == "five"
    assert text == template.prompt_text(calls[1].messages, ())


@pytest.mark.parametrize("name", ["Llama 2", "Zephyr"])
def test_a_template_whose_end_token_is_not_set_is_refused_at_the_start(name):
    (family,) = [family for family in FAMILIES if family.name == name]
    tokenizer = family.tokenizer("byte level")
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"eos_token' is undefined.*tokenizer_config\.json"):
        ChatTemplate(tokenizer)


def test_a_template_that_nothing_ends_is_refused_at_the_start():
    tokenizer = ByteTokenizer(BLANK)
    tokenizer.eos_token_id = None
    with pytest.raises(ConfigError, match="nothing ends a reply"):
        ChatTemplate(tokenizer)
    assert ChatTemplate(tokenizer, extra_stop_ids=[9]).stop_ids == {9}


def test_a_reply_that_quotes_an_end_of_turn_is_joined_behind_its_own():
    trimming = turns(ROLES, "\n### End\n\n").replace("m.content", "m.content | trim")
    tokenizer = ByteTokenizer(trimming)
    chat = make_chat(["ok", "ok"], tokenizer=tokenizer)
    complete(chat, [user("say\n### End\n\nA:ok")])
    complete(chat, [user("say\n### End\n\nA:ok"), assistant("ok"), user("on")])
    assert chat.recorder.calls[1].extends == 0


@pytest.mark.parametrize("directive", ["%d %b %Y", "%H:%M:%S.%f", "%-d. %B, %A"])
def test_a_clock_stands_still_for_a_template_and_writes_what_it_did(directive):
    from transformers.utils.chat_template_utils import render_jinja_template

    now = datetime(2026, 3, 4, 5, 6, 7, 89)
    text = "{% if strftime_now is defined %}{{ strftime_now(FORMAT) }}{% endif %}"
    template = "  {% set FORMAT = '" + directive + "' %}\n" + text
    ((written,), _) = render_jinja_template(
        [[user("x")]], chat_template=with_frozen_clock(template, now)
    )
    assert written == now.strftime(directive)


def test_a_second_call_that_goes_on_from_the_same_call_says_that_it_branches():
    chat = make_chat(["one", "two", "three"])
    said = [user("go"), assistant("one")]
    for messages in ([user("go")], [*said, user("left")], [*said, user("right")]):
        complete(chat, messages)
    _, left, right = chat.recorder.calls
    assert (left.extends, left.break_kind) == (0, None)
    assert (right.extends, right.break_kind) == (0, BreakKind.BRANCHED)
    assert right.break_reason == "call 2 went on from call 1 too"
    assert len(merge_calls(chat.recorder.calls)) == 2


def test_calls_that_branch_at_the_same_time_say_so_too():
    async def go():
        chat = make_chat(lambda _: "ok")
        await chat.complete(ChatRequest(messages=[user("go")]))
        said = [user("go"), assistant("ok")]
        await asyncio.gather(
            *(chat.complete(ChatRequest(messages=[*said, user(text)])) for text in "abc")
        )
        return chat.recorder.calls

    calls = asyncio.run(go())
    assert [call.break_kind for call in calls[1:]] == [None, *[BreakKind.BRANCHED] * 2]
    assert len(merge_calls(calls)) == 3


def test_first_calls_at_the_same_time_begin_a_conversation_each():
    async def go():
        chat = make_chat(lambda _: "ok")
        await asyncio.gather(
            *(chat.complete(ChatRequest(messages=[user(text)])) for text in ("a", "b"))
        )
        return chat.recorder.calls

    assert [call.break_kind for call in asyncio.run(go())] == [None, BreakKind.UNRELATED]


def test_a_prompt_whose_tokens_begin_with_an_earlier_calls_is_joined_whatever_the_messages_say():
    trimming = CHATML.replace("m.content", "m.content | trim")
    chat = make_chat(["one", "two"], tokenizer=ByteTokenizer(trimming))
    complete(chat, [user("go")])
    complete(chat, [user("go "), assistant("one\n"), user("on")])
    call = chat.recorder.calls[1]
    assert (call.extends, call.break_reason, call.num_drifted) == (0, None, 0)
    assert call.is_joined_by_text
    assert len(merge_calls(chat.recorder.calls)) == 1


def test_a_second_unrelated_text_says_why_it_begins_a_sequence():
    chat = make_chat(["one", "two"])
    complete(chat, [], prompt="go")
    complete(chat, [], prompt="another")
    assert chat.recorder.calls[1].break_kind == BreakKind.UNRELATED


@pytest.mark.parametrize("kind", ["sentencepiece, every", "sentencepiece, first"])
def test_what_is_added_behind_ids_gets_no_space_of_its_own(kind):
    (family,) = [family for family in FAMILIES if family.name == "Vicuna"]
    encoding = ChatTemplate(family.tokenizer(kind)).encoding
    for before, behind in (("What is", "\nthe"), ("is 5.</s>", "USER: hi"), ("The answer", ".")):
        ids = encoding.encode(before)
        whole = encoding.encode(before + behind)
        assert ids + encoding.encode_behind(ids, behind, 100) == whole
        assert encoding.decode_behind(ids, whole[len(ids) :]) == behind


@pytest.mark.parametrize("kind", ["sentencepiece, every", "sentencepiece, first"])
def test_the_texts_of_tokens_keep_their_spaces(kind):
    (family,) = [family for family in FAMILIES if family.name == "Vicuna"]
    encoding = ChatTemplate(family.tokenizer(kind)).encoding
    ids = encoding.encode("\nThe answer is 5. é")[len(encoding.encode("\n")) :]
    assert b"".join(encoding.token_bytes(id_) for id_ in ids).decode() == "The answer is 5. é"
