"""Evaluations out of run directories: an evaluation's own, and validations of a training run.

Reads records as they lie on disk, of each only what statistics need. Opens files for reading only.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from astuner.config.same_run import read_saved_settings
from astuner.errors import NotFoundError, UnreadableError
from astuner.evaluation.deciding import deciding_settings
from astuner.evaluation.facts import EVALUATION_FILE, EvaluationFacts
from astuner.evaluation.outcomes import AttemptOutcome, EvaluatedModel, TaskOutcomes
from astuner.run_dir import RunDir, read_json_lines
from astuner.trajectory.record import RECORD_FORMAT

FIRST, LAST, BEST = "first", "last", "best"
_NO_ENVIRONMENT = "no_env"
_MAX_TAG_SIGNS = 60
"""Longer values of metadata are no tags but texts, such as a reference answer with its reasons."""


def read_evaluated(run_dir: Path, at: str | None = None) -> EvaluatedModel:
    """An evaluation, or with `at` (first, last, best, step_20) a validation of a training run.

    A torn last line is left out, and of several records of one attempt the last counts. Raises
    NotFoundError where there is none, UnreadableError where what is there cannot be read.
    """
    if at is not None:
        return _read_validation(RunDir(root=run_dir), at)
    if not (run_dir / EVALUATION_FILE).is_file():
        raise NotFoundError(_no_evaluation(run_dir))
    facts = EvaluationFacts.read(run_dir)
    files = sorted((run_dir / "episodes").glob("validation_*.jsonl"))
    tasks = _tasks_of(files)
    return EvaluatedModel(name=facts.model, run_dir=str(run_dir), facts=facts, tasks=tasks)


def validated_steps(run: RunDir) -> list[int]:
    """The steps behind which there was a validation whose records are kept, the earliest first."""
    found = (re.fullmatch(r"validation_(\d+)", path.stem) for path in _validations(run))
    return sorted(int(match[1]) for match in found if match)


def _read_validation(run: RunDir, at: str) -> EvaluatedModel:
    step = _step_at(run, at)
    tasks = _tasks_of([run.episodes_file(step, "validation")])
    settings = read_saved_settings(run.config_file)
    if settings is None:
        raise UnreadableError(
            f"{run.config_file} cannot be read, so nothing tells by which workflow, judge and "
            "sampling its validations were made; compare evaluations by `astuner evaluate` instead"
        )
    model = (settings.get("model") or {}).get("path")
    facts = EvaluationFacts(
        model=f"{model} after step {step}",
        split="validation",
        num_tasks=len(tasks),
        num_repeat=max((len(task.attempts) for task in tasks), default=0),
        tasks_digest=_digest(sorted(task.digest for task in tasks)),
        decides=deciding_settings(settings),
        best_of=str(run.root) if at == BEST else None,
    )
    name = f"{run.root.parent.name}/{run.root.name}@step_{step}"
    return EvaluatedModel(name=name, run_dir=str(run.root), facts=facts, tasks=tasks, step=step)


def _step_at(run: RunDir, at: str) -> int:
    steps = validated_steps(run)
    if not steps:
        raise NotFoundError(
            f"{run.root} has no records of a validation; set trainer_common.test_freq and a "
            "validation set, or evaluate its checkpoints by `astuner evaluate`"
        )
    if at in (FIRST, LAST):
        return steps[0 if at == FIRST else -1]
    asked = _best_step(run) if at == BEST else _number_in(at)
    if asked in steps:
        return asked
    if asked is None and at == BEST:
        raise NotFoundError(
            f"{run.root} knows no best checkpoint; write @first, @last or one of "
            f"{', '.join(f'@step_{step}' for step in steps)}"
        )
    raise NotFoundError(
        f"{run.root} has no records of a validation @{at}; write @first, @last, @best or one of "
        f"{', '.join(f'@step_{step}' for step in steps)}"
    )


def _best_step(run: RunDir) -> int | None:
    best = run.best_checkpoint()
    return None if best is None else _number_in(best.name)


def _number_in(at: str) -> int | None:
    match = re.fullmatch(r"(?:step_)?(\d{1,9})", at)
    return int(match[1]) if match else None


def _validations(run: RunDir) -> Iterable[Path]:
    return run.episodes_dir.glob("validation_*.jsonl")


def _no_evaluation(run_dir: Path) -> str:
    if not run_dir.is_dir():
        return f"there is no run directory {run_dir}; `astuner show` lists those there are"
    steps = validated_steps(RunDir(root=run_dir))
    hint = (
        f"for a validation of this training run write {run_dir}@first, @last or @step_{steps[-1]}"
        if steps
        else "`astuner evaluate --conf FILE --model CHECKPOINT` makes one"
    )
    return f"{run_dir} is no evaluation, since it has no {EVALUATION_FILE}; {hint}"


def _tasks_of(files: Iterable[Path]) -> list[TaskOutcomes]:
    """In the order in which the tasks are first met."""
    attempts: dict[str, dict[int, AttemptOutcome]] = {}
    tasks: dict[str, Mapping[str, Any]] = {}
    for path in files:
        for number, record in enumerate(_lines(path), start=1):
            try:
                _check_format(record)
                task, outcome = record["task"], _outcome_of(record)
                tasks.setdefault(task["task_id"], task)
                attempts.setdefault(task["task_id"], {})[outcome.attempt] = outcome
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise UnreadableError(
                    f"{path}:{number}: the record of an episode is not whole: "
                    f"{type(error).__name__} {error}; the file was changed by hand"
                ) from error
    return [_task_outcomes(tasks[name], own) for name, own in attempts.items()]


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    try:
        yield from read_json_lines(path)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from error


def _check_format(record: Mapping[str, Any]) -> None:
    if record.get("format", 1) > RECORD_FORMAT:
        raise UnreadableError(
            f"episode {record.get('episode_id')!r} is recorded in format {record['format']}; this "
            f"version of astuner reads up to {RECORD_FORMAT}: read it with a newer one"
        )


def _task_outcomes(task: Mapping[str, Any], own: Mapping[int, AttemptOutcome]) -> TaskOutcomes:
    return TaskOutcomes(
        task_id=task["task_id"],
        digest=task_digest(task),
        tags=tags_of(task),
        attempts=tuple(own[attempt] for attempt in sorted(own)),
    )


def task_digest(task: Mapping[str, Any]) -> str:
    """Of a task as records hold it.

    What a task of an environment asks is the environment's words and may hang on the episode's
    seed, so it does not count there.
    """
    asked = ("main_query", "init_messages")
    is_played = task.get("env_type", _NO_ENVIRONMENT) != _NO_ENVIRONMENT
    return _digest({key: task[key] for key in task if not (is_played and key in asked)})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tags_of(task: Mapping[str, Any]) -> dict[str, str]:
    """As in TaskOutcomes, of a task as records hold it."""
    source = {"source": task["source"]} if task.get("source") else {}
    metadata = task.get("metadata") or {}
    return source | {key: _as_text(value) for key, value in metadata.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= _MAX_TAG_SIGNS and "\n" not in value
    return isinstance(value, bool | int | float)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _outcome_of(record: Mapping[str, Any]) -> AttemptOutcome:
    verdict, failure = record["verdict"], record["failure"]
    trained = {(name, tag) for name, tag, is_trained in record.get("agents", ()) if is_trained}
    calls = record["calls"]
    own = [
        index
        for index, call in enumerate(calls)
        if (call["agent_name"], call["target_tag"]) in trained or call.get("is_trained", True)
    ]
    prompt_lengths = _prompt_lengths(calls)
    return AttemptOutcome(
        episode_id=record["episode_id"],
        attempt=record["attempt"],
        reward=verdict["reward"] if verdict else None,
        is_success=verdict["is_success"] if verdict else None,
        failure=None if verdict else failure["kind"],
        num_sampled_tokens=sum(_num_sampled(calls[i]) for i in own),
        num_prompt_tokens=sum(prompt_lengths[i] for i in own),
        num_calls=len(own),
        seconds=record["seconds"],
        format_errors=_format_errors(record, [calls[i] for i in own]),
    )


def _prompt_lengths(calls: list[Mapping[str, Any]]) -> list[int]:
    """A record holds of each prompt only what stands behind the call that it extends."""
    lengths: list[int] = []
    for call in calls:
        earlier = call["extends"]
        said = 0 if earlier is None else lengths[earlier] + len(calls[earlier]["completion_ids"])
        counted = call.get("counted_tokens")
        lengths.append(counted[0] if counted else said + len(call["prompt_ids"]))
    return lengths


def _num_sampled(call: Mapping[str, Any]) -> int:
    """As a server counted them where it told no ids."""
    counted = call.get("counted_tokens")
    return counted[1] if counted else len(call["completion_ids"])


def _format_errors(record: Mapping[str, Any], calls: list[Mapping[str, Any]]) -> tuple[str, ...]:
    found = {
        "madness": record.get("madness") is not None,
        "out of room": bool(record.get("overflowed")),
        "cut off": any(call["finish_reason"] == "length" for call in calls),
        "format not kept": any(call.get("format_check") == "invalid" for call in calls),
        "refused call": record.get("num_refused_calls", 0) > 0,
    }
    return tuple(name for name, is_there in found.items() if is_there)
