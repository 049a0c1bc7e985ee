"""`AstunerJob`: a run described and started from Python, in a script or a notebook."""

import tempfile
from pathlib import Path
from typing import Any, Self

import yaml

from astuner.backbone.run import RunResult
from astuner.config.load import load_config
from astuner.errors import ConfigError
from astuner.launch import launch
from astuner.workflow import Workflow


class AstunerJob:
    """Collects settings, then `tune()` starts the same run as the command `astuner`.

    AstunerJob(model="models/small").set_workflow(MyWorkflow).set_data(
        type="jsonl_dataset_file", dataset_path="train.jsonl"
    ).tune()
    """

    def __init__(
        self,
        backbone: str = "local",
        model: str | None = None,
        n_gpu: int | None = None,
        algorithm: str | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {}
        self._workflow_class: type[Workflow] | None = None
        self.set("backbone", backbone)
        for key, value in (
            ("model.path", model),
            ("trainer_common.n_gpus_per_node", n_gpu),
            ("trainer_common.algorithm.adv_estimator", algorithm),
        ):
            if value is not None:
                self.set(key, value)

    def build_job_from_yaml(self, path: str | Path) -> Self:
        """Take the settings of a YAML file; later calls change them."""
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
        if not isinstance(content, dict) or not isinstance(content.get("astuner"), dict):
            raise ConfigError(f"{path}: has no section 'astuner:'")
        for key, value in _flatten(content["astuner"]):
            self.set(key, value)
        return self

    def set(self, key: str, value: Any) -> Self:
        """Set one key below `astuner`, for example set("rollout.num_repeat", 8)."""
        section = self._settings
        *parents, name = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
        return self

    def set_workflow(
        self, workflow: type[Workflow] | str, ensure_reward_in_workflow: bool = False
    ) -> Self:
        """Name the workflow: a class, or a path such as "my_agent.my_agent->MyWorkflow".

        With `ensure_reward_in_workflow` no judge is asked, so the workflow must give the reward.
        """
        if ensure_reward_in_workflow:
            self.set("task_judge.judge_protocol", None)
        if isinstance(workflow, str):
            self._workflow_class = None
            return self.set("rollout.agentscope_workflow", workflow)
        self._workflow_class = workflow
        return self.set(
            "rollout.agentscope_workflow", f"{workflow.__module__}->{workflow.__qualname__}"
        )

    def set_judge(self, path: str | None) -> Self:
        """Name the judge class by its path; None when the workflow gives every reward."""
        return self.set("task_judge.judge_protocol", path)

    def set_data(
        self,
        type: str,
        dataset_path: str,
        training_split: str = "train",
        validation_split: str | None = "test",
    ) -> Self:
        """Choose the task reader and its source.

        For jsonl_dataset_file, `dataset_path` is the training file and `validation_split` the path
        of the validation file, or None.
        """
        self.set("task_reader.type", type)
        if type == "jsonl_dataset_file":
            validation = None if validation_split == "test" else validation_split
            self.set(f"task_reader.{type}.training.file_path", dataset_path)
            return self.set(f"task_reader.{type}.validation.file_path", validation)
        self.set(f"task_reader.{type}.dataset_path", dataset_path)
        self.set(f"task_reader.{type}.training_split", training_split)
        return self.set(f"task_reader.{type}.validation_split", validation_split)

    def dump_job_as_yaml(self, path: str | Path) -> Path:
        """Write the settings as a YAML file that the command `astuner` takes."""
        path = Path(path)
        text = yaml.safe_dump({"astuner": self._settings}, sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        return path

    def tune(self) -> RunResult:
        """Start the run and wait for its end. Raises the errors of `astuner.errors`."""
        name = self._settings.get("project_name", "astuner_job")
        with tempfile.TemporaryDirectory() as folder:
            loaded = load_config(self.dump_job_as_yaml(Path(folder) / f"{name}.yaml"))
        return launch(loaded, workflow_class=self._workflow_class, search_dirs=(Path.cwd(),))


def _flatten(section: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in section.items():
        if isinstance(value, dict) and value:
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
