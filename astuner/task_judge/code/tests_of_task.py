"""The tests that a task brings, in the forms of data sets, and the code that an answer holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astuner.errors import JudgeError
from astuner.task_judge.fenced_blocks import fenced_blocks
from astuner.types import WorkflowTask

_FIELDS = ("tests", "test_list", "test")
_SETUP_FIELDS = ("test_setup_code", "test_imports")
_PYTHON = ("python", "py", "python3")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTest:
    """A program reads the input and prints the output."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTest:
    """Python that calls what the code defines, and raises where it is wrong."""

    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTests:
    """All that an answer is held to."""

    tests: tuple[InputTest | CallTest, ...]
    setup: str
    """Python before each CallTest."""
    entry_point: str | None
    """What a `check(candidate)` among the tests is called with."""
    prefix: str
    """Stands before the code, such as the imports of a task's stub."""


def tests_of(task: WorkflowTask, field: str | None) -> TaskTests:
    """From `metadata[field]`, or the first of tests, test_list and test that is there.

    Raises JudgeError for a task that has none, or in no form that is known.
    """
    made = task.task.metadata
    names = (field,) if field else _FIELDS
    name = next((name for name in names if made.get(name)), None)
    if name is None:
        raise JudgeError(
            f"cannot judge task {task.task_id}: its metadata has no tests in {' or '.join(names)}; "
            f"found {sorted(made)}; name their field in task_judge.code.tests_field"
        )
    try:
        tests = tuple(_listed(made[name]))
    except (KeyError, TypeError, ValueError) as error:
        raise JudgeError(
            f"cannot judge task {task.task_id}: metadata[{name!r}] is {made[name]!r:.120}; "
            "expected a list of {input, output}, a list of Python tests, or one Python test"
        ) from error
    return TaskTests(
        tests=tests,
        setup="\n".join(_text(made.get(name)) for name in _SETUP_FIELDS),
        entry_point=made.get("entry_point"),
        prefix=_text(made.get("code_prefix")),
    )


def _listed(value: Any) -> list[InputTest | CallTest]:
    if isinstance(value, str):
        if value.lstrip()[:1] in ("[", "{"):
            return _listed(json.loads(value))
        return [CallTest(test=value)]
    if isinstance(value, Mapping):
        pairs = zip(value["inputs"], value["outputs"], strict=True)
        return [InputTest(input=_text(given), output=_text(out)) for given, out in pairs]
    found = [_one(item) for item in value]
    if not found:
        raise ValueError("no test")
    return found


def _one(item: Any) -> InputTest | CallTest:
    if isinstance(item, str):
        return CallTest(test=item)
    return InputTest(input=_text(item["input"]), output=_text(item["output"]))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def code_in(answer: str) -> str:
    """The last fenced block, of Python where one says so; the whole text without a fence."""
    blocks = fenced_blocks(answer)
    python = [block for block in blocks if block.language.lower() in _PYTHON]
    return (python or blocks)[-1].body if blocks else answer
