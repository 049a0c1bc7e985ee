"""The backbone `trinity`: starts Trinity-RFT's explorer and trainer on a Ray cluster and follows
them to their end."""

# Trinity-RFT and Ray are in an environment of their own:
# pyright: reportMissingImports=false

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from trinity.cli.launcher import MODE_MAP, StageStatus
from trinity.common.config import Config
from trinity.utils.log import get_logger

from astuner.backbone.assemble import find_model, read_tasks
from astuner.backbone.cluster.engine_run import (
    at_work,
    engine_state_dir,
    go_on,
    with_num_gpus,
)
from astuner.backbone.cluster.hub import SavedState
from astuner.backbone.cluster.mapping import compute_dtype
from astuner.backbone.cluster.node_check import check_nodes
from astuner.backbone.cluster.ray_cluster import HeadResources, RayCluster, ray_cluster
from astuner.backbone.cluster.remote import HUB_VARIABLE, hub_name, start_hub
from astuner.backbone.cluster.silence import describe_silence, find_dead
from astuner.backbone.cluster.user_files import with_user_files
from astuner.backbone.cluster.watch import Watch, follow_to_end
from astuner.backbone.cluster.worker_run import WorkerRun
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.interrupt import interrupt_on_ctrl_c
from astuner.backbone.loggers import metrics_log
from astuner.backbone.run import Run, RunResult
from astuner.backbone.trinity.config import Place, trinity_settings
from astuner.backbone.trinity.export import export_saved
from astuner.backbone.trinity.monitor import weights_folder
from astuner.errors import BackboneError, ConfigError
from astuner.pins.install import has_flash_attention
from astuner.task_reader.order import TaskOrder
from astuner.types import Task

_NUM_LOG_LINES = 20
_VERL_MODULES = "VERL_USE_EXTERNAL_MODULES"
"""Modules that every process of verl imports, by its own rule."""
_WITHOUT_FLASH_ATTENTION = "astuner.backbone.trinity.without_flash_attention"
_NOTICE = "Trinity finishes its step and saves first"
_LASTING = frozenset({"Explorer", "Trainer", "WorkerDict"})
"""Classes of Trinity's actors that live as long as a run; the explorer's own end before it."""


class TrinityBackbone:
    """Tunes a model with Trinity-RFT on a cluster."""

    async def run(self, run: Run) -> RunResult:
        run = replace(run, settings=with_num_gpus(run.settings))
        training, validation = read_tasks(run)
        tasks = {
            "train": training,
            "validation": validation[: run.settings.data.max_validation_tasks],
        }
        _lead_log_into_ours()
        place = find_place(run, tasks)
        start = _go_on(run, place) if run.is_resumed else 0
        config = make_config(run, place)
        name = hub_name(worker_run := WorkerRun.of(run))
        variables = {HUB_VARIABLE: f"{name}@{place.namespace}", **_variables(place)}
        with (
            metrics_log(run) as log,
            EpisodeWriter(run.run_dir) as writer,
            cluster_of(run, config, variables) as cluster,
        ):
            _check_cluster(config, worker_run, place)
            hub = start_hub(name, worker_run, tasks, namespace=place.namespace)
            watch = Watch(
                run,
                hub,
                log=log,
                writer=writer,
                num_steps=place.num_steps,
                export=partial(_export, run),
                describe_silence=partial(describe_silence, cluster.logs),
                find_dead=partial(find_dead, _LASTING),
                first_step=start,
            )
            await hub.enter.remote("loading the model and its engines")
            with (
                _launched(config) as launched,
                interrupt_on_ctrl_c(run.console, notice=_NOTICE) as interrupt,
            ):
                await follow_to_end(watch, launched)
        _finish(run, watch.last_step, start, place, is_interrupted=interrupt.is_signalled)
        return RunResult(
            run_dir=run.run_dir.root,
            checkpoint=run.run_dir.latest_checkpoint(),
            metrics=watch.metrics,
            is_interrupted=interrupt.is_signalled,
        )


def _lead_log_into_ours() -> None:
    """What Trinity logs in this process goes to run.log, and not past the console to the screen."""
    theirs = get_logger()
    theirs.handlers.clear()
    theirs.propagate = True


def _export(run: Run, saved: SavedState) -> str:
    return export_saved(
        saved,
        run.run_dir,
        temperature=run.settings.rollout.temperature,
        dtype=compute_dtype(run.settings.model),
        keep=run.settings.trainer_common.keep_checkpoints,
    )


def _finish(run: Run, last_step: int, start: int, place: Place, *, is_interrupted: bool) -> None:
    """Export what Trinity saved at its end, of which it tells nobody.

    Raises BackboneError where it ended early: it logs errors and goes on as if nothing had been.
    """
    if last_step > start and not run.run_dir.checkpoint_dir(last_step).exists():
        weights = weights_folder(str(place.checkpoint_dir), last_step)
        run.console.say(_export(run, SavedState(step=last_step, weights=weights, probes=())))
    run.console.say(f"run directory  {run.run_dir.root}")
    if last_step < place.num_steps and not is_interrupted:
        raise BackboneError(_early_end(last_step, place))


@contextmanager
def cluster_of(run: Run, config: Config, variables: Mapping[str, str]) -> Iterator[RayCluster]:
    """The Ray cluster of the run, in which every process has the `variables`."""
    # Trinity reserves the one GPU twice, for the engine and for the trainer.
    num_gpus = 2 if config.mode == "colocate" else None
    with ray_cluster(
        with_ray=run.with_ray,
        address=run.ray_address,
        logs_dir=run.run_dir.root / "logs",
        say=run.console.say,
        runtime_env=with_user_files(
            {"working_dir": None, "env_vars": {**config.get_envs(), **variables}},
            folder=Path.cwd(),
            num_nodes=config.cluster.node_num,
        ),
        num_nodes=config.cluster.node_num,
        head_resources=HeadResources(num_gpus=num_gpus),
    ) as cluster:
        yield cluster


def _check_cluster(config: Config, worker_run: WorkerRun, place: Place) -> None:
    """Raises BackboneError where the nodes of the cluster are not fit for the run."""
    if config.mode == "colocate" and ray.cluster_resources().get("GPU", 0) < 2:
        raise BackboneError(
            "on one GPU Trinity asks Ray for two, one for its engine and one for its trainer, and "
            f"this cluster has {ray.cluster_resources().get('GPU', 0):g}; leave the head to "
            "--with-ray, or start it with `ray start --head --num-gpus=2`"
        )
    check_nodes(
        worker_run,
        model=place.model,
        state_dir=place.checkpoint_dir,
        num_nodes=config.cluster.node_num,
        gpus_per_node=config.cluster.gpu_per_node,
    )


def find_place(run: Run, tasks: Mapping[str, Sequence[Task]]) -> Place:
    """Raises ConfigError where the model is not named, or a batch is larger than the tasks."""
    settings = run.settings
    order = TaskOrder(
        len(tasks["train"]),
        batch_size=settings.data.train_batch_size,
        seed=settings.trainer_common.seed,
    )
    steps = settings.trainer_common.total_epochs * order.batches_per_epoch
    most = settings.trainer_common.total_training_steps
    name = (run.run_dir.root.parent.name, run.run_dir.root.name)
    return Place(
        model=find_model(run),
        checkpoint_dir=engine_state_dir(run),
        namespace="astuner-" + "-".join(name),
        num_steps=steps if most is None else min(steps, most),
        num_validation_tasks=len(tasks["validation"]),
        is_resumed=run.is_resumed,
        has_flash_attention=has_flash_attention(),
    )


def make_config(run: Run, place: Place) -> Config:
    """Trinity's whole configuration for the run, checked by Trinity.

    Raises ConfigError for settings that contradict each other, and for what Trinity refuses.
    """
    settings = trinity_settings(
        run.settings, place, own=run.config.get("trinity") or {}, explicit=run.explicit_keys
    )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), settings)
        config: Any = OmegaConf.to_object(merged)
        return config.check_and_update()
    except (OmegaConfBaseException, ValueError, AssertionError, ImportError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(f"Trinity refuses the configuration: {first}") from error


def _launched(config: Config) -> AbstractContextManager[Future[None]]:
    """Trinity's launcher at work."""
    return at_work(partial(_launch, config), name="trinity", end=partial(_end_actors, config))


def _launch(config: Config) -> None:
    status: StageStatus = MODE_MAP[config.mode](config)
    if status.error is not None:
        raise BackboneError(
            f"Trinity failed in mode {config.mode}: {status.error.type_name}: "
            f"{status.error.message}"
        )


def _end_actors(config: Config) -> None:
    """The launcher waits for these two, inside of Ray, where nothing else interrupts it."""
    for name in (config.explorer.name, config.trainer.name):
        with suppress(ValueError):  # it was never made, or is gone
            ray.kill(ray.get_actor(name, namespace=config.ray_namespace))


def _go_on(run: Run, place: Place) -> int:
    """The step of Trinity's newest checkpoint, with everything behind it put aside.

    The explorer may have been ahead of the trainer, and have had newer weights; it goes on from
    where the trainer was saved.
    """
    step, folder = go_on(run, engine="Trinity"), place.checkpoint_dir
    state = {"latest_iteration": step, "taskset_states": [{"current_index": step}]}
    (folder / "explorer_meta.json").write_text(json.dumps(state))
    (folder / "latest_state_dict_iteration.txt").write_text(str(step))
    return step


def _early_end(last_step: int, place: Place) -> str:
    logs = sorted((place.checkpoint_dir / "log").glob("*.log"))
    errors = [text for log in logs if (text := _last_error(log))]
    return (
        f"Trinity ended after step {last_step} of {place.num_steps}. "
        + ("\n".join(errors) if errors else "Its logs tell no error.")
        + f"\nAll of its logs: {place.checkpoint_dir / 'log'}"
    )


def _last_error(log: Path) -> str:
    """Trinity writes the mark, time and place of an error before each of its lines."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [text.partition("] ")[2] for text in lines if text.startswith("ERROR")]
    told = [text for text in errors if text.strip()]
    return "\n".join([f"{log.name}:", *told[-_NUM_LOG_LINES:]]) if told else ""


def _variables(place: Place) -> dict[str, str]:
    """Variables that every process of the run must have, most of them of this process."""
    kept = ("VERL_", "VLLM_", "HF_", "TRINITY_")
    variables = {key: value for key, value in os.environ.items() if key.startswith(kept)}
    if not place.has_flash_attention:
        modules = (variables.get(_VERL_MODULES), _WITHOUT_FLASH_ATTENTION)
        variables[_VERL_MODULES] = ",".join(filter(None, modules))
    return variables
