# ruff: noqa: RUF001 - texts in many scripts are the point
"""Which replies the madness checks catch, and above all which they let pass."""

import base64
import itertools
import random
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from astuner.errors import ConfigError, RequestError
from astuner.inference.tools.protocol import ParsedReply, ToolCall
from astuner.rollout.madness import CHECKS, check_names, find_madness

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["query"],
        },
    },
}


def reply(text: str = "", *calls: ToolCall, malformed: tuple[str, ...] = ()) -> ParsedReply:
    return ParsedReply(text=text, tool_calls=calls, malformed=malformed)


def call(name: str = "search", **arguments: object) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def nonsense(text: str) -> str | None:
    return find_madness(["nonsense"], reply(text), [SEARCH])


def numbers(seed: int, count: int, most: int) -> list[int]:
    return random.Random(seed).choices(range(most + 1), k=count)


def rows(values: list[int], width: int, separator: str = " ") -> str:
    cells = [str(value) for value in values]
    lines = [separator.join(cells[i : i + width]) for i in range(0, len(cells), width)]
    return "\n".join(lines)


PROSE = (
    "The river rises in the hills above the town, and in spring the meadows beside it are wet. "
    "People used to wash wool there. Now there is a path, a bench, and a sign that nobody reads. "
)

SANE = {
    "empty": "",
    "one word": "Yes.",
    "prose": PROSE,
    "the same paragraph four times": PROSE * 4,
    "laughter": "ha ha ha " * 10,
    "shouting": "NO" + "O" * 80 + "!" * 40,
    "hyphens": "Title\n" + "-" * 60 + "\nText\n" + "=" * 120 + "\n",
    "sections between separators": "".join(f"{'-' * 55}\nStep {i}\n" for i in range(40)),
    "random numbers": rows(numbers(1, 4000, 99), 20),
    "binary table": rows(numbers(2, 4000, 1), 20),
    "csv of zeros and ones": rows(numbers(3, 4000, 1), 16, ","),
    "zero matrix": rows([0] * 900, 30),
    "zero list": "[" + ", ".join(["0"] * 150) + "]",
    "times table": rows([i * j for i in range(1, 21) for j in range(1, 21)], 20, "\t"),
    "measures with a unit": ", ".join(f"{value} kg" for value in numbers(4, 400, 9)),
    "googol": "10^100 = 1" + "0" * 100,
    "a third": "1/3 = 0." + "3" * 60 + "…",
    "long division": "\n".join(
        f"  {remainder}0 / 7 = {remainder * 10 // 7}, remainder {remainder * 10 % 7}"
        for remainder in (1, 3, 2, 6, 4, 5) * 3
    ),
    "numbered list": "\n".join(f"{i}. Item {i}" for i in range(1, 300)),
    "checklist": "\n".join(f"- [ ] Check that the door of room {i} is locked" for i in range(60)),
    "bullets with one prefix": "\n".join(
        f"- The capital of country number {i} is city {i * 7 % 50}." for i in range(60)
    ),
    "plan of moves": " ".join(random.Random(5).choices(["up", "down", "left", "right"], k=150)),
    "board": "\n".join("".join(random.Random(i).choices(".XO", k=19)) for i in range(19)),
    "empty board": "\n".join([". " * 19] * 19),
    "wide markdown table": "| a | b | c |\n" + "|---" * 40 + "|\n" + "| yes | no | 3 |\n" * 15,
    "empty table rows": "|   |   |   |   |\n" * 40,
    "padding": "name" + " " * 300 + "value\n" * 3,
    "blank lines": "a" + "\n" * 100 + "b",
    "code": "\n".join(
        f"def f{i}(x):\n    if x is None:\n        return None\n    return x + {i}\n"
        for i in range(40)
    ),
    "closing brackets": "}\n" * 60 + ")" * 80,
    "python tests": "\n".join(f"        self.assertEqual(f({i}), {i * i})" for i in range(80)),
    "json records": ",\n".join(
        f'{{"id": {i}, "name": null, "tags": [], "active": true}}' for i in range(60)
    ),
    "byte array": ", ".join(f"0x{value:02x}" for value in numbers(6, 600, 255)),
    "html": "<table>" + "".join(f"<tr><td>{i}</td><td></td></tr>" for i in range(60)) + "</table>",
    "latex": r"\begin{pmatrix}" + r" 1 & 0 & 0 & 0 \\ " * 12 + r"\end{pmatrix} \quad \quad \quad",
    "latex derivation": r"$$\frac{a}{b} + \frac{c}{d} = \frac{ad + bc}{bd}$$ " * 8,
    "base64": base64.b64encode(random.Random(7).randbytes(3000)).decode(),
    "base64 with zeros": base64.b64encode(b"\x89PNG" + bytes(120) + b"\x01" * 90).decode(),
    "hex dump": "\n".join(f"{i:08x}: 0000 0000 0000 0000 0000" for i in range(0, 1600, 16)),
    "dna": "".join(random.Random(8).choices("ACGT", k=3000)),
    "chinese": "春天来了,河水从山上流下来。孩子们在田野里奔跑,老人坐在树下聊天。" * 5,
    "chinese laughter": "哈哈哈哈哈哈" * 8,
    "japanese": "むかしむかし、あるところに、おじいさんがいました。ラーメンを食べます。" * 4,
    "korean": "옛날 옛적에 할아버지와 할머니가 살고 있었습니다. 어느 날 ",
    "arabic": "كان يا ما كان في قديم الزمان رجل يعيش في قرية صغيرة قرب النهر. " * 4,
    "hebrew": "בראשית ברא אלהים את השמים ואת הארץ. " * 4,
    "hindi": "एक समय की बात है, एक गाँव में एक किसान रहता था। उसके दो बेटे थे। " * 4,
    "thai": "กาลครั้งหนึ่งนานมาแล้ว มีชายชราอาศัยอยู่ในหมู่บ้านเล็กๆ ริมแม่น้ำ " * 4,
    "russian": "Жили-были старик со старухой у самого синего моря. " * 4,
    "emoji": "🎉" * 60 + " 👨‍👩‍👧‍👦 🇳🇴🇨🇭 👍🏽 ❤️ " * 10,
    "box drawing": "┌" + "─" * 78 + "┐\n" + "│" + " " * 78 + "│\n" + "└" + "─" * 78 + "┘",
    "a character cut at the end": PROSE + "\ufffd\ufffd\ufffd",
    "private icons": "\ue0b0 main \ue0b0 src \uf015 home " + PROSE,
    "terminal colours": "".join(f"\x1b[3{i}mcolour\x1b[0m " for i in range(8)),
    "pipes of f sharp": "x <| f |> g <| h |> print\n" * 4,
    "html with s": "<s>old</s> new </s>",
    "chorus": "\n".join(
        f"Verse {i} tells of a ship that went out on day {i}.\nAnd the sea was calm that day.\n"
        for i in range(12)
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", SANE.values(), ids=SANE)
def test_legitimate_text_is_no_nonsense(text):
    assert nonsense(text) is None


def varied(sentences: list[str], seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(sentences, k=count))


MAD = {
    "one character": ("!" * 300, "'!' is repeated 300 times"),
    "one character after prose": (PROSE + "a" * 300, "'a' is repeated"),
    "one chinese character": ("的" * 250, "'的' is repeated 250 times"),
    "line breaks": ("\n" * 1500, "repeated 1500 times"),
    "one word": ("the " * 200, "'the ' is repeated 200 times"),
    "one word with prose around": (PROSE + "so " * 300 + PROSE, "is repeated 300 times"),
    "two words": ("yes no " * 150, "is repeated 150 times"),
    "digits": ("0 " * 400, "is repeated 400 times"),
    "endless zero table": ("0 0 0 0 0\n" * 400, "is repeated 400 times"),
    "dots": (". " * 400, "is repeated 400 times"),
    "emoji pair": ("😂🔥" * 120, "is repeated 120 times"),
    "a line": ("I will now search for the answer.\n" * 25, "is repeated 25 times"),
    "a chinese line": ("我不知道答案是什么。\n" * 25, "is repeated 25 times"),
    "an arabic line": ("لا أعرف الجواب على هذا السؤال.\n" * 25, "is repeated 25 times"),
    "lines of code": ("    x = x + 1\n    y = y - 1\n" * 30, "is repeated 30 times"),
    "a paragraph": (PROSE * 10, "is repeated 10 times"),
    "a long paragraph": ((PROSE + PROSE.upper() + PROSE[::-1]) * 6, "is repeated 6 times"),
    "a separator and a line as long as the stride": (
        ("-" * 54 + "\nYes.\n") * 40,
        "repeated 40 times",
    ),
    "rows of equal cells": (
        ("| a | a | a | a | a |\n" + "-" * 22 + "\n") * 30,
        "repeated 30 times",
    ),
    "half of a thought": ("<think>" + "Wait, let me check. " * 50, "is repeated"),
    "word soup": (
        " ".join(random.Random(9).choices(["the", "of", "and", "to"], k=300)),
        "200 words",
    ),
    "capital soup": (
        " ".join(random.Random(9).choices(["The", "the", "THE,"], k=300)),
        "200 words",
    ),
    "sentences in turns": (
        varied(
            ["Wait, let me check that once more.", "No, the answer must be different.", "Hmm."],
            10,
            90,
        ),
        "is said",
    ),
    "im_start": ("Sure.<|im_start|>user\nAnd now?", "control token <|im_start|>"),
    "im_end": ("Sure.<|im_end|>\nSure.", "control token <|im_end|>"),
    "endoftext": ("Sure.<|endoftext|>Human: hi", "control token <|endoftext|>"),
    "llama header": ("<|start_header_id|>user", "control token <|start_header_id|>"),
    "mistral instruction": ("Sure. [INST] Next", "control token [INST]"),
    "gemma turn": ("Sure.<start_of_turn>user", "control token <start_of_turn>"),
    "deepseek turn": ("Sure.<｜User｜>Next", "control token <｜User｜>"),
    "replacement characters": ("a\ufffd\ufffdb\ufffd" * 10, "30 of 50 characters are unreadable"),
    "private use": ("\ue123\uf8ffx " * 10, "unreadable"),
    "control characters": ("\x00\x01\x02ok" * 5, "unreadable"),
    "half surrogates": ("\udc80 \udcff " * 10, "unreadable"),
}


@pytest.mark.parametrize(("text", "reason"), MAD.values(), ids=MAD)
def test_nonsense_is_found_with_its_reason(text, reason):
    found = nonsense(text)
    assert found is not None and found.startswith("nonsense: ") and reason in found
    assert len(found) < 300


def test_nonsense_is_found_in_arguments_too():
    looping = call(query="x", notes=[{"deep": "the " * 200}])
    found = find_madness(["nonsense"], reply("Fine.", looping), [SEARCH])
    assert found == "nonsense: 'the ' is repeated 200 times"


@given(st.lists(st.integers()))
def test_integers_are_no_nonsense(values):
    assert nonsense(" ".join(map(str, values))) is None


WORDS = sorted(
    set(PROSE.split()) | {"Schnee", "été", "воды", "石头", "川", "ماء", "λ", "12", "{", "x+1"}
)


@given(
    st.permutations(WORDS).map(lambda words: words[:6]),
    st.lists(st.sampled_from(WORDS), max_size=300),
    st.sampled_from([" ", "\n", ", "]),
)
def test_ordinary_words_are_no_nonsense(different, words, separator):
    words = different + words
    runs = (sum(1 for _ in run) for _, run in itertools.groupby(words))
    assume(max(runs) < 20)
    assert nonsense(separator.join(words)) is None


@given(
    unit=st.text(min_size=2, max_size=80).filter(lambda unit: any(c.isalpha() for c in unit)),
    before=st.integers(0, 400),
    after=st.integers(0, 200),
)
def test_every_loop_is_found_wherever_it_stands(unit, before, after):
    repeats = max(20, -(-600 // len(unit.encode()))) + 2
    looped = (PROSE * 3)[:before] + unit * repeats + (PROSE * 3)[:after]
    assert nonsense(looped) is not None


SLOW_CANDIDATES = {
    "prose": PROSE[:-2] + " {} ",
    "short loops": "ab" * 150 + "{}",
    "four equal paragraphs": (PROSE + "{}") * 4,
    "dashes": "-" * 190 + "{}",
    "rows": "0 0 0 0 0 0\n" * 100 + "{}\n",
}


@pytest.mark.parametrize("piece", SLOW_CANDIDATES.values(), ids=SLOW_CANDIDATES)
def test_a_long_text_is_checked_fast(piece):
    text = "".join(piece.replace("{}", str(i * i)) for i in range(10_000))[:100_000]
    started = time.process_time()
    assert nonsense(text) is None
    assert time.process_time() - started < 2


RIGHT_CALLS = {
    "no call": reply("Just text."),
    "a call": reply("", call(query="x")),
    "two calls": reply("Searching.", call(query="x"), call(query="y", limit=3)),
    "other arguments where the schema allows them": reply("", call(query="x", page=2)),
    "a tag in an argument": reply("", call(query="<tool_call>")),
    "a thought about tags": reply("<think>Use <tool_call> now.</think>", call(query="x")),
    "an open thought about tags": reply("<think>Use <tool_call> now."),
    "an unfinished tag": reply("a < tool_call"),
    "other tags": reply("<tool> <call> <b>x</b> [TOOLS] <|x|>"),
    "json in the text": reply('{"name": "search", "arguments": {}}'),
    "code about tools": reply("def tool_call(name): return tools[name]"),
    "a result tag": reply("<tool_response>"),
    "empty": reply(""),
}


@pytest.mark.parametrize("right", RIGHT_CALLS.values(), ids=RIGHT_CALLS)
def test_right_calls_pass(right):
    assert find_madness(["wrong_toolcall"], right, [SEARCH]) is None


WRONG_CALLS = {
    "near name": (reply("", call("serch", query="x")), "nearest is 'search'"),
    "far name": (reply("", call("buy", query="x")), "'buy', which was not offered"),
    "other case": (reply("", call("Search", query="x")), "not offered"),
    "missing argument": (reply("", call()), "argument 'query' is missing"),
    "wrong type": (reply("", call(query=3)), "argument 'query' is 3, not of type string"),
    "null": (reply("", call(query=None)), "is null, not of type string"),
    "fraction": (reply("", call(query="x", limit=1.5)), "not of type integer"),
    "list": (reply("", call(query=["x"])), "not of type string"),
    "second call wrong": (reply("", call(query="x"), call(limit=1)), "'query' is missing"),
    "malformed": (
        reply("<tool_call>{", malformed=("not valid JSON: '{'",)),
        "malformed tool call: not",
    ),
    "opening tag": (reply("I use <tool_call>"), "a literal <tool_call>"),
    "closing tag": (reply("Done.</tool_call>"), "a literal </tool_call>"),
    "tag beside a call": (reply("</tool_call>", call(query="x")), "a literal </tool_call>"),
    "mistral tag": (reply("[TOOL_CALLS]"), "a literal [TOOL_CALLS]"),
    "python tag": (reply("<|python_tag|>print(1)"), "a literal <|python_tag|>"),
    "tag after a thought": (reply("<think>hm</think><tool_call>"), "a literal <tool_call>"),
}


@pytest.mark.parametrize(("wrong", "reason"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_calls_are_found_with_their_reason(wrong, reason):
    found = find_madness(["wrong_toolcall"], wrong, [SEARCH])
    assert found is not None and found.startswith("wrong_toolcall: ") and reason in found


def test_a_call_without_offered_tools_is_wrong():
    found = find_madness(["wrong_toolcall"], reply("", call(query="x")), [])
    assert found is not None and "no tools were offered" in found


def test_an_invalid_schema_is_not_the_model_s_fault():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}
    with pytest.raises(RequestError, match="tool 'f'"):
        find_madness(["wrong_toolcall"], reply("", call("f")), [tool])


def test_checks_run_in_the_order_given_and_the_first_failure_counts():
    both = reply("<tool_call>" + "the " * 200)
    assert (find_madness(["wrong_toolcall", "nonsense"], both, []) or "").startswith(
        "wrong_toolcall"
    )
    assert (find_madness(["nonsense", "wrong_toolcall"], both, []) or "").startswith("nonsense")
    assert find_madness([], both, []) is None


def test_an_unknown_check_is_a_configuration_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no check 'nonsens'; did you mean 'nonsense'\?"):
        check_names(["wrong_toolcall", "nonsens"])
    with pytest.raises(ConfigError, match="Known checks: nonsense, wrong_toolcall"):
        find_madness(["zzz"], reply(), [])
    assert check_names(list(CHECKS)) == tuple(CHECKS)
