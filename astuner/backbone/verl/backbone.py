"""The backbone `verl`: starts verl's trainer on a Ray cluster and follows it to its end."""

# verl is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
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

from astuner.backbone.assemble import find_model
from astuner.backbone.cluster.engine_run import at_work, engine_state_dir, go_on
from astuner.backbone.cluster.export import export_checkpoint
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
from astuner.backbone.verl.config import NUM_BATCHES, verl_settings
from astuner.backbone.worker_run import WorkerRun
from astuner.config.schema import Settings
from astuner.config.source import flatten
from astuner.errors import BackboneError, ConfigError
from astuner.pins.install import has_flash_attention
from astuner.task_reader.order import TaskOrder
from astuner.task_reader.sources import shares_of
from astuner.types import Task

LOOP_FILE = Path(__file__).with_name("agent_loop.yaml")


class VerlBackbone:
    """Tunes a model with verl on a cluster."""

    async def run(self, run: Run) -> RunResult:
        return await tune(run, VerlRun)


class VerlRun:
    """An `EngineRun` of verl."""

    name = "verl"
    namespace = "astuner"
    lasting = frozenset(
        {
            "AgentLoopWorkerTQ",
            "WorkerDict",
            "SimpleStorageUnit",
            "vLLMHttpServer",
            "SGLangHttpServer",
        }
    )
    first_phase: str | None = None

    def __init__(self, run: Run, tasks: Tasks) -> None:
        """Raises ConfigError for what verl refuses, BackboneError where it cannot go on."""
        self._run = run
        self.first_step = go_on(run, engine="verl") if run.is_resumed else 0
        training, validation = tasks["train"], tasks["validation"]
        self._config = make_config(run, has_validation=bool(validation))
        self.num_steps = _num_steps(self._config, len(training))
        has_curriculum = run.settings.trainer_common.curriculum.enabled
        if has_curriculum:
            _check_loader(self._config)
        if has_curriculum or run.settings.task_reader.type == "mixture":
            _lay_out(self._config, run.settings, training, num_steps=self.num_steps)
        # verl makes the validation's loader also where nothing is validated.
        self.tasks: Tasks = {"train": training, "validation": validation or training[:1]}

    def variables(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if key.startswith(("VERL_", "HF_"))}

    def enter_cluster(self, variables: Mapping[str, str]) -> AbstractContextManager[RayCluster]:
        run, num_nodes = self._run, self._config.trainer.nnodes
        runtime_env = get_ppo_ray_runtime_env(self._config)
        runtime_env["env_vars"] |= {"TRANSFER_QUEUE_ENABLE": "1", **variables}
        started = self._config.ray_kwargs.get("ray_init", {})
        return ray_cluster(
            with_ray=run.with_ray,
            address=run.ray_address,
            logs_dir=run.run_dir.root / "logs",
            say=run.console.say,
            runtime_env=with_user_files(runtime_env, folder=self._run.home, num_nodes=num_nodes),
            num_nodes=num_nodes,
            head_resources=HeadResources(
                num_cpus=started.get("num_cpus"), num_gpus=started.get("num_gpus")
            ),
        )

    def check_cluster(self, worker_run: WorkerRun) -> None:
        check_nodes(
            worker_run,
            model=self._config.actor_rollout_ref.model.path,
            state_dir=engine_state_dir(self._run),
            num_nodes=self._config.trainer.nnodes,
            gpus_per_node=self._config.trainer.n_gpus_per_node,
        )

    @contextmanager
    def started(self, hub: str, logs: Path) -> Iterator[Future[None]]:
        with self._at_work(f"{hub}-trainer") as engine:
            try:
                yield engine
            except RayError as error:
                raise BackboneError(_failed(error, logs)) from error

    def _at_work(self, trainer: str) -> AbstractContextManager[Future[None]]:
        """verl's trainer is the actor of that name."""
        from astuner.backbone.verl.runner import EpisodeTaskRunner

        runner = EpisodeTaskRunner.options(name=trainer, namespace=self.namespace)

        def end() -> None:
            with suppress(ValueError):  # it has not come up
                ray.kill(ray.get_actor(trainer, namespace=self.namespace))

        work = partial(run_ppo, self._config, task_runner_class=runner)
        return at_work(work, name="verl", end=end)

    def export(self, saved: SavedState) -> str:
        return export_checkpoint(
            saved,
            self._run.run_dir,
            dtype=compute_dtype(self._run.settings.model),
            keep=self._run.settings.trainer_common.keep_checkpoints,
        )

    def finish(self, last_step: int, *, is_interrupted: bool) -> None:
        """Nothing is left to do: an end that is early raises in `started`."""


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
    lost, last_words = describe_lost(str(cause), WorkerLogs(logs))
    return (
        f"verl ended: {f'{lost} ({found})' if lost else found}. What its processes printed is in "
        f"{logs}. Mend the cause, then go on with --resume{last_words}"
    )


def _check_loader(config: DictConfig) -> None:
    """Raises ConfigError for what keeps verl's loader from asking for tasks step by step."""
    wanted = {"dataloader_num_workers": 0, "train_max_samples": -1}
    found = {key: config.data.get(key, value) for key, value in wanted.items()}
    if problems := [key for key, value in wanted.items() if found[key] != value]:
        raise ConfigError(
            "trainer_common.curriculum: the tasks of a step are chosen among all when it begins, "
            + " and ".join(f"but verl.data.{key} is {found[key]!r}" for key in problems)
            + "; leave it out"
        )


def _lay_out(
    config: DictConfig, settings: Settings, tasks: Sequence[Task], *, num_steps: int
) -> None:
    """Have verl read as many batches as the steps may need, in our order; see `dataset.py`. Raises
    ConfigError where they cannot be made."""
    size, seed = config.data.train_batch_size, config.data.seed
    TaskOrder.of_tasks(tasks, shares_of(settings.task_reader), batch_size=size, seed=seed)
    refills = settings.trainer_common.algorithm.dynamic_sampling_max_batches
    lines = {
        "data.shuffle": False,
        f"data.{NUM_BATCHES}": num_steps * (1 + refills),
        "trainer.total_training_steps": num_steps,
    }
    for key, value in lines.items():
        OmegaConf.update(config, key, value, force_add=True)


def _num_steps(config: DictConfig, num_tasks: int) -> int:
    most = config.trainer.total_training_steps
    steps = num_tasks // config.data.train_batch_size * config.trainer.total_epochs
    return steps if most is None else most
