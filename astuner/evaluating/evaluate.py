"""Evaluates models one after the other, each in a run directory of its own, by the machinery of a
run. Goes on with what an earlier start left, and shows again what is whole."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from astuner.backbone.evaluation_run import EvaluationBackbone, EvaluationWork
from astuner.backbone.judge_process import judge_of, own_judges_of
from astuner.backbone.run import Run
from astuner.backbone.user_code import load_own_workflows, load_workflow
from astuner.config.load import LoadedConfig
from astuner.config.secret import shown_settings
from astuner.config.sections.trainer_common import START
from astuner.config.source import flatten
from astuner.console import RunConsole
from astuner.errors import AstunerError, BackboneError, ConfigError, Quit
from astuner.evaluating.deciding_code import code_digests
from astuner.evaluating.earlier_evaluation import find_earlier, is_whole
from astuner.evaluating.evaluated_tasks import (
    VALIDATION,
    check_is_there,
    read_evaluated_tasks,
)
from astuner.evaluating.named_model import (
    ModelPlaces,
    NamedModel,
    check_loadable,
    check_whole,
    find_named_model,
)
from astuner.evaluating.order import EvaluationOrder
from astuner.evaluating.server_check import checked_server
from astuner.evaluating.settings_of_model import LOCAL, engine_settings, model_settings
from astuner.evaluating.sole_start import sole_start
from astuner.evaluation.deciding import deciding_settings
from astuner.evaluation.facts import EvaluationFacts
from astuner.evaluation.gate import GateRules, check_tags_are_there
from astuner.imports import fix_sys_path, module_folders
from astuner.launch import OtherWork, launch
from astuner.logview.view.words import count
from astuner.rollout.threads import DaemonThreads
from astuner.run_dir import RunDir, naming_the_file, read_json_lines
from astuner.task_reader.same_tasks import fingerprint

_BY_SIGNAL = 128
"""Exit codes above it are those of a signal."""
_STAND_IN: dict[str, Any] = {"model.path": "evaluated"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvaluation:
    """How far the evaluation of one model came."""

    name: str
    run_dir: Path | None
    """None where it was not begun."""
    is_whole: bool
    error: AstunerError | Quit | None = None
    """What ended it; None where nothing did."""

    @property
    def ends_all(self) -> bool:
        """Whether no further model is evaluated. A model that cannot be loaded, or at which too
        many episodes fail, is no reason for that; a signal, a full disk and a wrong setting are."""
        return self.error is not None and not isinstance(self.error, BackboneError)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedModels:
    """What came of an order."""

    models: Sequence[ModelEvaluation]
    """Those that had their turn, in the order in which they were named."""
    num_models: int
    """That were named."""

    @property
    def ended_by(self) -> AstunerError | Quit | None:
        """What ended it before all models had their turn, else the first failure of a model."""
        errors = [model.error for model in self.models if model.error is not None]
        return next((model.error for model in self.models if model.ends_all), None) or next(
            iter(errors), None
        )


def evaluate_models(start: "EvaluationStart") -> EvaluatedModels:
    """Evaluate one after the other; a model that fails costs the others nothing."""
    models: list[ModelEvaluation] = []
    for model in start.models:
        models.append(start.evaluate(model))
        if models[-1].ends_all:
            break
        if models[-1].error is not None and len(start.models) > 1:
            start.tell(f"{model.name} is not evaluated: {models[-1].error}")
    return EvaluatedModels(models=models, num_models=len(start.models))


class EvaluationStart:
    """All that the models of one order have in common, found before the first is evaluated."""

    def __init__(self, order: EvaluationOrder, console: RunConsole) -> None:
        """Raises ConfigError and TaskReadError for what cannot be meant or read."""
        self._order, self._console = order, console
        first, self._stand_in = _load_first(order)
        self._tell_backbone(first)
        self._engine = {**self._stand_in, **engine_settings(first)}
        self.loaded = first if self._engine == self._stand_in else order.load(self._engine)
        self.search_dirs = order.search_dirs or module_folders(self.loaded.conf_file)
        fix_sys_path()
        self._run = self._make_run(self.loaded)
        evaluation = self.loaded.settings.evaluation
        self.num_repeat = order.num_repeat or evaluation.num_repeat
        self.models = self._find_models()
        tasks = read_evaluated_tasks(self._run, self.loaded, order.split or evaluation.split)
        self.tasks = tasks.without_rest(order.max_tasks or evaluation.max_tasks)
        self.tasks.check_has(order.by)
        self._say_what()

    def tell(self, text: str) -> None:
        """A warning, for who watches."""
        self._console.warn(text)

    def check_gate(self, rules: GateRules) -> None:
        """Before anything is rolled out. Raises ConfigError for tags and guard tasks that are not
        there."""
        check_tags_are_there(rules, self.tasks.tags)
        if rules.guard is not None:
            check_is_there(rules.guard, self.search_dirs, key="evaluation.gate.guard")

    def _tell_backbone(self, loaded: LoadedConfig) -> None:
        backbone = loaded.settings.backbone
        if backbone not in (LOCAL, "debug"):
            self._console.say(
                f"the YAML's backbone is {backbone}; evaluations run on this machine, on the "
                "engine of the backbone local"
            )

    def _make_run(self, loaded: LoadedConfig) -> Run:
        """For reading tasks; nothing is written into its run directory."""
        settings, config, search_dirs = loaded.settings, loaded.config, self.search_dirs
        return Run(
            settings=settings,
            config=config,
            run_dir=RunDir(root=loaded.experiment_dir),
            home=loaded.home,
            search_dirs=search_dirs,
            workflow_class=self._order.workflow_class
            or load_workflow(settings, search_dirs, where=str(loaded.conf_file)),
            judge=judge_of(settings, config, search_dirs, self._order.judge_class),
            own_workflows=load_own_workflows(settings, search_dirs),
            own_judges=own_judges_of(settings, config, search_dirs),
            console=self._console,
            explicit_keys=loaded.explicit_keys,
            shown_as=loaded.shown_as,
        )

    def _find_models(self) -> list[NamedModel]:
        loaded = self.loaded
        places = ModelPlaces(
            experiment_dir=loaded.experiment_dir,
            experiment_name=loaded.experiment_name,
            search_dirs=self.search_dirs,
            api_key_env=self._order.api_key_env,
            say=self._console.say,
        )
        asked = self._order.models or [str(loaded.settings.model.path)]
        found = [find_named_model(one, places) for one in asked]
        for model in found:
            check_loadable(model)
        return [self._checked(model) for model in found]

    def _checked(self, model: NamedModel) -> NamedModel:
        if model.server is None:
            return model
        kwargs = self.loaded.settings.rollout.val_kwargs
        temperature = kwargs.temperature if kwargs.do_sample else 0.0
        return _waited_for(checked_server(model, temperature=temperature))

    def _say_what(self) -> None:
        tasks, say = self.tasks, self._console.say
        num_tasks, num_repeat = len(tasks.tasks), self.num_repeat
        say(
            f"evaluating {count(len(self.models), 'model')} on {count(num_tasks, 'task')} of "
            f"{tasks.split}, {count(num_repeat, 'attempt')} each"
        )
        for line in tasks.warnings:
            self._console.warn(line)
        if num_repeat > 1 and not self.loaded.settings.rollout.val_kwargs.do_sample:
            self._console.warn(
                "rollout.val_kwargs.do_sample is false, so every attempt at a task says the same; "
                "set it to true, with a temperature, to see how much chance there is"
            )

    def facts_of(self, model: NamedModel) -> EvaluationFacts:
        loaded = self.loaded
        shown = shown_settings(loaded.settings, loaded.shown_as)
        chosen_by = model.chosen_by
        is_chosen = chosen_by is not None and self._has_chosen(chosen_by)
        return EvaluationFacts(
            model=model.name,
            split=self.tasks.split,
            num_tasks=len(self.tasks.tasks),
            num_repeat=self.num_repeat,
            tasks_digest=fingerprint(self.tasks.tasks),
            decides={
                **deciding_settings(shown),
                **code_digests(
                    loaded.settings,
                    workflow_class=self._run.workflow_class,
                    judge_class=self._order.judge_class,
                    search_dirs=self.search_dirs,
                ),
            },
            weights=model.weights,
            best_of=str(chosen_by.root) if is_chosen and chosen_by else None,
        )

    def _has_chosen(self, run: RunDir) -> bool:
        """Whether any of these tasks was among those by which the run chose its best."""
        files = sorted(run.episodes_dir.glob("validation_*.jsonl"))
        if not files:  # not recorded, or pruned
            is_own = run.root.parent.name == self.loaded.experiment_name
            return is_own and self.tasks.split == VALIDATION
        asked = {task.main_query for task in self.tasks.tasks}
        return any(line["task"]["main_query"] in asked for line in read_json_lines(files[-1]))

    def evaluate(self, model: NamedModel) -> ModelEvaluation:
        """What was recorded stays, whatever ends it. A second Ctrl-C is raised."""
        facts = self.facts_of(model)
        self._warn_of_choice(facts)
        run_dir = None
        try:
            loaded = self._settings_for(model)
            with contextlib.ExitStack() as starting:
                if not self._order.is_again:
                    starting.enter_context(sole_start(loaded.experiment_dir))
                    run_dir = find_earlier(loaded, facts)
                is_resumed = run_dir is not None
                if run_dir and is_whole(run_dir, facts, retries_failed=self._order.retries_failed):
                    self._console.say(
                        f"{model.name} was evaluated before, in {run_dir.root}; nothing is done "
                        "again (--again evaluates it anew)"
                    )
                    return ModelEvaluation(name=model.name, run_dir=run_dir.root, is_whole=True)
                check_whole(model)
                run_dir = run_dir or self._new_run_dir(loaded, facts, model)
                exit_code = self._roll_out(
                    loaded, model, run_dir, is_resumed=is_resumed, on_begun=starting.close
                )
            error = Quit(exit_code - _BY_SIGNAL) if exit_code > _BY_SIGNAL else None
        except AstunerError as failed:
            error = failed
        return ModelEvaluation(
            name=model.name,
            run_dir=run_dir and run_dir.root,
            is_whole=run_dir is not None and is_whole(run_dir, facts, retries_failed=False),
            error=error,
        )

    def _warn_of_choice(self, facts: EvaluationFacts) -> None:
        if facts.best_of is not None:
            self._console.warn(
                f"{facts.model} was chosen as the best of its run on these very tasks, so its "
                "figures are too good; report those of tasks that chose nothing, by --split test "
                "or a file"
            )

    def _settings_for(self, model: NamedModel) -> LoadedConfig:
        of_model = model_settings(model, is_own=not self._order.models)
        known = flatten(self.loaded.settings.model_dump(include={"model"}))
        if all(known[key] == value for key, value in of_model.items()):
            return self.loaded
        return self._order.load({**self._engine, **of_model})

    def _new_run_dir(
        self, loaded: LoadedConfig, facts: EvaluationFacts, model: NamedModel
    ) -> RunDir:
        run_dir = RunDir.create(loaded.experiment_dir, loaded.experiment_name, is_latest=False)
        try:
            with naming_the_file(run_dir.root, then="give the same command again"):
                facts.write(run_dir.root)
                self._take_over_rubrics(run_dir, loaded, model)
        except AstunerError:
            shutil.rmtree(run_dir.root, ignore_errors=True)  # nothing tells what it was to be
            raise
        return run_dir

    def _take_over_rubrics(self, run_dir: RunDir, loaded: LoadedConfig, model: NamedModel) -> None:
        """Those that a run drafted: models are compared by the same rubrics or not at all."""
        if loaded.settings.task_judge.judge_type != "rubrics_auto_grader":
            return
        runs = RunDir.all(loaded.experiment_dir, loaded.experiment_name)[::-1]
        for run in [model.chosen_by, *runs] if model.chosen_by else runs:
            if files := run.rubrics_files():
                shutil.copyfile(files[-1], run_dir.new_rubrics_file())
                return

    def _roll_out(
        self,
        loaded: LoadedConfig,
        model: NamedModel,
        run_dir: RunDir,
        *,
        is_resumed: bool,
        on_begun: Callable[[], None],
    ) -> int:
        """Returns the exit code, 128 and a signal's number where one ended it. `on_begun` is called
        as soon as others see that somebody is at work there."""
        work = EvaluationWork(
            tasks=self.tasks.tasks,
            num_repeat=self.num_repeat,
            server=model.server,
            reference=self._reference(model),
            retries_failed=self._order.retries_failed,
        )
        self._console.say(f"model {model.name}")

        def make_backbone() -> EvaluationBackbone:
            on_begun()
            return EvaluationBackbone(work)

        return launch(
            loaded,
            workflow_class=self._order.workflow_class,
            judge_class=self._order.judge_class,
            search_dirs=self.search_dirs,
            other=OtherWork(
                name="evaluation",
                make_backbone=make_backbone,
                run_dir=run_dir,
                is_resumed=is_resumed,
                describe_saved=partial(_describe_kept, run_dir),
            ),
        ).exit_code

    def _reference(self, model: NamedModel) -> str | None:
        """What answers agents that are not trained, as while tuning; None where it is the model
        itself, or nobody named it."""
        if "model.path" in self._stand_in:
            return None
        settings = self.loaded.settings
        named = settings.trainer_common.reference
        reference = settings.model.path if named == START else named
        return None if reference in (None, model.path) else reference


def _load_first(order: EvaluationOrder) -> tuple[LoadedConfig, dict[str, Any]]:
    """The configuration, with what stands in for the model that it may lack where the order names
    one."""
    try:
        return order.load({}), {}
    except ConfigError as error:
        if not order.models:
            raise
        with contextlib.suppress(ConfigError):
            return order.load(_STAND_IN), _STAND_IN
        raise error


def _waited_for(work: Coroutine[Any, Any, Any]) -> Any:
    """Also where an event loop runs already, as in notebooks."""
    return DaemonThreads().submit(asyncio.run, work).result()


def _describe_kept(run_dir: RunDir) -> str:
    return f"the episodes in {run_dir.root} are kept; the same command goes on"
