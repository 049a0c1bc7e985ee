"""`AstunerJob`: a run described and started from Python, in a script or a notebook."""

import copy
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from astuner.backbone.run import RunResult
from astuner.config.load import LoadedConfig, load_mapping, load_mapping_for_generation
from astuner.config.secret import without_secrets
from astuner.config.source import flatten, read_conf_file
from astuner.console import RunConsole, open_screen
from astuner.errors import ConfigError
from astuner.evaluating.evaluations import Evaluations, evaluate
from astuner.evaluating.order import EvaluationOrder
from astuner.exporting.export import Exported, ExportOrder, export
from astuner.function_workflow import judge_class_of, workflow_class_of
from astuner.generating.make import GeneratedTasks, UserClasses, made_tasks, make_sets
from astuner.imports import module_folders
from astuner.launch import launch, launch_warm_start
from astuner.run_dir import RunDir
from astuner.task_judge.base_judge import BaseJudge
from astuner.workflow import Workflow

_NAME = "AstunerJob"
"""What messages call the place where a setting was set."""
_WORKFLOW = "rollout.agentscope_workflow"
_JUDGE = "task_judge.judge_protocol"


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
        self._content: dict[str, Any] = {"astuner": {}}
        self._workflow_class: type[Workflow] | None = None
        self._judge_class: type[BaseJudge] | None = None
        self._search_dirs: tuple[Path, ...] = ()
        self.set("backbone", backbone)
        for key, value in (
            ("model.path", model),
            ("trainer_common.n_gpus_per_node", n_gpu),
            ("trainer_common.algorithm.adv_estimator", algorithm),
        ):
            if value is not None:
                self.set(key, value)

    def build_job_from_yaml(self, path: str | Path) -> Self:
        """Take all that a YAML file sets; later calls change it.

        Modules and files that it names are also looked for around it, as the command does. Raises
        ConfigError when it cannot be read.
        """
        for key, value in flatten(read_conf_file(Path(path)).mapping).items():
            self._set(key, value)
        self._search_dirs = module_folders(Path(path))
        hydra = self._content.setdefault("hydra", {})
        folders = hydra.get("searchpath") or []
        hydra["searchpath"] = [*folders, f"file://{Path(path).absolute().parent}"]
        return self

    def set(self, key: str, value: Any) -> Self:
        """Set one key below `astuner`, for example set("rollout.num_repeat", 8).

        Raises ConfigError for a key below one that has a value.
        """
        return self._set(f"astuner.{key.removeprefix('astuner.')}", value)

    def _set(self, key: str, value: Any) -> Self:
        section = self._content
        *parents, name = key.split(".")
        for index, parent in enumerate(parents):
            inner = section.setdefault(parent, {})
            if not isinstance(inner, dict):
                holder = ".".join(parents[: index + 1])
                shown = without_secrets({holder: inner})[holder]
                raise ConfigError(
                    f"{_NAME}: cannot set {key}: {holder} is {shown!r}, "
                    "not a section; set it once only, or another key"
                )
            section = inner
        section[name] = os.fspath(value) if isinstance(value, os.PathLike) else value
        if key == f"astuner.{_WORKFLOW}":
            self._workflow_class = None
        if key == f"astuner.{_JUDGE}":
            self._judge_class = None
        return self

    def set_workflow(
        self,
        workflow: type[Workflow] | Callable[..., Any] | str,
        ensure_reward_in_workflow: bool = False,
    ) -> Self:
        """Name the workflow: a class, a function, or a path as "my_agent.my_agent->MyWorkflow".

        With `ensure_reward_in_workflow` no judge is asked, so the workflow must give the reward.
        """
        if ensure_reward_in_workflow:
            self.set(_JUDGE, None)
        if isinstance(workflow, str):
            return self.set(_WORKFLOW, workflow)
        if inspect.isfunction(workflow):
            workflow = workflow_class_of(workflow, where=f"{_NAME}: set_workflow")
        if not (isinstance(workflow, type) and issubclass(workflow, Workflow)):
            raise ConfigError(
                f"{_NAME}: set_workflow: found {workflow!r}, expected a subclass of Workflow, an "
                "async function or a path such as my_agent.my_agent->MyWorkflow"
            )
        self.set(_WORKFLOW, f"{_module_path(workflow)}->{workflow.__qualname__}")
        self._workflow_class = workflow
        return self

    def set_judge(self, judge: str | Callable[..., Any] | None) -> Self:
        """Name the judge by the path of its class or function, or give a function.

        None when the workflow gives every reward.
        """
        if not inspect.isfunction(judge):
            return self.set(_JUDGE, judge)
        made = judge_class_of(judge, where=f"{_NAME}: set_judge")
        self.set(_JUDGE, f"{_module_path(judge)}->{judge.__qualname__}")
        self._judge_class = made
        return self

    def set_data(
        self,
        type: str,
        dataset_path: str,
        training_split: str = "train",
        validation_split: str | None = "test",
        test_split: str | None = None,
    ) -> Self:
        """Choose the task reader and its source.

        For jsonl_dataset_file, `dataset_path` is the training file, and `validation_split` and
        `test_split` are the paths of the other files, or None. No run trains on the test split, or
        chooses by it.
        """
        self.set("task_reader.type", type)
        if type == "jsonl_dataset_file":
            validation = None if validation_split == "test" else validation_split
            self.set(f"task_reader.{type}.training.file_path", dataset_path)
            self.set(f"task_reader.{type}.validation.file_path", validation)
            return self.set(f"task_reader.{type}.test.file_path", test_split)
        self.set(f"task_reader.{type}.dataset_path", dataset_path)
        self.set(f"task_reader.{type}.training_split", training_split)
        self.set(f"task_reader.{type}.validation_split", validation_split)
        return self.set(f"task_reader.{type}.test_split", test_split)

    def generate(
        self,
        documents: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        *,
        seeds: str | os.PathLike[str] | None = None,
        task_num: int | None = None,
        model: str | None = None,
        base_url: str | None = None,
        output_dir: str | os.PathLike[str] | None = None,
    ) -> GeneratedTasks:
        """Make tasks out of documents and example questions; `tune()` then reads them.

        `documents` are files, folders and patterns, `seeds` is a jsonl file of questions, and
        `model` writes and checks the tasks at `base_url`. What is there already is used again, and
        gone on with where it is not enough. All else is set below task_reader.data_generation.
        Raises BackboneError where no task could be made.
        """
        section = "task_reader.data_generation"
        named = [documents] if isinstance(documents, str | os.PathLike) else documents
        self.set("task_reader.type", "data_generation")
        for key, value in (
            (f"{section}.document_reader.document_path", [os.fspath(one) for one in named] or None),
            (f"{section}.query_reader.jsonl_dataset_file.training.file_path", seeds),
            (f"{section}.task_num", task_num),
            (f"{section}.output_dir", output_dir),
            (f"{section}.llm_model", model),
            ("llm.base_url", base_url),
        ):
            if value is not None:
                self.set(key, value)
        loaded = load_mapping_for_generation(self._named(), name=_NAME)
        with RunConsole(open_screen(), is_live=True) as console:
            return made_tasks(make_sets(loaded, console, classes=self._classes()))

    def dump_job_as_yaml(self, path: str | Path) -> Path:
        """Write the settings as a YAML file that the command `astuner` takes.

        Where a secret is among them, only the owner may read it.
        """
        path = Path(path)
        if without_secrets(self._content) != self._content:
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
        text = yaml.safe_dump(self._content, sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        return path

    def tune(self, *, resume: bool | str = False, with_logview: bool = False) -> RunResult:
        """Start the run and wait for its end. Raises the errors of `astuner.errors`.

        With `resume` it goes on from the newest checkpoint of the runs of this project that have
        its settings; a text names the run, by folder or start time.
        `with_logview` shows the run in a browser while it is at work.
        """
        classes = self._classes()
        return launch(
            load_mapping(self._named(), name=_NAME),
            workflow_class=classes.workflow,
            judge_class=classes.judge,
            search_dirs=classes.search_dirs,
            resume=resume,
            with_logview=with_logview,
        )

    def sft(self, *, with_logview: bool = False) -> RunResult:
        """Learn the replies that trainer_common.warm_start names, and nothing more, as the command
        `astuner sft` does; a run does the same before its first rollout.

        `checkpoint` of what is returned can be the `model` of another job. Raises ConfigError where
        nothing is named, or nothing is left to learn from.
        """
        classes = self._classes()
        return launch_warm_start(
            self._loaded_with({"backbone": "local"}),
            workflow_class=classes.workflow,
            judge_class=classes.judge,
            search_dirs=classes.search_dirs,
            with_logview=with_logview,
        )

    def export(
        self,
        of: RunResult | str | os.PathLike[str] | None = None,
        *,
        to: str = "hf",
        out: str | os.PathLike[str] | None = None,
        dtype: str | None = None,
        quantize: str | None = None,
        base: str | None = None,
    ) -> Exported:
        """Write a checkpoint as what other programs load, as the command `astuner export` does.

        `of` is what `tune()` gave, a checkpoint's folder or a run directory; None is the newest run
        of this job. Of a run it is the best checkpoint, else the last. Raises ExportRefused where
        what was written does not compute what was trained.
        """
        order = ExportOrder(
            checkpoint=str(self._newest_run() if of is None else _folder_of(of)),
            to=to,
            out=None if out is None else Path(out),
            dtype=dtype,
            quantize=quantize,
            base=base,
        )
        with RunConsole(open_screen(), is_live=True) as console:
            return export(order, console)

    def _newest_run(self) -> Path:
        named = self._named()["astuner"]
        folder = named.get("experiment_dir") or "auto"
        parent = Path("launcher_record" if folder == "auto" else folder)
        run = RunDir.latest(parent, str(named["experiment_name"]))
        if run is None:
            raise ConfigError(
                f"{_NAME}: export: {parent / str(named['experiment_name'])} has no run yet; tune "
                "first, or name a checkpoint"
            )
        return run.root

    def evaluate(
        self,
        models: Sequence[str | os.PathLike[str]] = (),
        *,
        split: str | os.PathLike[str] | None = None,
        repeat: int | None = None,
        max_tasks: int | None = None,
        by: str | None = None,
        again: bool = False,
        retry_failed: bool = False,
        api_key_env: str = "OPENAI_API_KEY",
    ) -> Evaluations:
        """Run workflow and judge on tasks without training, and say how good each model is.

        `models` are what `astuner evaluate --model` takes, by default the model of the settings;
        `split` is test, validation or a jsonl file. The same call goes on where an earlier one was
        ended, and shows what is whole, unless it is to be done `again`. A model that fails is
        named in what is returned; raises ConfigError and TaskReadError for what cannot be meant.
        """
        classes = self._classes()
        return evaluate(
            EvaluationOrder(
                load=self._loaded_with,
                models=[os.fspath(model) for model in models],
                split=None if split is None else os.fspath(split),
                num_repeat=repeat,
                max_tasks=max_tasks,
                by=by,
                is_again=again,
                retries_failed=retry_failed,
                api_key_env=api_key_env,
                workflow_class=classes.workflow,
                judge_class=classes.judge,
                search_dirs=classes.search_dirs,
            )
        )

    def _loaded_with(self, settings: Mapping[str, Any]) -> LoadedConfig:
        """The configuration, with these settings below `astuner` over the job's own."""
        changed = copy.deepcopy(self._named())
        for key, value in settings.items():
            *parents, name = key.split(".")
            section = changed["astuner"]
            for parent in parents:
                section = section.setdefault(parent, {})
            section[name] = value
        return load_mapping(changed, name=_NAME)

    def _named(self) -> dict[str, Any]:
        """The settings, with the name of the folders of its runs and tasks."""
        name = str(self._content["astuner"].get("project_name", "astuner_job"))
        named = {"experiment_name": name.replace("/", "-")} | self._content["astuner"]
        return self._content | {"astuner": named}

    def _classes(self) -> UserClasses:
        return UserClasses(
            search_dirs=tuple(dict.fromkeys((Path.cwd(), *self._search_dirs))),
            workflow=self._workflow_class,
            judge=self._judge_class,
        )


def _folder_of(named: RunResult | str | os.PathLike[str]) -> str:
    return os.fspath(named.run_dir if isinstance(named, RunResult) else named)


def _module_path(workflow: type[Workflow] | Callable[..., Any]) -> str:
    """The module, or the file of a script, which has no module name that others could import."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if workflow.__module__ == "__main__" and file is not None:
        return str(Path(file).absolute())
    return workflow.__module__
