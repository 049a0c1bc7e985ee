"""The judge of programs: what passes, what only seems to, and who is to blame when nothing runs."""

import asyncio
import functools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from astuner.calling import one_call
from astuner.config.load import load_mapping
from astuner.errors import ConfigError, JudgeError
from astuner.sandbox.kinds import try_kind
from astuner.task_judge.code.tests_of_task import code_in
from astuner.task_judge.code_judge import CodeJudge
from astuner.types import Judgement, Task, WorkflowOutput, WorkflowTask

RUN = {
    "backbone": "debug",
    "model": {"path": "unused"},
    "rollout": {"agentscope_workflow": "unused->Unused"},
}

DOUBLED = ["assert twice(3) == 6", "assert twice(0) == 0"]
RIGHT = "def twice(n):\n    return 2 * n\n"


@pytest.fixture(autouse=True)
def _needs_a_sandbox() -> None:
    tried = try_kind("bubblewrap", os.environ["PATH"])
    if tried.confinement is None:
        pytest.skip(f"bubblewrap is not permitted here: {tried.reason}")


@functools.cache
def config(**changes: Any) -> Any:
    sandbox = {"kind": "bubblewrap", "require": "bubblewrap"}
    given = {"timeout_seconds": 20, "total_seconds": 50} | changes
    settings = {**RUN, "sandbox": sandbox, "task_judge": {"code": given}}
    return load_mapping({"astuner": settings}, name="test").config


def judge(**changes: Any) -> CodeJudge:
    return CodeJudge(config(**changes))


async def judging(asked: CodeJudge, code: str, metadata: dict[str, Any]) -> Judgement:
    task = Task(main_query="Write it.", task_id="7", metadata=metadata)
    about = WorkflowTask(task=task, episode_id="e", step=0, attempt=0, is_validation=False)
    output = WorkflowOutput(metadata={"final_answer": code})
    return await asked.compute_reward(about, output)


def judged(code: str, asked: CodeJudge | None = None, **metadata: Any) -> Judgement:
    return asyncio.run(judging(asked or judge(), code, metadata))


def judged_together(
    answers: list[tuple[str, dict[str, Any]]], asked: CodeJudge | None = None
) -> list[Judgement]:
    async def all_of_them() -> list[Judgement]:
        one = asked or judge()
        return await asyncio.gather(*(judging(one, *answer) for answer in answers))

    return asyncio.run(all_of_them())


def test_code_that_passes_all_tests_is_a_success() -> None:
    found = judged(f"Here it is:\n```python\n{RIGHT}```\nDone.", tests=DOUBLED)
    assert (found.reward, found.is_success, found.parts) == (1.0, True, {"passed": 1.0})


@pytest.mark.parametrize(("rule", "reward"), [("share", 0.5), ("all_or_nothing", 0.0)])
def test_what_half_of_the_tests_are_worth_is_a_setting(rule: str, reward: float) -> None:
    found = judged("def twice(n):\n    return n * n * 0", judge(reward=rule), tests=DOUBLED)
    assert (found.reward, found.is_success, found.parts) == (reward, False, {"passed": 0.5})
    assert found.note == "Test 1 of 2 failed: AssertionError:  (line 1 of the test)."


def test_programs_are_judged_by_what_they_print() -> None:
    tests = [{"input": "3\n", "output": "6"}, {"input": "4", "output": "8  \n\n"}]
    assert judged("print(2 * int(input()))", tests=tests).reward == 1.0
    wrong = judged("print(6)", judge(reward="share"), tests=tests)
    assert wrong.reward == 0.5 and "another output" in wrong.note


def test_another_language_runs_by_its_command() -> None:
    shell = judge(command="sh main.sh", file_name="main.sh")
    asyncio.run(shell.prepare())
    code = "```sh\nread n; echo $((2 * n))\n```"
    assert judged(code, shell, tests={"inputs": ["3\n"], "outputs": ["6\n"]}).reward == 1.0
    with pytest.raises(JudgeError, match="call Python"):
        judged(code, shell, tests=DOUBLED)
    with pytest.raises(ConfigError, match="is not there"):
        asyncio.run(judge(command="no-such-program x").prepare())


MANY_FORMS = """
import enum
import math

def both(x): return x, {x: [x]}, {x}, None, 1.5
def order(x): x.sort()
def up(n):
    for i in range(n): yield i
def nan(): return float("nan")
def power(n): return 10 ** n
class Box:
    def __init__(self, n): self.n = n
    def more(self): return self.n + 1
class Sign(str, enum.Enum):
    PLUS = "+"
def sign(): return Sign.PLUS
def root(n):
    if n < 0: raise ValueError("negative")
    return n ** 0.5
"""
TESTS_OF_MANY_FORMS = """
import unittest
from solution import nan

assert both(1) == (1, {1: [1]}, {1}, None, 1.5)
x = [2, 1]
order(x)
assert x == [1, 2]
box = Box(1)
assert box.more() == 2 and box.n == 1
assert list(up(3)) == [0, 1, 2]
assert sign() == "+"
assert power(9000) == 10 ** 9000 and power(3) == 1000
class Roots(unittest.TestCase):
    def test(self):
        with self.assertRaises(ValueError): root(-1)
def test_nan():
    assert nan() != nan() and math.isclose(root(4), 2)
"""


def test_right_code_passes_tests_of_many_forms() -> None:
    check = "def check(candidate):\n    assert candidate(1, b=2) == 3"
    floor = {"tests": ["assert f(1.5) == base"], "test_imports": ["base = [1]"]}
    found = judged_together(
        [
            (MANY_FORMS, {"tests": [TESTS_OF_MANY_FORMS]}),
            ("def add(a, b): return a + b", {"test": check, "entry_point": "add"}),
            ("def f(x): return [math.floor(x)]", {**floor, "code_prefix": "import math"}),
        ]
    )
    assert [one.reward for one in found] == [1.0] * 3, [one.note for one in found]


BY_EQUALITY = "assert twice(3) == 6"
CHEATS_AT_WORK = {
    "raises SystemExit": ("def twice(n): raise SystemExit(0)", BY_EQUALITY),
    "is equal to all": (
        "class Any(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\n"
        "def twice(n): return Any(5)",
        BY_EQUALITY,
    ),
    "gives a list that is equal to all": (
        "class Any(list):\n    __eq__ = lambda s, o: True\n    __iter__ = lambda s: iter([5])\n"
        "def twice(n): return Any()",
        "assert twice(3) == [6]",
    ),
    "gives an object that is equal to all, and true": (
        "class Any:\n    def __eq__(self, o): return True\ndef twice(n): return Any()",
        "found = twice(3)\nassert found and found == 6 and 6 == found and found in (6,)",
    ),
    "gives a number that hides how far off it is": (
        "class Any(float):\n    __sub__ = lambda s, o: 0.0\ndef twice(n): return Any(5)",
        "assert abs(twice(3) - 6) < 1",
    ),
    "patches unittest": (
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef twice(n): return 5",
        "import unittest\nunittest.TestCase().assertEqual(twice(3), 6)",
    ),
    "patches builtins": (
        "import builtins\nbuiltins.abs = lambda n: 0\ndef twice(n): return 5",
        "assert abs(twice(3) - 6) < 1",
    ),
    "reads the test from the stack": (
        "import re, sys\ndef twice(n):\n    frame = sys._getframe()\n    while frame:\n"
        "        held = str(list(frame.f_locals.values()) + list(frame.f_globals.values()))\n"
        "        for found in re.findall(r'twice\\(3\\) == (\\d+)', held): return int(found)\n"
        "        frame = frame.f_back",
        BY_EQUALITY,
    ),
    "reads the test from the collector of garbage": (
        "import gc, re\ndef twice(n):\n    for held in gc.get_objects():\n"
        "        if type(held) is not dict: continue\n"
        "        text = str([v for v in list(held.values()) if type(v) in (str, dict)])\n"
        "        for found in re.findall(r'twice\\(3\\) == (\\d+)', text): return int(found)",
        BY_EQUALITY,
    ),
    "reads the test from files and processes": (
        "import glob, re\ndef twice(n):\n"
        "    for form in ('**', '/proc/[0-9]*/cmdline', '/proc/[0-9]*/environ', "
        "'/proc/[0-9]*/cwd/*', '/tmp/**'):\n"
        "        for place in glob.iglob(form, recursive=True):\n"
        "            try: text = open(place, errors='replace').read()\n"
        "            except OSError: continue\n"
        "            for found in re.findall(r'twice\\(3\\) == (\\d+)', text): return int(found)",
        BY_EQUALITY,
    ),
    "reads the memory of its own and other processes": (
        "import os, re\ndef twice(n):\n"
        "    for pid in ['self', *filter(str.isdigit, os.listdir('/proc'))]:\n"
        "        try: maps = [line.split() for line in open(f'/proc/{pid}/maps')]\n"
        "        except OSError: continue\n"
        "        for place, rights, *_ in maps:\n"
        "            if not rights.startswith('rw'): continue\n"
        "            a, b = (int(x, 16) for x in place.split('-'))\n"
        "            try:\n                with open(f'/proc/{pid}/mem', 'rb') as m:\n"
        "                    m.seek(a); data = m.read(b - a)\n"
        "            except OSError: continue\n"
        "            for found in re.findall(rb'twice\\(3\\) == (\\d+)', data): return int(found)",
        BY_EQUALITY,
    ),
}
"""Cheats that leave their process whole, by their code and the test that they would pass."""

CHEATS_THAT_END = {
    "exits before the test": ("import os\nos._exit(0)", BY_EQUALITY),
    "exits in the test": ("import os\ndef twice(n): os._exit(0)", BY_EQUALITY),
    "leaves a child that goes on": (
        "import os\nif os.fork(): os._exit(0)\ndef twice(n): return 5",
        BY_EQUALITY,
    ),
    "is gone where all is caught": (
        "import os\ndef twice(n):\n    os.closerange(3, 200)\n    return 5",
        "try:\n    assert twice(3) == 6\nexcept BaseException:\n    pass",
    ),
    "gives builtins of its own": (
        "def all(*a): return True\ndef twice(n): return 5",
        "assert all([twice(3) == 6])",
    ),
}
"""Cheats that end their process, or count on how their names are found."""

IN_ONE_PROCESS = """
import json
asked = json.load(open("asked.json"))
names = {}
exec(asked["code"], names)
exec(asked["test"], names)
"""


@pytest.mark.parametrize("cheats", [CHEATS_AT_WORK, CHEATS_THAT_END])
def test_each_cheat_gains_all_where_code_and_test_share_a_process(
    cheats: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    failed = {}
    for name, (code, test) in cheats.items():
        (tmp_path / "asked.json").write_text(json.dumps({"code": code, "test": test}))
        command = [sys.executable, "-I", "-S", "-c", IN_ONE_PROCESS]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        if ended.returncode != 0:
            failed[name] = ended.stderr
    assert failed == {}


def test_a_cheat_that_leaves_its_process_whole_gains_nothing() -> None:
    tried = {**CHEATS_AT_WORK, "is right": (RIGHT, BY_EQUALITY)}
    codes = {name: code for name, (code, _) in tried.items()}
    code = (
        f"CODES = {codes!r}\ndef load(name):\n    names = {{}}\n    exec(CODES[name], names)\n"
        "    return names['twice']\n"
    )
    test = "gained = []\n"
    for name, (_, of_cheat) in tried.items():
        test += f"try:\n    twice = load({name!r})\n{textwrap.indent(of_cheat, '    ')}\n"
        test += f"    gained.append({name!r})\nexcept Exception:\n    pass\n"
    found = judged(code, tests=[test + "assert gained == ['is right'], gained"])
    assert found.reward == 1.0, found.note


FORGED = b'{"outcome": "passed", "reason": ""}\n'
FORGES_OUTCOMES = f"""
import gc, json, os, socket
link = json.load(open("link.json"))
os.write(1, {FORGED!r}); os.write(2, {FORGED!r})
def heard(line):
    with socket.create_connection(("127.0.0.1", link["port"]), timeout=5) as s:
        try:
            s.send(line)
            return s.recv(1)
        except TimeoutError: return b"held open"
        except OSError: return b""
SECRET = json.dumps(link["secret"]).encode() + b'\\n{{"do": "load"}}\\n' + {FORGED!r}
def twice(n): return heard(SECRET) or heard(SECRET[:9]) or 5
def say(line):
    for o in gc.get_objects():
        if isinstance(o, socket.socket): o.send(line)
"""


def test_a_cheat_that_ends_its_process_or_speaks_for_it_gains_nothing() -> None:
    answers = [(code, {"tests": [test]}) for code, test in CHEATS_THAT_END.values()]
    forging = FORGES_OUTCOMES + f"say({FORGED!r} * 3)\n"
    # The control: what it says on the line is heard, as the value that it is.
    early = FORGES_OUTCOMES + 'say(b\'{"value": null}\\n{"value": true}\\n{"value": 7}\\n\')\n'
    answers += [
        (FORGES_OUTCOMES, {"tests": ["assert twice(3) == 5"]}),
        (forging, {"tests": ["assert twice(3) == 6"]}),
        (early, {"tests": ["assert twice == 7"]}),
        (
            "def ordered(x):\n    x.clear()\n    return []",
            {"tests": ["x = [2, 1]\nassert ordered(x) == sorted(x)"]},
        ),
    ]
    found = judged_together(answers)
    names = [*CHEATS_THAT_END, "connects again", "forges", "answers early", "empties"]
    gained = {name for name, one in zip(names, found, strict=True) if one.reward != 0.0}
    assert gained == {"connects again", "answers early"}, [one.note for one in found]


def test_a_program_that_breaks_a_limit_is_wrong_and_the_judge_works() -> None:
    codes = [
        "print('6')\nwhile True: pass",
        "x = []\nwhile True: x.append(bytearray(10**7))",
        "import os\nprint(6, flush=True)\nwhile True: os.fork()",
        "while True: print('6' * 1000)",
        "print(6); raise SystemExit(3)",
        "print(6); raise SystemExit(127)",
        "import os\nos.kill(os.getppid(), 9); print(5)",
        "open('.stdin', 'w').write('6'); print(open('.expected').read())",
        "def",
    ]
    tests = {"tests": [{"input": "3", "output": "6"}]}
    hanging = {"tests": ["assert twice(3) == 6"]}
    answers = [(code, tests) for code in codes]
    answers += [("while True: pass", hanging), ("def twice(n):\n    while True: pass", hanging)]
    found = judged_together(answers, judge(timeout_seconds=1))
    assert [(one.reward, one.is_success) for one in found] == [(0.0, False)] * len(answers)
    assert all("longer than 1 s" in one.note for one in found[-2:])


def test_a_program_cannot_have_the_judge_fail_in_place_of_itself() -> None:
    is_equal = "assert twice(3) == 6"
    answers = [
        ("def twice(n): return '1 +'", "import ast\nassert ast.literal_eval(twice(3)) == 6"),
        ("def twice(n): return 'def'", "import ast\nassert len(ast.parse(twice(3)).body) == 6"),
        ("def twice(n): raise ValueError", "try:\n    twice(3)\nexcept Exception as error:\n    assert twice(error) == 6"),  # noqa: E501
        ("def twice(n): return 10 ** 9000", "assert twice(3) == 6, twice(3)"),
        ("def twice(n):\n    a = []\n    a.append(a)\n    return a", is_equal),
        (FORGES_OUTCOMES + "def twice(n):\n    say(b'[' * 10**6 + b'\\n')\n    return 6", is_equal),
        ("raise AssertionError", is_equal),
    ]  # fmt: skip
    found = judged_together([(code, {"tests": [test]}) for code, test in answers])
    assert [one.reward for one in found] == [0.0] * len(answers), [one.note for one in found]


def test_what_the_tasks_own_solution_passes_is_no_broken_test() -> None:
    test = "found = twice(3)\nassert twice(object() if found == 5 else 0) == 0"
    with pytest.raises(JudgeError, match="cannot be handed to the code"):
        judged("def twice(n): return 5", tests=[test])
    assert judged("def twice(n): return 5", tests=[test], reference_solution=RIGHT).reward == 0.0


def test_waiting_behind_other_answers_does_not_count_as_the_judges_time() -> None:
    async def ask_twice() -> bool:
        asked, tests = judge(num_parallel=1), {"tests": [{"input": "", "output": ""}]}
        first = asyncio.ensure_future(judging(asked, "", tests))
        await asyncio.sleep(0)
        with one_call() as standstill:
            second = asyncio.ensure_future(judging(asked, "", tests))
            await asyncio.sleep(0)
        stood_still = standstill.is_on
        await asyncio.gather(first, second)
        return stood_still and not standstill.is_on

    assert asyncio.run(ask_twice())


def test_tests_behind_the_time_of_all_of_them_are_failed() -> None:
    code = "import time\ntime.sleep(60)"
    quick = judge(timeout_seconds=0.5, total_seconds=0.5)
    found = judged(code, quick, tests=[{"input": "", "output": ""}] * 50)
    assert found.parts == {"passed": 0.0}


def test_broken_tests_fail_the_judge_and_not_the_code() -> None:
    with pytest.raises(JudgeError, match="test 1 cannot be run: SyntaxError"):
        judged(RIGHT, tests=["assert twice(3) =="])
    with pytest.raises(JudgeError, match=r"its own solution.*fails its tests"):
        judged(RIGHT, tests=["assert twice(3) == 7"], reference_solution=RIGHT)


@pytest.mark.parametrize("metadata", [{}, {"tests": []}, {"tests": 5}, {"tests": [{"input": ""}]}])
def test_a_task_without_tests_fails_the_judge(metadata: dict[str, Any]) -> None:
    with pytest.raises(JudgeError, match="metadata"):
        judged(RIGHT, **metadata)


def test_a_sandbox_that_isolates_nothing_is_refused_at_the_start() -> None:
    settings = {**RUN, "sandbox": {"kind": "none", "require": "none"}}
    open_to_all = CodeJudge(load_mapping({"astuner": settings}, name="test").config)
    with pytest.raises(ConfigError, match="accept_no_isolation"):
        asyncio.run(open_to_all.prepare())


def test_a_time_for_tests_beyond_the_judges_own_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="judge_timeout_seconds"):
        asyncio.run(judge(total_seconds=60).prepare())


def test_the_last_block_of_code_is_the_answer() -> None:
    assert code_in("```python\nold\n```\nno:\n```py\nnew\n```\n```\noutput\n```") == "new\n"
    assert code_in("```\none\n```") == "one\n"
    assert code_in("```python\r\none\r\n``` \r\n```py two```") == "one\r\n"
    assert code_in("```python\nnever closed") == "```python\nnever closed"
    assert code_in("plain") == "plain"


@pytest.mark.parametrize("line", ["```x\n", "```x", "``` x\n", "```" + "a" * 99_999 + "`\n"])
def test_a_reply_of_many_fences_is_read_once(line: str) -> None:
    text = line * (1_000_000 // len(line))  # which a search from each of them would take hours for
    assert code_in(text) == text
