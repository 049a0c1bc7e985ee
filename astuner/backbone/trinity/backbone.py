"""The backbone `trinity`: starts Trinity-RFT's explorer and trainer on a Ray cluster and follows
them to their end."""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from trinity.cli.launcher import MODE_MAP, StageStatus
from trinity.common.config import Config
from trinity.utils.log import get_logger

from astuner.backbone.assemble import find_model
from astuner.backbone.cluster.engine_run import at_work, engine_state_dir, first_card, go_on
from astuner.backbone.cluster.mapping import compute_dtype
from astuner.backbone.cluster.messages import SavedState
from astuner.backbone.cluster.node_check import check_nodes
from astuner.backbone.cluster.ray_cluster import RayCluster, ray_cluster
from astuner.backbone.cluster.ray_own_head import HeadResources
from astuner.backbone.cluster.silence import describe_lost
from astuner.backbone.cluster.tuning import Tasks, tune
from astuner.backbone.cluster.user_files import with_user_files
from astuner.backbone.cluster.worker_logs import WorkerLogs
from astuner.backbone.run import Run, RunResult
from astuner.backbone.trinity.config import TrinityFacts, trinity_settings
from astuner.backbone.trinity.export import export_saved
from astuner.backbone.trinity.monitor import weights_folder
from astuner.backbone.worker_run import WorkerRun
from astuner.errors import BackboneError, ConfigError
from astuner.pins.install import has_flash_attention
from astuner.task_reader.order import TaskOrder
from astuner.task_reader.sources import shares_of
from astuner.types import Task

_NUM_LOG_LINES = 20
_LAST_WORDS_SECONDS = 2.0
"""Which Ray may take to bring what a process printed."""
_VERL_MODULES = "VERL_USE_EXTERNAL_MODULES"
"""Modules that every process of verl imports, by its own rule."""
_WITHOUT_FLASH_ATTENTION = "astuner.backbone.trinity.without_flash_attention"


class TrinityBackbone:
    """Tunes a model with Trinity-RFT on a cluster."""

    async def run(self, run: Run) -> RunResult:
        return await tune(run, TrinityRun)


class TrinityRun:
    """An `EngineRun` of Trinity's explorer and trainer."""

    name = "Trinity"
    lasting = frozenset(
        {
            "Explorer",
            "QueueStorage",
            "RolloutCoordinator",
            "Synchronizer",
            "Trainer",
            "WorkerDict",
            "WorkflowRunner",
            "vLLMRolloutModel",
        }
    )
    """Trinity would make another runner, but never ask it for what the lost one was at."""
    first_phase: str | None = "loading the model and its engines"

    def __init__(self, run: Run, tasks: Tasks) -> None:
        """Raises ConfigError for what Trinity refuses, BackboneError where it cannot go on."""
        _lead_log_into_ours()
        self._run, self.tasks = run, tasks
        self._facts = find_facts(run, tasks)
        self.namespace, self.num_steps = self._facts.namespace, self._facts.num_steps
        self.first_step = _go_on(run, self._facts) if run.is_resumed else 0
        self._config = make_config(run, self._facts)
        # Beside the others, since Ray logs what Trinity hands to it for its runners.
        self._runner_variables, self._config.explorer.env_vars = self._config.explorer.env_vars, {}

    def variables(self) -> dict[str, str]:
        kept = ("VERL_", "VLLM_", "HF_", "TRINITY_")
        variables = {key: value for key, value in os.environ.items() if key.startswith(kept)}
        if not self._facts.has_flash_attention:
            modules = (variables.get(_VERL_MODULES), _WITHOUT_FLASH_ATTENTION)
            variables[_VERL_MODULES] = ",".join(filter(None, modules))
        return {**variables, **self._runner_variables}

    def enter_cluster(self, variables: Mapping[str, str]) -> AbstractContextManager[RayCluster]:
        run, config = self._run, self._config
        runtime_env = {"working_dir": None, "env_vars": {**config.get_envs(), **variables}}
        num_nodes = config.cluster.node_num
        # Trinity reserves the one GPU twice, for the engine and for the trainer.
        is_shared = config.mode == "colocate"
        resources = HeadResources(num_gpus=2, card=first_card()) if is_shared else HeadResources()
        return ray_cluster(
            with_ray=run.with_ray,
            address=run.ray_address,
            logs_dir=run.run_dir.root / "logs",
            say=run.console.say,
            runtime_env=with_user_files(runtime_env, folder=self._run.home, num_nodes=num_nodes),
            num_nodes=num_nodes,
            head_resources=resources,
        )

    def check_cluster(self, worker_run: WorkerRun) -> None:
        num_gpus = ray.cluster_resources().get("GPU", 0)
        if self._config.mode == "colocate" and num_gpus < 2:
            raise BackboneError(
                "on one GPU Trinity asks Ray for two, one for its engine and one for its trainer, "
                f"and this cluster has {num_gpus:g}; leave the head to --with-ray, or start it "
                "with `ray start --head --num-gpus=2`"
            )
        check_nodes(
            worker_run,
            model=self._facts.model,
            state_dir=self._facts.checkpoint_dir,
            num_nodes=self._config.cluster.node_num,
            gpus_per_node=self._config.cluster.gpu_per_node,
        )

    def started(self, hub: str, logs: Path) -> AbstractContextManager[Future[None]]:
        launch = partial(_launch, self._config, logs, self.lasting)
        end = partial(_end_actors, self._config)
        return at_work(launch, name="trinity", end=end)

    def export(self, saved: SavedState) -> str:
        settings = self._run.settings
        return export_saved(
            saved,
            self._run.run_dir,
            temperature=settings.rollout.temperature,
            dtype=compute_dtype(settings.model),
            keep=settings.trainer_common.keep_checkpoints,
        )

    def finish(self, last_step: int, *, is_interrupted: bool) -> None:
        """Export what Trinity saved at its end, of which it tells nobody.

        It logs errors and goes on as if nothing had been, so that its early end is told here.
        """
        run, facts = self._run, self._facts
        if last_step > self.first_step and not run.run_dir.checkpoint_dir(last_step).exists():
            weights = weights_folder(str(facts.checkpoint_dir), last_step)
            saved = SavedState(step=last_step, weights=weights, probes=())
            run.console.say(self.export(saved))
        if last_step < facts.num_steps and not is_interrupted:
            raise BackboneError(_early_end(last_step, facts))


def _lead_log_into_ours() -> None:
    """What Trinity logs in this process goes to run.log, and not past the console to the screen."""
    theirs = get_logger()
    theirs.handlers.clear()
    theirs.propagate = True


def find_facts(run: Run, tasks: Mapping[str, Sequence[Task]]) -> TrinityFacts:
    """Raises ConfigError where the model is not named, or a batch is larger than the tasks."""
    settings = run.settings
    order = TaskOrder.of_tasks(
        tasks["train"],
        shares_of(settings.task_reader),
        batch_size=settings.data.train_batch_size,
        seed=settings.trainer_common.seed,
    )
    steps = settings.trainer_common.total_epochs * order.batches_per_epoch
    most = settings.trainer_common.total_training_steps
    name = (run.run_dir.root.parent.name, run.run_dir.root.name)
    return TrinityFacts(
        model=find_model(run),
        checkpoint_dir=engine_state_dir(run),
        namespace="astuner-" + "-".join(name),
        num_steps=steps if most is None else min(steps, most),
        num_validation_tasks=len(tasks["validation"]),
        is_resumed=run.is_resumed,
        has_flash_attention=has_flash_attention(),
    )


def make_config(run: Run, facts: TrinityFacts) -> Config:
    """Trinity's whole configuration for the run, checked by Trinity.

    Raises ConfigError for settings that contradict each other, and for what Trinity refuses.
    """
    settings = trinity_settings(
        run.settings, facts, own=run.config.get("trinity") or {}, explicit=run.explicit_keys
    )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), settings)
        config: Any = OmegaConf.to_object(merged)
        config = config.check_and_update()
    except (OmegaConfBaseException, ValueError, AssertionError, ImportError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(f"Trinity refuses the configuration: {first}") from error
    if config.mode == "colocate":
        # Trinity writes 0 there, whatever the user shows it.
        config.explorer.rollout_model.cuda_visible_devices = first_card()
    return config


def _launch(config: Config, logs: Path, lasting: Collection[str]) -> None:
    from astuner.backbone.trinity.validating import use_in_launcher  # imports vLLM

    use_in_launcher()
    status: StageStatus = MODE_MAP[config.mode](config)
    if status.error is None:
        return
    kind, said = status.error.type_name, status.error.message
    time.sleep(_LAST_WORDS_SECONDS)
    lost, last_words = describe_lost(said, WorkerLogs(logs), lasting)
    if lost is None:
        raise BackboneError(f"Trinity failed in mode {config.mode}: {kind}: {said}")
    raise BackboneError(
        f"Trinity failed in mode {config.mode}: {lost} ({kind}). What its processes printed is in "
        f"{logs}. Mend the cause, then go on with --resume{last_words}"
    )


def _end_actors(config: Config) -> None:
    """The launcher waits for these two, inside of Ray, where nothing else interrupts it."""
    for name in (config.explorer.name, config.trainer.name):
        with suppress(ValueError):  # it was never made, or is gone
            ray.kill(ray.get_actor(name, namespace=config.ray_namespace))


def _go_on(run: Run, facts: TrinityFacts) -> int:
    """The step of Trinity's newest checkpoint, with everything behind it put aside.

    The explorer may have been ahead of the trainer, and have had newer weights; it goes on from
    where the trainer was saved.
    """
    step, folder = go_on(run, engine="Trinity"), facts.checkpoint_dir
    state = {"latest_iteration": step, "taskset_states": [{"current_index": step}]}
    (folder / "explorer_meta.json").write_text(json.dumps(state))
    (folder / "latest_state_dict_iteration.txt").write_text(str(step))
    return step


def _early_end(last_step: int, facts: TrinityFacts) -> str:
    logs = sorted((facts.checkpoint_dir / "log").glob("*.log"))
    errors = [text for log in logs if (text := _last_error(log))]
    return (
        f"Trinity ended after step {last_step} of {facts.num_steps}. "
        + ("\n".join(errors) if errors else "Its logs tell no error.")
        + f"\nAll of its logs: {facts.checkpoint_dir / 'log'}"
    )


def _last_error(log: Path) -> str:
    """Trinity writes the mark, time and place of an error before each of its lines."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [text.partition("] ")[2] for text in lines if text.startswith("ERROR")]
    told = [text for text in errors if text.strip()]
    return "\n".join([f"{log.name}:", *told[-_NUM_LOG_LINES:]]) if told else ""
