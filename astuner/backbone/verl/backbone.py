"""The backbone `verl`: starts verl's trainer on a Ray cluster and follows it to its end."""

# verl has an environment of its own:
# pyright: reportMissingImports=false

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from ray.exceptions import RayError
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.trainer.main_ppo import run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from astuner.backbone.assemble import find_model, read_tasks
from astuner.backbone.cluster.engine_run import (
    at_work,
    engine_state_dir,
    go_on,
    with_num_gpus,
)
from astuner.backbone.cluster.export import export_checkpoint
from astuner.backbone.cluster.mapping import compute_dtype
from astuner.backbone.cluster.node_check import check_nodes
from astuner.backbone.cluster.ray_cluster import HeadResources, RayCluster, ray_cluster
from astuner.backbone.cluster.remote import HUB_VARIABLE, hub_name, start_hub
from astuner.backbone.cluster.silence import describe_lost, describe_silence, find_dead
from astuner.backbone.cluster.user_files import with_user_files
from astuner.backbone.cluster.watch import Watch, follow_to_end
from astuner.backbone.cluster.worker_run import WorkerRun
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.interrupt import interrupt_on_ctrl_c
from astuner.backbone.loggers import metrics_log
from astuner.backbone.run import Run, RunResult
from astuner.backbone.verl.config import verl_settings
from astuner.config.source import flatten
from astuner.errors import BackboneError, ConfigError
from astuner.pins.install import has_flash_attention

LOOP_FILE = Path(__file__).with_name("agent_loop.yaml")
_NAMESPACE = "astuner"
_LASTING = frozenset(
    {"AgentLoopWorkerTQ", "WorkerDict", "SimpleStorageUnit", "vLLMHttpServer", "SGLangHttpServer"}
)
"""Classes of verl's actors that live as long as a run."""


class VerlBackbone:
    """Tunes a model with verl on a cluster."""

    async def run(self, run: Run) -> RunResult:
        run = replace(run, settings=with_num_gpus(run.settings))
        training, validation = read_tasks(run)
        validation = validation[: run.settings.data.max_validation_tasks]
        first_step = go_on(run, engine="verl") if run.is_resumed else 0
        config = make_config(run, has_validation=bool(validation))
        worker_run = WorkerRun.of(run)
        name = hub_name(worker_run)
        variables = {HUB_VARIABLE: f"{name}@{_NAMESPACE}", **_passed_on()}
        with (
            metrics_log(run) as log,
            EpisodeWriter(run.run_dir) as writer,
            cluster_of(run, config, variables) as cluster,
        ):
            # verl makes the validation's loader also where nothing is validated.
            tasks = {"train": training, "validation": validation or training[:1]}
            check_nodes(
                worker_run,
                model=config.actor_rollout_ref.model.path,
                state_dir=engine_state_dir(run),
                num_nodes=config.trainer.nnodes,
                gpus_per_node=config.trainer.n_gpus_per_node,
            )
            hub = start_hub(name, worker_run, tasks, namespace=_NAMESPACE)
            watch = Watch(
                run,
                hub,
                log=log,
                writer=writer,
                num_steps=_num_steps(config, len(training)),
                export=partial(
                    export_checkpoint,
                    run_dir=run.run_dir,
                    dtype=compute_dtype(run.settings.model),
                    keep=run.settings.trainer_common.keep_checkpoints,
                ),
                describe_silence=partial(describe_silence, cluster.logs),
                find_dead=partial(find_dead, _LASTING),
                first_step=first_step,
            )
            notice = "verl finishes its step and saves first"
            with (
                _started(config, f"{name}-trainer") as engine,
                interrupt_on_ctrl_c(run.console, notice=notice) as interrupt,
            ):
                try:
                    await follow_to_end(watch, engine)
                except RayError as error:
                    raise BackboneError(_failed(error, cluster.logs.folder)) from error
        run.console.say(f"run directory  {run.run_dir.root}")
        return RunResult(
            run_dir=run.run_dir.root,
            checkpoint=run.run_dir.latest_checkpoint(),
            metrics=watch.metrics,
            is_interrupted=interrupt.is_signalled,
        )


@contextmanager
def cluster_of(run: Run, config: DictConfig, variables: Mapping[str, str]) -> Iterator[RayCluster]:
    """The Ray cluster of the run, in which every process has the `variables`."""
    runtime_env = get_ppo_ray_runtime_env(config)
    runtime_env["env_vars"] |= {"TRANSFER_QUEUE_ENABLE": "1", **variables}
    started = config.ray_kwargs.get("ray_init", {})
    with ray_cluster(
        with_ray=run.with_ray,
        address=run.ray_address,
        logs_dir=run.run_dir.root / "logs",
        say=run.console.say,
        runtime_env=with_user_files(
            runtime_env, folder=Path.cwd(), num_nodes=config.trainer.nnodes
        ),
        num_nodes=config.trainer.nnodes,
        head_resources=HeadResources(
            num_cpus=started.get("num_cpus"), num_gpus=started.get("num_gpus")
        ),
    ) as cluster:
        yield cluster


def make_config(run: Run, *, has_validation: bool) -> DictConfig:
    """verl's whole configuration for the run, checked by verl.

    Raises ConfigError for settings that contradict each other, and for what verl refuses.
    """
    flat = verl_settings(
        run.settings,
        own=run.config.get("verl") or {},
        explicit=run.explicit_keys,
        model=find_model(run),
        checkpoint_dir=engine_state_dir(run),
        loop_file=LOOP_FILE,
        has_validation=has_validation,
        has_flash_attention=has_flash_attention(),
        is_resumed=run.is_resumed,
    )
    config = _verl_defaults()
    own = flatten(run.config.get("verl") or {})
    unknown = [key for key in own if OmegaConf.select(config, key, default=_NOTHING) is _NOTHING]
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


def _failed(error: RayError, logs: Path) -> str:
    """The cause in one line; the whole stands in the chain of errors."""
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    found = f"{type(cause).__name__}: {lines[-1].rstrip('.') if lines else cause}"
    lost = describe_lost(cause)
    return (
        f"verl ended: {f'{lost} ({found})' if lost else found}. What its processes printed is in "
        f"{logs}. Mend the cause, then go on with --resume"
    )


def _num_steps(config: DictConfig, num_tasks: int) -> int:
    most = config.trainer.total_training_steps
    steps = num_tasks // config.data.train_batch_size * config.trainer.total_epochs
    return steps if most is None else most


def _started(config: DictConfig, name: str) -> AbstractContextManager[Future[None]]:
    """verl at work; its trainer is the actor of that name."""
    from astuner.backbone.verl.runner import EpisodeTaskRunner

    runner = EpisodeTaskRunner.options(name=name, namespace=_NAMESPACE)

    def end() -> None:
        with suppress(ValueError):  # it has not come up
            ray.kill(ray.get_actor(name, namespace=_NAMESPACE))

    return at_work(partial(run_ppo, config, task_runner_class=runner), name="verl", end=end)


def _passed_on() -> dict[str, str]:
    """Variables of this process that every process of the run must have."""
    return {key: value for key, value in os.environ.items() if key.startswith(("VERL_", "HF_"))}
