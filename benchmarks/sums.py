"""Small sums as a workload: tasks, an agent of one or more turns, its reward, and one tuning run.

Shared by the benchmarks that time whole steps. The agent talks to the model directly, so that a
step costs little beside sampling and training.
"""

import json
import random
import re
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astuner import AstunerJob, ModelTuner, Workflow, WorkflowOutput, WorkflowTask
from astuner.run_dir import read_json_lines


def make_sums(count: int, *, seed: int, turns: int = 1) -> list[dict[str, Any]]:
    """Tasks of the jsonl reader: {"main_query", "task_id", "metadata": {"numbers": [...]}}."""
    rng = random.Random(seed)
    tasks = []
    for index in range(count):
        numbers = [rng.randrange(10) for _ in range(turns + 1)]
        tasks.append(
            {
                "main_query": f"What is {numbers[0]} + {numbers[1]}?",
                "task_id": str(index),
                "metadata": {"numbers": numbers},
            }
        )
    return tasks


def most_behind_prompt(turns: int, new_tokens: int) -> int:
    """Tokens that an agent's turns and the questions between them can take."""
    return new_tokens + (turns - 1) * (new_tokens + 32)


def further_question(number: int) -> str:
    return f"And that plus {number}?"


def is_right(text: str, answer: int) -> bool:
    """Whether the last number of the text is the answer."""
    numbers = re.findall(r"\d+", text)
    return bool(numbers) and int(numbers[-1]) == answer


def coin(text: str) -> bool:
    """A fixed coin toss for each text: a reward with spread, whatever untrained weights say."""
    return bool(zlib.crc32(text.encode()) % 2)


class SumsWorkflow(Workflow):
    """Asks for a sum; in each further turn, for that plus one more number."""

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        total, *others = workflow_task.task.metadata["numbers"]
        num_good = 0
        messages: list[dict[str, Any]] = []
        for turn, number in enumerate(others):
            question = workflow_task.task.main_query if turn == 0 else further_question(number)
            total += number
            messages.append({"role": "user", "content": question})
            reply = await model_tuner(messages)
            text = "".join(block.get("text", "") for block in reply.content)
            messages.append({"role": "assistant", "content": text})
            num_good += self.is_good(text, total)
        reward = num_good / len(others)
        return WorkflowOutput(reward=reward, is_success=reward == 1)

    def is_good(self, text: str, answer: int) -> bool:
        return is_right(text, answer)


class CoinWorkflow(SumsWorkflow):
    """The same questions; each reply's coin decides."""

    def is_good(self, text: str, answer: int) -> bool:
        return coin(text)


def tune(
    model: str,
    tasks: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    *,
    workflow: type[Workflow] = SumsWorkflow,
) -> list[dict[str, Any]]:
    """One run of the local backbone; returns the lines of its metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "tasks.jsonl"
        data.write_text("".join(json.dumps(task) + "\n" for task in tasks), encoding="utf-8")
        job = AstunerJob(model=model)
        job.set_workflow(workflow, ensure_reward_in_workflow=True)
        job.set_data("jsonl_dataset_file", str(data))
        job.set("experiment_dir", folder)
        for key, value in settings.items():
            job.set(key, value)
        result = job.tune()
        return list(read_json_lines(result.run_dir / "metrics.jsonl"))
