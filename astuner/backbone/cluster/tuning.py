"""One run on a cluster, from the settings to its end, whichever engine trains.

What an engine does in its own way is an `EngineRun`; everything around it is the same.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from omegaconf import OmegaConf

from astuner.backbone.assemble import load_tokenizer, read_tasks
from astuner.backbone.cluster.engine_run import with_num_gpus
from astuner.backbone.cluster.messages import SavedState
from astuner.backbone.cluster.ray_cluster import RayCluster
from astuner.backbone.cluster.remote import HUB_VARIABLE, hub_name, lost_errors, start_hub
from astuner.backbone.cluster.silence import describe_silence, find_lost
from astuner.backbone.cluster.stored_curriculum import StoredCurriculum
from astuner.backbone.cluster.watch import Watch, follow_to_end
from astuner.backbone.contaminated import warn_of_contamination
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.first_look import tell_of_tasks
from astuner.backbone.interrupt import interrupted_by_signals
from astuner.backbone.loggers import metrics_log
from astuner.backbone.reporter import Reporter
from astuner.backbone.run import Run, RunResult
from astuner.backbone.run_end import end_run
from astuner.backbone.vocabulary_file import write_vocabulary
from astuner.backbone.worker_run import WorkerRun
from astuner.config.secret import mask_values
from astuner.errors import ConfigError
from astuner.types import Task

Tasks = Mapping[str, Sequence[Task]]
"""Those of "train" and "validation"."""


class EngineRun(Protocol):
    """The run of one engine: configured, and not yet started."""

    name: str
    """Of the engine, as its users write it."""
    namespace: str
    """Of the run's actors in Ray."""
    lasting: frozenset[str]
    """Classes of the engine's actors without which no run can go on."""
    first_phase: str | None
    """What the engine begins with, where it does not tell the hub itself."""
    tasks: Tasks
    """What the hub deals out."""
    first_step: int
    """The step from which the run goes on; 0 for a new one."""
    num_steps: int

    def variables(self) -> dict[str, str]:
        """Variables of this process that every process of the run must have."""
        ...

    def enter_cluster(self, variables: Mapping[str, str]) -> AbstractContextManager[RayCluster]:
        """The Ray cluster of the run, in which every process has the `variables`."""
        ...

    def check_cluster(self, worker_run: WorkerRun) -> None:
        """Raises BackboneError where the nodes of the cluster are not fit for the run."""
        ...

    def started(self, hub: str, logs: Path) -> AbstractContextManager[Future[None]]:
        """The engine at work, in a thread of its own, until the context is left.

        `hub` is the hub's name, `logs` the folder of what the processes print. What the engine
        raises inside comes out as BackboneError where its own error says too little.
        """
        ...

    def export(self, saved: SavedState) -> str:
        """Make a checkpoint of a state that the engine saved; returns a line for the screen."""
        ...

    def finish(self, last_step: int, *, is_interrupted: bool) -> None:
        """Once its processes have ended: what is not exported yet. Raises BackboneError where the
        engine ended early."""
        ...


async def tune(run: Run, prepare: Callable[[Run, Tasks], EngineRun]) -> RunResult:
    """Run the engine that `prepare` configures to its end, or to the user's."""
    run = replace(run, settings=with_num_gpus(run.settings))
    training, validation = read_tasks(run)
    num_test = warn_of_contamination(run, training, validation)
    most = run.settings.data.max_validation_tasks
    tell_of_tasks(run, training)
    engine_run = _prepared(run, prepare, {"train": training, "validation": validation[:most]})
    name = hub_name(worker_run := WorkerRun.of(run))
    variables = {HUB_VARIABLE: f"{name}@{engine_run.namespace}", **engine_run.variables()}
    with (
        metrics_log(run) as log,
        EpisodeWriter(
            run.run_dir, max_records_mb=run.settings.trainer_common.max_records_mb
        ) as writer,
        engine_run.enter_cluster(variables) as cluster,
    ):
        engine_run.check_cluster(worker_run)
        if (tokenizer := load_tokenizer(run)) is not None:
            write_vocabulary(run.run_dir, tokenizer)
        hub = start_hub(
            name,
            worker_run,
            engine_run.tasks,
            namespace=engine_run.namespace,
            curriculum=StoredCurriculum.open(run, training, first_step=engine_run.first_step),
        )
        reporter = Reporter(run, log, num_steps=engine_run.num_steps)
        reporter.plan(
            num_tasks=len(training),
            num_validation_tasks=len(validation[:most]),
            num_test_tasks=num_test,
        )
        if run.is_resumed:
            reporter.recall_validations()
        watch = Watch(
            run,
            hub,
            reporter=reporter,
            writer=writer,
            export=engine_run.export,
            describe_silence=partial(describe_silence, cluster.logs),
            find_lost=partial(find_lost, engine_run.lasting),
            lost=lost_errors(),
            first_step=engine_run.first_step,
        )
        if engine_run.first_phase is not None:
            await watch.begin(engine_run.first_phase)
        notice = f"{engine_run.name} finishes its step and saves first"
        with (
            engine_run.started(name, cluster.logs.folder) as engine,
            interrupted_by_signals(run.console, notice=notice, grace=run.grace) as interrupt,
        ):
            await follow_to_end(watch, engine)
    try:
        with run.grace.saving() if run.grace else nullcontext():
            engine_run.finish(watch.last_step, is_interrupted=interrupt.is_signalled)
    except BaseException:
        run.console.say(f"run directory  {run.run_dir.root}")
        raise
    reporter.mark_best()
    return end_run(run, reporter, exit_code=interrupt.exit_code)


def _prepared(run: Run, prepare: Callable[[Run, Tasks], EngineRun], tasks: Tasks) -> EngineRun:
    """Engines quote the settings that they refuse."""
    try:
        return prepare(run, tasks)
    except ConfigError as error:
        config = OmegaConf.to_container(run.config)
        assert isinstance(config, dict)
        raise ConfigError(mask_values(str(error), config, run.shown_as)) from None
