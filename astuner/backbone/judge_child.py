"""The judge of `task_judge.judge_in_process`, as `astuner.workers` runs it: in a process only."""

import asyncio
import base64
import functools
import pickle
import resource
from typing import Any

MAX_MEMORY_BYTES = resource.RLIM_INFINITY
"""A judge may load a model."""


def prepare() -> None:
    import astuner.backbone.user_code  # noqa: F401  # most of what a judge's first answer waits for


def answer(request: dict[str, str]) -> dict[str, str]:
    """What the method of the judge returns or raises; all values are pickled."""
    from astuner.calling import called

    method, arguments = unpacked(request["asked"])
    try:
        judge = _judge(request["recipe"])
        result = _runner().run(called(getattr(judge, method), *arguments))
        return {"result": packed(result)}
    except Exception as error:  # noqa: BLE001  # raised again where the result is asked for
        return {"error": _error_text(error)}


@functools.cache
def _judge(recipe: str) -> Any:
    from astuner.backbone.user_code import make_judge
    from astuner.calling import called

    judge = make_judge(*unpacked(recipe))
    prepare = getattr(judge, "prepare", None)
    if prepare is not None:
        _runner().run(called(prepare))
    return judge


@functools.cache
def _runner() -> asyncio.Runner:
    """One for all answers: a client that a judge keeps belongs to one event loop."""
    return asyncio.Runner()


def _error_text(error: Exception) -> str:
    import traceback

    from astuner.errors import AstunerError, JudgeError, described

    if not isinstance(error, AstunerError):
        lines = "".join(traceback.format_exception(error))
        error = JudgeError(f"{described(error)}\nin the judge's process:\n{lines}")
    return packed(error)


def packed(value: Any) -> str:
    """Any value as text that JSON takes; for ourselves alone, since pickle runs what it reads."""
    return base64.b64encode(pickle.dumps(value)).decode()


def unpacked(text: str) -> Any:
    return pickle.loads(base64.b64decode(text))
