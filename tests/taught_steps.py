"""Two real steps of a tutorial's YAML on one of its tasks, by a tiny model taught its answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astuner.cli import main
from astuner.run_dir import RunDir, read_json_lines
from astuner.types import Task
from tests.taught_model import make_taught_model


def taught_steps(
    conf: Path,
    folder: Path,
    task: Task,
    *,
    asked: list[dict[str, Any]],
    answers: Sequence[str],
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The metrics of both steps, of 16 episodes each.

    `asked` is the conversation that the model sees, and `answers`, equally long in tokens, is what
    it was taught to say, each as often.
    """
    model, file = folder / "model", folder / "tasks.jsonl"
    model.mkdir()
    conversations = [[*asked, {"role": "assistant", "content": said}] for said in answers]
    texts = [message["content"] for message in conversations[0][:-1]]
    make_taught_model(model, conversations, [], texts=texts * 3)  # whose words it then knows whole
    file.write_text(task.model_dump_json() + "\n")
    files = "task_reader.jsonl_dataset_file"
    settings = {
        "model.path": model,
        "model.dtype": "float32",
        f"{files}.training.file_path": file,
        f"{files}.validation.file_path": file,
        "data.train_batch_size": 1,
        "data.max_prompt_length": 800,
        "rollout.max_model_len": 1024,
        "rollout.num_repeat": 16,
        "trainer_common.total_training_steps": 2,
        "trainer_common.val_before_train": "false",
        "trainer_common.save_freq": 99,
    }
    given = [f"astuner.{key}={value}" for key, value in settings.items()]
    runs = folder / "runs"
    assert main(["--conf", str(conf), "--exp-dir", str(runs), *given, *overrides]) == 0
    found = RunDir.latest(runs, conf.stem)
    assert found is not None
    return [line for line in read_json_lines(found.metrics_file) if "rollout/episodes" in line]
