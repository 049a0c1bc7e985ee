"""The judge for tasks of `task_reader.type: reasoning_gym`, each by its data set's own rule."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from astuner.errors import JudgeError
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.final_text import final_text
from astuner.task_judge.math.text import MAX_TAIL_CHARS, last_box
from astuner.task_reader.procedural import ItemRecipe, open_dataset
from astuner.types import WorkflowOutput, WorkflowTask

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FULL_SCORE = 1.0 - 1e-6


class ReasoningGymJudge(BaseJudge):
    r"""The score that the data set gives the answer, from 0 to 1; a full score is a success.

    The answer stands in `metadata["final_answer"]` of the workflow's output: inside the last
    `<answer>…</answer>`, else inside the last `\boxed{…}`, else it is the last line. An answer that
    the rule cannot read scores 0. Raises JudgeError for a task that no data set made, and where the
    rule cannot read the data set's own answer either.
    """

    def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> tuple[float, bool]:
        dataset, entry = _made_again(workflow_task)
        answer = find_answer_text(final_text(workflow_task, workflow_output))
        score = _score(workflow_task, dataset, entry, answer)
        return score, score >= _FULL_SCORE


def _score(task: WorkflowTask, dataset: Any, entry: Mapping[str, Any], answer: str) -> float:
    try:
        return float(dataset.score_answer(answer, entry))
    except Exception:  # noqa: BLE001  # some rules raise what they like for what they cannot read
        try:
            dataset.score_answer(entry["answer"], entry)
        except Exception as error:
            raise JudgeError(
                f"cannot judge task {task.task_id}: the rule of the data set "
                f"{task.task.metadata['dataset']} raises {type(error).__name__}: {error}, also for "
                "its own answer; leave the data set out, or judge it by a judge of your own"
            ) from error
        return 0.0


def find_answer_text(text: str) -> str:
    """What a reply gives as its answer: see `ReasoningGymJudge`."""
    tail = text[-MAX_TAIL_CHARS:]
    marked = _ANSWER.findall(tail)
    found = marked[-1] if marked else last_box(tail)
    return found.strip() if found is not None else tail.strip().rpartition("\n")[2].strip()


def _made_again(task: WorkflowTask) -> tuple[Any, dict[str, Any]]:
    """The data set and the entry as it made it: the task holds it as JSON, which has no tuples.

    A few data sets make another entry in another process; then what the task holds has to do.
    """
    made = task.task.metadata
    missing = {"dataset", "options", "seed", "size", "index", "answer", "metadata"} - set(made)
    if missing:
        raise JudgeError(
            f"cannot judge task {task.task_id}: its metadata lacks {sorted(missing)}; "
            "ReasoningGymJudge judges tasks of task_reader.type reasoning_gym"
        )
    options = json.dumps(made["options"], sort_keys=True)
    dataset = _opened(made["dataset"], options, made["seed"], made["size"])
    entry = _entry(dataset, made["index"])
    question = task.task.main_query
    if entry["question"] != question:
        entry = {"question": question, "answer": made["answer"], "metadata": made["metadata"]}
    return dataset, entry


@lru_cache(maxsize=64)
def _opened(name: str, options: str, seed: int, size: int) -> Any:
    """Some read long lists of words before their first item."""
    return open_dataset(ItemRecipe(name=name, options=json.loads(options), seed=seed, size=size))


@lru_cache(maxsize=1024)
def _entry(dataset: Any, index: int) -> dict[str, Any]:
    """Once for all attempts at a task: some items take a second to make."""
    return dataset[index]
