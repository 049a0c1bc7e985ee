"""The math judge: what counts as the answer, what counts as equal, and what a hostile one costs."""

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from astuner.errors import JudgeError
from astuner.task_judge.math.equality import SymbolicComparer, exact_equality
from astuner.task_judge.math.text import MAX_TAIL_CHARS, answer_text, last_box
from astuner.task_judge.math_answer_as_judge import MathAnswerAsJudge, find_answer
from astuner.types import Task, WorkflowOutput, WorkflowTask

GSM8K_ANSWER = "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"


@pytest.fixture(scope="module")
def comparer() -> Iterator[SymbolicComparer]:
    comparer = SymbolicComparer(num_workers=2)
    yield comparer
    comparer.close()


@pytest.fixture
def unused() -> Iterator[SymbolicComparer]:
    """One that has no worker yet."""
    with contextlib.closing(SymbolicComparer(num_workers=2)) as comparer:
        yield comparer


def config_with(*, accept_last_number: bool) -> SimpleNamespace:
    math_answer = SimpleNamespace(accept_last_number=accept_last_number)
    task_judge = SimpleNamespace(math_answer=math_answer)
    return SimpleNamespace(astuner=SimpleNamespace(task_judge=task_judge))


def workflow_task(**metadata: object) -> WorkflowTask:
    task = Task(main_query="How many?", task_id="7", metadata=metadata)
    return WorkflowTask(task=task, episode_id="e", step=0, attempt=0, is_validation=False)


def judged(
    judge: MathAnswerAsJudge, final_answer: object, answer: object = GSM8K_ANSWER
) -> tuple[float, bool]:
    output = WorkflowOutput(metadata={"final_answer": final_answer})
    return asyncio.run(judge.compute_reward(workflow_task(answer=answer), output))


EXACT_CASES = [
    # As GSM8K writes its references.
    (r"so \boxed{72}", GSM8K_ANSWER, True),
    ("The answer is #### 72", GSM8K_ANSWER, True),
    (r"\boxed{73}", GSM8K_ANSWER, False),
    (r"\boxed{48}", GSM8K_ANSWER, False),
    (r"\boxed{70000}", "profit\n#### 70,000", True),
    (r"\boxed{-3}", "#### -3", True),
    (r"\boxed{3}", "#### -3", False),
    ("#### Step 1: add\n48+24=72\nSo there are 72 clips.", GSM8K_ANSWER, True),
    ("#### 72\nI checked this 2 times.", GSM8K_ANSWER, True),
    # Numbers in their spellings.
    (r"\boxed{1,234}", "1234", True),
    (r"\boxed{1{,}234}", "1234", True),
    (r"\boxed{1\,234}", "1,234", True),
    (r"\boxed{1,234,567.50}", "1234567.5", True),
    (r"\boxed{07}", "7", True),
    (r"\boxed{18.00}", "18", True),
    (r"\boxed{18.}", "18", True),
    (r"\boxed{.5}", "0.5", True),
    (r"\boxed{+18}", "18", True),
    (r"\boxed{−3}", "-3", True),  # noqa: RUF001
    (r"\boxed{１８}", "18", True),  # noqa: RUF001
    (r"\boxed{1e6}", "1000000", True),
    (r"\boxed{1.5E3}", "1500", True),
    (r"\boxed{3 \times 10^{4}}", "30000", True),
    (r"\boxed{10^6}", "1000000", True),
    (r"\boxed{2e-1}", "0.2", True),
    (r"\boxed{eight}", "8", True),
    ("eight", "#### 8", True),
    (r"\boxed{twenty-one}", "21", True),
    (r"\boxed{one hundred and five apples}", "105", True),
    (r"\boxed{one two}", "1", False),
    (r"\boxed{2 million}", "2000000", True),
    # Fractions, exactly.
    (r"\boxed{3/4}", "0.75", True),
    (r"\boxed{\frac{3}{4}}", "0.75", True),
    (r"\boxed{-\dfrac{3}{4}}", "-0.75", True),
    (r"\boxed{\frac12}", "1/2", True),
    (r"\boxed{2\frac{1}{2}}", "2.5", True),
    (r"\boxed{2 1/2}", "2.5", True),
    (r"\boxed{2½}", "2.5", True),
    (r"\boxed{\frac{6}{8}}", r"\frac{3}{4}", True),
    (r"\boxed{0.333}", "1/3", False),
    # Units, currency, per cent, wrappers.
    (r"\boxed{18 dollars}", "18", True),
    (r"\boxed{\$12.50}", "12.5", True),
    (r"\boxed{-\$5}", "-5", True),
    (r"\boxed{12.50€}", "$12.50", True),
    (r"\boxed{USD 12}", "12", True),
    (r"\boxed{US$12}", "12", True),
    (r"\boxed{5 apples}", "5", True),
    (r"\boxed{18\text{ cm}^2}", "18", True),
    (r"\boxed{18\ \mathrm{km/h}}", "18", True),
    (r"\boxed{5cm}", "5", True),
    (r"\boxed{18个}", "18", True),
    (r"\boxed{90^\circ}", "90", True),
    (r"\boxed{\text{18 dollars}}", "18", True),
    (r"\boxed{x=10}", "10", True),
    (r"\boxed{\text{Total: } 10}", "10", True),
    (r"\boxed{f(2) = 10}", "10", True),
    (r"\boxed{48+24=72}", GSM8K_ANSWER, True),
    (r"\boxed{(5)}", "5", True),
    (r"\boxed{50\%}", "50", True),
    (r"\boxed{50%}", "0.5", True),
    (r"\boxed{50 percent}", "50%", True),
    (r"\boxed{0.5}", "50%", True),
    (r"\boxed{0.5%}", "50%", False),
    (r"\boxed{0.5%}", "50", False),
    ("**8**", "8", True),
    ("The result is **8**.", "8", True),
    ("`8`", "8", True),
    ("$x = 8$.", "8", True),
    # Words that are not units.
    (r"\boxed{not 18}", "18", False),
    (r"\boxed{18 and a half}", "18", False),
    # Which part is the answer.
    (r"\boxed{5} wait, \boxed{6}", "6", True),
    (r"\boxed{5} wait, \boxed{6}", "5", False),
    (r"\boxed{\boxed{5}}", "5", True),
    (r"\boxed{\frac{\frac{1}{2}}{2}}", r"\frac{\frac{1}{2}}{2}", True),
    (r"\boxed{5} and then \boxed{6", "5", True),
    (r"\boxed{}", "0", False),
    (r"[{'type': 'text', 'text': 'so \\boxed{18}'}]", "18", True),
    (r"[{'type': 'text', 'text': 'so\n\\boxed{\\frac{3}{4}}'}]", "0.75", True),
    (r"""[{'type': 'text', 'text': "it's \\boxed{18}"}]""", "18", True),
    (r'[{"type": "text", "text": "so \\boxed{18}"}]', "18", True),
    (r"so \\boxed{\\frac{3}{4}} apples", "0.75", True),
    ([{"type": "text", "text": r"so \boxed{18}"}], "18", True),
    (18, "18", True),
    (18.0, 18, True),
    ("So she has 5 - 3 = 2 apples", "2", True),
    ("That makes $1,234.50.", "1234.5", True),
    ("That is 3/4 of it", "0.75", True),
    ("It falls by -5 degrees", "-5", True),
    ("between 10-20", "20", True),
    ("And 45,000-5,000=<<45000-5000=40000>>40,000.", "40,000", True),
    ("I do not know", "18", False),
    ("", "18", False),
    # Answers that are words.
    (r"\boxed{\text{Tuesday}}", "tuesday", True),
    (r"\boxed{(C)}", "C", True),
    (r"\boxed{B}", "(C)", False),
    ("July 4", "July 4", True),
    (r"\boxed{cat}", "act", False),
]

SYMBOLIC_CASES = [
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{\sqrt{2}}{2}", True),
    (r"\boxed{x^2+2x+1}", "(x+1)^2", True),
    (r"\boxed{x^2+2x-1}", "(x+1)^2", False),
    (r"\boxed{3 pi}", r"3\pi", True),
    (r"\boxed{2sqrt(3)}", r"2\sqrt{3}", True),
    (r"\boxed{2**10}", "1024", True),
    (r"\boxed{3 or -3}", r"\pm 3", True),
    (r"\boxed{\{2,1\}}", r"\{1,2\}", True),
    (r"\boxed{(2,1)}", "(1,2)", False),
    (r"\boxed{18 or 19}", "18", False),
    (r"\boxed{12,34}", "1234", False),
    (r"\boxed{1/0}", "0", False),
    (r"\boxed{18x}", "18", False),
    (r"\boxed{2\pi}", "2", False),
    (r"\boxed{\begin{pmatrix} 1 \\ 4/2 \end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\boxed{\text{x^}}", "18", False),
]

TAKEN_CASES = [
    # Scripts and decoration around an answer without a box.
    ("答案：7", "7", True),  # noqa: RUF001
    ("所以一共有12个苹果。", "12", True),
    ("答えは7です。", "7", True),
    ("정답은 7입니다.", "7", True),
    ("Ответ: 7", "7", True),
    ("Η απάντηση είναι 7.", "7", True),  # noqa: RUF001
    ("คำตอบคือ 7", "7", True),
    ("उत्तर ७ है।", "7", True),
    ("الإجابة: ٧", "7", True),  # noqa: RUF001
    ("7 ✅", "7", True),
    ("→ 7", "7", True),
    ("> 7", "7", True),
    ("> 7", "x > 7", True),
    ("1. 5\n2. 7", "7", True),
    ("- 5\n- 7", "7", True),
    ("- 7", "-7", True),
    ("```\n7\n```", "7", True),
    # What is said in a sentence.
    ("The answer is A", "A", True),
    ("答案：对", "错", False),  # noqa: RUF001
    ("The answer is 7!", "7", True),
    ("7!", "5040", True),
    ("The answer is 5 or 6", "6", False),
    ("It is either 5 or 6.", "5, 6", True),
    ("It takes 3 to 5 days", "5", False),
    ("Out of 10, 7 remain.", "7", True),
    ("It is not 7.", "7", False),
    ("答案不是7", "7", False),
    ("Is it 7?", "7", False),
    ("Step 1: add\nStep 2: divide", "2", False),
    ("So the area is 5 m^2", "5", True),
    ("The length is 2√3.", "2", False),
    ("The length is 2√3.", r"2\sqrt{3}", True),
    ("The point is (2, 3).", "3", False),
    ("So x = 3 and y = 4.", "4", False),
    ("The time is 5:30 PM.", "17:30", True),
    ("Yes, because 5 > 3", "yes", True),
    ("No, wait, yes.", "no", False),
    ("A. Paris", "A", True),
    ("-> 7", "7", True),
    ("--> -7", "-7", True),
    ("-> 7", "-7", False),
    ("=> 7", "7", True),
    ("### 7", "7", True),
    ("It cannot be 7.", "7", False),
    ("It couldn't be 7.", "7", False),
    ("more than 7", "7", False),
    ("Fewer than 7.", "7", False),
    ("She has 3 more than 4, so 7.", "7", True),
    ("The correct option is B", "B", True),
    ("The correct option is C", "B", False),
    # Boxes.
    (r"\boxed 7", "7", True),
    (r"so $\boxed7$.", "7", True),
    (r"\boxed{12", "12", False),
    (r"\boxed{7}\boxed{}", "7", False),
    (r"\boxed{A} of B", "B", False),
    # Not a number, in both places.
    ("nan", "none", False),
    ("None", "none", True),
]

MEANT_CASES = [
    (r"\boxed{ABC}", "abc", False),
    (r"\boxed{nRT}", "NRT", False),
    (r"\boxed{\frac{nRT}{V}}", r"\frac{RTn}{V}", True),
    (r"\boxed{A \cup B}", r"a \cup b", False),
    (r"\boxed{P(A)}", "p(a)", False),
    (r"\boxed{\frac{M}{m}}", r"\frac{m}{M}", False),
    (r"\boxed{29_8}", "29_7", False),
    (r"\boxed{A2_{16}}", "A2_{12}", False),
    (r"\boxed{\frac{1}{1500!}}", r"\frac{1}{1502!}", False),
    (r"\boxed{e^{-1000}}", r"2e^{-1000}", False),
    (r"\boxed{\sqrt2 + 10^{-400}}", r"\sqrt{2}", False),
    (r"\boxed{\sqrt{3+2\sqrt2}}", r"1+\sqrt2", True),
    (r"\boxed{0.1x + 0.2x}", "0.3x", True),
    (r"\boxed{x>1 and x<5}", "x>1 or x<5", False),
    (r"\boxed{x>1 and x<5}", "1<x<5", True),
    (r"\boxed{1,000, 2,000}", "2000, 1000", True),
    (r"\boxed{1 2}", "12", False),
    (r"\boxed{(1,3)\cup(2,4)}", "(1,4)", True),
    (r"\boxed{y=\frac1x}", "xy=1", True),
    (r"\boxed{x(x+1)}", "x^2+x", True),
    (r"\boxed{f(x)}", "g(x)", False),
    # Letters that the parser takes for something else.
    (r"\boxed{\Gamma(n)}", r"\gamma(n)", False),
    (r"\boxed{\Gamma(5)}", "24", True),
    (r"\boxed{\gamma x}", r"x\gamma", True),
    (r"\boxed{I}", "i", False),
    (r"\boxed{I^2R}", "IR", False),
    (r"\boxed{I_1R}", "I_2R", False),
    (r"\boxed{RI}", "IR", True),
    (r"\boxed{e}", "E", False),
    (r"\boxed{E}", "e", False),
    (r"\boxed{(e)}", "E", True),
    (r"\boxed{a, e}", "A, E", False),
    (r"\boxed{x'}", "x", False),
    (r"\boxed{f'(x)}", "f(x)", False),
    (r"\boxed{f''(x)}", "f'(x)", False),
    (r"\boxed{f^{\prime}(x)}", "f'(x)", True),
    (r"\boxed{y' = 2y}", "2y = y'", True),
    (r"\boxed{y' = 2y}", "y = 2y", False),
    (r"\boxed{'7'}", "7", True),
    (r"\boxed{\frac{dy}{dx}}", "0", False),
    (r"\boxed{\frac{dy}{dx}}", r"\frac{dx}{dy}", False),
    (r"\boxed{\frac{d}{dx} x^2}", "2x", True),
    (r"\boxed{A^T}", "A", False),
    (r"\boxed{P(1+r)^T}", "P(1+r)", False),
    (r"\boxed{(AB)^\top}", "AB", False),
    (r"\boxed{5!!}", "15", True),
    (r"\boxed{5!!}", "120", False),
    (r"\boxed{\log_2 3 \cdot \log_3 4}", "2", True),
    (r"\boxed{\sin x \cdot \cos x}", r"\frac{1}{2}\sin 2x", True),
    (r"\boxed{3 4}", "7", False),
    (r"\boxed{3 4 x}", "7x", False),
    # Parts.
    (r"\boxed{\{\emptyset\}}", r"\emptyset", False),
    (r"\boxed{\{\{1\}\}}", r"\{1\}", False),
    (r"\boxed{\pm 1, \pm 2}", "-2, -1, 1, 2", True),
    (r"\boxed{\pm 1, \pm 2}", "-2, 1, 2", False),
    (r"\boxed{(x,y)=(1,2)}", "(1,2)", True),
    (r"\boxed{(x,y)=(1,2)}", "x=1, y=2", True),
    (r"\boxed{(x,y)=(1,2)}", "(y,x)=(1,2)", False),
    (r"\boxed{72 = x}", "72", True),
    (r"\boxed{72 = x}", "y = 72", False),
    (r"\boxed{x<1 or x>2}", r"(-\infty,1)\cup(2,\infty)", True),
    (r"\boxed{x<1 or x>2}", r"(-\infty,1]\cup(2,\infty)", False),
    # Dates are no differences and quotients.
    (r"\boxed{2024-01-02}", "2021", False),
    (r"\boxed{2024-01-02}", "2024-02-01", False),
    (r"\boxed{3/6/2024}", "1/2/2024", False),
    (r"\boxed{2024-01-02}", "2024-01-02", True),
    # Residues.
    (r"\boxed{x \equiv 3 \pmod 5}", r"x\equiv 3\pmod{5}", True),
    (r"\boxed{x \equiv 8 (mod 5)}", r"x \equiv 3 \pmod{5}", True),
    (r"\boxed{x ≡ 3 mod 5}", r"x \equiv -2 \pmod{5}", True),
    (r"\boxed{x \equiv 3 \pmod 5}", r"x \equiv 3 \pmod{7}", False),
    (r"\boxed{x \equiv 3 \pmod 5}", r"x \equiv 4 \pmod{5}", False),
    (r"\boxed{x \equiv 3 \pmod 5}", r"y \equiv 3 \pmod{5}", False),
    # Units behind what is no plain number.
    (r"\boxed{37°C}", "37", True),
    (r"\boxed{144\pi\text{ cm}^2}", r"144\pi", True),
    (r"\boxed{12\sqrt2 \text{ m}}", r"12\sqrt2", True),
    (r"\boxed{12\sqrt2 m}", r"12\sqrt2", False),
    (r"\boxed{36π square inches}", r"36\pi", True),
    (r"\boxed{144\pi\text{ cm}^2}", "144", False),
    (r"\boxed{\text{FF}_{16}}", "255", True),
    (r"\boxed{µ}", r"\mu", True),
]


@pytest.mark.parametrize(("final_answer", "answer", "is_right"), EXACT_CASES)
def test_a_plain_answer_is_judged_without_a_worker(
    final_answer: object, answer: object, is_right: bool
) -> None:
    judge = MathAnswerAsJudge(None, comparer=UNREACHABLE)
    assert judged(judge, final_answer, answer) == (float(is_right), is_right)


@pytest.mark.parametrize(("final_answer", "answer", "is_right"), SYMBOLIC_CASES)
def test_an_expression_is_compared_symbolically(
    comparer: SymbolicComparer, final_answer: str, answer: str, is_right: bool
) -> None:
    judge = MathAnswerAsJudge(None, comparer=comparer)
    assert judged(judge, final_answer, answer) == (float(is_right), is_right)
    assert "math_verify" not in sys.modules


@pytest.mark.parametrize(("final_answer", "answer", "is_right"), [*TAKEN_CASES, *MEANT_CASES])
def test_an_answer_is_taken_as_a_mathematician_would(
    comparer: SymbolicComparer, final_answer: str, answer: str, is_right: bool
) -> None:
    judge = MathAnswerAsJudge(None, comparer=comparer)
    assert judged(judge, final_answer, answer) == (float(is_right), is_right)


def documented_pairs() -> Iterator[tuple[str, str, bool]]:
    """The two columns of the table in docs/data.md."""
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.partition("| rule | equal | not equal |\n")[2].partition("\n\n")[0]
    for row in table.splitlines()[1:]:
        _, _, equal, unequal, _ = row.split("|")
        for cell, is_equal in ((equal, True), (unequal, False)):
            for pair in cell.split("; "):
                answer, reference = pair.strip().strip("`").split("` and `")
                yield answer, reference, is_equal


@pytest.mark.parametrize(("answer", "reference", "is_equal"), list(documented_pairs()))
def test_what_the_documents_call_equal_is_equal(
    comparer: SymbolicComparer, answer: str, reference: str, is_equal: bool
) -> None:
    judge = MathAnswerAsJudge(None, comparer=comparer, comparison_timeout_seconds=2.0)
    assert judged(judge, rf"\boxed{{{answer}}}", reference)[1] is is_equal
    if not is_equal:
        assert not judged(judge, rf"\boxed{{{reference}}}", answer)[1]


@pytest.mark.parametrize(
    ("answer", "final_answer", "is_right"),
    [
        (0.1 + 0.2, "0.3", True),
        (1 / 3, "1/3", True),
        (1 / 3, "0.3333333333333333", True),
        (1 / 3, "0.333", False),
        (1e22, "10^{22}", True),
        (Fraction(1, 3), "1/3", True),
        (Decimal("1.50"), "1.5", True),
        (math.inf, "∞", True),
        (-math.inf, "∞", False),
    ],
)
def test_a_reference_may_be_any_real_number(
    comparer: SymbolicComparer, answer: object, final_answer: str, is_right: bool
) -> None:
    judge = MathAnswerAsJudge(None, comparer=comparer)
    assert judged(judge, final_answer, answer)[1] is is_right


@pytest.mark.parametrize(
    "answer",
    [math.nan, Decimal("NaN"), "nan", "NaN", " <NA> ", "None", "N/A", "null", "#### nan", 1 + 2j],
)
def test_a_reference_that_says_nothing_is_a_missing_one(answer: object) -> None:
    with pytest.raises(JudgeError, match=r"task 7: metadata\['answer'\] is"):
        judged(MathAnswerAsJudge(None), "nan", answer)


def start_worker(comparer: SymbolicComparer) -> None:
    assert asyncio.run(comparer.is_equal("x", "x", timeout_seconds=30))


class _Unreachable(SymbolicComparer):
    async def is_equal(self, answer: str, reference: str, *, timeout_seconds: float) -> bool:
        raise AssertionError(f"a worker was asked for {answer!r} and {reference!r}")


UNREACHABLE = _Unreachable()


@pytest.mark.parametrize("hostile", [r"9^{9^{9^9}}", "(10^8)!"])
def test_a_hostile_expression_is_wrong_and_costs_at_most_its_deadline(
    comparer: SymbolicComparer, hostile: str
) -> None:
    judge = MathAnswerAsJudge(None, comparer=comparer, comparison_timeout_seconds=0.3)
    start_worker(comparer)
    started = time.monotonic()
    assert judged(judge, rf"\boxed{{{hostile}}}") == (0.0, False)
    assert time.monotonic() - started < 60.0


@pytest.mark.parametrize(
    "huge",
    [
        "9" * 10_000_000,
        r"\boxed{" * 1_000_000,
        r"\boxed{" + "9" * 15_000 + "}",
        r"\boxed{1e999999999}",
        r"\boxed{" + "(" * 10_000 + ")" * 9_000 + "}",
        "1,111" * 2_000_000,
        "\\" * 10_000_000,
        "[{" + "'text': '" * 1_000_000,
        r"\text{" * 4_000,
        "-" * 20_000 + "=" * 1_000,
    ],
)
def test_a_huge_answer_is_wrong_at_once(comparer: SymbolicComparer, huge: str) -> None:
    judge = MathAnswerAsJudge(None, comparer=comparer, comparison_timeout_seconds=0.3)
    start_worker(comparer)
    started = time.process_time()
    assert judged(judge, huge, "#### 7") == (0.0, False)
    assert time.process_time() - started < 3.0


def _set_of_sets(numbers: list[list[int]]) -> str:
    return r"\{" + ",".join(rf"\{{{','.join(map(str, row))}\}}" for row in numbers) + r"\}"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (
            _set_of_sets([list(range(20 * i, 20 * i + 20)) for i in range(20)]),
            _set_of_sets([list(range(20 * i + 19, 20 * i - 1, -1)) for i in range(19, -1, -1)]),
        ),
        (r"\{" * 300 + "1" + r"\}" * 300, r"\{" * 300 + "2" + r"\}" * 300),
        ("(" * 300 + "1,2" + ")" * 300, "(" * 300 + "2,1" + ")" * 300),
        (", ".join(f"{i}+x" for i in range(32)), ", ".join(f"x+{i}" for i in range(32))),
    ],
    ids=["sets", "braces", "brackets", "list"],
)
def test_parts_of_parts_do_not_hold_up_the_loop(answer: str, reference: str) -> None:
    started = time.process_time()
    assert exact_equality(answer, reference) is not True
    assert time.process_time() - started < 0.5


def test_a_killed_worker_is_replaced(comparer: SymbolicComparer) -> None:
    assert asyncio.run(comparer.is_equal("2x", r"\frac{4x}{2}", timeout_seconds=30))
    killed = comparer.idle_process_ids
    assert killed
    for process_id in killed:
        os.kill(process_id, signal.SIGKILL)
    assert asyncio.run(comparer.is_equal("3x", r"\frac{6x}{2}", timeout_seconds=30))
    assert not set(killed) & set(comparer.idle_process_ids[-1:])


def test_workers_that_are_all_killed_are_replaced(tmp_path: Path) -> None:
    script = (
        """echo '{"ready": true}'; while read -r line; do sleep 1.5; echo '{"equal": true}'; done"""
    )
    with contextlib.closing(comparer_of(script, tmp_path, num_workers=3)) as comparer:

        async def compare(num: int) -> list[bool]:
            return await asyncio.gather(
                *(comparer.is_equal("x", "y", timeout_seconds=10) for _ in range(num))
            )

        asyncio.run(compare(3))
        killed = comparer.idle_process_ids
        assert len(killed) > 1
        for process_id in killed:
            os.kill(process_id, signal.SIGKILL)
        assert asyncio.run(compare(1)) == [True]


def test_a_worker_that_stalls_leaves_the_verdict_open(comparer: SymbolicComparer) -> None:
    assert asyncio.run(comparer.is_equal("2x", r"\frac{4x}{2}", timeout_seconds=30))
    for process_id in comparer.idle_process_ids:
        os.kill(process_id, signal.SIGSTOP)
    with pytest.raises(JudgeError, match=r"stalled: it got 0\.0 s of a processor in 0\.2 s"):
        asyncio.run(comparer.is_equal("3x", r"\frac{6x}{2}", timeout_seconds=0.2))


def comparer_of(script: str, folder: Path, *, num_workers: int = 1) -> SymbolicComparer:
    """Its workers run a shell script."""
    interpreter = folder / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o755)
    return SymbolicComparer(num_workers=num_workers, interpreter=str(interpreter))


READY = """echo '{"ready": true}'; read -r line"""


def test_a_worker_that_is_killed_each_time_leaves_the_verdict_open(tmp_path: Path) -> None:
    comparer = comparer_of(f"{READY}; kill -KILL $$", tmp_path)
    with (
        contextlib.closing(comparer),
        pytest.raises(JudgeError, match="was killed twice by something else"),
    ):
        asyncio.run(comparer.is_equal("x", "y", timeout_seconds=10))


@pytest.mark.parametrize("death", ["exit 1", "kill -ALRM $$", "kill -SEGV $$"])
def test_a_worker_that_dies_over_its_expressions_decides_against_them(
    tmp_path: Path, death: str
) -> None:
    with contextlib.closing(comparer_of(f"{READY}; {death}", tmp_path)) as comparer:
        assert not asyncio.run(comparer.is_equal("x", "y", timeout_seconds=10))


def test_a_start_that_fails_is_tried_once_more(tmp_path: Path) -> None:
    script = f"""mkdir '{tmp_path}/begun' && exit 1; {READY}; echo '{{"equal": true}}'"""
    with contextlib.closing(comparer_of(script, tmp_path)) as comparer:
        assert asyncio.run(comparer.is_equal("x", "y", timeout_seconds=10))


def test_many_judges_share_few_workers_and_leave_the_loop_free(comparer: SymbolicComparer) -> None:
    async def judge_all() -> tuple[list[tuple[float, bool]], int]:
        output = WorkflowOutput(metadata={"final_answer": r"\boxed{1+x^2}"})
        tasks = [workflow_task(answer=f"x^2+{1 + index % 2}") for index in range(20)]
        judges = [MathAnswerAsJudge(None, comparer=comparer) for _ in tasks]
        ticks = asyncio.create_task(count_ticks())
        verdicts = await asyncio.gather(
            *(judge.compute_reward(task, output) for judge, task in zip(judges, tasks, strict=True))
        )
        ticks.cancel()
        return verdicts, len(comparer.idle_process_ids)

    num_ticks = 0

    async def count_ticks() -> None:
        nonlocal num_ticks
        while True:
            await asyncio.sleep(0.001)
            num_ticks += 1

    verdicts, num_workers = asyncio.run(judge_all())
    assert verdicts == [(1.0, True), (0.0, False)] * 10
    assert num_workers <= 2
    assert num_ticks > 5


def test_a_judge_that_is_ready_has_a_worker_before_it_is_asked(unused: SymbolicComparer) -> None:
    MathAnswerAsJudge(None, comparer=unused).prepare()
    assert becomes_true(lambda: len(unused.idle_process_ids) == 1)
    (ready,) = unused.idle_process_ids
    start_worker(unused)
    assert unused.idle_process_ids == [ready]


def test_making_a_judge_ready_again_starts_no_second_worker(unused: SymbolicComparer) -> None:
    for _ in range(3):
        MathAnswerAsJudge(None, comparer=unused).prepare()
    start_worker(unused)
    assert len(unused.idle_process_ids) == 1


def test_a_worker_that_starts_or_compares_is_waited_for_in_place_of_starting_another(
    tmp_path: Path,
) -> None:
    script = f"""echo >> '{tmp_path}/starts'; sleep 0.2; echo '{{"ready": true}}'
        while read -r line; do sleep 0.1; echo '{{"equal": true}}'; done"""
    comparer = comparer_of(script, tmp_path, num_workers=2)

    async def compare() -> list[bool]:
        return await asyncio.gather(
            *(comparer.is_equal("x", "y", timeout_seconds=10) for _ in range(3))
        )

    with contextlib.closing(comparer):
        assert asyncio.run(compare()) == [True] * 3
    assert (tmp_path / "starts").read_text() == "\n"


def test_a_comparison_that_takes_long_does_not_hold_up_the_others(tmp_path: Path) -> None:
    script = f"""echo '{{"ready": true}}'
        mkdir '{tmp_path}/first' && until [ -e '{tmp_path}/go' ]; do sleep 0.05; done
        while read -r line; do echo '{{"equal": true}}'; done"""
    with contextlib.closing(comparer_of(script, tmp_path, num_workers=2)) as comparer:

        async def compare() -> None:
            both = [
                asyncio.create_task(comparer.is_equal("x", "y", timeout_seconds=60))
                for _ in range(2)
            ]
            (quick,), (slow,) = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            (tmp_path / "go").touch()
            assert await quick and await slow

        asyncio.run(compare())


def test_after_a_hostile_expression_a_new_worker_is_started_at_once(
    unused: SymbolicComparer,
) -> None:
    judge = MathAnswerAsJudge(None, comparer=unused, comparison_timeout_seconds=0.3)
    start_worker(unused)
    assert judged(judge, r"\boxed{9^{9^{9^9}}}") == (0.0, False)
    assert becomes_true(lambda: len(unused.idle_process_ids) == 1)


def test_a_judge_whose_worker_cannot_start_is_ready_all_the_same() -> None:
    comparer = SymbolicComparer(num_workers=1, interpreter="/nonexistent/python")
    with contextlib.closing(comparer):
        judge = MathAnswerAsJudge(None, comparer=comparer)
        judge.prepare()
        assert judged(judge, r"\boxed{7}", "7") == (1.0, True)
        with pytest.raises(JudgeError, match="cannot start the process"):
            judged(judge, r"\boxed{x+1}", "1+x")


def becomes_true(condition: Callable[[], bool], *, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_worker_that_cannot_start_is_a_judge_error() -> None:
    comparer = SymbolicComparer(num_workers=1, interpreter="/nonexistent/python")
    with pytest.raises(JudgeError, match="cannot start the process"):
        asyncio.run(comparer.is_equal("x", "y", timeout_seconds=1))
    comparer.close()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", r"did not start: .*exit code 3; try `.*import math_verify"),
        ("""echo '{"error": "No module named math_verify"}'""", r"math_verify; install it with"),
    ],
)
def test_a_worker_that_ends_at_once_is_a_judge_error(
    tmp_path: Path, script: str, message: str
) -> None:
    comparer = comparer_of(script, tmp_path)
    with contextlib.closing(comparer), pytest.raises(JudgeError, match=message):
        asyncio.run(comparer.is_equal("x", "y", timeout_seconds=1))


ORPHANING_PARENT = r"""
import asyncio, os, signal
from astuner.task_judge.math.equality import shared_comparer

async def main():
    comparer = shared_comparer()
    assert await comparer.is_equal("2x", "x+x", timeout_seconds=30)
    print(comparer.idle_process_ids[0], flush=True)
    pending = asyncio.create_task(comparer.is_equal("9^{9^{9^9}}", "5", timeout_seconds=0.5))
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_busy_worker_does_not_outlive_its_killed_parent() -> None:
    root = Path(__file__).parents[1]
    parent = subprocess.run(
        [sys.executable, "-c", ORPHANING_PARENT],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    assert has_ended_within(int(parent.stdout), seconds=60)


def has_ended_within(process_id: int, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("metadata", [{}, {"answer": "no final_answer here"}])
def test_a_missing_final_answer_names_what_is_there(metadata: dict[str, str]) -> None:
    judge = MathAnswerAsJudge(None)
    output = WorkflowOutput(metadata=metadata)
    with pytest.raises(JudgeError, match=r"no metadata\['final_answer'\]; found \["):
        asyncio.run(judge.compute_reward(workflow_task(answer="18"), output))


@pytest.mark.parametrize("answer", [None, "", "  ", ["18"], True])
def test_a_task_without_a_usable_reference_is_a_judge_error(answer: object) -> None:
    with pytest.raises(JudgeError, match=r"task 7: metadata\['answer'\] is"):
        judged(MathAnswerAsJudge(None), "18", answer)


def test_a_final_answer_of_another_type_is_a_judge_error() -> None:
    with pytest.raises(JudgeError, match="of type dict"):
        judged(MathAnswerAsJudge(None), {"result": 18})


def test_the_last_number_counts_only_where_the_setting_allows_it() -> None:
    lenient = MathAnswerAsJudge(config_with(accept_last_number=True))
    assert judged(lenient, "It is 72 clips, I think.") == (1.0, True)
    strict = MathAnswerAsJudge(config_with(accept_last_number=False))
    assert judged(strict, "It is 72 clips, I think.") == (0.0, False)
    assert judged(strict, "72") == (1.0, True)
    assert judged(strict, r"\boxed{72}") == (1.0, True)


def test_only_the_end_of_a_long_text_is_searched() -> None:
    judge = MathAnswerAsJudge(None)
    assert judged(judge, r"\boxed{72} " + "word " * MAX_TAIL_CHARS) == (0.0, False)
    assert judged(judge, "word " * MAX_TAIL_CHARS + r"\boxed{72}") == (1.0, True)


def test_braces_in_a_box_are_balanced() -> None:
    assert last_box(r"\boxed{\{1,\frac{2}{3}\}} done }") == r"\{1,\frac{2}{3}\}"
    assert last_box(r"\boxed{1") is None


def test_content_blocks_without_text_give_no_answer() -> None:
    assert answer_text([{"type": "tool_use", "id": "1"}]) == ""
    assert find_answer("", accept_last_number=True) is None


def test_exact_equality_leaves_algebra_open() -> None:
    assert exact_equality("x+x", "2x") is None
