"""The laptop's YAML of the tutorial, shrunk by settings to one step of a tiny model."""

import json
from collections.abc import Mapping
from pathlib import Path

from tests.taught_model import make_taught_model
from tutorial.example_math_agent.math_agent import SYSTEM_PROMPT

CONF = Path(__file__).parents[1] / "tutorial" / "example_math_agent" / "math_agent_laptop.yaml"
_TASKS = CONF.parent / "sums" / "train.jsonl"


def make_tutorial(folder: Path) -> dict[str, str]:
    """Make a model that knows two of the tutorial's sums, right or wrong; returns settings."""
    tasks = [json.loads(line) for line in _TASKS.read_text().splitlines()[:2]]
    model, file = folder / "model", folder / "tasks.jsonl"
    model.mkdir()
    make_taught_model(model, [_answered(t, text) for t in tasks for text in "12"], [])
    file.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    files = "astuner.task_reader.jsonl_dataset_file"
    return {
        "astuner.model.path": str(model),
        "astuner.model.dtype": "float32",
        f"{files}.training.file_path": str(file),
        f"{files}.validation.file_path": str(file),
        "astuner.data.train_batch_size": "2",
        "astuner.data.max_prompt_length": "800",
        "astuner.rollout.max_model_len": "1024",
        "astuner.rollout.max_env_worker": "8",
        "astuner.trainer_common.total_training_steps": "1",
        "astuner.trainer_common.save_freq": "1",
        "astuner.trainer_common.val_before_train": "false",
        "astuner.trainer_common.test_freq": "1",
    }


def as_arguments(settings: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _answered(task: Mapping[str, str], text: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": task["main_query"]},
        {"role": "assistant", "content": f"\\boxed{{{text}}}"},
    ]
