"""The reference answer that a task brings: what it may be, and what is a missing one."""

import math
import numbers
from decimal import Decimal
from fractions import Fraction

from astuner.errors import JudgeError
from astuner.task_judge.math.plain import plain_math
from astuner.task_judge.math.text import after_hashes, last_box
from astuner.types import WorkflowTask

_MISSING_TEXTS = frozenset(
    ["nan", "NaN", "NAN", "<NA>", "NaT", "None", "null", "NULL", "Null", "N/A", "n/a", "#N/A"]
)
"""As pandas, Python and JSON write what is not there. `none` is an answer."""
_MAX_DENOMINATOR = 10_000
"""Of the fraction that a float may have been."""


def reference_answers(task: WorkflowTask) -> tuple[str, ...]:
    """The texts of which one has to be given. Several for a float, which data sets round.

    Raises JudgeError where the task has no answer, or one that is no text and no number.
    """
    metadata = task.task.metadata
    value = metadata.get("answer")
    texts = _texts(value)
    if texts and not any(_is_missing(text) for text in texts):
        return texts
    raise JudgeError(
        f"cannot judge task {task.task_id}: metadata['answer'] is {_shown(value)}, the task's "
        f"metadata has {sorted(map(str, metadata))}; give every task its reference answer there"
    )


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (after_hashes(value) or last_box(value) or value,)
    if isinstance(value, Decimal):
        return () if value.is_nan() else (str(value),)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return ()
    if isinstance(value, numbers.Rational):
        return (str(value),)
    return _float_texts(float(value), str(value))


def _float_texts(value: float, written: str) -> tuple[str, ...]:
    """As written; to the 15 digits that every float holds, so that 0.1 + 0.2 is 0.3; and as the
    fraction with this very float, so that 1 / 3 is 1/3.
    """
    if math.isnan(value):
        return ()
    if math.isinf(value):
        return (r"\infty" if value > 0 else r"-\infty",)
    fraction = Fraction(value).limit_denominator(_MAX_DENOMINATOR)
    texts = [written, f"{value:.15g}"]
    if float(fraction) == value:
        texts.append(str(fraction))
    return tuple(dict.fromkeys(texts))


def _is_missing(text: str) -> bool:
    return not plain_math(text) or text.strip() in _MISSING_TEXTS


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except Exception as error:  # noqa: BLE001  # a user's repr
        return f"a {type(value).__name__} whose repr raises {type(error).__name__}"
