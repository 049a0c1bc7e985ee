"""The judge for tasks whose answer is JSON: by a schema, by a reference, or by both."""

import asyncio
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Never

from omegaconf import OmegaConf

from astuner.config.sections.task_judge import JsonSchemaJudgeSettings
from astuner.errors import ConfigError, EngineError, JudgeError
from astuner.inference.json_schema import MAX_SECONDS, check_schema, first_error, in_time
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.fenced_blocks import fenced_blocks
from astuner.task_judge.final_text import final_text
from astuner.types import Judgement, WorkflowOutput, WorkflowTask

MAX_ANSWER_CHARS = 200_000


class JsonSchemaJudge(BaseJudge):
    """Two parts, each where the task or the settings have it: `schema`, 1 where the answer fits,
    and `fields`, the share of the reference's fields that are equal; the reward is their weighted
    mean.

    The answer is the last fenced block, or the whole reply. What is no JSON gets 0.0. Raises
    JudgeError for a task with neither, and for a schema that is none or cannot be followed.
    """

    def __init__(self, config: Any) -> None:
        """Raises ConfigError for a schema in the settings that is none, and weights of 0."""
        super().__init__(config)
        section = OmegaConf.to_container(config.astuner.task_judge.json_schema, resolve=True)
        self._settings = JsonSchemaJudgeSettings.model_validate(section)
        if self._settings.schema_weight + self._settings.reference_weight == 0:
            raise ConfigError(
                "task_judge.json_schema: schema_weight and reference_weight are both 0; set one "
                "above 0"
            )
        if (schema := self._settings.json_schema) is not None:
            try:
                check_schema(schema)
            except ValueError as error:
                raise ConfigError(f"task_judge.json_schema.json_schema: {error}") from error

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        made = workflow_task.task.metadata
        schema = made.get(self._settings.schema_field, self._settings.json_schema)
        has_reference = self._settings.reference_field in made
        if schema is None and not has_reference:
            raise JudgeError(
                f"cannot judge task {workflow_task.task_id}: there is neither a schema in metadata"
                f"[{self._settings.schema_field!r}] or task_judge.json_schema.json_schema, nor a "
                f"reference in metadata[{self._settings.reference_field!r}]; found {sorted(made)}"
            )
        parts: dict[str, float] = {}
        note = ""
        try:
            value = parsed(final_text(workflow_task, workflow_output))
        except ValueError as error:
            return Judgement(reward=0.0, is_success=False, note=f"The answer is no JSON: {error}.")
        if schema is not None:
            note = await self._misfit(workflow_task, schema, value)
            parts["schema"] = float(not note)
        if has_reference:
            reference = _reference(workflow_task, self._settings.reference_field)
            parts["fields"] = share_of_fields(reference, value)
        reward = self._mean(parts)
        is_success = all(part == 1.0 for part in parts.values())
        return Judgement(reward=reward, is_success=is_success, note=note, parts=parts)

    async def _misfit(self, task: WorkflowTask, schema: Any, value: Any) -> str:
        try:
            schema = json.loads(schema) if isinstance(schema, str) else schema
            return await asyncio.to_thread(misfit_of, schema, value)
        except (ValueError, TypeError, EngineError) as error:
            raise JudgeError(
                f"cannot judge task {task.task_id}: its schema cannot be used: {error}; mend it"
            ) from error

    def _mean(self, parts: Mapping[str, float]) -> float:
        weights = {
            "schema": self._settings.schema_weight,
            "fields": self._settings.reference_weight,
        }
        whole = sum(weights[name] for name in parts)
        if whole == 0:
            raise JudgeError(
                f"a task has only {sorted(parts)}, whose weight in task_judge.json_schema is 0; "
                "give it one"
            )
        return sum(weights[name] * part for name, part in parts.items()) / whole


def parsed(answer: str) -> Any:
    """The JSON of the last fenced block, or of the whole text. Raises ValueError for none."""
    if len(answer) > MAX_ANSWER_CHARS:
        raise ValueError(f"it is longer than {MAX_ANSWER_CHARS} characters")
    blocks = fenced_blocks(answer)
    try:
        return json.loads(
            blocks[-1].body if blocks else answer, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse(number: str) -> Never:
    raise ValueError(f"it holds {number:.80}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def share_of_fields(reference: Any, value: Any) -> float:
    """Of the reference's values that are no object, those that stand in the same place; an empty
    object or a list counts as one."""
    wanted = list(_fields(reference, ()))
    equal = sum(_is_same(expected, _at(value, path)) for path, expected in wanted)
    return equal / len(wanted)


_MISSING = object()


def _fields(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _fields(inner, (*path, key))
    else:
        yield path, value


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _is_same(expected: Any, found: Any) -> bool:
    """As JSON has it: true is not 1, and 1.0 is."""
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_is_same, expected, found))
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(
            _is_same(inner, found[key]) for key, inner in expected.items()
        )
    return expected == found


def misfit_of(schema: Mapping[str, Any], value: Any, *, seconds: float = MAX_SECONDS) -> str:
    """Empty where it fits. Raises ValueError where the schema is to blame, not the value, and
    EngineError where the check fails of itself. May block, for twice the seconds at most."""
    with in_time(seconds):
        check_schema(schema)
        try:
            misfit = first_error(schema, value)
        except (ValueError, ArithmeticError, RecursionError) as error:
            reason = f"It cannot be held to the schema: {error}."
        else:
            return "" if misfit is None else f"{misfit.path}: {misfit.message}"
    with in_time(seconds):
        first_error(schema, None)
    return reason


def _reference(task: WorkflowTask, name: str) -> Any:
    reference = task.task.metadata[name]
    if not isinstance(reference, str):
        return reference
    try:
        return json.loads(reference)
    except ValueError:
        return reference
