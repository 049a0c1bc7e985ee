r"""The judge for Countdown: reach a target from given numbers, each used exactly once.

Reads `final_answer` from what the workflow returned, and `target` and `nums` from the task. An
expression is read as arithmetic, never run, and computed in fractions.
"""

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from astuner.errors import JudgeError
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.final_text import final_text
from astuner.task_judge.math.text import MAX_TAIL_CHARS, last_box
from astuner.types import Judgement, WorkflowOutput, WorkflowTask

MAX_EXPRESSION_CHARS = 500
MAX_DEPTH = 60
_TOLERANCE = Fraction(1, 100_000)
_BOXED_REWARD = 0.1

_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SIGNS = {
    **dict.fromkeys(
        (
            "\N{MULTIPLICATION SIGN}",
            "\N{ASTERISK OPERATOR}",
            "\N{MIDDLE DOT}",
            "\N{DOT OPERATOR}",
            r"\times",
            r"\cdot",
            r"\ast",
        ),
        "*",
    ),
    **dict.fromkeys(("\N{DIVISION SIGN}", "\N{DIVISION SLASH}", r"\div"), "/"),
    **dict.fromkeys(("\N{MINUS SIGN}", "\N{EN DASH}", "\N{FULLWIDTH HYPHEN-MINUS}"), "-"),
    **dict.fromkeys(("\N{FULLWIDTH LEFT PARENTHESIS}", "[", "{", r"\left", r"\bigl", r"\big"), "("),
    **dict.fromkeys(("\N{FULLWIDTH RIGHT PARENTHESIS}", "]", "}", r"\right", r"\bigr"), ")"),
}
_SIZED = re.compile(r"\\(?:left|right|bigl|bigr|big)(?=\s*[()\[\]])")
_SPACES = re.compile(r"\\[,;:! ]|\$|\\quad")
_SIGN = re.compile("|".join(map(re.escape, sorted(_SIGNS, key=len, reverse=True))))
_NUMBER = re.compile(r"\s*-?[\d.]+\s*")
_ARITHMETIC = re.compile(r"[0-9.+\-*/()\s]+")
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class CountdownAnswerAsJudge(BaseJudge):
    r"""1.0 if the last `\boxed{}` holds an expression of all the numbers, each used once, whose
    value is the target; 0.1 for anything else in a box; 0.0 without one.

    Raises JudgeError for a task without a target and numbers.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)

    def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        target, numbers = _wanted(workflow_task)
        boxed = last_box(final_text(workflow_task, workflow_output)[-MAX_TAIL_CHARS:])
        if boxed is None:
            return Judgement(reward=0.0, is_success=False, note="Nothing is boxed.")
        misfit = find_misfit_of(boxed, target=target, numbers=numbers)
        if misfit is None:
            return Judgement(reward=1.0, is_success=True)
        return Judgement(reward=_BOXED_REWARD, is_success=False, note=misfit)


def find_misfit_of(expression: str, *, target: Fraction, numbers: list[Fraction]) -> str | None:
    """Why the expression does not reach the target with these numbers; None where it does."""
    try:
        tree = _parsed(expression)
        used = Counter(_numbers_in(tree))
        value = _value(tree)
    except ZeroDivisionError:
        return "The expression divides by zero."
    except ValueError as error:
        return f"The expression cannot be read: {error}."
    if used != Counter(numbers):
        return "The numbers are not each used exactly once."
    if abs(value - target) >= _TOLERANCE:
        return f"The value is {_shown(value)}, not {_shown(target)}."
    return None


def _parsed(expression: str) -> ast.expr:
    text, _, behind = _plain(expression).partition("=")
    if behind and _NUMBER.fullmatch(text):  # the target, said first
        text = behind.partition("=")[0]
    text = text.strip()
    if not _ARITHMETIC.fullmatch(text):
        raise ValueError("it holds more than numbers, + - * / and parentheses")
    try:
        return ast.parse(f"({text})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("it is no arithmetic") from None


def _plain(expression: str) -> str:
    """Without the dress of LaTeX and of typesetting."""
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise ValueError(f"it is longer than {MAX_EXPRESSION_CHARS} characters")
    text, num_found = expression, 1
    while num_found:  # from the inside out, as often as there are fractions
        text, num_found = _FRACTION.subn(r"((\1)/(\2))", text)
    text = _SPACES.sub(" ", _SIZED.sub("", text))
    return _SIGN.sub(lambda found: _SIGNS[found[0]], text)


def _numbers_in(tree: ast.expr) -> Iterator[Fraction]:
    return (_number(node) for node in ast.walk(tree) if isinstance(node, ast.Constant))


def _number(node: ast.Constant) -> Fraction:
    try:
        return Fraction(str(node.value))
    except ValueError:
        raise ValueError("it holds a number that is none") from None


def _value(node: ast.expr, depth: int = 0) -> Fraction:
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deep")
    if isinstance(node, ast.Constant):
        return _number(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand, depth + 1)
        return value if isinstance(node.op, ast.UAdd) else -value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, depth + 1), _value(node.right, depth + 1)
        return _OPERATORS[type(node.op)](left, right)
    raise ValueError("it holds more than + - * /")


def _shown(value: Fraction) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _wanted(task: WorkflowTask) -> tuple[Fraction, list[Fraction]]:
    made = task.task.metadata
    try:
        numbers = made["nums"]
        listed = json.loads(numbers) if isinstance(numbers, str) else list(numbers)
        return Fraction(str(made["target"])), [Fraction(str(number)) for number in listed]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        found = {name: made.get(name) for name in ("target", "nums")}
        raise JudgeError(
            f"cannot judge task {task.task_id}: its metadata has {found!r:.120}; expected a number "
            "as target and a list of numbers as nums"
        ) from error
