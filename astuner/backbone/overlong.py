"""Tasks whose question alone is longer than a first prompt may be: named and left out at the start.

Else each attempt at one would be refused by the model in the middle of the run. Owns no prompts:
what a workflow puts around a question is not known here.
"""

import logging
from collections.abc import Callable, Sequence

from astuner.errors import ConfigError
from astuner.types import Task

logger = logging.getLogger(__name__)

CountTokens = Callable[[str], int]
_NUM_SHOWN = 10


def without_overlong(
    tasks: Sequence[Task], *, max_tokens: int, split: str, load_counter: Callable[[], CountTokens]
) -> list[Task]:
    """The tasks that may fit, in order. Raises ConfigError where there is none.

    `load_counter` is called where some question is long enough to be counted.
    """
    # No tokenizer makes more tokens of a text than it has bytes, but for one in front.
    long = [task for task in tasks if len(task.main_query.encode("utf-8", "replace")) >= max_tokens]
    if not long:
        return list(tasks)
    count = load_counter()
    lengths = {task.task_id: count(task.main_query) for task in long}
    too_long = {task_id: length for task_id, length in lengths.items() if length > max_tokens}
    fitting = [task for task in tasks if task.task_id not in too_long]
    if too_long:
        _tell(too_long, max_tokens=max_tokens, split=split, is_all=not fitting)
    return fitting


def _tell(too_long: dict[str, int], *, max_tokens: int, split: str, is_all: bool) -> None:
    shown = ", ".join(f"{name} ({n} tokens)" for name, n in list(too_long.items())[:_NUM_SHOWN])
    more = f" and {len(too_long) - _NUM_SHOWN} more" if len(too_long) > _NUM_SHOWN else ""
    reason = f"the question alone is longer than data.max_prompt_length, which is {max_tokens}"
    advice = (
        "raise it, or set data.filter_overlong_prompts to false for a workflow that shortens them"
    )
    if is_all:
        raise ConfigError(f"all {split} tasks are left out: {reason}: {shown}{more}; {advice}")
    logger.warning(
        "tasks left out split=%s tasks=%d: %s: %s%s; %s",
        split,
        len(too_long),
        reason,
        shown,
        more,
        advice,
    )
