"""Evaluations in memory and as run directories, written by hand."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from astuner.evaluation.facts import EvaluationFacts
from astuner.evaluation.outcomes import AttemptOutcome, EvaluatedModel, TaskOutcomes
from astuner.task_reader.jsonl_dataset_file import read_task_file
from astuner.task_reader.same_tasks import fingerprint
from tests.viewer_runs import START, make_run, record

Rewards = Sequence[float | None]
"""Of the attempts at a task; 1.0 is a success, None a failed one."""


def outcomes(
    rewards: Rewards, *, name: str = "t0", tags: Mapping[str, str] | None = None, tokens: int = 10
) -> TaskOutcomes:
    """All attempts at one task."""
    return TaskOutcomes(
        task_id=name,
        digest=f"digest of {name}",
        tags=tags or {},
        attempts=[
            AttemptOutcome(
                episode_id=f"{name}-{attempt}",
                attempt=attempt,
                reward=reward,
                is_success=None if reward is None else reward == 1.0,
                failure="WorkflowError" if reward is None else None,
                num_sampled_tokens=tokens,
                num_prompt_tokens=5,
                num_calls=1,
                seconds=2.0,
            )
            for attempt, reward in enumerate(rewards)
        ],
    )


def evaluated(
    tasks: Iterable[Rewards | TaskOutcomes],
    *,
    name: str = "small",
    decides: Mapping[str, Any] | None = None,
) -> EvaluatedModel:
    """An evaluation of these tasks, in memory."""
    made = [
        task if isinstance(task, TaskOutcomes) else outcomes(task, name=f"t{index}")
        for index, task in enumerate(tasks)
    ]
    return EvaluatedModel(
        name=name, run_dir=f"runs/{name}", facts=facts(made, decides or {}), tasks=made
    )


def facts(tasks: Sequence[TaskOutcomes], decides: Mapping[str, Any]) -> EvaluationFacts:
    return EvaluationFacts(
        model="models/small",
        split="test",
        num_tasks=len(tasks),
        num_repeat=max((len(task.attempts) for task in tasks), default=1),
        tasks_digest="of all",
        decides={"task_judge.judge_protocol": "judge->Judge", **decides},
    )


def write_evaluation(
    folder: Path,
    tasks: Mapping[str, Rewards],
    *,
    name: str = "eval",
    start: str = START,
    split: str = "test",
    model: str = "models/small",
    file: Path | None = None,
    texts: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """A run directory of an evaluation; the metadata of each task has its kind: its first letter
    and its number. `texts` go to `record`; of the tasks in `file` is the digest."""
    root = make_run(folder, name, start)
    lines = [
        _line(task_id, attempt, reward, texts)
        for task_id, rewards in tasks.items()
        for attempt, reward in enumerate(rewards)
    ]
    write_lines(root / "episodes" / "validation_000000.jsonl", lines)
    made = [outcomes(rewards, name=task_id) for task_id, rewards in tasks.items()]
    found = replace(facts(made, {}), split=split, model=model)
    if file is not None:
        found = replace(found, tasks_digest=fingerprint(read_task_file(file)))
    found.write(root)
    return root


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def _line(
    task_id: str, attempt: int, reward: float | None, texts: Mapping[str, Any]
) -> dict[str, Any]:
    line = record(f"{task_id}-{attempt}", task_id=task_id, attempt=attempt, reward=reward, **texts)
    line["task"]["metadata"] = {"kind": task_id[0], "answer": "a text\nof lines"}
    return line
