"""The backbone `verl`: starts verl's trainer on a Ray cluster and follows it to its end."""

# verl has an environment of its own:
# pyright: reportMissingImports=false

import os
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from verl.trainer.main_ppo import run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from astuner.backbone.assemble import read_tasks
from astuner.backbone.cluster.export import export_checkpoint
from astuner.backbone.cluster.remote import HUB_VARIABLE, hub_name, start_hub
from astuner.backbone.cluster.watch import Watch, follow_to_end
from astuner.backbone.cluster.worker_run import WorkerRun
from astuner.backbone.interrupt import interrupt_on_ctrl_c
from astuner.backbone.loggers import metrics_log
from astuner.backbone.run import Run, RunResult
from astuner.backbone.verl.config import verl_settings
from astuner.errors import ConfigError
from astuner.task_reader.local_path import find_path

LOOP_FILE = Path(__file__).with_name("agent_loop.yaml")
_NAMESPACE = "astuner"


class VerlBackbone:
    """Tunes a model with verl on a cluster."""

    async def run(self, run: Run) -> RunResult:
        training, validation = read_tasks(run)
        validation = validation[: run.settings.data.max_validation_tasks]
        config = make_config(run, has_validation=bool(validation))
        worker_run = WorkerRun.of(run)
        name = hub_name(worker_run)
        variables = {HUB_VARIABLE: f"{name}@{_NAMESPACE}", **_passed_on()}
        with metrics_log(run) as log, cluster_of(run, config, variables):
            # verl makes the validation's loader also where nothing is validated.
            tasks = {"train": training, "validation": validation or training[:1]}
            hub = start_hub(name, worker_run, tasks, namespace=_NAMESPACE)
            watch = Watch(
                run,
                hub,
                log=log,
                num_steps=_num_steps(config, len(training)),
                export=partial(
                    export_checkpoint,
                    run_dir=run.run_dir,
                    keep=run.settings.trainer_common.keep_checkpoints,
                ),
                describe_silence=describe_actors,
            )
            notice = "verl finishes its step and saves first"
            with interrupt_on_ctrl_c(run.console, notice=notice) as interrupt:
                await follow_to_end(watch, _start(config))
        run.console.say(f"run directory  {run.run_dir.root}")
        return RunResult(
            run_dir=run.run_dir.root,
            checkpoint=run.run_dir.latest_checkpoint(),
            metrics=watch.metrics,
            is_interrupted=interrupt.is_signalled,
        )


def make_config(run: Run, *, has_validation: bool) -> DictConfig:
    """verl's whole configuration for the run, checked by verl.

    Raises ConfigError for settings that contradict each other, and for what verl refuses.
    """
    path = run.settings.model.path
    if path is None:
        raise ConfigError("model.path is not set; give a hub name or a folder")
    flat = verl_settings(
        run.settings,
        own=run.config.get("verl") or {},
        explicit=run.explicit_keys,
        model=str(find_path(path, run.search_dirs) or path),
        checkpoint_dir=_checkpoint_dir(run),
        loop_file=LOOP_FILE,
        has_validation=has_validation,
        is_resumed=run.is_resumed,
    )
    config = _verl_defaults()
    unknown = [key for key in flat if OmegaConf.select(config, key, default=_NOTHING) is _NOTHING]
    if unknown:
        run.console.say(f"not in verl's own configuration, added: {', '.join(sorted(unknown))}")
    for key, value in flat.items():
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    try:
        validate_config(
            config=config,
            use_reference_policy=need_reference_policy(config),
            use_critic=need_critic(config),
        )
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"verl refuses the configuration: {error}") from error
    return config


_NOTHING = object()


def _verl_defaults() -> DictConfig:
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer")
    finally:
        GlobalHydra.instance().hydra = outer
    OmegaConf.set_struct(config, False)
    return config


def _checkpoint_dir(run: Run) -> Path:
    """verl's own state of this run; all nodes must see it."""
    base = Path(run.settings.trainer_common.checkpoint_base_dir).absolute()
    return base / run.run_dir.root.parent.name / run.run_dir.root.name


def _num_steps(config: DictConfig, num_tasks: int) -> int:
    most = config.trainer.total_training_steps
    steps = num_tasks // config.data.train_batch_size * config.trainer.total_epochs
    return steps if most is None else most


def _start(config: DictConfig) -> Future[None]:
    """Run verl in a thread of its own, which dies with this process."""
    from astuner.backbone.verl.runner import EpisodeTaskRunner

    done: Future[None] = Future()

    def work() -> None:
        try:
            run_ppo(config, task_runner_class=EpisodeTaskRunner)
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=work, name="verl", daemon=True).start()
    return done


def _passed_on() -> dict[str, str]:
    """Variables of this process that every process of the run must have."""
    return {key: value for key, value in os.environ.items() if key.startswith(("VERL_", "HF_"))}
